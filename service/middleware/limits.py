"""How much is let in: requests with pictures, bytes of a body, time for it, and pictures encoded at a time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from simile.core.hosts import IpNetwork
from simile.service.errors import ProblemException, make_problem, make_problem_response, make_too_large_error
from simile.service.observability.metrics import ServiceMetrics
from simile.service.security.proxies import get_client_address, is_single_client

# What a form needs around its file: boundaries, headers of the parts, a few short fields.
FORM_OVERHEAD = 64 * 1024
MIN_UPLOAD_BYTES_PER_SECOND = 32 * 1024  # bytes a second: an upload that brings fewer than these for long is cut off


class UploadLimiter:
    """How many requests with pictures are inside, and whether more are let in. share: of the room, for one address."""

    def __init__(self, capacity: int, address_share: float = 1.0) -> None:
        self.capacity = capacity
        self.active_count = 0
        self.is_draining = False
        self._max_per_address = max(1, int(capacity * address_share))
        self._active_by_address: Counter[str] = Counter()

    def acquire(self, address: str | None) -> None:
        """One more is inside; `address` None: of nobody in particular."""
        self.active_count += 1
        if address is not None:
            self._active_by_address[address] += 1

    def release(self, address: str | None) -> None:
        """It is done."""
        self.active_count -= 1
        if address is not None:
            self._active_by_address[address] -= 1
            if not self._active_by_address[address]:
                del self._active_by_address[address]

    def get_refusal(self, address: str | None = None) -> ProblemException | None:
        """Why the next one is turned away, if it is."""
        if self.is_draining:
            return ProblemException(
                503, "draining", "The service is about to stop. Send it again in a moment.", 5, close=True
            )
        if address is not None and self._active_by_address[address] >= self._max_per_address:
            detail = (
                f"{self._active_by_address[address]} requests with pictures of this address are at work or waiting, and one address "
                "gets no more places (SIMILE_QUEUE_SHARE). Wait for an answer, then send it again."
            )
            return ProblemException(429, "too-many-at-once", detail, 1)
        if self.active_count >= self.capacity:
            detail = (
                f"{self.active_count} requests with pictures are at work or waiting; no more are taken in. Try again."
            )
            return ProblemException(503, "too-busy", detail, 1)
        return None


class UploadLimitMiddleware:
    """ASGI middleware: no more requests with pictures than there is room for. The others are refused, unread.

    Nor may those who send slowly from one address hold all the places: it gets its share of them (429).
    """

    def __init__(
        self,
        app: ASGIApp,
        upload_limiter: UploadLimiter,
        metrics: ServiceMetrics,
        trusted_proxies: Sequence[IpNetwork] = (),
    ) -> None:
        self.app = app
        self.upload_limiter = upload_limiter
        self.metrics = metrics
        self.trusted_proxies = trusted_proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not has_multipart_body(scope):
            return await self.app(scope, receive, send)
        address = get_client_address(scope) if is_single_client(scope, self.trusted_proxies) else None
        refusal = self.upload_limiter.get_refusal(address)
        if refusal is not None:
            self.metrics.count_refusal(refusal.problem_kind)
            response = make_problem_response(Request(scope), make_problem(refusal))
            if Headers(scope=scope).get("expect"):  # the body may come or not: nobody could say where it ends
                response.headers["Connection"] = "close"
            return await response(scope, receive, send)
        self.upload_limiter.acquire(address)
        self.metrics.queue_depth.set(self.upload_limiter.active_count)
        try:
            await self.app(scope, receive, send)
        finally:
            self.upload_limiter.release(address)
            self.metrics.queue_depth.set(self.upload_limiter.active_count)


def has_multipart_body(scope: Scope) -> bool:
    """Whether a request comes with a form that may hold files."""
    return any(
        name == b"content-type" and value[:10].lower() == b"multipart/" for name, value in scope.get("headers", ())
    )


class BodyLimitMiddleware:
    """ASGI middleware: a body of more than `max_bytes` ends in a 413, one that comes too slowly in a 408.

    Both are raised where the body is read. With a Content-Length nothing is read at all; without one (chunked), bytes
    are counted as they come. Raising inside the app lets its handlers give the answer the usual shape.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, timeout_seconds: float, metrics: ServiceMetrics) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.timeout_seconds = timeout_seconds
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            receive = self._limit_receive(Headers(scope=scope).get("content-length", ""), receive)
        await self.app(scope, receive, send)

    def _limit_receive(self, content_length: str, receive: Receive) -> Receive:
        # Eighteen digits fit every real length; more would only be there to cost time.
        over = content_length.isdecimal() and (len(content_length) > 18 or int(content_length) > self.max_bytes)
        received = self.max_bytes + 1 if over else 0
        started, complete = 0.0, False

        async def counted() -> Message:
            nonlocal received, started, complete
            if complete:
                return await receive()  # for whoever wants to know when the client leaves
            if received > self.max_bytes:
                raise make_too_large_error(self.max_bytes)
            started = started or time.monotonic()
            message = await self._receive_before(
                receive, started + self.timeout_seconds + received / MIN_UPLOAD_BYTES_PER_SECOND
            )
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise make_too_large_error(self.max_bytes)
            complete = not message.get("more_body", False)
            if complete and received and message["type"] == "http.request":
                self.metrics.observe_stage("receive", time.monotonic() - started)
            return message

        return counted

    async def _receive_before(self, receive: Receive, deadline: float) -> Message:
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await receive()
        except TimeoutError:
            self.metrics.count_refusal("upload-too-slow")
            detail = "The upload came too slowly (SIMILE_UPLOAD_SECONDS). Send it again over a faster connection."
            raise ProblemException(408, "upload-too-slow", detail, close=True) from None
