"""What has to be measured on the pictures themselves: how well each is reconstructed, and how much there is to it.

Kept in HOME/measures by encoder and image, so that each picture is read once. Derived: it may be deleted at any time.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from simile.core.atomic_write import write_atomically
from simile.core.errors import HomeNotWritable
from simile.images.formats import Pixels
from simile.images.loading.loader import PreparedImage, open_worker_pool, prepare_files
from simile.images.loading.worker_pool import WorkerPool
from simile.images.sources.archives import is_regular_file
from simile.models.inference.encoder import TrainedEncoder
from simile.search.searcher import Searcher
from simile.store.home import translate_write_errors
from simile.store.index.flat import Ids

Float64Array = NDArray[np.float64]
OnProgress = Callable[[str, int, int], None]  # (stage, done, total)

MEASURE_BATCH_SIZE = 1024  # pictures in memory together: 12 MB of colours at 64 px


@dataclass(frozen=True)
class ImageMeasurements:
    """Of images `ids` (n,), ascending: error, detail (n,) float64, NaN where no file could be read.

    error: mean squared error of decoding mu, over values in [0, 1]; NaN without a decoder. detail: the mean squared
    gradient, over values in [0, 1]: how much there is to reconstruct.
    """

    ids: Ids
    error: Float64Array
    detail: Float64Array

    def select(self, ids: Ids) -> ImageMeasurements:
        """The same of these ids, in their order; NaN for those that are not among them."""
        place = np.searchsorted(self.ids, ids).clip(max=max(len(self.ids) - 1, 0))
        known = self.ids[place] == ids if len(self.ids) else np.zeros(len(ids), bool)
        error, detail = (
            np.where(known, values[place], np.nan) if len(self.ids) else np.full(len(ids), np.nan)
            for values in (self.error, self.detail)
        )
        return ImageMeasurements(ids, error, detail)

    def merge(self, other: ImageMeasurements) -> ImageMeasurements:
        """Both together; they have no id in common."""
        ids = np.concatenate([self.ids, other.ids])
        order = np.argsort(ids)
        error, detail = (np.concatenate(pair) for pair in ((self.error, other.error), (self.detail, other.detail)))
        return ImageMeasurements(ids[order], error[order], detail[order])


_NO_MEASUREMENTS = ImageMeasurements(np.empty(0, np.int64), np.empty(0), np.empty(0))


def measure_images(searcher: Searcher, ids: Ids, on_progress: OnProgress) -> ImageMeasurements:
    """Of these images, ascending, by the encoder in use; those that were not measured before are read now."""
    encoder = searcher.get_encoder()
    path = _get_measurements_path(searcher, encoder.fingerprint)
    known = _load_measurements_file(path)
    missing = np.setdiff1d(ids, known.ids)
    if len(missing):
        measured = _measure_missing(searcher, encoder, missing, on_progress)
        read = np.isfinite(measured.detail)  # a file that is away now may come back
        known = known.merge(ImageMeasurements(missing[read], measured.error[read], measured.detail[read]))
        _save_measurements(path, known)
    return known.select(ids)


def load_measurements(searcher: Searcher, ids: Ids) -> ImageMeasurements:
    """Of these images what was measured before: nothing is read, and no network is needed."""
    fingerprint = searcher.catalogue.get_state().active_encoder
    return (
        _NO_MEASUREMENTS
        if fingerprint is None
        else _load_measurements_file(_get_measurements_path(searcher, fingerprint))
    ).select(ids)


def compute_detail(images: Pixels) -> Float64Array:
    """The mean squared gradient (n,) of pictures (n, h, w, C), over values in [0, 1]."""
    values = images.astype(np.float32) / 255
    down, right = np.gradient(values, axis=(1, 2))
    found: Float64Array = (np.square(down) + np.square(right)).mean(axis=(1, 2, 3), dtype=np.float64)
    return found


def compute_reconstruction_error(encoder: TrainedEncoder, images: Pixels) -> Float64Array:
    """The mean squared error (n,) of decoding the mu of pictures (n, S, S, C); NaN without a decoder."""
    errors = encoder.encode_with_errors(images)[1] if encoder.has_decoder else None
    return np.full(len(images), np.nan) if errors is None else errors.astype(np.float64)


def crop_padding(encoder: TrainedEncoder, images: Pixels) -> Pixels:
    """(n, S, S, C) without padding: (n, h, w, C)."""
    top, left, height, width = encoder.preprocessing.content_box()
    return images[:, top : top + height, left : left + width]


def _measure_missing(
    searcher: Searcher, encoder: TrainedEncoder, ids: Ids, on_progress: OnProgress
) -> ImageMeasurements:
    error, detail = np.full(len(ids), np.nan), np.full(len(ids), np.nan)
    with open_worker_pool(searcher.settings.workers, searcher.limits) as pool:
        for start in range(0, len(ids), MEASURE_BATCH_SIZE):
            part = ids[start : start + MEASURE_BATCH_SIZE]
            rows, pictures = _read_image_arrays(searcher, encoder, part, pool)
            if len(rows):
                error[start + rows] = compute_reconstruction_error(encoder, pictures)
                detail[start + rows] = compute_detail(crop_padding(encoder, pictures))
            on_progress("looking at the pictures", start + len(part), len(ids))
    return ImageMeasurements(ids, error, detail)


def _read_image_arrays(
    searcher: Searcher, encoder: TrainedEncoder, ids: Ids, pool: WorkerPool
) -> tuple[NDArray[np.int64], Pixels]:
    """Which of the images have a file that can be read, and the pictures (m, S, S, C) of those."""
    records = searcher.catalogue.images.get_many(ids.tolist())
    there: list[tuple[int, str]] = []
    for row, image_id in enumerate(ids.tolist()):
        paths = records[image_id].paths if image_id in records else ()
        path = next((path for path in paths if is_regular_file(path)), None)
        if path is not None:
            there.append((row, path))
    found = prepare_files([path for _, path in there], encoder.preprocessing, searcher.limits, pool)
    read = [(row, one.array) for (row, _), one in zip(there, found, strict=True) if isinstance(one, PreparedImage)]
    size, channels = encoder.preprocessing.image_size, encoder.preprocessing.channels
    pictures = np.stack([array for _, array in read]) if read else np.empty((0, size, size, channels), np.uint8)
    return np.array([row for row, _ in read], np.int64), pictures


def _get_measurements_path(searcher: Searcher, fingerprint: str) -> Path:
    return searcher.home.root / "measures" / f"{fingerprint[:16]}.npz"


def _load_measurements_file(path: Path) -> ImageMeasurements:
    with (
        suppress(OSError, EOFError, ValueError, KeyError, BadZipFile),
        path.open("rb") as file,
        np.load(file, allow_pickle=False) as stored,
    ):
        ids, error, detail = stored["ids"], stored["error"], stored["detail"]
        if len(ids) == len(error) == len(detail) and bool(np.all(np.diff(ids) > 0)):
            return ImageMeasurements(ids, error, detail)
    return _NO_MEASUREMENTS


def _save_measurements(path: Path, measures: ImageMeasurements) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, ids=measures.ids, error=measures.error, detail=measures.detail)

    with suppress(HomeNotWritable), translate_write_errors(path):  # then it is measured again
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, write)
