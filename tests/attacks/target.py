"""The service that the attacks are directed at, and requests to it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException

from tests.support.server import FORM, form

REQUEST_SECONDS = 120
Headers = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Reply:
    """Status (0: no response), seconds, and the body of a response."""

    status: int
    seconds: float
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Target:
    """A service on this machine, started for the attacks. It has keys."""

    port: int
    key: str  # with the scope `write`
    image: bytes  # an ordinary image
    large_image_id: int  # an indexed image of many pixels
    size: int  # bytes of a hostile file
    side: int  # of a large image
    count: int  # of requests at a time
    is_short: bool = False  # the form for the tests: without files that take long to make or to decode

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Headers | None = None,
        *,
        key: str | None = None,
    ) -> Reply:
        """Send a request on its own connection and return the reply."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=REQUEST_SECONDS)
        started = time.monotonic()
        try:
            sent = {"X-API-Key": self.key if key is None else key, **(headers or {})}
            connection.request(method, path, body, {name: value for name, value in sent.items() if value})
            response = connection.getresponse()
            return Reply(status=response.status, body=response.read(), seconds=time.monotonic() - started)
        except (OSError, HTTPException):
            return Reply(status=0, body=b"", seconds=time.monotonic() - started)
        finally:
            connection.close()

    def upload(self, path: str, data: bytes) -> Reply:
        """Upload one file in a form."""
        return self.request("POST", path, form(data), {"Content-Type": FORM})

    def send_json(self, path: str, body: object, accept: str = "*/*") -> Reply:
        """Send a JSON body."""
        headers = {"Content-Type": "application/json", "Accept": accept}
        return self.request("POST", path, json.dumps(body).encode(), headers)

    def connect(self) -> socket.socket:
        """Open a connection and send nothing."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=REQUEST_SECONDS)


def run_together(calls: Iterable[Callable[[], Reply]]) -> list[Reply]:
    """Run all calls at the same time, each in a thread; return their replies."""
    replies: list[Reply] = []
    threads = [threading.Thread(target=lambda call=call: replies.append(call())) for call in calls]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return replies


def describe(replies: Iterable[Reply], allowed: Iterable[int]) -> str:
    """Return how often each status came. Raises AssertionError if one is not allowed."""
    counts = Counter(reply.status for reply in replies)
    unexpected = set(counts) - set(allowed)
    assert not unexpected, f"unexpected status {sorted(unexpected)} in {dict(counts)}"
    return ", ".join(f"{count} x {status or 'none'}" for status, count in sorted(counts.items()))
