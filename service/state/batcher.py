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
from simile.images.loading.worker_pool import worker_count
from simile.search.queries import Answer, Question
from simile.service.errors import too_slow_to_answer
from simile.service.observability.metrics import Metrics
from simile.service.server.connections import has_left
from simile.service.state.encoding_pool import EncodingPool

T = TypeVar("T")
Answers = Callable[[Sequence[Question]], Sequence[Answer | SimileError]]

MOST = 64  # questions in a batch: more would keep the first waiting, and are hardly faster each
WAIT = 0.005  # seconds that a batch waits for pictures that are being decoded
LONG = 0.005  # seconds of rendering after which the answers that are ready go out


@dataclass(eq=False)
class _Case:
    """One question on its way. `left`: whether its client is gone."""

    question: Question | Callable[[], Question]
    render: Callable[[Answer], Any]
    future: asyncio.Future[Any]
    left: Callable[[], bool]

    @property
    def dropped(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.future.cancelled() or self.left()


class Desk:
    """Where questions are handed in. Make it inside a running event loop, and close it."""

    def __init__(self, settings: Settings, answer: Answers, pool: EncodingPool, metrics: Metrics) -> None:
        threads = worker_count(settings.workers)
        self._answer, self._pool, self._metrics = answer, pool, metrics
        self._seconds = settings.answer_seconds
        self._loop = asyncio.get_running_loop()
        self._decoders = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._alone = ThreadPoolExecutor(threads, thread_name_prefix="alone")
        self._batches = _Batches(self._serve, metrics)

    async def ask(
        self,
        request: Request,
        question: Question | Callable[[], Question],
        render: Callable[[Answer], T],
        *,
        heavy: bool = False,
    ) -> T:
        """What `render` makes of the answer; it runs in a thread, in one of its own if it is `heavy`.

        `question`: one that needs no decoding, or what makes it, called in a thread that decodes.
        Raises what `question`, the answer or `render` raise; Refusal where there is no answer in time;
        ClientDisconnect if the client left before the work was begun.
        """
        if heavy:
            answer = await self._answered(request, question, _as_it_is)
            return await self._pool.run(lambda: render(answer))
        return cast(T, await self._answered(request, question, render))

    async def ask_all(
        self, request: Request, questions: Sequence[Question | Callable[[], Question]]
    ) -> list[Answer | SimileError]:
        """The answer to each, in order; what is wrong with one costs no other."""
        asked = (self._answered(request, question, _as_it_is) for question in questions)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, SimileError):
                raise answer
        return cast(list[Answer | SimileError], answers)

    def close(self) -> None:
        """Ends the threads, after what they are at."""
        self._decoders.shutdown(cancel_futures=True)
        self._alone.shutdown(cancel_futures=True)
        self._batches.close()

    async def _answered(
        self, request: Request, question: Question | Callable[[], Question], render: Callable[[Answer], Any]
    ) -> Any:
        case = _Case(question, render, self._loop.create_future(), has_left(request.scope))
        if isinstance(question, Question):
            self._sort(case)
        else:
            self._batches.expect()
            self._decoders.submit(self._decode, case)
        try:
            async with asyncio.timeout(self._seconds):
                return await case.future
        except TimeoutError:
            self._metrics.refused("too-slow-to-answer")
            raise too_slow_to_answer(self._seconds) from None

    def _decode(self, case: _Case) -> None:
        try:
            if case.dropped:
                return self._send([(case, ClientDisconnect())])
            assert not isinstance(case.question, Question)
            case.question = case.question()
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the answer to this one question
            self._send([(case, error)])
        else:
            self._sort(case)
        finally:
            self._batches.expected()

    def _sort(self, case: _Case) -> None:
        """To the batches, or to a thread of its own where a filter or a distance may make it slow."""
        assert isinstance(case.question, Question)
        if case.question.asked.only is not None or case.question.asked.within is not None:
            self._alone.submit(self._serve, [case])
        else:
            self._batches.put(case)

    def _serve(self, cases: Sequence[_Case]) -> None:
        """Answers together; in the thread of whoever calls."""
        live: list[_Case] = []
        gone: list[tuple[_Case, Any]] = []
        for case in cases:
            if case.dropped:
                gone.append((case, ClientDisconnect()))
            else:
                live.append(case)
        self._send(gone)
        if live:
            self._answer_together(live)

    def _answer_together(self, live: Sequence[_Case]) -> None:
        self._metrics.batches.observe(len(live))
        try:
            answers = self._answer([cast(Question, case.question) for case in live])
        except Exception as error:  # noqa: BLE001  # the thread goes on; each request says what happened
            self._send([(case, error) for case in live])
        else:
            self._render(live, answers)

    def _render(self, cases: Sequence[_Case], answers: Sequence[Answer | SimileError]) -> None:
        ready: list[tuple[_Case, Any]] = []
        sent = time.perf_counter()
        for case, answer in zip(cases, answers, strict=True):
            started = time.perf_counter()
            ready.append((case, answer if isinstance(answer, SimileError) else _rendered(case, answer)))
            ended = time.perf_counter()
            self._metrics.observe("render", ended - started)
            if ended - sent > LONG:
                self._send(ready)
                ready, sent = [], ended
        self._send(ready)

    def _send(self, results: list[tuple[_Case, Any]]) -> None:
        if not results:
            return
        for _, result in results:
            if isinstance(result, ClientDisconnect):
                self._metrics.gone.inc()
        try:
            self._loop.call_soon_threadsafe(_deliver, results)
        except RuntimeError:  # the loop has ended, and all that waited for it
            return


class _Batches:
    """A thread that takes what has come in, at most MOST at a time, and waits WAIT for what is being decoded."""

    def __init__(self, serve: Callable[[Sequence[_Case]], None], metrics: Metrics) -> None:
        self._serve, self._metrics = serve, metrics
        self._waiting: deque[_Case] = deque()
        self._expected = 0
        self._idle, self._closed = True, False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
        self._thread.start()

    def expect(self) -> None:
        """A picture is being decoded: a batch may wait for it."""
        with self._changed:
            self._expected += 1

    def expected(self) -> None:
        """It has been decoded, or could not be."""
        with self._changed:
            self._expected -= 1
            if not self._expected and self._waiting:
                self._changed.notify()

    def put(self, case: _Case) -> None:
        with self._changed:
            self._waiting.append(case)
            if self._idle or len(self._waiting) == MOST or not self._expected:
                self._changed.notify()

    def close(self) -> None:
        """Ends the thread after its batch."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while cases := self._gathered():
            self._serve(cases)

    def _gathered(self) -> list[_Case]:
        with self._changed:
            self._idle = True
            self._changed.wait_for(lambda: self._waiting or self._closed)
            self._idle = False
            if not self._closed:
                self._changed.wait_for(self._is_complete, WAIT)
            taken = [self._waiting.popleft() for _ in range(min(MOST, len(self._waiting)))]
            self._metrics.waiting.set(len(self._waiting))
            return taken

    def _is_complete(self) -> bool:
        return self._closed or len(self._waiting) >= MOST or not self._expected


def _as_it_is(answer: Answer) -> Answer:
    return answer


def _rendered(case: _Case, answer: Answer) -> Any:
    try:
        return case.render(answer)
    except Exception as error:  # noqa: BLE001  # the answer to this one question
        return error


def _deliver(results: Sequence[tuple[_Case, Any]]) -> None:
    """In the event loop: wakes up who waits."""
    for case, result in results:
        if case.future.done():
            continue
        if isinstance(result, Exception):
            case.future.set_exception(result)
        else:
            case.future.set_result(result)
