"""Whether it is safe to decode a picture here, in a process that others depend on.

JPEG, PNG, GIF, WebP and plain bitmaps take a time that their pixels and bytes bound. Behind TIFF, JPEG 2000, HEIF and
AVIF stand whole libraries of codecs, in which a file from anywhere may find hours of work, or a crash. Those are
decoded in a worker process first: what it does not survive costs nothing but the worker.
"""

from __future__ import annotations

import re
import threading
from functools import partial

from simile.core.errors import UnreadableImage
from simile.images.decoding import decode_image
from simile.images.formats import Limits
from simile.images.loading.fork_server import WorkerLost
from simile.images.loading.worker_pool import WorkerPool

# How everything begins that Pillow gives to those libraries.
_RISKY_FORMATS = re.compile(rb"II|MM|\xff\x4f\xff\x51|\0\0\0\x0cjP|.{4}ftyp", re.DOTALL)


class DecodeSandbox:
    """Decodes in worker processes what may be more than a picture. Safe to call from several threads.

    workers: how many, 0 for one each core; they start with the first picture that needs one. `seconds`: for each.
    """

    def __init__(self, workers: int, seconds: float, limits: Limits) -> None:
        self._worker_count, self._seconds, self._limits = workers, seconds, limits
        self._pool: WorkerPool | None = None
        self._lock = threading.Lock()

    def check(self, data: bytes, name: str) -> None:
        """Returns where `data` can be decoded here. Raises UnreadableImage for what no process survives in time."""
        if (
            not _RISKY_FORMATS.match(data[:16]) or len(data) > self._limits.max_bytes
        ):  # the decoder refuses so much itself
            return
        with self._lock:
            if self._pool is None:
                self._pool = WorkerPool(self._worker_count, self._seconds, self._limits.max_pixels)
            workers = self._pool
        for result in workers.map(partial(_try_decode, limits=self._limits), [(name, data)]):
            if isinstance(result, WorkerLost):
                raise UnreadableImage(name, result.reason)

    def close(self) -> None:
        """Ends the processes."""
        with self._lock:
            if self._pool is not None:
                self._pool.close()
                self._pool = None


def _try_decode(named_data: tuple[str, bytes], limits: Limits) -> None:
    """What is wrong with it is said again, in the usual words, by whoever decodes it next."""
    name, data = named_data
    try:
        decode_image(data, name=name, limits=limits)
    except UnreadableImage:
        return
