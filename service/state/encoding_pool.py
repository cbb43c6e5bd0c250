"""A bounded pool of threads for work on images."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import anyio.to_thread
from anyio import CapacityLimiter

from simile.images.loading.worker_pool import worker_count
from simile.service.errors import too_slow_to_answer

T = TypeVar("T")


class EncodingPool:
    """Threads for work on pictures, no more at a time than there are cores: the rest waits its turn.

    They are not the threads of the other handlers, so that thumbnails and health checks never queue behind uploads.
    Make it inside a running event loop.
    """

    def __init__(self, workers: int, seconds: float = 30.0) -> None:
        threads = worker_count(workers)
        self._turns, self._threads = CapacityLimiter(threads), CapacityLimiter(threads)
        self._seconds = seconds

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns, or raises, in a thread of its own. Raises Refusal where its turn does not come in time.

        What has begun runs to its end: nobody is told that a picture was not stored which was.
        """
        turn = object()
        try:
            async with asyncio.timeout(self._seconds):
                await self._turns.acquire_on_behalf_of(turn)
        except TimeoutError:
            raise too_slow_to_answer(self._seconds) from None
        try:
            return await anyio.to_thread.run_sync(work, limiter=self._threads)
        finally:
            self._turns.release_on_behalf_of(turn)
