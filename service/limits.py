"""How much a request may send, and how many pictures are encoded at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

T = TypeVar("T")

# What a form needs around its file: boundaries, headers of the parts, a few short fields.
FORM_OVERHEAD = 64 * 1024


class BodyLimit:
    """ASGI middleware: a body of more than `max_bytes` ends in a 413, raised where the body is read.

    With a Content-Length nothing is read at all; without one (chunked), bytes are counted as they come. Raising
    inside the app lets its handlers give the answer the usual shape.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            receive = self._counting(Headers(scope=scope).get("content-length", ""), receive)
        await self.app(scope, receive, send)

    def _counting(self, announced: str, receive: Receive) -> Receive:
        # Eighteen digits fit every real length; more would only be there to cost time.
        over = announced.isdecimal() and (len(announced) > 18 or int(announced) > self.max_bytes)
        received = self.max_bytes + 1 if over else 0

        async def counted() -> Message:
            nonlocal received
            if received > self.max_bytes:
                raise too_large(self.max_bytes)
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise too_large(self.max_bytes)
            return message

        return counted


def too_large(max_bytes: int) -> HTTPException:
    """The 413 for a body that is over the limit."""
    return HTTPException(413, f"The request is larger than the {max_bytes:,} bytes allowed here (SIMILE_MAX_BYTES).")


class EncodingPool:
    """Threads for work on pictures, no more at a time than there are cores: the rest waits its turn.

    They are not the threads of the other handlers, so that thumbnails and health checks never queue behind uploads.
    Make it inside a running event loop.
    """

    def __init__(self, workers: int) -> None:
        self._slots = CapacityLimiter(workers or os.cpu_count() or 1)

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns, or raises, in a thread of its own."""
        return await anyio.to_thread.run_sync(work, limiter=self._slots)
