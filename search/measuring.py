"""Measuring what is usual in a collection: a sample of its pictures, each against all others, a little at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from core.records import FloatArray
from search.certainty import mean_sigma
from search.gauge import Doubles, Gauge, Usual, expectation
from store.catalogue import Catalogue
from store.snapshot import Snapshot
from store.vectors import Ids

SAMPLE = 512
NEAREST = 64  # neighbours of each that are found; beyond, the sample stands for the collection
TOGETHER = 16  # queries in one call: searches wait no longer for a core than for a few of their own kind

ErrorOf = Callable[[int], float | None]  # the reconstruction error of an image; None where it can't be measured


def measure(
    catalogue: Catalogue, error_of: ErrorOf | None, snapshot: Snapshot, stopping: threading.Event
) -> Gauge | None:
    """The gauge of these vectors; None if it was told to stop. `error_of` None: an encoder without a decoder.

    Rests as long as it works, so that it takes at most half of one core from those who search.
    """
    living = snapshot.living()
    if len(living) < 2:
        return None
    chosen = np.sort(np.random.default_rng(0).choice(living, min(SAMPLE, len(living)), replace=False))
    ids, vectors = snapshot.vectors(chosen)
    nearest: list[Doubles] = []
    for start in range(0, len(ids), TOGETHER):
        began = time.monotonic()
        part = slice(start, start + TOGETHER)
        nearest += _others(ids[part], vectors[part], snapshot)
        if _rest(began, stopping):
            return None
    errors = np.full(len(ids), np.nan)
    for place, image_id in enumerate(ids.tolist() if error_of is not None else ()):
        began = time.monotonic()
        assert error_of is not None
        error = error_of(image_id)
        errors[place] = np.nan if error is None else error
        if _rest(began, stopping):
            return None
    first = np.array([distances[0] if len(distances) else np.nan for distances in nearest])
    usual = Usual(errors, first, _sigmas(catalogue, ids, snapshot))
    found = expectation(nearest, _apart(vectors), len(snapshot))
    return Gauge.of(snapshot.encoder.fingerprint, snapshot.base, len(snapshot), found, usual)


def _others(ids: Ids, vectors: FloatArray, snapshot: Snapshot) -> list[Doubles]:
    """The distances of the nearest others of each, ascending."""
    found = snapshot.search(vectors, NEAREST + 1)
    others = [distances[near != image_id] for image_id, (near, distances) in zip(ids.tolist(), found, strict=True)]
    return [distances[:NEAREST] for distances in others]


def _apart(vectors: FloatArray) -> Doubles:
    """(m, m) distances between the vectors (m, d)."""
    wide = vectors.astype(np.float64)
    return np.stack([np.linalg.norm(wide - row, axis=1) for row in wide])


def _sigmas(catalogue: Catalogue, ids: Ids, snapshot: Snapshot) -> Doubles:
    """The mean σ of each, NaN without one."""
    stored = catalogue.embeddings(ids.tolist(), snapshot.encoder.fingerprint)
    found = np.full(len(ids), np.nan)
    for place, image_id in enumerate(ids.tolist()):
        embedding = stored.get(image_id)
        if embedding is not None and embedding.log_variance is not None:
            sigma = np.exp(0.5 * embedding.log_variance)
            found[place] = mean_sigma(sigma, snapshot.encoder)
    return found


def _rest(began: float, stopping: threading.Event) -> bool:
    """Waits as long as the work took; True when it is time to stop."""
    return stopping.wait(min(time.monotonic() - began, 1.0))
