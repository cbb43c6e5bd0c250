"""Reading and decoding many files at once, in worker processes, in bounded memory, in the order they were given."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from simile.core.errors import NotFinite, UnreadableImage
from simile.core.records import Failure
from simile.images.decoding import DecodedImage, decode_image
from simile.images.formats import Limits
from simile.images.loading.fork_server import WorkerLost
from simile.images.loading.image_file import empty_images
from simile.images.loading.worker_pool import WorkerPool, get_worker_count
from simile.images.sources.archives import MemberReader
from simile.images.sources.reader import read_bytes
from simile.images.transforms import Pixels, Preprocessing

Item = TypeVar("Item")
Result = TypeVar("Result")

SourceFile = tuple[
    str, bytes | Failure | None
]  # a path, with its bytes (or why not) where the job has read them already


@dataclass(frozen=True)
class PreparedImage:
    """One picture as the network sees it, with the facts of its bytes. array: (S, S, C) uint8."""

    sha256: str
    size: int
    width: int
    height: int
    format: str
    array: Pixels


@dataclass(frozen=True)
class ImageArrays:
    """Pictures (n, S, S, C) uint8 in the order of their paths, those that could be read; the SHA-256 of each file."""

    images: Pixels
    paths: list[str]
    digests: list[str]
    failures: list[Failure]


def prepare_image(data: bytes, name: str, preprocessing: Preprocessing, limits: Limits) -> PreparedImage:
    """Hash, decode and scale one picture. Raises UnreadableImage or ImageTooLarge with `name`."""
    picture = decode_image(
        data, name=name, limits=limits, background=preprocessing.background, min_side=preprocessing.image_size
    )
    digest = hashlib.sha256(data).hexdigest()
    array = preprocessing.to_array(picture)
    return PreparedImage(digest, len(data), picture.width, picture.height, picture.format, array)


def prepare_files(
    paths: Iterable[str], preprocessing: Preprocessing, limits: Limits, workers: int | WorkerPool
) -> Iterator[PreparedImage | Failure]:
    """One result for each path, in order; a file that can't be used becomes a Failure and costs nothing else."""
    return decode_files(partial(prepare_image, preprocessing=preprocessing, limits=limits), paths, limits, workers)


def decode_files(
    function: Callable[[bytes, str], Result], paths: Iterable[str], limits: Limits, workers: int | WorkerPool
) -> Iterator[Result | Failure]:
    """Call `function` with the bytes and the path of each file, in worker processes; one result for each, in order.

    `function` can be imported, or is a partial of such. A file becomes a Failure when the function raises
    UnreadableImage, NotFinite or MemoryError, takes more than `limits.seconds`, or ends its process.
    """
    return _map_in_processes(partial(_call_or_fail, function=function, limits=limits), paths, limits, workers)


def read_arrays(
    paths: Sequence[str],
    preprocessing: Preprocessing,
    limits: Limits,
    workers: int | WorkerPool,
    folder: Path | None = None,
) -> ImageArrays:
    """All of these files at once, in memory, or in a temporary file in `folder`. Raises HomeNotWritable."""
    size, channels = preprocessing.image_size, preprocessing.channels
    pictures = empty_images((len(paths), size, size, channels), folder)
    kept: list[str] = []
    digests: list[str] = []
    failures: list[Failure] = []
    for path, result in zip(paths, prepare_files(paths, preprocessing, limits, workers), strict=True):
        if isinstance(result, PreparedImage):
            pictures[len(kept)] = result.array
            kept.append(path)
            digests.append(result.sha256)
        else:
            failures.append(result)
    return ImageArrays(pictures[: len(kept)], kept, digests, failures)


def sample_images(
    paths: Sequence[str], limits: Limits, workers: int | WorkerPool, count: int, seed: int
) -> list[DecodedImage]:
    """Up to `count` pictures that can be read, drawn without replacement with `seed`; one pixel of each is kept.

    In the order of `paths`: what is drawn from an archive is read in one go.
    """
    order = np.random.default_rng(seed).permutation(len(paths)).tolist()
    chosen: dict[int, DecodedImage] = {}
    with open_worker_pool(workers, limits) as pool:
        while order and len(chosen) < count:
            drawn = sorted(order[: count - len(chosen)])
            order = order[len(drawn) :]
            results = decode_files(partial(_look, limits=limits), [paths[index] for index in drawn], limits, pool)
            chosen |= {index: one for index, one in zip(drawn, results, strict=True) if isinstance(one, DecodedImage)}
    return [chosen[index] for index in sorted(chosen)]


@contextmanager
def open_worker_pool(workers: int | WorkerPool, limits: Limits) -> Iterator[WorkerPool]:
    """The workers that are running, or so many new ones that end with the block."""
    if isinstance(workers, WorkerPool):
        yield workers
    else:
        with WorkerPool(workers, limits.seconds, limits.max_pixels) as pool:
            yield pool


def _map_in_processes(
    task: Callable[[SourceFile], Result], paths: Iterable[str], limits: Limits, workers: int | WorkerPool
) -> Iterator[Result | Failure]:
    names: deque[str] = deque()
    with open_worker_pool(workers, limits) as pool, MemberReader(limits) as reader:
        for result in pool.map(task, _iterate_files(paths, reader, names)):
            path = names.popleft()
            yield Failure(path, result.reason) if isinstance(result, WorkerLost) else result


def _iterate_files(paths: Iterable[str], reader: MemberReader, names: deque[str]) -> Iterator[SourceFile]:
    """What travels to the workers. An archive is read here, from front to back: no worker could find its place."""
    for path in paths:
        names.append(path)
        try:
            yield path, reader.read(path)
        except UnreadableImage as error:
            yield path, Failure(path, error.reason)


def _read_file_bytes(file: SourceFile, limits: Limits) -> bytes | Failure:
    path, data = file
    return read_bytes(Path(path), limits) if data is None else data


def _call_or_fail(file: SourceFile, function: Callable[[bytes, str], Result], limits: Limits) -> Result | Failure:
    try:
        data = _read_file_bytes(file, limits)
        return data if isinstance(data, Failure) else function(data, file[0])
    except UnreadableImage as error:
        return Failure(file[0], error.reason)
    except NotFinite as error:
        return Failure(file[0], str(error))
    except MemoryError:
        return Failure(file[0], "there is not enough memory to decode it")


def _look(data: bytes, name: str, limits: Limits) -> DecodedImage:
    picture = decode_image(data, name=name, limits=limits, min_side=64)
    return replace(picture, pixels=picture.pixels[:1, :1].copy())  # whole ones of hundreds would not fit in memory


def map_in_threads(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """`map` on threads that keeps order and never runs far ahead of its reader, so that memory stays bounded.

    Pillow lets go of the interpreter lock while it decodes and scales, so threads use all cores.
    """
    threads = get_worker_count(workers)
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
