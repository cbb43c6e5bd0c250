"""The images of an evaluation: read and decoded once for all methods, and split into queries and base images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np

from simile.core.errors import TooFewPictures
from simile.core.records import Failure, OnProgress
from simile.evaluation.neighbours import RowIndices
from simile.images.decoding import DecodedImage, decode_image
from simile.images.formats import Limits, Pixels
from simile.images.loading.loader import decode_files
from simile.images.loading.worker_pool import WorkerPool
from simile.images.rendering.sheets import encode_thumbnail
from simile.images.sources.labels import make_stratified_folds
from simile.images.transforms import Preprocessing

ArraysByPreprocessing = dict[Preprocessing, Pixels]  # (n, S, S, C) uint8 each
Result = TypeVar("Result")

MIN_EVALUATION_IMAGES = 12  # fewer give no meaningful result


@dataclass(frozen=True)
class ImageReader:
    """Reads files for an evaluation."""

    limits: Limits
    workers: int | WorkerPool  # a running pool, or the number of processes to start for each call; 0: one for each core
    preprocessings: tuple[Preprocessing, ...]  # all that some method needs

    @property
    def without_workers(self) -> ImageReader:
        """The same for use in a worker process: a running pool cannot be sent there."""
        return replace(self, workers=1)

    def each(self, function: Callable[[bytes, str], Result], paths: Sequence[str]) -> Iterator[Result | Failure]:
        """Apply a function to each file; see simile.images.loading.loader.decode_files."""
        return decode_files(function, paths, self.limits, self.workers)

    @property
    def bytes_per_image(self) -> int:
        """Bytes of one image in all preprocessings."""
        return sum(spec.image_size**2 * spec.channels for spec in self.preprocessings)

    def decode(self, data: bytes, name: str, min_side: int | None) -> dict[str, DecodedImage]:
        """Decode an image over each background that some preprocessing needs. Raises UnreadableImage."""
        backgrounds = {spec.background for spec in self.preprocessings}
        return {
            background: decode_image(data, name=name, limits=self.limits, background=background, min_side=min_side)
            for background in sorted(backgrounds)
        }

    def preprocess(self, images: dict[str, DecodedImage]) -> list[Pixels]:
        """Return an array (S, S, C) for each preprocessing."""
        return [spec.to_array(images[spec.background]) for spec in self.preprocessings]

    def allocate(self, count: int) -> ArraysByPreprocessing:
        """Allocate arrays for `count` images."""
        return {
            spec: np.empty((count, spec.image_size, spec.image_size, spec.channels), np.uint8)
            for spec in self.preprocessings
        }


@dataclass(frozen=True)
class EvaluationDataset:
    """The readable images, in order. `digests`: SHA-256 of their files; equal files count as one image."""

    paths: list[str]
    digests: list[str]
    arrays: ArraysByPreprocessing
    failures: list[Failure]

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class QuerySplit:
    """The rows of the queries, and the rows that are searched."""

    queries: RowIndices
    base: RowIndices


def read_dataset(paths: Sequence[str], reader: ImageReader, on_progress: OnProgress) -> EvaluationDataset:
    """Read each file once; unreadable files become failures."""
    arrays = reader.allocate(len(paths))
    readable: list[str] = []
    digests: list[str] = []
    failures: list[Failure] = []
    results = reader.each(partial(_prepare, reader=reader.without_workers), paths)
    for done, (path, result) in enumerate(zip(paths, results, strict=True), 1):
        on_progress("reading", done, len(paths))
        if isinstance(result, Failure):
            failures.append(result)
            continue
        digest, prepared = result
        for spec, array in zip(reader.preprocessings, prepared, strict=True):
            arrays[spec][len(readable)] = array
        readable.append(path)
        digests.append(digest)
    return EvaluationDataset(
        readable, digests, {spec: array[: len(readable)] for spec, array in arrays.items()}, failures
    )


def _prepare(data: bytes, path: str, reader: ImageReader) -> tuple[str, list[Pixels]]:
    largest = max(spec.image_size for spec in reader.preprocessings)
    prepared = reader.preprocess(reader.decode(data, path, largest))
    return hashlib.sha256(data).hexdigest(), prepared


def make_thumbnails(paths: Sequence[str], reader: ImageReader, side: int) -> Iterator[bytes | Failure]:
    """Yield the encoded thumbnail of each image, or the failure."""
    return reader.each(partial(_make_thumbnail, limits=reader.limits, side=side), paths)


def _make_thumbnail(data: bytes, path: str, limits: Limits, side: int) -> bytes:
    return encode_thumbnail(decode_image(data, name=path, limits=limits, min_side=side, to_srgb=True), side)


def make_query_splits(count: int, labels: Sequence[str | None], fold_count: int, seed: int) -> list[QuerySplit]:
    """Make stratified folds; each one queries the others. Raises BadSetting, TooFewPictures."""
    check_image_count(count)
    folds = make_stratified_folds(labels, fold_count, seed)
    return [QuerySplit(fold, np.setdiff1d(np.arange(count), fold)) for fold in folds]


def check_image_count(count: int) -> None:
    """Raise TooFewPictures for too few images."""
    if count < MIN_EVALUATION_IMAGES:
        raise TooFewPictures(
            f"{count} readable images are too few for an evaluation: give at least {MIN_EVALUATION_IMAGES}, "
            "better hundreds."
        )


def sample_paths(paths: Sequence[str], limit: int, seed: int) -> list[str]:
    """Choose at most `limit` of the paths at random and keep their order."""
    if len(paths) <= limit:
        return list(paths)
    chosen = np.random.default_rng(seed).choice(len(paths), limit, replace=False)
    return [paths[row] for row in np.sort(chosen)]
