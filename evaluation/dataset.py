"""The pictures of an evaluation: read and decoded once for every row, and split into queries and collection."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np

from simile.core.errors import TooFewPictures
from simile.core.records import Failure
from simile.evaluation.neighbours import RowIndices
from simile.images.decoding import DecodedImage, decode_image
from simile.images.formats import Limits, Pixels
from simile.images.loading.loader import decode_files
from simile.images.loading.worker_pool import WorkerPool
from simile.images.rendering.sheets import encode_thumbnail
from simile.images.sources.labels import make_stratified_folds
from simile.images.transforms import Preprocessing

ArraysByPreprocessing = dict[Preprocessing, Pixels]  # for each preprocessing (n, S, S, C) uint8
Result = TypeVar("Result")
OnProgress = Callable[[str, int, int], None]  # stage, done, total

MIN_EVALUATION_IMAGES = 12  # pictures; with fewer nothing can be said


@dataclass(frozen=True)
class ImageReader:
    """How files are read: limits, processes, and every preprocessing that some row of the ladder needs.

    workers: those that are running, or how many start for each call; 0: one for each core.
    """

    limits: Limits
    workers: int | WorkerPool
    preprocessings: tuple[Preprocessing, ...]

    @property
    def without_workers(self) -> ImageReader:
        """The same for a worker process, to which running workers can't be sent."""
        return replace(self, workers=1)

    def each(self, function: Callable[[bytes, str], Result], paths: Sequence[str]) -> Iterator[Result | Failure]:
        """See simile.images.loading.loader.decode_files."""
        return decode_files(function, paths, self.limits, self.workers)

    @property
    def bytes_per_image(self) -> int:
        return sum(spec.image_size**2 * spec.channels for spec in self.preprocessings)

    def decode(self, data: bytes, name: str, min_side: int | None) -> dict[str, DecodedImage]:
        """The picture over each background that some preprocessing asks for. Raises UnreadableImage."""
        backgrounds = {spec.background for spec in self.preprocessings}
        return {
            background: decode_image(data, name=name, limits=self.limits, background=background, min_side=min_side)
            for background in sorted(backgrounds)
        }

    def preprocess(self, images: dict[str, DecodedImage]) -> list[Pixels]:
        """One array (S, S, C) for each preprocessing."""
        return [spec.to_array(images[spec.background]) for spec in self.preprocessings]

    def allocate(self, count: int) -> ArraysByPreprocessing:
        """Room for `count` pictures."""
        return {
            spec: np.empty((count, spec.image_size, spec.image_size, spec.channels), np.uint8)
            for spec in self.preprocessings
        }


@dataclass(frozen=True)
class EvaluationDataset:
    """Pictures that could be read, in order. `digests`: SHA-256 of their files; exact duplicates are one picture."""

    paths: list[str]
    digests: list[str]
    arrays: ArraysByPreprocessing
    failures: list[Failure]

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class QuerySplit:
    """Rows that ask, and rows that answer."""

    queries: RowIndices
    base: RowIndices


def read_dataset(paths: Sequence[str], reader: ImageReader, on_progress: OnProgress) -> EvaluationDataset:
    """Every picture of `paths`, decoded once. A file that can't be used is set aside with its reason."""
    arrays = reader.allocate(len(paths))
    kept: list[str] = []
    digests: list[str] = []
    failures: list[Failure] = []
    results = reader.each(partial(_prepare, reading=reader.without_workers), paths)
    for done, (path, result) in enumerate(zip(paths, results, strict=True), 1):
        on_progress("reading", done, len(paths))
        if isinstance(result, Failure):
            failures.append(result)
            continue
        digest, prepared = result
        for spec, array in zip(reader.preprocessings, prepared, strict=True):
            arrays[spec][len(kept)] = array
        kept.append(path)
        digests.append(digest)
    return EvaluationDataset(kept, digests, {spec: array[: len(kept)] for spec, array in arrays.items()}, failures)


def _prepare(data: bytes, path: str, reading: ImageReader) -> tuple[str, list[Pixels]]:
    largest = max(spec.image_size for spec in reading.preprocessings)
    prepared = reading.preprocess(reading.decode(data, path, largest))
    return hashlib.sha256(data).hexdigest(), prepared


def thumbnails(paths: Sequence[str], reading: ImageReader, side: int) -> Iterator[bytes | Failure]:
    """Yield the file of a small copy of each picture, or why there is none."""
    return reading.each(partial(_thumbnail, limits=reading.limits, side=side), paths)


def _thumbnail(data: bytes, path: str, limits: Limits, side: int) -> bytes:
    return encode_thumbnail(decode_image(data, name=path, limits=limits, min_side=side), side)


def make_query_splits(count: int, labels: Sequence[str | None], k: int, seed: int) -> list[QuerySplit]:
    """k folds, classes spread evenly over them; each asks the rest. Raises BadSetting, TooFewPictures."""
    check_image_count(count)
    parts = make_stratified_folds(labels, k, seed)
    return [QuerySplit(part, np.setdiff1d(np.arange(count), part)) for part in parts]


def check_image_count(count: int) -> None:
    """Raises TooFewPictures where there is too little to say anything."""
    if count < MIN_EVALUATION_IMAGES:
        raise TooFewPictures(
            f"{count} readable pictures are too few to evaluate on: give at least {MIN_EVALUATION_IMAGES}, better hundreds."
        )


def sample_paths(paths: Sequence[str], limit: int, seed: int) -> list[str]:
    """At most `limit` of the paths, drawn with `seed`, in their order."""
    if len(paths) <= limit:
        return list(paths)
    chosen = np.random.default_rng(seed).choice(len(paths), limit, replace=False)
    return [paths[row] for row in np.sort(chosen)]
