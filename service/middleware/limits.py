"""How much is let in: requests with pictures, bytes of a body, time for it, and pictures encoded at a time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from simile.core.hosts import Network
from simile.service.errors import Refusal, problem_of, respond, too_large
from simile.service.observability.metrics import Metrics
from simile.service.security.proxies import address_of, is_one_client

# What a form needs around its file: boundaries, headers of the parts, a few short fields.
FORM_OVERHEAD = 64 * 1024
SLOWEST = 32 * 1024  # bytes a second: an upload that brings fewer than these for long is cut off


class House:
    """How many requests with pictures are inside, and whether more are let in. share: of the room, for one address."""

    def __init__(self, room: int, share: float = 1.0) -> None:
        self.room = room
        self.inside = 0
        self.draining = False
        self._most_of_one = max(1, int(room * share))
        self._of: Counter[str] = Counter()

    def enter(self, address: str | None) -> None:
        """One more is inside; `address` None: of nobody in particular."""
        self.inside += 1
        if address is not None:
            self._of[address] += 1

    def leave(self, address: str | None) -> None:
        """It is done."""
        self.inside -= 1
        if address is not None:
            self._of[address] -= 1
            if not self._of[address]:
                del self._of[address]

    def refusal(self, address: str | None = None) -> Refusal | None:
        """Why the next one is turned away, if it is."""
        if self.draining:
            return Refusal(503, "draining", "The service is about to stop. Send it again in a moment.", 5, close=True)
        if address is not None and self._of[address] >= self._most_of_one:
            detail = (
                f"{self._of[address]} requests with pictures of this address are at work or waiting, and one address "
                "gets no more places (SIMILE_QUEUE_SHARE). Wait for an answer, then send it again."
            )
            return Refusal(429, "too-many-at-once", detail, 1)
        if self.inside >= self.room:
            detail = f"{self.inside} requests with pictures are at work or waiting; no more are taken in. Try again."
            return Refusal(503, "too-busy", detail, 1)
        return None


class Admission:
    """ASGI middleware: no more requests with pictures than there is room for. The others are refused, unread.

    Nor may those who send slowly from one address hold all the places: it gets its share of them (429).
    """

    def __init__(self, app: ASGIApp, house: House, metrics: Metrics, proxies: Sequence[Network] = ()) -> None:
        self.app = app
        self.house = house
        self.metrics = metrics
        self.proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not brings_pictures(scope):
            return await self.app(scope, receive, send)
        address = address_of(scope) if is_one_client(scope, self.proxies) else None
        refusal = self.house.refusal(address)
        if refusal is not None:
            self.metrics.refused(refusal.kind)
            response = respond(Request(scope), problem_of(refusal))
            if Headers(scope=scope).get("expect"):  # the body may come or not: nobody could say where it ends
                response.headers["Connection"] = "close"
            return await response(scope, receive, send)
        self.house.enter(address)
        self.metrics.queue.set(self.house.inside)
        try:
            await self.app(scope, receive, send)
        finally:
            self.house.leave(address)
            self.metrics.queue.set(self.house.inside)


def brings_pictures(scope: Scope) -> bool:
    """Whether a request comes with a form that may hold files."""
    return any(
        name == b"content-type" and value[:10].lower() == b"multipart/" for name, value in scope.get("headers", ())
    )


class BodyLimit:
    """ASGI middleware: a body of more than `max_bytes` ends in a 413, one that comes too slowly in a 408.

    Both are raised where the body is read. With a Content-Length nothing is read at all; without one (chunked), bytes
    are counted as they come. Raising inside the app lets its handlers give the answer the usual shape.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float, metrics: Metrics) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.seconds = seconds
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            receive = self._counting(Headers(scope=scope).get("content-length", ""), receive)
        await self.app(scope, receive, send)

    def _counting(self, announced: str, receive: Receive) -> Receive:
        # Eighteen digits fit every real length; more would only be there to cost time.
        over = announced.isdecimal() and (len(announced) > 18 or int(announced) > self.max_bytes)
        received = self.max_bytes + 1 if over else 0
        started, complete = 0.0, False

        async def counted() -> Message:
            nonlocal received, started, complete
            if complete:
                return await receive()  # for whoever wants to know when the client leaves
            if received > self.max_bytes:
                raise too_large(self.max_bytes)
            started = started or time.monotonic()
            message = await self._in_time(receive, started + self.seconds + received / SLOWEST)
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise too_large(self.max_bytes)
            complete = not message.get("more_body", False)
            if complete and received and message["type"] == "http.request":
                self.metrics.observe("receive", time.monotonic() - started)
            return message

        return counted

    async def _in_time(self, receive: Receive, deadline: float) -> Message:
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await receive()
        except TimeoutError:
            self.metrics.refused("upload-too-slow")
            detail = "The upload came too slowly (SIMILE_UPLOAD_SECONDS). Send it again over a faster connection."
            raise Refusal(408, "upload-too-slow", detail, close=True) from None
