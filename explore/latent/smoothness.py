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
from simile.explore.latent.aggregate_posterior import aggregate_of
from simile.explore.latent.inputs import check_decoder
from simile.explore.latent.interpolation import How, between
from simile.explore.latent.measurements import OnProgress
from simile.models.inference.encoder import TrainedEncoder
from simile.search.searcher import Searcher
from simile.store.index.flat import Ids

Doubles = NDArray[np.float64]

MOST_PAIRS, MOST_STEPS = 10_000, 256
FRAMES = 256  # in memory together
SAMPLED = 10_000  # pictures of the collection that pairs are drawn from


@dataclass(frozen=True, eq=False)
class Ways:
    """Of each pair (n,) float64. path and jump are NaN where both ends decode to the very same picture.

    strangeness: the mean over the steps between the ends; of_ends: of both ends; of_fade: of the steps of a cross-fade
    between the ends. returned: the mean over the steps between the ends.
    """

    path: Doubles
    jump: Doubles
    strangeness: Doubles
    of_ends: Doubles
    of_fade: Doubles
    returned: Doubles


@dataclass(frozen=True, eq=False)
class Continuity:
    """Of an encoder. pairs: ids (n, 2) of the pictures at the ends."""

    fingerprint: str
    how: How
    steps: int
    pairs: Ids
    ways: Ways

    def summary(self) -> dict[str, tuple[float, float] | None]:
        """(median, 90th percentile) of each figure, over the pairs that have it; None where none has."""
        found: dict[str, tuple[float, float] | None] = {}
        for field in fields(self.ways):
            values = getattr(self.ways, field.name)
            known = values[np.isfinite(values)]
            found[field.name] = (float(np.median(known)), float(np.percentile(known, 90))) if len(known) else None
        return found


def continuity(
    searcher: Searcher,
    pairs: int = 100,
    *,
    steps: int = 16,
    how: How = "linear",
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> Continuity:
    """Of the encoder in use, over pairs of different pictures drawn with `seed`. Their files are not needed.

    Raises NoDecoder, BadSetting, NothingIndexed (also with one picture alone).
    """
    _check(pairs, steps, how)
    check_decoder(searcher, "what lies between two pictures can't be measured")
    known = aggregate_of(searcher).chosen(SAMPLED, seed)
    if len(known) < 2:
        raise NothingIndexed("The home holds one picture, and a way has two ends. Run `simile index PHOTOS` with more.")
    random = np.random.default_rng(seed)
    starts = random.integers(len(known), size=pairs)
    ends = (starts + random.integers(1, len(known), size=pairs)) % len(known)  # never the same picture
    encoder = searcher.encoder()
    told = on_progress or (lambda *_: None)
    ways = ways_between(
        encoder,
        known.mu[starts],
        known.mu[ends],
        steps=steps,
        how=how,
        on_progress=lambda done: told("walking between pictures", done, pairs),
    )
    return Continuity(encoder.fingerprint, how, steps, np.stack([known.ids[starts], known.ids[ends]], axis=1), ways)


def ways_between(
    encoder: TrainedEncoder,
    starts: FloatArray,
    ends: FloatArray,
    *,
    steps: int,
    how: How,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Ways:
    """From mu `starts` (n, d) to mu `ends` (n, d), `steps` places on each way, both ends included."""
    at_once = max(1, FRAMES // steps)
    parts = []
    for first in range(0, len(starts), at_once):
        rows = slice(first, first + at_once)
        parts.append(_ways(encoder, starts[rows], ends[rows], steps, how))
        on_progress(min(first + at_once, len(starts)))
    return Ways(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Ways)))


def _ways(encoder: TrainedEncoder, starts: FloatArray, ends: FloatArray, steps: int, how: How) -> Ways:
    shares = np.linspace(0, 1, steps)[:, None]
    pairs = zip(starts.astype(np.float64), ends.astype(np.float64), strict=True)
    latents = np.stack([between(one, other, shares, how) for one, other in pairs])  # (n, steps, d)
    pictures = _decode(encoder, latents)  # (n, steps, C, S, S)
    seen, strangeness = _looked_at(encoder, pictures)
    fade = pictures[:, :1] + shares[1:-1, :, None, None].astype(np.float32) * (pictures[:, -1:] - pictures[:, :1])
    path, jump = _lengths(_content(encoder, pictures))
    apart = np.maximum(np.linalg.norm(latents[:, -1] - latents[:, 0], axis=1), 1e-12)
    missed = np.linalg.norm(seen - latents, axis=2)[:, 1:-1].mean(1)
    return Ways(
        path=path,
        jump=jump,
        strangeness=strangeness[:, 1:-1].mean(1),
        of_ends=strangeness[:, [0, -1]].mean(1),
        of_fade=_looked_at(encoder, fade)[1].mean(1),
        returned=missed / apart,
    )


def _lengths(pictures: FloatArray) -> tuple[Doubles, Doubles]:
    """(path, jump), (n,) each, of pictures (n, steps, C, h, w)."""
    flat = pictures.reshape(*pictures.shape[:2], -1).astype(np.float64)
    steps = np.linalg.norm(np.diff(flat, axis=1), axis=2)  # (n, steps - 1)
    straight = np.linalg.norm(flat[:, -1] - flat[:, 0], axis=1)
    straight = np.where(straight > 0, straight, np.nan)
    whole = np.where(np.isfinite(straight), steps.sum(1), np.nan)
    return whole / straight, steps.max(1) * steps.shape[1] / whole


def _looked_at(encoder: TrainedEncoder, pictures: FloatArray) -> tuple[Doubles, Doubles]:
    """The encoder's mu (n, steps, d) of pictures (n, steps, C, S, S), and their strangeness (n, steps)."""
    count, steps, *shape = pictures.shape
    whole = np.rint(np.clip(pictures, 0, 1) * 255).astype(np.uint8)  # as any picture that it is shown
    mu = encoder.encode(whole.reshape(-1, *shape).transpose(0, 2, 3, 1)).mu.reshape(count, steps, -1)
    lost = _content(encoder, _decode(encoder, mu)) - _content(encoder, pictures)
    return mu.astype(np.float64), np.sqrt(np.square(lost).mean(axis=(2, 3, 4), dtype=np.float64))


def _decode(encoder: TrainedEncoder, latents: FloatArray | Doubles) -> FloatArray:
    """(n, steps, C, S, S) of latents (n, steps, d)."""
    count, steps, width = latents.shape
    pictures = encoder.decode(latents.reshape(-1, width).astype(np.float32))
    return pictures.reshape(count, steps, *pictures.shape[1:])


def _content(encoder: TrainedEncoder, pictures: FloatArray) -> FloatArray:
    """Without padding."""
    top, left, height, width = encoder.preprocessing.content_box()
    return pictures[..., top : top + height, left : left + width]


def _check(pairs: int, steps: int, how: str) -> None:
    if how not in get_args(How):
        raise BadSetting(f"how can't be {how!r}. Use linear or spherical.")
    if not 1 <= pairs <= MOST_PAIRS:
        raise BadSetting(f"pairs can't be {pairs}. Use 1 to {MOST_PAIRS:,}.")
    if not 3 <= steps <= MOST_STEPS:
        raise BadSetting(f"steps can't be {steps}. Use 3 to {MOST_STEPS}: something has to lie between the ends.")
