"""One client's connection: how long it may take over its headers, how many there may be, and what is left unread.

uvicorn's own protocol waits for ever for a client that sends half a header, and reads whatever a client sends after
it has been refused. Here every wait has an end.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from simile.service.errors import MEDIA_TYPE, TYPE_PREFIX, Problem, body

CONNECTION = "simile.connection"  # in the scope of every request
MOST_HEADER_BYTES = 64 * 1024
HEADER_SECONDS = 10.0
LINGER_SECONDS = 5.0  # for a client to take its last answer, or to end a body that nobody reads
LINGER_BYTES = 1 << 20  # of such a body: less is read to its end, so that the connection can go on


@dataclass(frozen=True)
class Guard:
    """What a connection may take. `most`: how many there may be; `unread_seconds`: for a client to read its answer."""

    most: int
    unread_seconds: float
    header_seconds: float


def has_left(scope: Scope) -> Callable[[], bool]:
    """What says, in any thread, whether the client of a request has closed its connection."""
    connection = scope.get(CONNECTION)
    return _stays if connection is None else connection.is_closed


def _stays() -> bool:
    return False


class GuardedConnection(HttpToolsProtocol):
    """uvicorn's connection, with an end to every wait."""

    def __init__(self, *arguments: Any, guard: Guard, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._guard = guard
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._in_header = False
        self._header_bytes = self._surplus = 0

    def is_closed(self) -> bool:
        """Whether the client is gone, or about to be sent away."""
        return self.transport.is_closing()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        if len(self.connections) > self._guard.most:
            detail = f"{self._guard.most} connections are open (SIMILE_CONNECTIONS), and no more are taken. Try again."
            self._end(503, "too-many-connections", detail, {"Retry-After": "1"})
        else:
            self._within(self._guard.header_seconds, self._header_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._calm()
        self._is_read()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._in_header:
            self._header_bytes += len(data)
            if self._header_bytes > MOST_HEADER_BYTES:
                self._end(431, "header-too-large", f"The headers are larger than {MOST_HEADER_BYTES:,} bytes.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[CONNECTION] = self  # type: ignore[literal-required]  # a scope may hold more
        self._in_header, self._header_bytes, self._surplus = True, 0, 0
        self._within(self._guard.header_seconds, self._header_is_late)

    def on_headers_complete(self) -> None:
        self._in_header = False
        self._calm()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self.cycle.response_complete:
            self._surplus += len(body)
            if self._surplus > LINGER_BYTES:
                self._close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._calm()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        left_over = self.cycle.response_complete and self.cycle.more_body
        super().on_response_complete()
        if left_over:
            self._within(LINGER_SECONDS, self._close)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self._unread or self.loop.call_later(self._guard.unread_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._is_read()

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing():
            self._close()

    def timeout_keep_alive_handler(self) -> None:
        self._close()

    def send_400_response(self, msg: str) -> None:
        self._end(400, None, f"{msg} Send HTTP/1.1.")

    def _header_is_late(self) -> None:
        detail = f"The headers were not complete within {self._guard.header_seconds:g} seconds."
        self._end(408, "header-too-slow", detail)

    def _end(self, status: int, kind: str | None, detail: str, headers: dict[str, str] | None = None) -> None:
        """Says why, unless an answer is under way, and closes."""
        if not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete):
            self.transport.write(_answer(status, kind, detail, headers or {}))
        self._close()

    def _close(self) -> None:
        """Closes when everything is sent, or a little later."""
        self._calm()
        self.transport.close()
        self._timer = self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def _within(self, seconds: float, otherwise: Callable[[], None]) -> None:
        self._calm()
        self._timer = self.loop.call_later(seconds, otherwise)

    def _calm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None


def _answer(status: int, kind: str | None, detail: str, headers: dict[str, str]) -> bytes:
    phrase = HTTPStatus(status).phrase
    title, name = (phrase, "about:blank") if kind is None else (kind.replace("-", " ").capitalize(), TYPE_PREFIX + kind)
    document = json.dumps(body(Problem(status, title, detail, name), "")).encode()
    fields = {"Content-Type": MEDIA_TYPE, "Content-Length": str(len(document)), "Connection": "close", **headers}
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode() + document
