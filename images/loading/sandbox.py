"""Decode risky formats in a worker process first, so that a crash or a hang does not harm this process.

The decoding time of JPEG, PNG, GIF, WebP and plain bitmaps is bounded by their pixels and bytes. TIFF, JPEG 2000, HEIF
and AVIF are decoded by large codec libraries, in which a hostile file can cause hours of work or a crash.
"""

from __future__ import annotations

import re
import threading
from contextlib import suppress
from functools import partial

from simile.core.errors import UnreadableImage
from simile.images.decoding import decode_image
from simile.images.formats import Limits
from simile.images.loading.fork_server import WorkerLost
from simile.images.loading.worker_pool import WorkerPool

# The first bytes of all files that Pillow gives to those libraries.
_RISKY_FORMATS = re.compile(rb"II|MM|\xff\x4f\xff\x51|\0\0\0\x0cjP|.{4}ftyp", re.DOTALL)


class DecodeSandbox:
    """Decodes files of risky formats in worker processes. Safe to call from several threads."""

    def __init__(self, workers: int, seconds: float, limits: Limits) -> None:
        """Set the limits. The processes (0: one per core) start with the first file that needs one."""
        self._worker_count, self._seconds, self._limits = workers, seconds, limits
        self._pool: WorkerPool | None = None
        self._lock = threading.Lock()

    def check(self, data: bytes, name: str) -> None:
        """Return if `data` can be decoded in this process. Raises UnreadableImage if the worker did not survive it."""
        # The decoder itself rejects files over the limit without decoding.
        if not _RISKY_FORMATS.match(data[:16]) or len(data) > self._limits.max_bytes:
            return
        with self._lock:
            if self._pool is None:
                self._pool = WorkerPool(self._worker_count, self._seconds, self._limits.max_pixels)
            pool = self._pool
        for result in pool.map(partial(_try_decode, limits=self._limits), [(name, data)]):
            if isinstance(result, WorkerLost):
                raise UnreadableImage(name, result.reason)

    def close(self) -> None:
        """End the worker processes."""
        with self._lock:
            if self._pool is not None:
                self._pool.close()
                self._pool = None


def _try_decode(named_data: tuple[str, bytes], limits: Limits) -> None:
    """Decode and ignore the result. The caller meets an UnreadableImage again when it decodes."""
    name, data = named_data
    with suppress(UnreadableImage):
        decode_image(data, name=name, limits=limits)
