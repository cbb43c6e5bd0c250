"""Measurements of the indexed images: reconstruction error, and detail.

They are stored in HOME/measures by encoder and image, so that each image is read once.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simile.core.arrays import ARRAY_FILE_ERRORS, read_arrays
from simile.core.records import Float64Array
from simile.explore.arrays import OnProgress, save_derived_arrays
from simile.images.formats import Pixels
from simile.images.loading.loader import PreparedImage, open_worker_pool, prepare_files
from simile.images.loading.worker_pool import WorkerPool
from simile.images.sources.archives import is_regular_file
from simile.models.inference.encoder import TrainedEncoder
from simile.search.searcher import Searcher
from simile.store.index.flat import Ids

MEASURE_BATCH_SIZE = 1024  # images in memory together: 12 MB of pixels at 64 px


@dataclass(frozen=True)
class ImageMeasurements:
    """Measurements of n images."""

    ids: Ids  # image ids (n,), ascending
    # Mean squared error (n,) of decoding mu, for values in [0, 1]; NaN without a decoder or a readable file.
    error: Float64Array
    detail: Float64Array  # mean squared gradient (n,), for values in [0, 1]; NaN without a readable file

    def select(self, ids: Ids) -> ImageMeasurements:
        """Return the measurements of these ids, in their order; NaN for ids that were not measured."""
        if not len(self.ids):
            return ImageMeasurements(ids, np.full(len(ids), np.nan), np.full(len(ids), np.nan))
        rows = np.searchsorted(self.ids, ids).clip(max=len(self.ids) - 1)
        is_known = self.ids[rows] == ids
        error, detail = (np.where(is_known, values[rows], np.nan) for values in (self.error, self.detail))
        return ImageMeasurements(ids, error, detail)

    def merge(self, other: ImageMeasurements) -> ImageMeasurements:
        """Return both together. The two have no id in common."""
        ids = np.concatenate([self.ids, other.ids])
        order = np.argsort(ids)
        error, detail = (np.concatenate(pair) for pair in ((self.error, other.error), (self.detail, other.detail)))
        return ImageMeasurements(ids[order], error[order], detail[order])


_NO_MEASUREMENTS = ImageMeasurements(np.empty(0, np.int64), np.empty(0), np.empty(0))


def measure_images(searcher: Searcher, ids: Ids, on_progress: OnProgress) -> ImageMeasurements:
    """Measure images, ids (n,) ascending, by the active encoder; only images without stored measurements are read."""
    encoder = searcher.get_encoder()
    path = _get_measurements_path(searcher, encoder.fingerprint)
    stored = _load_measurements_file(path)
    missing = np.setdiff1d(ids, stored.ids)
    if len(missing):
        measured = _measure_missing(searcher, encoder, missing, on_progress)
        # Images without a readable file are not stored: the file may come back.
        is_read = np.isfinite(measured.detail)
        readable = ImageMeasurements(missing[is_read], measured.error[is_read], measured.detail[is_read])
        stored = stored.merge(readable)
        save_derived_arrays(path, **vars(stored))
    return stored.select(ids)


def load_measurements(searcher: Searcher, ids: Ids) -> ImageMeasurements:
    """Load the stored measurements of images, without reading an image or loading a network."""
    fingerprint = searcher.catalogue.get_state().active_encoder
    if fingerprint is None:
        return _NO_MEASUREMENTS.select(ids)
    return _load_measurements_file(_get_measurements_path(searcher, fingerprint)).select(ids)


def compute_detail(images: Pixels) -> Float64Array:
    """Return the mean squared gradient (n,) of images (n, h, w, C), for values in [0, 1]."""
    values, detail = images.astype(np.float32) / 255, np.zeros(len(images))
    for axis in (1, 2):
        if images.shape[axis] > 1:  # one row or column has no gradient across
            detail += np.square(np.gradient(values, axis=axis)).mean(axis=(1, 2, 3), dtype=np.float64)
    return detail


def compute_reconstruction_error(encoder: TrainedEncoder, images: Pixels) -> Float64Array:
    """Return the mean squared error (n,) of decoding the mu of images (n, S, S, C); NaN without a decoder."""
    errors = encoder.encode_with_errors(images)[1] if encoder.has_decoder else None
    return np.full(len(images), np.nan) if errors is None else errors.astype(np.float64)


def _measure_missing(
    searcher: Searcher, encoder: TrainedEncoder, ids: Ids, on_progress: OnProgress
) -> ImageMeasurements:
    error, detail = np.full(len(ids), np.nan), np.full(len(ids), np.nan)
    content = encoder.preprocessing.content_slices
    with open_worker_pool(searcher.settings.workers, searcher.limits) as pool:
        for start in range(0, len(ids), MEASURE_BATCH_SIZE):
            batch_ids = ids[start : start + MEASURE_BATCH_SIZE]
            rows, images = _read_image_arrays(searcher, encoder, batch_ids, pool)
            if len(rows):
                error[start + rows] = compute_reconstruction_error(encoder, images)
                detail[start + rows] = compute_detail(images[:, *content])
            on_progress("measuring images", start + len(batch_ids), len(ids))
    return ImageMeasurements(ids, error, detail)


def _read_image_arrays(
    searcher: Searcher, encoder: TrainedEncoder, ids: Ids, pool: WorkerPool
) -> tuple[NDArray[np.int64], Pixels]:
    """Read the images that have a readable file: their rows (m,) in `ids`, and their arrays (m, S, S, C)."""
    # Find the first existing file of each image.
    records = searcher.catalogue.images.get_many(ids.tolist())
    files: list[tuple[int, str]] = []
    for row, image_id in enumerate(ids.tolist()):
        paths = records[image_id].paths if image_id in records else ()
        path = next((path for path in paths if is_regular_file(path)), None)
        if path is not None:
            files.append((row, path))
    # Decode the files, and keep the readable ones.
    results = prepare_files([path for _, path in files], encoder.preprocessing, searcher.limits, pool)
    arrays = [
        (row, result.array)
        for (row, _), result in zip(files, results, strict=True)
        if isinstance(result, PreparedImage)
    ]
    size, channels = encoder.preprocessing.image_size, encoder.preprocessing.channels
    images = np.stack([array for _, array in arrays]) if arrays else np.empty((0, size, size, channels), np.uint8)
    return np.array([row for row, _ in arrays], np.int64), images


def _get_measurements_path(searcher: Searcher, fingerprint: str) -> Path:
    return searcher.home.root / "measures" / f"{fingerprint[:16]}.npz"


def _load_measurements_file(path: Path) -> ImageMeasurements:
    with suppress(*ARRAY_FILE_ERRORS):
        arrays = read_arrays(path)
        ids, error, detail = arrays["ids"], arrays["error"], arrays["detail"]
        if len(ids) == len(error) == len(detail) and np.all(np.diff(ids) > 0):
            return ImageMeasurements(ids, error, detail)
    return _NO_MEASUREMENTS
