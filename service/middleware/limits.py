"""Limits for requests: concurrent uploads, size of a body and the time to send it."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from simile.core.hosts import IpNetwork
from simile.images.loading.sandbox import REQUEST_BUDGET, DecodeBudget
from simile.service import urls
from simile.service.errors import ProblemException, make_problem, make_problem_response, make_too_large_error
from simile.service.observability.metrics import ServiceMetrics
from simile.service.security.prices import get_price
from simile.service.security.proxies import get_client_address, is_single_client
from simile.service.server.connections import make_disconnect_check

# bytes of a form besides its file: boundaries, headers of the parts, a few short fields
FORM_OVERHEAD = 64 * 1024
MAX_COMPUTING_PRICE = 64  # of all computing requests together: other requests need threads, too
MIN_UPLOAD_BYTES_PER_SECOND = 32 * 1024  # bytes per second: a slower upload is aborted after a while


class UploadLimiter:
    """Counts concurrent requests by their prices, and uploads also by their bytes, in total and per address.

    Computing requests are those with a price over 1. They get at most half of the capacity, so that uploads have room.
    A request is always accepted where there is no other, also if its price or size is above the limit.

    Args:
        capacity: Sum of the prices; an upload has the price 1.
        address_share: Share of both capacities for one address.
        byte_capacity: Space for the temporary files of uploads.
        max_bytes: Largest body: the size of an upload that does not announce its own.
    """

    def __init__(
        self, capacity: int, address_share: float = 1.0, byte_capacity: float = math.inf, max_bytes: int = 0
    ) -> None:
        self.capacity, self.byte_capacity, self.max_bytes = capacity, byte_capacity, max_bytes
        self.active_count: float = 0
        self.active_bytes = 0
        self.is_draining = False
        self._computing_count: float = 0
        self._max_computing = min(capacity / 2, MAX_COMPUTING_PRICE)
        self._max_per_address = max(1, int(capacity * address_share))
        self._max_bytes_per_address = byte_capacity * address_share
        self._active_by_address: defaultdict[str, float] = defaultdict(float)
        self._bytes_by_address: Counter[str] = Counter()

    def acquire(self, address: str | None, price: float = 1, size: int = 0) -> None:
        """Count one more request, an upload of `size` bytes; `address` None: counted in total only."""
        self.active_count += price
        self.active_bytes += size
        self._computing_count += price if price > 1 else 0
        if address is not None:
            self._active_by_address[address] += price
            self._bytes_by_address[address] += size

    def release(self, address: str | None, price: float = 1, size: int = 0) -> None:
        """Count one request less."""
        self.active_count -= price
        self.active_bytes -= size
        self._computing_count -= price if price > 1 else 0
        if address is not None:
            self._active_by_address[address] -= price
            self._bytes_by_address[address] -= size
            if not self._active_by_address[address]:
                del self._active_by_address[address], self._bytes_by_address[address]

    def get_size(self, scope: Scope) -> int:
        """Return the bytes that an upload may store: what it announces, else the largest body."""
        announced = Headers(scope=scope).get("content-length", "")
        return min(int(announced), self.max_bytes) if announced.isdecimal() and len(announced) <= 18 else self.max_bytes

    def get_refusal(self, address: str | None = None, price: float = 1, size: int = 0) -> ProblemException | None:
        """Return the refusal of the next request; None if it is accepted."""
        if self.is_draining:
            detail = "The service is about to stop. Send it again in a moment."
            return ProblemException(503, "draining", detail, 5, close=True)
        active = 0 if address is None else self._active_by_address.get(address, 0)
        if active and active + price > self._max_per_address:
            detail = (
                f"{active:g} uploads of this address, or computing requests that count as several, are in progress or "
                "waiting, the most for one address (SIMILE_QUEUE_SHARE). Wait for a response, then send it again."
            )
            return ProblemException(429, "too-many-at-once", detail, 1)
        held = 0 if address is None else self._bytes_by_address[address]
        if held and size and held + size > self._max_bytes_per_address:
            detail = (
                f"Uploads of this address hold {held:,} bytes of the space for temporary files, and may hold "
                f"{self._max_bytes_per_address:,.0f} (SIMILE_QUEUE_SHARE). Wait for a response, then send it again."
            )
            return ProblemException(429, "too-many-at-once", detail, 1)
        if self.active_bytes and size and self.active_bytes + size > self.byte_capacity:
            detail = f"Uploads in progress need the {self.byte_capacity:,.0f} bytes of temporary space. Try again."
            return ProblemException(503, "too-busy", detail, 1)
        is_full = self.active_count and self.active_count + price > self.capacity
        if is_full or (price > 1 and self._computing_count and self._computing_count + price > self._max_computing):
            detail = (
                f"{self.active_count:g} uploads, or computing requests that count as several, are in progress or "
                "waiting; no more are accepted (SIMILE_QUEUE). Try again."
            )
            return ProblemException(503, "too-busy", detail, 1)
        return None


class Admission:
    """Admits requests to the queue of uploads and computing requests."""

    def __init__(
        self, limiter: UploadLimiter, metrics: ServiceMetrics, trusted_proxies: Sequence[IpNetwork] = ()
    ) -> None:
        self._limiter, self._metrics, self._trusted_proxies = limiter, metrics, trusted_proxies

    @contextmanager
    def hold(self, scope: Scope, price: float) -> Iterator[None]:
        """Count a request in the queue inside the block, once; an ordinary search, of price 1, is not counted.

        An upload is counted before its body is read. Inside that block, a higher price replaces the one that it has.

        Raises:
            ProblemException: The total, or the share of the address, is used.
        """
        state = scope.setdefault("state", {})
        is_upload = may_hold_image(scope)
        held: float = state.get("admitted_price", 0)
        if held >= price or (price <= 1 and not is_upload):
            yield
            return
        price = max(price, 1)
        address = get_client_address(scope) if is_single_client(scope, self._trusted_proxies) else None
        size = self._limiter.get_size(scope) if is_upload else 0
        if held:  # it does not count against itself: a request is accepted where there is no other
            self._limiter.release(address, held, size)
        refusal = self._limiter.get_refusal(address, price, size)
        if held:
            self._limiter.acquire(address, held, size)
        if refusal is not None:
            self._metrics.count_refusal(refusal.problem_kind)
            raise refusal
        more = (price - held, 0 if held else size)
        state["admitted_price"] = price
        self._limiter.acquire(address, *more)
        self._metrics.queue_depth.set(self._limiter.active_count)
        try:
            yield
        finally:
            state["admitted_price"] = held
            self._limiter.release(address, *more)
            self._metrics.queue_depth.set(self._limiter.active_count)


class UploadLimitMiddleware:
    """ASGI middleware that refuses uploads and computing requests beyond the capacity (503), before their body is read.

    One address gets a share of the capacity (429), so that slow clients of one address cannot use all of it. Each
    request gets `cpu_seconds` to decode all its files. Pages ask for their admission themselves, to show a refusal.
    """

    def __init__(self, app: ASGIApp, admission: Admission, cpu_seconds: float = 2.0) -> None:
        self.app, self.admission, self.cpu_seconds = app, admission, cpu_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        REQUEST_BUDGET.set(DecodeBudget(self.cpu_seconds, make_disconnect_check(scope)))
        is_upload = may_hold_image(scope)
        price = get_price(scope) if is_upload or scope["path"].startswith(urls.API) else 1
        if price <= 1 and not is_upload:
            return await self.app(scope, receive, send)
        with ExitStack() as stack:
            try:
                stack.enter_context(self.admission.hold(scope, price))
            except ProblemException as refusal:
                response = make_problem_response(Request(scope), make_problem(refusal))
                if Headers(scope=scope).get("expect"):  # the rest of the body may still arrive: no reuse
                    response.headers["Connection"] = "close"
                return await response(scope, receive, send)
            return await self.app(scope, receive, send)


def may_hold_image(scope: Scope) -> bool:
    """Return whether the body of a request may hold an image: a form, or a call of an agent."""
    names_and_values = scope.get("headers", ())
    is_form = any(name == b"content-type" and value[:10].lower() == b"multipart/" for name, value in names_and_values)
    return is_form or scope["path"] == urls.MCP


class BodyLimitMiddleware:
    """ASGI middleware: a body of more than `max_bytes` gets a 413, a body that arrives too slowly a 408.

    Both are raised where the body is read. With a Content-Length nothing is read; without it (chunked), bytes are
    counted as they arrive. An error raised inside the application gets the usual problem response.
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
        # Eighteen digits are enough for every real length; longer numbers only cost time.
        over = content_length.isdecimal() and (len(content_length) > 18 or int(content_length) > self.max_bytes)
        received = self.max_bytes + 1 if over else 0
        started, complete = 0.0, False

        async def counted() -> Message:
            nonlocal received, started, complete
            if complete:
                return await receive()  # for handlers that wait for the client to disconnect
            if received > self.max_bytes:
                raise make_too_large_error(self.max_bytes)
            started = started or time.monotonic()
            deadline = started + self.timeout_seconds + received / MIN_UPLOAD_BYTES_PER_SECOND
            message = await self._receive_before(receive, deadline)
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
