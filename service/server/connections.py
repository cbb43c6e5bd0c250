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

from simile.service.errors import PROBLEM_MEDIA_TYPE, TYPE_PREFIX, ProblemDetails, make_problem_body

CONNECTION_KEY = "simile.connection"  # in the scope of every request
MAX_RAW_HEADER_BYTES = 64 * 1024
HEADER_SECONDS = 10.0
LINGER_SECONDS = 5.0  # for a client to take its last answer, or to end a body that nobody reads
LINGER_BYTES = 1 << 20  # of such a body: less is read to its end, so that the connection can go on


@dataclass(frozen=True)
class ConnectionLimits:
    """What a connection may take. `most`: how many there may be; `unread_seconds`: for a client to read its answer."""

    max_connections: int
    unread_seconds: float
    header_seconds: float


def make_disconnect_check(scope: Scope) -> Callable[[], bool]:
    """What says, in any thread, whether the client of a request has closed its connection."""
    connection = scope.get(CONNECTION_KEY)
    return _never_disconnected if connection is None else connection.is_closed


def _never_disconnected() -> bool:
    return False


class GuardedConnection(HttpToolsProtocol):
    """uvicorn's connection, with an end to every wait."""

    def __init__(self, *arguments: Any, limits: ConnectionLimits, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._in_header = False
        self._header_bytes = self._unread_bytes = 0

    def is_closed(self) -> bool:
        """Whether the client is gone, or about to be sent away."""
        return self.transport.is_closing()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        if len(self.connections) > self._limits.max_connections:
            detail = f"{self._limits.max_connections} connections are open (SIMILE_CONNECTIONS), and no more are taken. Try again."
            self._reject(503, "too-many-connections", detail, {"Retry-After": "1"})
        else:
            self._start_timer(self._limits.header_seconds, self._on_header_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timer()
        self._cancel_write_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._in_header:
            self._header_bytes += len(data)
            if self._header_bytes > MAX_RAW_HEADER_BYTES:
                self._reject(431, "header-too-large", f"The headers are larger than {MAX_RAW_HEADER_BYTES:,} bytes.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[CONNECTION_KEY] = self  # type: ignore[literal-required]  # a scope may hold more
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
        left_over = self.cycle.response_complete and self.cycle.more_body
        super().on_response_complete()
        if left_over:
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
        self._reject(400, None, f"{msg} Send HTTP/1.1.")

    def _on_header_timeout(self) -> None:
        detail = f"The headers were not complete within {self._limits.header_seconds:g} seconds."
        self._reject(408, "header-too-slow", detail)

    def _reject(
        self, status: int, problem_kind: str | None, detail: str, headers: dict[str, str] | None = None
    ) -> None:
        """Says why, unless an answer is under way, and closes."""
        if not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete):
            self.transport.write(_make_error_bytes(status, problem_kind, detail, headers or {}))
        self._close()

    def _close(self) -> None:
        """Closes when everything is sent, or a little later."""
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
    title, name = (
        (phrase, "about:blank")
        if problem_kind is None
        else (problem_kind.replace("-", " ").capitalize(), TYPE_PREFIX + problem_kind)
    )
    document = json.dumps(make_problem_body(ProblemDetails(status, title, detail, name), "")).encode()
    fields = {
        "Content-Type": PROBLEM_MEDIA_TYPE,
        "Content-Length": str(len(document)),
        "Connection": "close",
        **headers,
    }
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode() + document
