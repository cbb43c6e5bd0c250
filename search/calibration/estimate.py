"""Measuring what is usual in a collection: a sample of its pictures, each against all others, a little at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from simile.core.records import FloatArray
from simile.models.checkpoints.training_set import TrainedOn
from simile.search.calibration.calibration import Doubles, Gauge, Usual, expectation
from simile.search.posterior import mean_sigma
from simile.search.queries import Among
from simile.store.catalogue.catalogue import Catalogue
from simile.store.index.flat import Ids, search_on_one_core
from simile.store.index.snapshot import Snapshot

SAMPLE = 512
NEAREST = 64  # neighbours of each that are found; beyond, the sample stands for the collection
FEWEST_NEW = 40  # pictures that the encoder was not trained on, to speak of such
TOGETHER = 16  # queries in one call: searches wait no longer for a core than for a few of their own kind

ErrorOf = Callable[[int], float | None]  # the reconstruction error of an image; None where it can't be measured


class _Stopped(Exception):
    """It was told to stop."""


def measure(
    catalogue: Catalogue,
    error_of: ErrorOf | None,
    trained_on: TrainedOn | None,
    snapshot: Snapshot,
    stopping: threading.Event,
) -> Gauge | None:
    """The gauge of these vectors; None if it was told to stop. `error_of` None: an encoder without a decoder.

    In a thread of its own. Rests as long as it works, so that it takes at most half of one core from those who search.
    """
    search_on_one_core()
    living = snapshot.living()
    if len(living) < 2:
        return None
    drawn = np.random.default_rng(0).choice(living, min(SAMPLE, len(living)), replace=False)
    new = None if trained_on is None else new_ones(catalogue, trained_on, drawn, living)
    judged = np.sort(drawn if new is None else new)
    spread = judged if len(judged) == len(drawn) else np.sort(drawn)  # the more, the better distances are known
    ids, vectors = snapshot.vectors(np.union1d(judged, spread))
    try:
        nearest = _nearest(ids, vectors, snapshot, stopping)
        errors = _errors(judged, error_of, stopping)
    except _Stopped:
        return None
    first = np.array([distances[0] if len(distances) else np.nan for distances in nearest])
    usual = Usual(errors, first[np.isin(ids, judged)], _sigmas(catalogue, judged, snapshot))
    of_spread = np.flatnonzero(np.isin(ids, spread))
    found = expectation([nearest[place] for place in of_spread], _apart(vectors[of_spread]), len(snapshot))
    among: Among = "own" if new is None else "new"
    return Gauge.of(snapshot.encoder.fingerprint, snapshot.base, len(snapshot), found, usual, among)


def new_ones(catalogue: Catalogue, trained_on: TrainedOn, drawn: Ids, living: Ids) -> Ids | None:
    """A sample like `drawn` of the living, of pictures alone that the encoder was not fitted to; None: too few are.

    It knows those better than others of their kind. So each that was there when it was trained gives way to one that
    was held out then; what came later stays. Where more would be needed than were held out, the sample is smaller.
    """
    records = catalogue.images(drawn.tolist())
    drawn = np.array([one for one in drawn.tolist() if one in records], np.int64)
    was_there = trained_on.knows([records[one].sha256 for one in drawn.tolist()])
    known = catalogue.images_by_sha(trained_on.new).values()
    held_out = np.intersect1d(np.array([one.image_id for one in known], np.int64), living)
    length = int(np.searchsorted(np.cumsum(was_there), len(held_out), side="right"))
    if length < FEWEST_NEW:
        return None
    needed = int(was_there[:length].sum())
    instead = np.random.default_rng(0).permutation(held_out)[:needed]
    return np.concatenate([drawn[:length][~was_there[:length]], instead])


def _nearest(ids: Ids, vectors: FloatArray, snapshot: Snapshot, stopping: threading.Event) -> list[Doubles]:
    """Of each the distances of its nearest others, ascending."""
    found: list[Doubles] = []
    for start in range(0, len(ids), TOGETHER):
        began = time.monotonic()
        part = slice(start, start + TOGETHER)
        found += _others(ids[part], vectors[part], snapshot)
        _rest(began, stopping)
    return found


def _errors(ids: Ids, error_of: ErrorOf | None, stopping: threading.Event) -> Doubles:
    """How badly each is reconstructed, NaN where that can't be measured."""
    errors = np.full(len(ids), np.nan)
    for place, image_id in enumerate([] if error_of is None else ids.tolist()):
        began = time.monotonic()
        assert error_of is not None
        error = error_of(image_id)
        errors[place] = np.nan if error is None else error
        _rest(began, stopping)
    return errors


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


def _rest(began: float, stopping: threading.Event) -> None:
    """Waits as long as the work took. Raises _Stopped when it is time to stop."""
    if stopping.wait(min(time.monotonic() - began, 1.0)):
        raise _Stopped
