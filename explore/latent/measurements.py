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

from simile.core.atomic_write import write_durably
from simile.core.errors import HomeNotWritable
from simile.images.loading.loader import Prepared, pool_of, prepare_files
from simile.images.loading.worker_pool import Workers
from simile.images.sources.archives import is_there
from simile.images.transforms import Pixels
from simile.models.inference.encoder import TrainedEncoder
from simile.search.searcher import Searcher
from simile.store.home import writing
from simile.store.index.flat import Ids

Doubles = NDArray[np.float64]
OnProgress = Callable[[str, int, int], None]  # (stage, done, total)

CHUNK = 1024  # pictures in memory together: 12 MB of colours at 64 px


@dataclass(frozen=True)
class Measures:
    """Of images `ids` (n,), ascending: error, detail (n,) float64, NaN where no file could be read.

    error: mean squared error of decoding mu, over values in [0, 1]; NaN without a decoder. detail: the mean squared
    gradient, over values in [0, 1]: how much there is to reconstruct.
    """

    ids: Ids
    error: Doubles
    detail: Doubles

    def of(self, ids: Ids) -> Measures:
        """The same of these ids, in their order; NaN for those that are not among them."""
        place = np.searchsorted(self.ids, ids).clip(max=max(len(self.ids) - 1, 0))
        known = self.ids[place] == ids if len(self.ids) else np.zeros(len(ids), bool)
        error, detail = (
            np.where(known, values[place], np.nan) if len(self.ids) else np.full(len(ids), np.nan)
            for values in (self.error, self.detail)
        )
        return Measures(ids, error, detail)

    def joined(self, other: Measures) -> Measures:
        """Both together; they have no id in common."""
        ids = np.concatenate([self.ids, other.ids])
        order = np.argsort(ids)
        error, detail = (np.concatenate(pair) for pair in ((self.error, other.error), (self.detail, other.detail)))
        return Measures(ids[order], error[order], detail[order])


_NOTHING = Measures(np.empty(0, np.int64), np.empty(0), np.empty(0))


def measures_of(searcher: Searcher, ids: Ids, on_progress: OnProgress) -> Measures:
    """Of these images, ascending, by the encoder in use; those that were not measured before are read now."""
    encoder = searcher.encoder()
    path = _file(searcher, encoder.fingerprint)
    known = _load(path)
    missing = np.setdiff1d(ids, known.ids)
    if len(missing):
        measured = _measure(searcher, encoder, missing, on_progress)
        read = np.isfinite(measured.detail)  # a file that is away now may come back
        known = known.joined(Measures(missing[read], measured.error[read], measured.detail[read]))
        _save(path, known)
    return known.of(ids)


def known_measures(searcher: Searcher, ids: Ids) -> Measures:
    """Of these images what was measured before: nothing is read, and no network is needed."""
    fingerprint = searcher.catalogue.state().active_encoder
    return (_NOTHING if fingerprint is None else _load(_file(searcher, fingerprint))).of(ids)


def detail_of(pictures: Pixels) -> Doubles:
    """The mean squared gradient (n,) of pictures (n, h, w, C), over values in [0, 1]."""
    values = pictures.astype(np.float32) / 255
    down, right = np.gradient(values, axis=(1, 2))
    found: Doubles = (np.square(down) + np.square(right)).mean(axis=(1, 2, 3), dtype=np.float64)
    return found


def error_of(encoder: TrainedEncoder, pictures: Pixels) -> Doubles:
    """The mean squared error (n,) of decoding the mu of pictures (n, S, S, C); NaN without a decoder."""
    errors = encoder.embed(pictures)[1] if encoder.has_decoder else None
    return np.full(len(pictures), np.nan) if errors is None else errors.astype(np.float64)


def content(encoder: TrainedEncoder, pictures: Pixels) -> Pixels:
    """(n, S, S, C) without padding: (n, h, w, C)."""
    top, left, height, width = encoder.preprocessing.content_box()
    return pictures[:, top : top + height, left : left + width]


def _measure(searcher: Searcher, encoder: TrainedEncoder, ids: Ids, on_progress: OnProgress) -> Measures:
    error, detail = np.full(len(ids), np.nan), np.full(len(ids), np.nan)
    with pool_of(searcher.settings.workers, searcher.limits) as pool:
        for start in range(0, len(ids), CHUNK):
            part = ids[start : start + CHUNK]
            rows, pictures = _read(searcher, encoder, part, pool)
            if len(rows):
                error[start + rows] = error_of(encoder, pictures)
                detail[start + rows] = detail_of(content(encoder, pictures))
            on_progress("looking at the pictures", start + len(part), len(ids))
    return Measures(ids, error, detail)


def _read(searcher: Searcher, encoder: TrainedEncoder, ids: Ids, pool: Workers) -> tuple[NDArray[np.int64], Pixels]:
    """Which of the images have a file that can be read, and the pictures (m, S, S, C) of those."""
    records = searcher.catalogue.images(ids.tolist())
    there: list[tuple[int, str]] = []
    for row, image_id in enumerate(ids.tolist()):
        paths = records[image_id].paths if image_id in records else ()
        path = next((path for path in paths if is_there(path)), None)
        if path is not None:
            there.append((row, path))
    found = prepare_files([path for _, path in there], encoder.preprocessing, searcher.limits, pool)
    read = [(row, one.array) for (row, _), one in zip(there, found, strict=True) if isinstance(one, Prepared)]
    size, channels = encoder.preprocessing.image_size, encoder.preprocessing.channels
    pictures = np.stack([array for _, array in read]) if read else np.empty((0, size, size, channels), np.uint8)
    return np.array([row for row, _ in read], np.int64), pictures


def _file(searcher: Searcher, fingerprint: str) -> Path:
    return searcher.home.root / "measures" / f"{fingerprint[:16]}.npz"


def _load(path: Path) -> Measures:
    with (
        suppress(OSError, EOFError, ValueError, KeyError, BadZipFile),
        path.open("rb") as file,
        np.load(file, allow_pickle=False) as stored,
    ):
        ids, error, detail = stored["ids"], stored["error"], stored["detail"]
        if len(ids) == len(error) == len(detail) and bool(np.all(np.diff(ids) > 0)):
            return Measures(ids, error, detail)
    return _NOTHING


def _save(path: Path, measures: Measures) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, ids=measures.ids, error=measures.error, detail=measures.detail)

    with suppress(HomeNotWritable), writing(path):  # then it is measured again
        path.parent.mkdir(exist_ok=True)
        write_durably(path, write)
