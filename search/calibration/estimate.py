"""Estimate the score calibration: compare a sample of the collection with all images, a few at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from simile.core.records import Float64Array, FloatArray
from simile.models.checkpoints.training_set import TrainingDigests
from simile.search.calibration.calibration import CalibrationSample, ScoreCalibration, compute_expectation
from simile.search.posterior import compute_mean_sigma
from simile.store.catalogue.catalogue import Catalogue
from simile.store.index.flat import Ids, use_single_search_thread
from simile.store.index.snapshot import Snapshot

CALIBRATION_SAMPLE_SIZE = 512
CALIBRATION_NEIGHBOURS = 64  # exact neighbours of each sample image; beyond them the sample is extrapolated
MIN_NEW_IMAGES = 40  # images that the encoder was not trained on: fewer are too few for a sample
CALIBRATION_BATCH_SIZE = 16  # queries in one index search: small, so that other searches wait little for a core

GetReconstructionError = Callable[[int], float | None]  # by image id; None if it cannot be measured


class _CalibrationStopped(Exception):
    """The stop event was set."""


def estimate_calibration(
    catalogue: Catalogue,
    get_error: GetReconstructionError | None,
    trained_on: TrainingDigests | None,
    snapshot: Snapshot,
    stop_event: threading.Event,
) -> ScoreCalibration | None:
    """Estimate the calibration of a snapshot, with at most half of one core; call it in its own thread.

    Args:
        get_error: Measures reconstruction errors; None for an encoder without a decoder.
        trained_on: The training set of the encoder; None if unknown.

    Returns:
        None if the stop event was set or there are fewer than two images.
    """
    use_single_search_thread()
    live_ids = snapshot.get_live_ids()
    if len(live_ids) < 2:
        return None
    # Draw a sample; for the outlier signals prefer images that the encoder was not trained on.
    drawn_ids = np.random.default_rng(0).choice(live_ids, min(CALIBRATION_SAMPLE_SIZE, len(live_ids)), replace=False)
    new_ids = None if trained_on is None else sample_new_images(catalogue, trained_on, drawn_ids, live_ids)
    signal_ids = np.sort(drawn_ids if new_ids is None else new_ids)
    # Distances are estimated on the larger sample of the two.
    distance_ids = signal_ids if len(signal_ids) == len(drawn_ids) else np.sort(drawn_ids)
    ids, vectors = snapshot.get_vectors(np.union1d(signal_ids, distance_ids))
    # Measure.
    try:
        nearest = _find_nearest_distances(ids, vectors, snapshot, stop_event)
        errors = _get_reconstruction_errors(signal_ids, get_error, stop_event)
    except _CalibrationStopped:
        return None
    first = np.array([distances[0] if len(distances) else np.nan for distances in nearest])
    sigmas = _get_mean_sigmas(catalogue, signal_ids, snapshot)
    # Combine.
    rows = np.flatnonzero(np.isin(ids, distance_ids))
    wide = vectors[rows].astype(np.float64)
    pairwise_distances = np.stack([np.linalg.norm(wide - row, axis=1) for row in wide])
    return ScoreCalibration.from_sample(
        snapshot.encoder.fingerprint,
        snapshot.base_segment_id,
        len(snapshot),
        compute_expectation([nearest[row] for row in rows], pairwise_distances, len(snapshot)),
        CalibrationSample(errors, first[np.isin(ids, signal_ids)], sigmas),
        "own" if new_ids is None else "new",
    )


def sample_new_images(catalogue: Catalogue, trained_on: TrainingDigests, sampled_ids: Ids, live_ids: Ids) -> Ids | None:
    """Replace the training images of a sample by held-out images; images added later stay.

    An encoder reconstructs its training images better than others, so they do not represent new images.

    Returns:
        The new sample, smaller if there are too few held-out images; None if it would be too small.
    """
    records = catalogue.images.get_many(sampled_ids.tolist())
    sampled_ids = np.array([image_id for image_id in sampled_ids.tolist() if image_id in records], np.int64)
    is_trained_on = trained_on.contains([records[image_id].sha256 for image_id in sampled_ids.tolist()])
    held_out_records = catalogue.images.find_by_sha256(trained_on.held_out_hex).values()
    held_out_ids = np.intersect1d(np.array([record.image_id for record in held_out_records], np.int64), live_ids)
    # The longest start of the sample whose training images can all be replaced.
    length = int(np.searchsorted(np.cumsum(is_trained_on), len(held_out_ids), side="right"))
    if length < MIN_NEW_IMAGES:
        return None
    is_trained_on = is_trained_on[:length]
    replacements = np.random.default_rng(0).permutation(held_out_ids)[: int(is_trained_on.sum())]
    return np.concatenate([sampled_ids[:length][~is_trained_on], replacements])


def _find_nearest_distances(
    ids: Ids, vectors: FloatArray, snapshot: Snapshot, stop_event: threading.Event
) -> list[Float64Array]:
    """Find the distances of the nearest other images of each image, ascending. Raises _CalibrationStopped."""
    nearest: list[Float64Array] = []
    for start in range(0, len(ids), CALIBRATION_BATCH_SIZE):
        started_at = time.monotonic()
        batch = slice(start, start + CALIBRATION_BATCH_SIZE)
        neighbours = snapshot.search(vectors[batch], CALIBRATION_NEIGHBOURS + 1)
        for image_id, (neighbour_ids, distances) in zip(ids[batch].tolist(), neighbours, strict=True):
            nearest.append(distances[neighbour_ids != image_id][:CALIBRATION_NEIGHBOURS])
        _throttle(started_at, stop_event)
    return nearest


def _get_reconstruction_errors(
    ids: Ids, get_error: GetReconstructionError | None, stop_event: threading.Event
) -> Float64Array:
    """Return the reconstruction error of each image, NaN if unknown. Raises _CalibrationStopped."""
    errors = np.full(len(ids), np.nan)
    if get_error is None:
        return errors
    for row, image_id in enumerate(ids.tolist()):
        started_at = time.monotonic()
        error = get_error(image_id)
        errors[row] = np.nan if error is None else error
        _throttle(started_at, stop_event)
    return errors


def _get_mean_sigmas(catalogue: Catalogue, ids: Ids, snapshot: Snapshot) -> Float64Array:
    """Return the mean σ of each image, NaN without a variance."""
    embeddings = catalogue.embeddings.get_many(ids.tolist(), snapshot.encoder.fingerprint)
    sigmas = np.full(len(ids), np.nan)
    for row, image_id in enumerate(ids.tolist()):
        embedding = embeddings.get(image_id)
        if embedding is not None and embedding.log_variance is not None:
            sigmas[row] = compute_mean_sigma(np.exp(0.5 * embedding.log_variance), snapshot.encoder)
    return sigmas


def _throttle(started_at: float, stop_event: threading.Event) -> None:
    """Wait as long as the work took. Raises _CalibrationStopped if the event is set."""
    if stop_event.wait(min(time.monotonic() - started_at, 1.0)):
        raise _CalibrationStopped
