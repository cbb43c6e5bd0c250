"""Reading and decoding many files at once, in bounded memory, in the order they were given."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from core.errors import NotFinite, UnreadableImage
from core.records import Failure
from models.images import Limits, Picture, decode, read_bytes
from models.preprocessing import Pixels, Preprocessing

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Prepared:
    """One picture as the network sees it, with the facts of its bytes. array: (S, S, C) uint8."""

    sha256: str
    size: int
    width: int
    height: int
    format: str
    array: Pixels


def prepare_bytes(data: bytes, name: str, preprocessing: Preprocessing, limits: Limits) -> Prepared:
    """Hash, decode and scale one picture. Raises UnreadableImage or ImageTooLarge with `name`."""
    picture = decode(
        data, name=name, limits=limits, background=preprocessing.background, min_side=preprocessing.image_size
    )
    digest = hashlib.sha256(data).hexdigest()
    array = preprocessing.to_array(picture)
    return Prepared(digest, len(data), picture.width, picture.height, picture.format, array)


def prepare_files(
    paths: Iterable[str], preprocessing: Preprocessing, limits: Limits, workers: int
) -> Iterator[Prepared | Failure]:
    """One result for each path, in order; a file that can't be used becomes a Failure and costs nothing else."""
    return in_threads(lambda path: _prepare_or_fail(path, preprocessing, limits), paths, workers)


def read_arrays(
    paths: Sequence[str], preprocessing: Preprocessing, limits: Limits, workers: int
) -> tuple[Pixels, list[str], list[Failure]]:
    """Pictures (n, S, S, C) uint8 in the order of their paths, the paths that could be read, and the failures."""
    size, channels = preprocessing.image_size, preprocessing.channels
    pictures = np.empty((len(paths), size, size, channels), np.uint8)
    kept: list[str] = []
    failures: list[Failure] = []
    for path, result in zip(paths, prepare_files(paths, preprocessing, limits, workers), strict=True):
        if isinstance(result, Prepared):
            pictures[len(kept)] = result.array
            kept.append(path)
        else:
            failures.append(result)
    return pictures[: len(kept)], kept, failures


def _prepare_or_fail(path: str, preprocessing: Preprocessing, limits: Limits) -> Prepared | Failure:
    try:
        return prepare_bytes(read_bytes(Path(path), limits), path, preprocessing, limits)
    except UnreadableImage as error:
        return Failure(path, error.reason)
    except NotFinite as error:
        return Failure(path, str(error))


def sample_pictures(paths: Sequence[str], limits: Limits, workers: int, count: int, seed: int) -> list[Picture]:
    """Up to `count` pictures that can be read, drawn without replacement with `seed`."""
    order = np.random.default_rng(seed).permutation(len(paths))
    chosen: list[Picture] = []
    for picture in in_threads(lambda index: _decode_or_none(paths[index], limits), order.tolist(), workers):
        if picture is not None:
            chosen.append(picture)
        if len(chosen) == count:
            break
    return chosen


def _decode_or_none(path: str, limits: Limits) -> Picture | None:
    try:
        return decode(read_bytes(Path(path), limits), name=path, limits=limits, min_side=64)
    except UnreadableImage:
        return None


def worker_count(workers: int) -> int:
    """How many threads decode: `workers`, or one for each core that this process may use."""
    return workers or len(os.sched_getaffinity(0))


def in_threads(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """`map` on threads that keeps order and never runs far ahead of its reader, so that memory stays bounded.

    Pillow lets go of the interpreter lock while it decodes and scales, so threads use all cores.
    """
    threads = worker_count(workers)
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= 8 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
