"""Limit client connections: their number, the time for headers, and unread data.

uvicorn's own protocol waits forever for the rest of a header, and reads everything that a client sends after its
request was rejected. Here every wait has a timeout.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from simile.service.errors import PROBLEM_MEDIA_TYPE, ProblemDetails, make_problem_body

CONNECTION_KEY = "simile.connection"  # in the scope of every request
MAX_RAW_HEADER_BYTES = 64 * 1024
HEADER_SECONDS = 10.0
LINGER_SECONDS = 5.0  # for a client to receive its last response, or to end an unread body
MAX_PIPELINED = 16  # requests of one connection that wait for their response
LINGER_BYTES = 1 << 20  # of an unread body: a shorter one is read to its end, so that the connection stays usable


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits of connections; `unread_seconds` is the time for a client to read its response."""

    max_connections: int
    unread_seconds: float
    header_seconds: float


def make_disconnect_check(scope: Scope) -> Callable[[], bool]:
    """Return a function that tells, in any thread, whether the client of a request has disconnected."""
    connection = scope.get(CONNECTION_KEY)
    return (lambda: False) if connection is None else connection.is_closed


class GuardedConnection(HttpToolsProtocol):
    """uvicorn's connection with timeouts and limits."""

    def __init__(self, *arguments: Any, limits: ConnectionLimits, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._in_header = self._is_ending = False  # ending: what was read is answered, and nothing more is read
        self._header_bytes = self._unread_bytes = 0
        self.idle_since = self.loop.time()

    def is_closed(self) -> bool:
        """Return whether the client has disconnected or is being disconnected."""
        return self.transport.is_closing()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        if len(self.connections) > self._limits.max_connections and not self._close_idle_connection():
            limit = self._limits.max_connections
            detail = f"{limit} connections are open, the maximum (SIMILE_CONNECTIONS). Try again."
            self._reject(503, "too-many-connections", detail, {"Retry-After": "1"})
        else:
            self._start_timer(self._limits.header_seconds, self._on_header_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timer()
        self._cancel_write_timer()
        super().connection_lost(exc)

    @property
    def address(self) -> str:
        """The address of the peer; empty for a Unix socket."""
        return self.client[0] if self.client else ""

    @property
    def is_idle(self) -> bool:
        """Whether no request is in progress, so that the client loses nothing when the connection is closed."""
        return self.cycle is None or self.cycle.response_complete

    def _close_idle_connection(self) -> bool:
        """Close the idle connection that waits longest, of the address with the most connections; False without one.

        So connections that send nothing cannot keep out clients that send requests.
        """
        others = [item for item in self.connections if item is not self and isinstance(item, GuardedConnection)]
        idle = [item for item in others if item.is_idle and not item.is_closed()]
        if not idle:
            return False
        counts = Counter(item.address for item in others)
        longest = max(idle, key=lambda item: (counts[item.address], -item.idle_since))
        longest.transport.abort()
        return True

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing() or self._is_ending:
            return
        super().data_received(data)
        if self._in_header:
            self._header_bytes += len(data)
            if self._header_bytes > MAX_RAW_HEADER_BYTES:
                self._reject(431, "header-too-large", f"The headers are larger than {MAX_RAW_HEADER_BYTES:,} bytes.")

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:  # the parser stops at an exception; uvicorn would queue them all
            raise ValueError(f"More than {MAX_PIPELINED} requests of one connection wait for a response.")
        super().on_message_begin()
        self.scope[CONNECTION_KEY] = self  # type: ignore[literal-required]  # a scope may have additional keys
        self._in_header, self._header_bytes, self._unread_bytes = True, 0, 0
        self._start_timer(self._limits.header_seconds, self._on_header_timeout)

    def on_headers_complete(self) -> None:
        self._in_header = False
        self._cancel_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self.cycle.response_complete:
            self._unread_bytes += len(body)
            if self._unread_bytes > LINGER_BYTES:
                self._close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._cancel_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        has_unread_body = self.cycle.response_complete and self.cycle.more_body
        super().on_response_complete()
        self.idle_since = self.loop.time()
        if has_unread_body:
            self._start_timer(LINGER_SECONDS, self._close)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self._write_timer or self.loop.call_later(self._limits.unread_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._cancel_write_timer()

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing():
            self._close()

    def timeout_keep_alive_handler(self) -> None:
        self._close()

    def send_400_response(self, msg: str) -> None:
        if self.is_idle or self.cycle.more_body:
            self._reject(400, None, f"{msg} Send HTTP/1.1.")
        else:  # the requests before it get their responses
            self._is_ending, self.cycle.keep_alive = True, False

    def _on_header_timeout(self) -> None:
        detail = f"The headers were not complete within {self._limits.header_seconds:g} seconds."
        self._reject(408, "header-too-slow", detail)

    def _reject(
        self, status: int, problem_kind: str | None, detail: str, headers: dict[str, str] | None = None
    ) -> None:
        """Send a problem, unless a response is in progress, and close."""
        if not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete):
            self.transport.write(_make_error_bytes(status, problem_kind, detail, headers or {}))
        self._close()

    def _close(self) -> None:
        """Close when all data is sent, at the latest after LINGER_SECONDS."""
        self._cancel_timer()
        self.transport.close()
        self._timer = self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def _start_timer(self, seconds: float, callback: Callable[[], None]) -> None:
        self._cancel_timer()
        self._timer = self.loop.call_later(seconds, callback)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cancel_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


def _make_error_bytes(status: int, problem_kind: str | None, detail: str, headers: dict[str, str]) -> bytes:
    phrase = HTTPStatus(status).phrase
    document = json.dumps(make_problem_body(ProblemDetails(status, detail, problem_kind), "")).encode()
    fields = {"Content-Type": PROBLEM_MEDIA_TYPE, "Content-Length": len(document), "Connection": "close", **headers}
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode() + document
