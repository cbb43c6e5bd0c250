"""Batch the searches of many clients: images are decoded in a few threads, then encoded and searched together.

    request --decode threads--> query --one batch at a time--> results --render--> bytes

A search moves from thread to thread and returns to the event loop once, as the response.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import copy_context
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import anyio.to_thread
from anyio import CapacityLimiter
from starlette.requests import ClientDisconnect, Request

from simile.core.errors import SimileError
from simile.core.settings import Settings
from simile.images.loading.sandbox import REQUEST_BUDGET, DecodeBudget, WorkCancelled, raise_if_cancelled
from simile.images.loading.worker_pool import get_worker_count
from simile.search.queries import SearchQuery, SearchResult
from simile.service.errors import make_timeout_error
from simile.service.observability.metrics import ServiceMetrics
from simile.service.server.connections import make_disconnect_check

T = TypeVar("T")
QuerySource = SearchQuery | Callable[[], SearchQuery]  # a function decodes images and runs in a thread
SearchFunction = Callable[[Sequence[SearchQuery]], Sequence[SearchResult | SimileError]]

MAX_SEARCH_BATCH_SIZE = 64  # a larger batch delays its first search and is hardly faster for each
MAX_BATCHED_HITS = 100  # of a search in a batch: reading 1,000 rows would delay the others by 50 ms
MAX_DECODE_WAIT_SECONDS = 0.005  # that a batch waits for images that are being decoded
RENDER_FLUSH_SECONDS = 0.005  # of rendering, after which the finished responses are sent


class EncodingPool:
    """Runs work on images in threads, at most one for each core.

    These are not the threads of the other handlers, so that thumbnails and health checks never wait for uploads. Create
    it inside a running event loop.
    """

    def __init__(self, workers: int, timeout_seconds: float = 30.0) -> None:
        threads = get_worker_count(workers)
        self._slot_limiter, self._thread_limiter = CapacityLimiter(threads), CapacityLimiter(threads)
        self._timeout_seconds = timeout_seconds

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` in a thread and return its result.

        Work that has started runs to its end, so that no client is told that a stored image was not stored.

        Raises:
            ProblemException: No thread was free in time.
        """
        token = object()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._slot_limiter.acquire_on_behalf_of(token)
        except TimeoutError:
            raise make_timeout_error(self._timeout_seconds) from None
        try:
            return await anyio.to_thread.run_sync(work, limiter=self._thread_limiter)
        finally:
            self._slot_limiter.release_on_behalf_of(token)


class ComputePool(EncodingPool):
    """Runs what computes more than a search, in threads of its own: searches and pages never wait for it.

    The work ends at its next file, frame or part when its client has left, or when its time is over.
    """

    async def run(self, work: Callable[[], T]) -> T:
        """As `EncodingPool.run`.

        Raises:
            ProblemException: The work was not done in time.
            WorkCancelled: The client has left.
        """
        deadline = time.monotonic() + self._timeout_seconds
        budget = REQUEST_BUDGET.get() or DecodeBudget(self._timeout_seconds)
        has_client_left = budget.has_client_left
        in_time = replace(budget, has_client_left=lambda: has_client_left() or time.monotonic() > deadline)
        context = copy_context()
        context.run(REQUEST_BUDGET.set, in_time)

        def run_if_awaited() -> T:
            raise_if_cancelled()
            return work()

        try:
            return await super().run(lambda: context.run(run_if_awaited))
        except WorkCancelled:
            if has_client_left():
                raise
            raise make_timeout_error(self._timeout_seconds) from None


@dataclass(eq=False)
class PendingSearch:
    """One search that waits for its result."""

    query: QuerySource
    render: Callable[[SearchResult], Any]
    future: asyncio.Future[Any]
    has_client_left: Callable[[], bool]

    @property
    def is_dropped(self) -> bool:
        """Whether nothing waits for the result any more."""
        return self.future.cancelled() or self.has_client_left()


PendingResult = tuple[PendingSearch, Any]  # with a response or an exception


class SearchBatcher:
    """Runs searches in batches. Create it inside a running event loop, and close it."""

    def __init__(
        self, settings: Settings, search_many: SearchFunction, pool: EncodingPool, metrics: ServiceMetrics
    ) -> None:
        threads = get_worker_count(settings.workers)
        self._search_many, self._pool, self._metrics = search_many, pool, metrics
        self.timeout_seconds = settings.answer_seconds
        self._loop = asyncio.get_running_loop()
        # A thread for each accepted upload: they wait for worker processes, one for each core.
        self._decode_executor = ThreadPoolExecutor(settings.queue, thread_name_prefix="decode")
        self._single_executor = ThreadPoolExecutor(threads, thread_name_prefix="single")
        self._batch_queue = BatchQueue(self._process_batch, metrics)
        self._large_batch_lock = asyncio.Lock()

    async def search(
        self, request: Request, query: QuerySource, render: Callable[[SearchResult], T], *, heavy: bool = False
    ) -> T:
        """Run one search and return what `render` makes of the result.

        Args:
            request: The search is dropped when its client disconnects.
            query: A query, or a function that makes it and is called in a decode thread.
            render: Called in the batch thread; if `heavy` in a separate one, so that other searches do not wait.

        Raises:
            ProblemException: There was no result in time.
            ClientDisconnect: The client left before the search started.
        """
        if heavy:
            result = await self._submit(request, query, _identity)
            return await self._pool.run(lambda: render(result))
        return cast(T, await self._submit(request, query, render))

    async def search_many(self, request: Request, queries: Sequence[QuerySource]) -> list[SearchResult | SimileError]:
        """Run several searches; a SimileError takes the place of the result of a failed one."""
        pending = (self._submit(request, query, _identity) for query in queries)
        results = await asyncio.gather(*pending, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, SimileError):
                raise result
        return cast(list[SearchResult | SimileError], results)

    @asynccontextmanager
    async def hold_large_batch(self, deadline: float) -> AsyncIterator[None]:
        """Run large batches one after another: several at once would all be late, and slow down ordinary searches.

        Args:
            deadline: Latest start, by the monotonic clock.

        Raises:
            ProblemException: The batches before it took too long.
        """
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await self._large_batch_lock.acquire()
        except TimeoutError:
            self._metrics.count_refusal("too-slow-to-answer")
            raise make_timeout_error(self.timeout_seconds) from None
        try:
            yield
        finally:
            self._large_batch_lock.release()

    def close(self) -> None:
        """End the threads after their current work."""
        self._decode_executor.shutdown(cancel_futures=True)
        self._single_executor.shutdown(cancel_futures=True)
        self._batch_queue.close()

    async def _submit(self, request: Request, query: QuerySource, render: Callable[[SearchResult], Any]) -> Any:
        # Links in the response begin with the prefix of the request (urls.ROOT_PATH).
        context, has_left = copy_context(), make_disconnect_check(request.scope)
        pending = PendingSearch(query, lambda result: context.run(render, result), self._loop.create_future(), has_left)
        if isinstance(query, SearchQuery):
            self._dispatch(pending)
        else:
            self._batch_queue.begin_decoding()
            if (budget := REQUEST_BUDGET.get()) is not None:
                budget.has_client_left = lambda: pending.is_dropped  # decoding ends also when its time is over
            # In the context of the request, which holds its budget for decoding.
            self._decode_executor.submit(copy_context().run, self._decode, pending)
        try:
            async with asyncio.timeout(self.timeout_seconds):
                return await pending.future
        except TimeoutError:
            self._metrics.count_refusal("too-slow-to-answer")
            raise make_timeout_error(self.timeout_seconds) from None

    def _decode(self, pending: PendingSearch) -> None:
        try:
            if pending.is_dropped:
                return self._send_results([(pending, ClientDisconnect())])
            assert not isinstance(pending.query, SearchQuery)
            pending.query = pending.query()
        except WorkCancelled:
            self._send_results([(pending, ClientDisconnect())])
        except Exception as error:  # any error is the result of this one search  # noqa: BLE001
            self._send_results([(pending, error)])
        else:
            self._dispatch(pending)
        finally:
            self._batch_queue.end_decoding()

    def _dispatch(self, pending: PendingSearch) -> None:
        """Queue a search for the next batch; slow ones, and those for many results, get a separate thread."""
        assert isinstance(pending.query, SearchQuery)
        limit = pending.query.params.limit
        if is_slow(pending.query) or limit is None or limit > MAX_BATCHED_HITS:
            self._single_executor.submit(self._process_batch, [pending])
        else:
            self._batch_queue.put(pending)

    def _process_batch(self, batch: Sequence[PendingSearch]) -> None:
        """Search and render a batch in the calling thread."""
        dropped = [pending for pending in batch if pending.is_dropped]
        self._send_results([(pending, ClientDisconnect()) for pending in dropped])
        live = [pending for pending in batch if pending not in dropped]
        if not live:
            return
        self._metrics.batch_size.observe(len(live))
        try:
            results = self._search_many([cast(SearchQuery, pending.query) for pending in live])
        except Exception as error:  # the thread continues; each request gets the error  # noqa: BLE001
            self._send_results([(pending, error) for pending in live])
        else:
            self._render_batch(live, results)

    def _render_batch(self, batch: Sequence[PendingSearch], results: Sequence[SearchResult | SimileError]) -> None:
        ready: list[PendingResult] = []
        last_sent = time.perf_counter()
        for pending, result in zip(batch, results, strict=True):
            started = time.perf_counter()
            ready.append((pending, result if isinstance(result, SimileError) else _render_or_error(pending, result)))
            ended = time.perf_counter()
            self._metrics.observe_stage("render", ended - started)
            if ended - last_sent > RENDER_FLUSH_SECONDS:
                self._send_results(ready)
                ready, last_sent = [], ended
        self._send_results(ready)

    def _send_results(self, results: list[PendingResult]) -> None:
        if not results:
            return
        for _, result in results:
            if isinstance(result, ClientDisconnect):
                self._metrics.client_disconnects.inc()
        try:
            self._loop.call_soon_threadsafe(_deliver_results, results)
        except RuntimeError:  # the loop has ended, and so have all requests
            return


class BatchQueue:
    """A thread that processes queued searches in batches; it waits shortly for images that are being decoded."""

    def __init__(self, process_batch: Callable[[Sequence[PendingSearch]], None], metrics: ServiceMetrics) -> None:
        self._process_batch, self._metrics = process_batch, metrics
        self._pending_searches: deque[PendingSearch] = deque()
        self._decoding_count = 0
        self._is_idle, self._is_closed = True, False
        self._condition = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
        self._thread.start()

    def begin_decoding(self) -> None:
        """Count an image that is being decoded: a batch may wait for it."""
        with self._condition:
            self._decoding_count += 1

    def end_decoding(self) -> None:
        """Count an image as decoded, successfully or not."""
        with self._condition:
            self._decoding_count -= 1
            if not self._decoding_count and self._pending_searches:
                self._condition.notify()

    def put(self, pending: PendingSearch) -> None:
        """Queue a search."""
        with self._condition:
            self._pending_searches.append(pending)
            if self._is_idle or self._is_complete():
                self._condition.notify()

    def close(self) -> None:
        """End the thread after its batch."""
        with self._condition:
            self._is_closed = True
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._take_batch():
            self._process_batch(batch)

    def _take_batch(self) -> list[PendingSearch]:
        with self._condition:
            self._is_idle = True
            self._condition.wait_for(lambda: self._pending_searches or self._is_closed)
            self._is_idle = False
            if not self._is_closed:
                self._condition.wait_for(self._is_complete, MAX_DECODE_WAIT_SECONDS)
            size = min(MAX_SEARCH_BATCH_SIZE, len(self._pending_searches))
            batch = [self._pending_searches.popleft() for _ in range(size)]
            self._metrics.batch_waiting.set(len(self._pending_searches))
            return batch

    def _is_complete(self) -> bool:
        return self._is_closed or len(self._pending_searches) >= MAX_SEARCH_BATCH_SIZE or not self._decoding_count


def is_slow(query: SearchQuery) -> bool:
    """Return whether a search may take much longer than others, so that it gets a separate thread."""
    params = query.params
    selects = params.filter is not None or params.radius is not None or params.is_selective or query.is_by_best
    return selects or bool(query.attributes) or query.text is not None


def _identity(result: SearchResult) -> SearchResult:
    return result


def _render_or_error(pending: PendingSearch, result: SearchResult) -> Any:
    try:
        return pending.render(result)
    except Exception as error:  # the result of this one search  # noqa: BLE001
        return error


def _deliver_results(results: Sequence[PendingResult]) -> None:
    """Resolve the futures; runs in the event loop."""
    for pending, result in results:
        if pending.future.done():
            continue
        if isinstance(result, Exception):
            pending.future.set_exception(result)
        else:
            pending.future.set_result(result)
