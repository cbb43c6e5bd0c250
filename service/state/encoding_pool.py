"""A bounded pool of threads for work on images."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import anyio.to_thread
from anyio import CapacityLimiter

from simile.images.loading.worker_pool import get_worker_count
from simile.service.errors import make_timeout_error

T = TypeVar("T")


class EncodingPool:
    """Threads for work on pictures, no more at a time than there are cores: the rest waits its turn.

    They are not the threads of the other handlers, so that thumbnails and health checks never queue behind uploads.
    Make it inside a running event loop.
    """

    def __init__(self, workers: int, timeout_seconds: float = 30.0) -> None:
        threads = get_worker_count(workers)
        self._slot_limiter, self._thread_limiter = CapacityLimiter(threads), CapacityLimiter(threads)
        self._timeout_seconds = timeout_seconds

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns, or raises, in a thread of its own. Raises Refusal where its turn does not come in time.

        What has begun runs to its end: nobody is told that a picture was not stored which was.
        """
        turn = object()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._slot_limiter.acquire_on_behalf_of(turn)
        except TimeoutError:
            raise make_timeout_error(self._timeout_seconds) from None
        try:
            return await anyio.to_thread.run_sync(work, limiter=self._thread_limiter)
        finally:
            self._slot_limiter.release_on_behalf_of(turn)
