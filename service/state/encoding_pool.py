"""A bounded thread pool for work on images."""

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
