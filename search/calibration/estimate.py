"""Measuring what is usual in a collection: a sample of its pictures, each against all others, a little at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from simile.core.records import FloatArray
from simile.models.checkpoints.training_set import TrainingDigests
from simile.search.calibration.calibration import CalibrationSample, Float64Array, ScoreCalibration, compute_expectation
from simile.search.posterior import compute_mean_sigma
from simile.search.queries import ReferencePopulation
from simile.store.catalogue.catalogue import Catalogue
from simile.store.index.flat import Ids, use_single_search_thread
from simile.store.index.snapshot import Snapshot

CALIBRATION_SAMPLE_SIZE = 512
CALIBRATION_NEIGHBOURS = 64  # neighbours of each that are found; beyond, the sample stands for the collection
MIN_NEW_IMAGES = 40  # pictures that the encoder was not trained on, to speak of such
CALIBRATION_BATCH_SIZE = 16  # queries in one call: searches wait no longer for a core than for a few of their own kind

GetReconstructionError = Callable[
    [int], float | None
]  # the reconstruction error of an image; None where it can't be measured


class _CalibrationStopped(Exception):
    """It was told to stop."""


def estimate_calibration(
    catalogue: Catalogue,
    get_error: GetReconstructionError | None,
    trained_on: TrainingDigests | None,
    snapshot: Snapshot,
    stop_event: threading.Event,
) -> ScoreCalibration | None:
    """The gauge of these vectors; None if it was told to stop. `error_of` None: an encoder without a decoder.

    In a thread of its own. Rests as long as it works, so that it takes at most half of one core from those who search.
    """
    use_single_search_thread()
    living = snapshot.get_live_ids()
    if len(living) < 2:
        return None
    drawn = np.random.default_rng(0).choice(living, min(CALIBRATION_SAMPLE_SIZE, len(living)), replace=False)
    new = None if trained_on is None else sample_new_images(catalogue, trained_on, drawn, living)
    judged = np.sort(drawn if new is None else new)
    spread = judged if len(judged) == len(drawn) else np.sort(drawn)  # the more, the better distances are known
    ids, vectors = snapshot.get_vectors(np.union1d(judged, spread))
    try:
        nearest = _find_nearest_distances(ids, vectors, snapshot, stop_event)
        errors = _get_reconstruction_errors(judged, get_error, stop_event)
    except _CalibrationStopped:
        return None
    first = np.array([distances[0] if len(distances) else np.nan for distances in nearest])
    usual = CalibrationSample(errors, first[np.isin(ids, judged)], _get_mean_sigmas(catalogue, judged, snapshot))
    of_spread = np.flatnonzero(np.isin(ids, spread))
    found = compute_expectation(
        [nearest[place] for place in of_spread], _compute_pairwise_distances(vectors[of_spread]), len(snapshot)
    )
    among: ReferencePopulation = "own" if new is None else "new"
    return ScoreCalibration.from_sample(
        snapshot.encoder.fingerprint, snapshot.base_segment_id, len(snapshot), found, usual, among
    )


def sample_new_images(catalogue: Catalogue, trained_on: TrainingDigests, sampled_ids: Ids, live_ids: Ids) -> Ids | None:
    """A sample like `drawn` of the living, of pictures alone that the encoder was not fitted to; None: too few are.

    It knows those better than others of their kind. So each that was there when it was trained gives way to one that
    was held out then; what came later stays. Where more would be needed than were held out, the sample is smaller.
    """
    records = catalogue.images.get_many(sampled_ids.tolist())
    sampled_ids = np.array([one for one in sampled_ids.tolist() if one in records], np.int64)
    was_there = trained_on.contains([records[one].sha256 for one in sampled_ids.tolist()])
    known = catalogue.images.find_by_sha256(trained_on.held_out_hex).values()
    held_out = np.intersect1d(np.array([one.image_id for one in known], np.int64), live_ids)
    length = int(np.searchsorted(np.cumsum(was_there), len(held_out), side="right"))
    if length < MIN_NEW_IMAGES:
        return None
    needed = int(was_there[:length].sum())
    instead = np.random.default_rng(0).permutation(held_out)[:needed]
    return np.concatenate([sampled_ids[:length][~was_there[:length]], instead])


def _find_nearest_distances(
    ids: Ids, vectors: FloatArray, snapshot: Snapshot, stop_event: threading.Event
) -> list[Float64Array]:
    """Of each the distances of its nearest others, ascending."""
    found: list[Float64Array] = []
    for start in range(0, len(ids), CALIBRATION_BATCH_SIZE):
        began = time.monotonic()
        part = slice(start, start + CALIBRATION_BATCH_SIZE)
        found += _search_nearest_distances(ids[part], vectors[part], snapshot)
        _throttle(began, stop_event)
    return found


def _get_reconstruction_errors(
    ids: Ids, get_error: GetReconstructionError | None, stop_event: threading.Event
) -> Float64Array:
    """How badly each is reconstructed, NaN where that can't be measured."""
    errors = np.full(len(ids), np.nan)
    for place, image_id in enumerate([] if get_error is None else ids.tolist()):
        began = time.monotonic()
        assert get_error is not None
        error = get_error(image_id)
        errors[place] = np.nan if error is None else error
        _throttle(began, stop_event)
    return errors


def _search_nearest_distances(ids: Ids, vectors: FloatArray, snapshot: Snapshot) -> list[Float64Array]:
    """The distances of the nearest others of each, ascending."""
    found = snapshot.search(vectors, CALIBRATION_NEIGHBOURS + 1)
    others = [distances[near != image_id] for image_id, (near, distances) in zip(ids.tolist(), found, strict=True)]
    return [distances[:CALIBRATION_NEIGHBOURS] for distances in others]


def _compute_pairwise_distances(vectors: FloatArray) -> Float64Array:
    """(m, m) distances between the vectors (m, d)."""
    wide = vectors.astype(np.float64)
    return np.stack([np.linalg.norm(wide - row, axis=1) for row in wide])


def _get_mean_sigmas(catalogue: Catalogue, ids: Ids, snapshot: Snapshot) -> Float64Array:
    """The mean σ of each, NaN without one."""
    stored = catalogue.embeddings.get_many(ids.tolist(), snapshot.encoder.fingerprint)
    found = np.full(len(ids), np.nan)
    for place, image_id in enumerate(ids.tolist()):
        embedding = stored.get(image_id)
        if embedding is not None and embedding.log_variance is not None:
            sigma = np.exp(0.5 * embedding.log_variance)
            found[place] = compute_mean_sigma(sigma, snapshot.encoder)
    return found


def _throttle(started_at: float, stop_event: threading.Event) -> None:
    """Waits as long as the work took. Raises _Stopped when it is time to stop."""
    if stop_event.wait(min(time.monotonic() - started_at, 1.0)):
        raise _CalibrationStopped
