"""How smooth the latent space is: what becomes of the picture on the way between two pictures of the home.

path         the length of the way in picture space, as a multiple of the straight distance between its ends. A
             cross-fade, a ghost of both pictures, has 1: a short way alone is no praise.
jump         the largest step in picture space, as a multiple of the mean one; 1 where the picture changes evenly.
strangeness  what is lost when the encoder looks at its own picture: the root mean square of x - decode(encode(x).mu)
             with x = decode(z). Large where the decoder makes what the encoder has never seen; beside it that of the
             ends, and that of the plain cross-fade between the same ends.
returned     how far from z the encoder puts decode(z), as a share of the distance between the ends in the latent space.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from simile.core.errors import BadSetting, NothingIndexed
from simile.core.records import FloatArray
from simile.explore.latent.aggregate_posterior import load_aggregate_posterior
from simile.explore.latent.inputs import check_decoder
from simile.explore.latent.interpolation import InterpolationMethod, interpolate
from simile.explore.latent.measurements import OnProgress
from simile.models.inference.encoder import TrainedEncoder
from simile.search.searcher import Searcher
from simile.store.index.flat import Ids

Float64Array = NDArray[np.float64]

MAX_CONTINUITY_PAIRS, MAX_CONTINUITY_STEPS = 10_000, 256
FRAMES_PER_BATCH = 256  # in memory together
PAIR_SAMPLE_SIZE = 10_000  # pictures of the collection that pairs are drawn from


@dataclass(frozen=True, eq=False)
class PathMeasures:
    """Of each pair (n,) float64. path and jump are NaN where both ends decode to the very same picture.

    strangeness: the mean over the steps between the ends; of_ends: of both ends; of_fade: of the steps of a cross-fade
    between the ends. returned: the mean over the steps between the ends.
    """

    path: Float64Array
    jump: Float64Array
    strangeness: Float64Array
    of_ends: Float64Array
    of_fade: Float64Array
    returned: Float64Array


@dataclass(frozen=True, eq=False)
class LatentContinuity:
    """Of an encoder. pairs: ids (n, 2) of the pictures at the ends."""

    fingerprint: str
    interpolation: InterpolationMethod
    steps: int
    pairs: Ids
    path_measures: PathMeasures

    def summarise(self) -> dict[str, tuple[float, float] | None]:
        """(median, 90th percentile) of each figure, over the pairs that have it; None where none has."""
        found: dict[str, tuple[float, float] | None] = {}
        for field in fields(self.path_measures):
            values = getattr(self.path_measures, field.name)
            known = values[np.isfinite(values)]
            found[field.name] = (float(np.median(known)), float(np.percentile(known, 90))) if len(known) else None
        return found


def measure_continuity(
    searcher: Searcher,
    pairs: int = 100,
    *,
    steps: int = 16,
    interpolation: InterpolationMethod = "linear",
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> LatentContinuity:
    """Of the encoder in use, over pairs of different pictures drawn with `seed`. Their files are not needed.

    Raises NoDecoder, BadSetting, NothingIndexed (also with one picture alone).
    """
    _check_continuity_settings(pairs, steps, interpolation)
    check_decoder(searcher, "what lies between two pictures can't be measured")
    known = load_aggregate_posterior(searcher).sample(PAIR_SAMPLE_SIZE, seed)
    if len(known) < 2:
        raise NothingIndexed("The home holds one picture, and a way has two ends. Run `simile index PHOTOS` with more.")
    random = np.random.default_rng(seed)
    starts = random.integers(len(known), size=pairs)
    ends = (starts + random.integers(1, len(known), size=pairs)) % len(known)  # never the same picture
    encoder = searcher.get_encoder()
    told = on_progress or (lambda *_: None)
    ways = measure_paths(
        encoder,
        known.mu[starts],
        known.mu[ends],
        steps=steps,
        interpolation=interpolation,
        on_progress=lambda done: told("walking between pictures", done, pairs),
    )
    return LatentContinuity(
        encoder.fingerprint, interpolation, steps, np.stack([known.ids[starts], known.ids[ends]], axis=1), ways
    )


def measure_paths(
    encoder: TrainedEncoder,
    starts: FloatArray,
    ends: FloatArray,
    *,
    steps: int,
    interpolation: InterpolationMethod,
    on_progress: Callable[[int], None] = lambda _: None,
) -> PathMeasures:
    """From mu `starts` (n, d) to mu `ends` (n, d), `steps` places on each way, both ends included."""
    at_once = max(1, FRAMES_PER_BATCH // steps)
    parts = []
    for first in range(0, len(starts), at_once):
        rows = slice(first, first + at_once)
        parts.append(_measure_path_batch(encoder, starts[rows], ends[rows], steps, interpolation))
        on_progress(min(first + at_once, len(starts)))
    return PathMeasures(
        *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(PathMeasures))
    )


def _measure_path_batch(
    encoder: TrainedEncoder, starts: FloatArray, ends: FloatArray, steps: int, interpolation: InterpolationMethod
) -> PathMeasures:
    shares = np.linspace(0, 1, steps)[:, None]
    pairs = zip(starts.astype(np.float64), ends.astype(np.float64), strict=True)
    latents = np.stack([interpolate(one, other, shares, interpolation) for one, other in pairs])  # (n, steps, d)
    pictures = _decode_paths(encoder, latents)  # (n, steps, C, S, S)
    seen, strangeness = _reencode(encoder, pictures)
    fade = pictures[:, :1] + shares[1:-1, :, None, None].astype(np.float32) * (pictures[:, -1:] - pictures[:, :1])
    path, jump = _measure_lengths(_crop_paths(encoder, pictures))
    apart = np.maximum(np.linalg.norm(latents[:, -1] - latents[:, 0], axis=1), 1e-12)
    missed = np.linalg.norm(seen - latents, axis=2)[:, 1:-1].mean(1)
    return PathMeasures(
        path=path,
        jump=jump,
        strangeness=strangeness[:, 1:-1].mean(1),
        of_ends=strangeness[:, [0, -1]].mean(1),
        of_fade=_reencode(encoder, fade)[1].mean(1),
        returned=missed / apart,
    )


def _measure_lengths(images: FloatArray) -> tuple[Float64Array, Float64Array]:
    """(path, jump), (n,) each, of pictures (n, steps, C, h, w)."""
    flat = images.reshape(*images.shape[:2], -1).astype(np.float64)
    steps = np.linalg.norm(np.diff(flat, axis=1), axis=2)  # (n, steps - 1)
    straight = np.linalg.norm(flat[:, -1] - flat[:, 0], axis=1)
    straight = np.where(straight > 0, straight, np.nan)
    whole = np.where(np.isfinite(straight), steps.sum(1), np.nan)
    return whole / straight, steps.max(1) * steps.shape[1] / whole


def _reencode(encoder: TrainedEncoder, images: FloatArray) -> tuple[Float64Array, Float64Array]:
    """The encoder's mu (n, steps, d) of pictures (n, steps, C, S, S), and their strangeness (n, steps)."""
    count, steps, *shape = images.shape
    whole = np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)  # as any picture that it is shown
    mu = encoder.encode(whole.reshape(-1, *shape).transpose(0, 2, 3, 1)).mu.reshape(count, steps, -1)
    lost = _crop_paths(encoder, _decode_paths(encoder, mu)) - _crop_paths(encoder, images)
    return mu.astype(np.float64), np.sqrt(np.square(lost).mean(axis=(2, 3, 4), dtype=np.float64))


def _decode_paths(encoder: TrainedEncoder, latents: FloatArray | Float64Array) -> FloatArray:
    """(n, steps, C, S, S) of latents (n, steps, d)."""
    count, steps, width = latents.shape
    pictures = encoder.decode(latents.reshape(-1, width).astype(np.float32))
    return pictures.reshape(count, steps, *pictures.shape[1:])


def _crop_paths(encoder: TrainedEncoder, images: FloatArray) -> FloatArray:
    """Without padding."""
    top, left, height, width = encoder.preprocessing.content_box()
    return images[..., top : top + height, left : left + width]


def _check_continuity_settings(pairs: int, steps: int, interpolation: str) -> None:
    if interpolation not in get_args(InterpolationMethod):
        raise BadSetting(f"how can't be {interpolation!r}. Use linear or spherical.")
    if not 1 <= pairs <= MAX_CONTINUITY_PAIRS:
        raise BadSetting(f"pairs can't be {pairs}. Use 1 to {MAX_CONTINUITY_PAIRS:,}.")
    if not 3 <= steps <= MAX_CONTINUITY_STEPS:
        raise BadSetting(
            f"steps can't be {steps}. Use 3 to {MAX_CONTINUITY_STEPS}: something has to lie between the ends."
        )
