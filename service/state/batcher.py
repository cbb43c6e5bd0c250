"""Searches of many clients at once: pictures decoded in a few threads, encoded and searched for together.

    request --decode threads--> question --one batch at a time--> answers --render--> bytes

A picture goes from thread to thread and comes back to the event loop once, as the answer.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from starlette.requests import ClientDisconnect, Request

from simile.core.errors import SimileError
from simile.core.settings import Settings
from simile.images.loading.worker_pool import get_worker_count
from simile.search.queries import SearchQuery, SearchResult
from simile.service.errors import make_timeout_error
from simile.service.observability.metrics import ServiceMetrics
from simile.service.server.connections import make_disconnect_check
from simile.service.state.encoding_pool import EncodingPool

T = TypeVar("T")
SearchFunction = Callable[[Sequence[SearchQuery]], Sequence[SearchResult | SimileError]]

MAX_SEARCH_BATCH_SIZE = 64  # questions in a batch: more would keep the first waiting, and are hardly faster each
MAX_DECODE_WAIT_SECONDS = 0.005  # seconds that a batch waits for pictures that are being decoded
RENDER_FLUSH_SECONDS = 0.005  # seconds of rendering after which the answers that are ready go out


@dataclass(eq=False)
class PendingSearch:
    """One question on its way. `left`: whether its client is gone."""

    query: SearchQuery | Callable[[], SearchQuery]
    render: Callable[[SearchResult], Any]
    future: asyncio.Future[Any]
    has_client_left: Callable[[], bool]

    @property
    def is_dropped(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.future.cancelled() or self.has_client_left()


class SearchBatcher:
    """Where questions are handed in. Make it inside a running event loop, and close it."""

    def __init__(
        self, settings: Settings, search_many: SearchFunction, pool: EncodingPool, metrics: ServiceMetrics
    ) -> None:
        threads = get_worker_count(settings.workers)
        self._search_many, self._pool, self._metrics = search_many, pool, metrics
        self._timeout_seconds = settings.answer_seconds
        self._loop = asyncio.get_running_loop()
        self._decode_executor = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._single_executor = ThreadPoolExecutor(threads, thread_name_prefix="alone")
        self._batch_queue = BatchQueue(self._process_batch, metrics)

    async def search(
        self,
        request: Request,
        query: SearchQuery | Callable[[], SearchQuery],
        render: Callable[[SearchResult], T],
        *,
        heavy: bool = False,
    ) -> T:
        """What `render` makes of the answer; it runs in a thread, in one of its own if it is `heavy`.

        `question`: one that needs no decoding, or what makes it, called in a thread that decodes.
        Raises what `question`, the answer or `render` raise; Refusal where there is no answer in time;
        ClientDisconnect if the client left before the work was begun.
        """
        if heavy:
            answer = await self._submit(request, query, _identity)
            return await self._pool.run(lambda: render(answer))
        return cast(T, await self._submit(request, query, render))

    async def search_many(
        self, request: Request, queries: Sequence[SearchQuery | Callable[[], SearchQuery]]
    ) -> list[SearchResult | SimileError]:
        """The answer to each, in order; what is wrong with one costs no other."""
        asked = (self._submit(request, question, _identity) for question in queries)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, SimileError):
                raise answer
        return cast(list[SearchResult | SimileError], answers)

    def close(self) -> None:
        """Ends the threads, after what they are at."""
        self._decode_executor.shutdown(cancel_futures=True)
        self._single_executor.shutdown(cancel_futures=True)
        self._batch_queue.close()

    async def _submit(
        self, request: Request, query: SearchQuery | Callable[[], SearchQuery], render: Callable[[SearchResult], Any]
    ) -> Any:
        case = PendingSearch(query, render, self._loop.create_future(), make_disconnect_check(request.scope))
        if isinstance(query, SearchQuery):
            self._dispatch(case)
        else:
            self._batch_queue.begin_decoding()
            self._decode_executor.submit(self._decode, case)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await case.future
        except TimeoutError:
            self._metrics.count_refusal("too-slow-to-answer")
            raise make_timeout_error(self._timeout_seconds) from None

    def _decode(self, pending: PendingSearch) -> None:
        try:
            if pending.is_dropped:
                return self._send_results([(pending, ClientDisconnect())])
            assert not isinstance(pending.query, SearchQuery)
            pending.query = pending.query()
        except Exception as error:  # whatever it is, it is the answer to this one question  # noqa: BLE001
            self._send_results([(pending, error)])
        else:
            self._dispatch(pending)
        finally:
            self._batch_queue.end_decoding()

    def _dispatch(self, pending: PendingSearch) -> None:
        """Queue it for the next batch; a filter, a radius or attributes may be slow, so that runs in its own thread."""
        assert isinstance(pending.query, SearchQuery)
        query = pending.query
        if query.params.filter is not None or query.params.radius is not None or query.attributes:
            self._single_executor.submit(self._process_batch, [pending])
        else:
            self._batch_queue.put(pending)

    def _process_batch(self, batch: Sequence[PendingSearch]) -> None:
        """Answers together; in the thread of whoever calls."""
        live: list[PendingSearch] = []
        gone: list[tuple[PendingSearch, Any]] = []
        for case in batch:
            if case.is_dropped:
                gone.append((case, ClientDisconnect()))
            else:
                live.append(case)
        self._send_results(gone)
        if live:
            self._search_batch(live)

    def _search_batch(self, batch: Sequence[PendingSearch]) -> None:
        self._metrics.batch_size.observe(len(batch))
        try:
            answers = self._search_many([cast(SearchQuery, case.query) for case in batch])
        except Exception as error:  # the thread goes on; each request says what happened  # noqa: BLE001
            self._send_results([(case, error) for case in batch])
        else:
            self._render_batch(batch, answers)

    def _render_batch(self, batch: Sequence[PendingSearch], results: Sequence[SearchResult | SimileError]) -> None:
        ready: list[tuple[PendingSearch, Any]] = []
        sent = time.perf_counter()
        for case, answer in zip(batch, results, strict=True):
            started = time.perf_counter()
            ready.append((case, answer if isinstance(answer, SimileError) else _render_or_error(case, answer)))
            ended = time.perf_counter()
            self._metrics.observe_stage("render", ended - started)
            if ended - sent > RENDER_FLUSH_SECONDS:
                self._send_results(ready)
                ready, sent = [], ended
        self._send_results(ready)

    def _send_results(self, results: list[tuple[PendingSearch, Any]]) -> None:
        if not results:
            return
        for _, result in results:
            if isinstance(result, ClientDisconnect):
                self._metrics.client_disconnects.inc()
        try:
            self._loop.call_soon_threadsafe(_deliver_results, results)
        except RuntimeError:  # the loop has ended, and all that waited for it
            return


class BatchQueue:
    """A thread that takes what has come in, at most MOST at a time, and waits WAIT for what is being decoded."""

    def __init__(self, process_batch: Callable[[Sequence[PendingSearch]], None], metrics: ServiceMetrics) -> None:
        self._process_batch, self._metrics = process_batch, metrics
        self._pending_searches: deque[PendingSearch] = deque()
        self._decoding_count = 0
        self._is_idle, self._is_closed = True, False
        self._condition = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
        self._thread.start()

    def begin_decoding(self) -> None:
        """A picture is being decoded: a batch may wait for it."""
        with self._condition:
            self._decoding_count += 1

    def end_decoding(self) -> None:
        """It has been decoded, or could not be."""
        with self._condition:
            self._decoding_count -= 1
            if not self._decoding_count and self._pending_searches:
                self._condition.notify()

    def put(self, pending: PendingSearch) -> None:
        with self._condition:
            self._pending_searches.append(pending)
            if self._is_idle or len(self._pending_searches) == MAX_SEARCH_BATCH_SIZE or not self._decoding_count:
                self._condition.notify()

    def close(self) -> None:
        """Ends the thread after its batch."""
        with self._condition:
            self._is_closed = True
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        while cases := self._take_batch():
            self._process_batch(cases)

    def _take_batch(self) -> list[PendingSearch]:
        with self._condition:
            self._is_idle = True
            self._condition.wait_for(lambda: self._pending_searches or self._is_closed)
            self._is_idle = False
            if not self._is_closed:
                self._condition.wait_for(self._is_complete, MAX_DECODE_WAIT_SECONDS)
            taken = [
                self._pending_searches.popleft() for _ in range(min(MAX_SEARCH_BATCH_SIZE, len(self._pending_searches)))
            ]
            self._metrics.batch_waiting.set(len(self._pending_searches))
            return taken

    def _is_complete(self) -> bool:
        return self._is_closed or len(self._pending_searches) >= MAX_SEARCH_BATCH_SIZE or not self._decoding_count


def _identity(result: SearchResult) -> SearchResult:
    return result


def _render_or_error(pending: PendingSearch, result: SearchResult) -> Any:
    try:
        return pending.render(result)
    except Exception as error:  # the answer to this one question  # noqa: BLE001
        return error


def _deliver_results(results: Sequence[tuple[PendingSearch, Any]]) -> None:
    """In the event loop: wakes up who waits."""
    for case, result in results:
        if case.future.done():
            continue
        if isinstance(result, Exception):
            case.future.set_exception(result)
        else:
            case.future.set_result(result)
