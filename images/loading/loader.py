"""Read and decode many files in worker processes, in bounded memory, in the order of their paths."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from simile.core.errors import HomeNotWritable, NotFinite, UnreadableImage
from simile.core.records import Box, Failure, ImageQuality, PhotoMetadata
from simile.images.decoding import DecodedImage, decode_image
from simile.images.formats import Limits, Pixels
from simile.images.loading.fork_server import WorkerLost
from simile.images.loading.worker_pool import WorkerPool, get_worker_count
from simile.images.metadata.reader import MetadataReader
from simile.images.quality.quality import QUALITY_SIDE, measure_quality
from simile.images.sources.archives import MemberReader
from simile.images.sources.buckets import is_remote, read_remote
from simile.images.sources.reader import map_bytes, read_bytes
from simile.images.tiff import Buffer
from simile.images.transforms import Preprocessing, downscale

Item = TypeVar("Item")
Result = TypeVar("Result")

OBJECT_READERS = 16  # objects that are read at a time, and at most so many are in memory

SourceFile = tuple[str, bytes | Failure | None]  # a path; its bytes, or why not, if this process has read them


@dataclass(frozen=True, kw_only=True)
class PreparedImage:
    """One image as the network sees it, and the facts of its file."""

    sha256: str
    size: int  # bytes
    width: int  # of the original
    height: int
    format: str  # as `DecodedImage.format`
    array: Pixels  # (S, S, C)
    photo: PhotoMetadata | None = None  # these only if they were requested
    quality: ImageQuality | None = None


@dataclass(frozen=True)
class ImageArrays:
    """The images that could be read, in the order of their paths."""

    images: Pixels  # (n, S, S, C)
    paths: list[str]
    digests: list[str]  # SHA-256 of each file
    failures: list[Failure]  # files that could not be used


def prepare_image(
    data: bytes,
    name: str,
    preprocessing: Preprocessing,
    limits: Limits,
    metadata_reader: MetadataReader | None = None,
    box: Box | None = None,
) -> PreparedImage:
    """Hash, decode and scale one image.

    Args:
        data: The bytes of the file.
        name: For errors.
        preprocessing: What the encoder expects.
        limits: Limits on bytes and pixels.
        metadata_reader: Reads the metadata of the photo; without one its quality is not measured either.
        box: The part of the image to prepare; None: all of it.

    Raises:
        UnreadableImage, ImageTooLarge: With `name`.
    """
    min_side = preprocessing.min_side if box is None else math.ceil(preprocessing.min_side / min(box.width, box.height))
    image = decode_image(data, name=name, limits=limits, background=preprocessing.background, min_side=min_side)
    if box is not None:
        image = _crop(image, box)
    return PreparedImage(
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        width=image.width,
        height=image.height,
        format=image.format,
        array=preprocessing.to_array(image),
        photo=None if metadata_reader is None else metadata_reader.read(data, name),
        quality=None if metadata_reader is None else measure_quality(image.pixels, image.profile),
    )


def _crop(image: DecodedImage, box: Box) -> DecodedImage:
    """Return a part of an image. The encoder input is made from a copy, so that it is contiguous."""
    height, width = image.pixels.shape[:2]
    pixels = np.ascontiguousarray(image.pixels[box.to_pixels(width, height)])
    rows, columns = box.to_pixels(image.width, image.height)
    return replace(image, pixels=pixels, width=columns.stop - columns.start, height=rows.stop - rows.start)


def measure_file(data: bytes, name: str, limits: Limits) -> tuple[str, ImageQuality]:
    """Return the SHA-256 of an image and its quality. Raises UnreadableImage or ImageTooLarge with `name`."""
    image = decode_image(data, name=name, limits=limits, min_side=QUALITY_SIDE // 2)
    return hashlib.sha256(data).hexdigest(), measure_quality(image.pixels, image.profile)


def decode_reduced(data: bytes, name: str, limits: Limits, side: int) -> DecodedImage:
    """Decode an image and scale it down by a whole factor, so that both sides keep at least `side` pixels if possible.

    The colours are converted to sRGB. Raises UnreadableImage or ImageTooLarge with `name`.
    """
    image = decode_image(data, name=name, limits=limits, min_side=side, to_srgb=True)
    return replace(image, pixels=downscale(image.pixels, max(1, min(image.pixels.shape[:2]) // side)))


def prepare_files(
    paths: Iterable[str],
    preprocessing: Preprocessing,
    limits: Limits,
    workers: int | WorkerPool,
    metadata_reader: MetadataReader | None = None,
) -> Iterator[PreparedImage | Failure]:
    """Yield one result for each path, in order; a file that cannot be used becomes a Failure."""
    prepare = partial(prepare_image, preprocessing=preprocessing, limits=limits, metadata_reader=metadata_reader)
    return decode_files(prepare, paths, limits, workers)


def read_metadata(
    paths: Iterable[str], reader: MetadataReader, limits: Limits, workers: int | WorkerPool
) -> Iterator[PhotoMetadata | Failure | None]:
    """Yield the photo metadata of each file, in order, without its pixels; of a file on disk only parts are read."""
    return decode_files(reader.read, paths, limits, workers, open_file=map_bytes)


def decode_files(
    function: Callable[[Any, str], Result],
    paths: Iterable[str],
    limits: Limits,
    workers: int | WorkerPool,
    *,
    open_file: Callable[[str, Limits], Buffer] = read_bytes,
) -> Iterator[Result | Failure]:
    """Yield what `function` returns for the bytes and the path of each file, in order, from worker processes.

    The function, or that of a partial, can be imported. Members of an archive are read fastest in their order in it.
    `workers` is a running pool, or the number of processes to start (0: one per core). `open_file` returns the bytes of
    a file on disk. A file becomes a Failure when
    it raises UnreadableImage, NotFinite or MemoryError, takes more than `limits.seconds`, or ends its process. Raises
    ObjectsUnavailable.
    """
    names: deque[str] = deque()
    task = partial(_call_or_fail, function=function, limits=limits, open_file=open_file)
    with open_worker_pool(workers, limits) as pool, MemberReader(limits) as reader:
        for result in pool.map(task, _iterate_files(paths, reader, limits, names)):
            path = names.popleft()
            yield Failure(path, result.reason) if isinstance(result, WorkerLost) else result


def read_arrays(
    paths: Sequence[str],
    preprocessing: Preprocessing,
    limits: Limits,
    workers: int | WorkerPool,
    folder: Path | None = None,
) -> ImageArrays:
    """Read all files into one array, as `empty_images` makes it. Raises HomeNotWritable."""
    size, channels = preprocessing.image_size, preprocessing.channels
    images = empty_images((len(paths), size, size, channels), folder)
    read_paths: list[str] = []
    digests: list[str] = []
    failures: list[Failure] = []
    for path, result in zip(paths, prepare_files(paths, preprocessing, limits, workers), strict=True):
        if isinstance(result, PreparedImage):
            images[len(read_paths)] = result.array
            read_paths.append(path)
            digests.append(result.sha256)
        else:
            failures.append(result)
    return ImageArrays(images[: len(read_paths)], read_paths, digests, failures)


def empty_images(shape: tuple[int, ...], folder: Path | None) -> Pixels:
    """Return an array (n, S, S, C) uint8 to fill: in memory, or with a folder in a temporary file there.

    The file is mapped into memory and has no name, so that the system frees its space when the process ends. Raises
    HomeNotWritable if the folder lacks the space or the permission.
    """
    size = math.prod(shape)
    if folder is None or size == 0:
        return np.empty(shape, np.uint8)
    try:
        if shutil.disk_usage(folder).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk later would end the process by SIGBUS
            return np.memmap(file, np.uint8, "r+", shape=shape)
    except OSError as error:
        raise HomeNotWritable(
            f"The {shape[0]:,} images to train on need {size / 1e9:,.1f} GB in {folder}: {error.strerror or error}. "
            "Make space there, train on fewer images or with a smaller --image-size, or keep more of them in memory "
            "(SIMILE_TRAIN_MEMORY)."
        ) from error


def is_in_file(images: Pixels) -> bool:
    """Return whether `images` are in a file, as those of `empty_images` with a folder."""
    return isinstance(images, np.memmap)


def sample_images(
    paths: Sequence[str], limits: Limits, workers: int | WorkerPool, count: int, seed: int
) -> list[DecodedImage]:
    """Draw up to `count` readable images without replacement; the same seed draws the same files.

    Return sizes and formats of the images in the order of `paths`, with one pixel each: whole images would not fit in
    memory. An archive is read once from front to back.
    """
    order = np.random.default_rng(seed).permutation(len(paths)).tolist()
    chosen: dict[int, DecodedImage] = {}
    with open_worker_pool(workers, limits) as pool:
        while order and len(chosen) < count:  # draw again for each file that could not be read
            drawn = sorted(order[: count - len(chosen)])
            order = order[len(drawn) :]
            task = partial(_decode_one_pixel, limits=limits)
            results = decode_files(task, [paths[index] for index in drawn], limits, pool)
            for index, result in zip(drawn, results, strict=True):
                if isinstance(result, DecodedImage):
                    chosen[index] = result
    return [chosen[index] for index in sorted(chosen)]


@contextmanager
def open_worker_pool(workers: int | WorkerPool, limits: Limits) -> Iterator[WorkerPool]:
    """Yield the given pool, or a new pool with so many workers that ends with the block."""
    if isinstance(workers, WorkerPool):
        yield workers
    else:
        with WorkerPool(workers, limits.seconds, limits.max_pixels) as pool:
            yield pool


def _iterate_files(
    paths: Iterable[str], reader: MemberReader, limits: Limits, names: deque[str]
) -> Iterator[SourceFile]:
    """Yield what the workers get, and append each path to `names`.

    Members of archives are read in this process, from front to back: a worker would have to search for its member.
    Objects are read here, too: a store needs time for each, so several are read at once.
    """
    with closing(_read_objects_ahead(paths, limits)) as items:
        for path, reading in items:
            names.append(path)
            try:
                yield path, reader.read(path) if reading is None else reading.result()
            except UnreadableImage as error:
                yield path, Failure(path, error.reason)


def _read_objects_ahead(paths: Iterable[str], limits: Limits) -> Generator[tuple[str, Future[bytes] | None]]:
    """Yield each path, and for an object the reading of its bytes, which begins some paths earlier."""
    waiting: deque[tuple[str, Future[bytes] | None]] = deque()
    with ExitStack() as stack:
        pool: ThreadPoolExecutor | None = None
        for path in paths:
            if not waiting and not is_remote(path):
                yield path, None
                continue
            if pool is None:
                pool = ThreadPoolExecutor(OBJECT_READERS, thread_name_prefix="read-object")
                stack.callback(pool.shutdown, cancel_futures=True)
            waiting.append((path, pool.submit(read_remote, path, limits) if is_remote(path) else None))
            if len(waiting) > OBJECT_READERS:
                yield waiting.popleft()
        yield from waiting


def _call_or_fail(
    file: SourceFile,
    function: Callable[[Any, str], Result],
    limits: Limits,
    open_file: Callable[[str, Limits], Buffer],
) -> Result | Failure:
    """Call the function in a worker process; turn the expected errors into a Failure."""
    path, data = file
    try:
        if isinstance(data, Failure):
            return data
        return function(open_file(path, limits) if data is None else data, path)
    except UnreadableImage as error:
        return Failure(path, error.reason)
    except NotFinite as error:
        return Failure(path, str(error))
    except MemoryError:
        return Failure(path, "there is not enough memory to decode it")


def _decode_one_pixel(data: bytes, name: str, limits: Limits) -> DecodedImage:
    """Decode an image and keep its first pixel only."""
    image = decode_image(data, name=name, limits=limits, min_side=64)
    return replace(image, pixels=image.pixels[:1, :1].copy())


def map_in_threads(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Map on threads, in order, at most 8 items per thread ahead of the caller, so that memory stays bounded.

    Pillow releases the interpreter lock while it decodes and scales, so threads use all cores.
    """
    threads = get_worker_count(workers)
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= 8 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
