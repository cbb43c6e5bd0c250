"""Smoothness of the latent space: how decoded images change on paths between pairs of indexed images.

path         length of the path in image space, divided by the straight distance between its ends. A cross-fade of the
             two images has 1, so a short path alone is no proof of quality. NaN, like the jump, for equal ends.
jump         largest step in image space, divided by the mean step; 1 if the image changes evenly.
strangeness  root mean square of x - decode(encode(x).mu), where x = decode(z). Large where the decoder makes images
             that the encoder has never seen. The mean over the steps between the ends; compare with `of_ends`, the mean
             of both ends, and `of_fade`, of a cross-fade between them.
returned     distance from z to encode(decode(z)).mu, divided by the distance between the ends in the latent space: the
             mean over the steps between the ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from simile.core.errors import BadSetting, NothingIndexed
from simile.core.records import Float64Array, FloatArray
from simile.explore.arrays import OnProgress, ignore_progress
from simile.explore.latent.aggregate_posterior import load_aggregate_posterior
from simile.explore.latent.inputs import check_decoder
from simile.explore.latent.interpolation import InterpolationMethod, check_interpolation_method, interpolate
from simile.models.inference.encoder import TrainedEncoder
from simile.search.searcher import Searcher
from simile.store.index.flat import Ids

MAX_CONTINUITY_PAIRS, MAX_CONTINUITY_STEPS = 10_000, 256
FRAMES_PER_BATCH = 256  # decoded images in memory together
PAIR_SAMPLE_SIZE = 10_000  # images of the collection that pairs are drawn from

PathMeasures = dict[str, Float64Array]  # each measure by name, (n,) for n paths


@dataclass(frozen=True, eq=False, kw_only=True)
class LatentContinuity:
    """Smoothness of the latent space of one encoder, measured between the image ids `pairs` (n, 2)."""

    fingerprint: str
    interpolation: InterpolationMethod
    steps: int
    pairs: Ids
    path_measures: PathMeasures

    def summarise(self) -> dict[str, tuple[float, float] | None]:
        """Return (median, 90th percentile) of each measure over the pairs that have it; None if no pair has it."""
        summary: dict[str, tuple[float, float] | None] = {}
        for name, values in self.path_measures.items():
            finite = values[np.isfinite(values)]
            summary[name] = (float(np.median(finite)), float(np.percentile(finite, 90))) if len(finite) else None
        return summary


def measure_continuity(
    searcher: Searcher,
    pairs: int = 100,
    *,
    steps: int = 16,
    interpolation: InterpolationMethod = "linear",
    seed: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> LatentContinuity:
    """Measure the active encoder on random pairs of different images. The image files are not needed.

    Each path has `steps` latent vectors, both ends included. Raises NoDecoder, BadSetting, and NothingIndexed (also for
    a single image).
    """
    check_interpolation_method(interpolation)
    if not 1 <= pairs <= MAX_CONTINUITY_PAIRS:
        raise BadSetting(f"pairs can't be {pairs}. Use 1 to {MAX_CONTINUITY_PAIRS:,}.")
    if not 3 <= steps <= MAX_CONTINUITY_STEPS:
        raise BadSetting(f"steps can't be {steps}. Use 3 to {MAX_CONTINUITY_STEPS}: both ends and a step between them.")
    check_decoder(searcher, "images between two others can't be measured")
    posterior = load_aggregate_posterior(searcher).sample(PAIR_SAMPLE_SIZE, seed)
    count = len(posterior)
    if count < 2:
        raise NothingIndexed("A path needs two ends, but the home contains one image. Run `simile index` on more.")
    # Draw the pairs. The offset of 1 to count - 1 makes sure that no image is paired with itself.
    random = np.random.default_rng(seed)
    starts = random.integers(count, size=pairs)
    ends = (starts + random.integers(1, count, size=pairs)) % count
    encoder = searcher.get_encoder()
    path_measures = measure_paths(
        encoder,
        posterior.mu[starts],
        posterior.mu[ends],
        steps=steps,
        interpolation=interpolation,
        on_progress=lambda done: on_progress("measuring paths between images", done, pairs),
    )
    return LatentContinuity(
        fingerprint=encoder.fingerprint,
        interpolation=interpolation,
        steps=steps,
        pairs=np.stack([posterior.ids[starts], posterior.ids[ends]], axis=1),
        path_measures=path_measures,
    )


def measure_paths(
    encoder: TrainedEncoder,
    starts: FloatArray,
    ends: FloatArray,
    *,
    steps: int,
    interpolation: InterpolationMethod,
    on_progress: Callable[[int], object] = lambda _: None,
) -> PathMeasures:
    """Measure the paths from mu `starts` (n, d) to mu `ends` (n, d), `steps` latent vectors each, ends included."""
    batch_size = max(1, FRAMES_PER_BATCH // steps)
    batches = []
    for first in range(0, len(starts), batch_size):
        rows = slice(first, first + batch_size)
        batches.append(_measure_path_batch(encoder, starts[rows], ends[rows], steps, interpolation))
        on_progress(min(first + batch_size, len(starts)))
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _measure_path_batch(
    encoder: TrainedEncoder, starts: FloatArray, ends: FloatArray, steps: int, interpolation: InterpolationMethod
) -> PathMeasures:
    # Decode all latents of the paths, and encode the decoded images again.
    fractions = np.linspace(0, 1, steps)[:, None]
    pairs = zip(starts.astype(np.float64), ends.astype(np.float64), strict=True)
    latents = np.stack([interpolate(start, end, fractions, interpolation) for start, end in pairs])  # (n, steps, d)
    images = _decode_paths(encoder, latents)  # (n, steps, C, S, S)
    returned_mu, strangeness = _reencode(encoder, images)
    # For comparison: a cross-fade between the decoded ends, in image space.
    first, last = images[:, :1], images[:, -1:]
    fade = first + fractions[1:-1, :, None, None].astype(np.float32) * (last - first)
    path, jump = _measure_lengths(images[..., *encoder.preprocessing.content_slices])
    end_distance = np.maximum(np.linalg.norm(latents[:, -1] - latents[:, 0], axis=1), 1e-12)
    returned_distance = np.linalg.norm(returned_mu - latents, axis=2)[:, 1:-1].mean(1)
    return {
        "path": path,
        "jump": jump,
        "strangeness": strangeness[:, 1:-1].mean(1),
        "of_ends": strangeness[:, [0, -1]].mean(1),
        "of_fade": _reencode(encoder, fade)[1].mean(1),
        "returned": returned_distance / end_distance,
    }


def _measure_lengths(images: FloatArray) -> tuple[Float64Array, Float64Array]:
    """Return (path, jump), (n,) each, of images (n, steps, C, h, w)."""
    flat = images.reshape(*images.shape[:2], -1).astype(np.float64)
    step_lengths = np.linalg.norm(np.diff(flat, axis=1), axis=2)  # (n, steps - 1)
    straight = np.linalg.norm(flat[:, -1] - flat[:, 0], axis=1)
    straight = np.where(straight > 0, straight, np.nan)
    total = np.where(np.isfinite(straight), step_lengths.sum(1), np.nan)
    return total / straight, step_lengths.max(1) * step_lengths.shape[1] / total


def _reencode(encoder: TrainedEncoder, images: FloatArray) -> tuple[Float64Array, Float64Array]:
    """Encode decoded images (n, steps, C, S, S) and decode them again: mu (n, steps, d), and strangeness (n, steps)."""
    count, steps, *shape = images.shape
    pixels = np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)  # 8 bits a value, as every input of the encoder
    mu = encoder.encode(pixels.reshape(-1, *shape).transpose(0, 2, 3, 1)).mu.reshape(count, steps, -1)
    difference = (_decode_paths(encoder, mu) - images)[..., *encoder.preprocessing.content_slices]
    return mu.astype(np.float64), np.sqrt(np.square(difference).mean(axis=(2, 3, 4), dtype=np.float64))


def _decode_paths(encoder: TrainedEncoder, latents: FloatArray | Float64Array) -> FloatArray:
    """Decode latents (n, steps, d) to images (n, steps, C, S, S)."""
    count, steps, dims = latents.shape
    images = encoder.decode(latents.reshape(-1, dims).astype(np.float32))
    return images.reshape(count, steps, *images.shape[1:])
