"""Where the mixture of a collection is kept: HOME/measures/<encoder>-mixture.npz. Derived: it may be deleted.

It holds for the pictures of one encoder in one segment, until these have grown or shrunk a good deal.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from core.durable import write_durably
from core.errors import HomeNotWritable
from core.records import FloatArray
from search.gauge import GROWN
from search.searcher import Searcher
from store.home import writing

Doubles = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Mixture:
    """Of k Gaussians: weights (k,), means (k, d), roots (k, d, d): Cholesky factors of the covariances."""

    weights: Doubles
    means: Doubles
    roots: Doubles

    def draw(self, count: int, temperature: float, seed: int) -> FloatArray:
        """z (n, d). `temperature` scales each component's deviations, not the distances between components."""
        random = np.random.default_rng(seed)
        chosen = random.choice(len(self.weights), count, p=self.weights)
        noise = random.standard_normal((count, self.means.shape[1]))
        drawn = self.means[chosen] + temperature * np.einsum("nij,nj->ni", self.roots[chosen], noise)
        found: FloatArray = drawn.astype(np.float32)
        return found


@dataclass(frozen=True)
class Stand:
    """What a mixture was fitted to: how many pictures, by which encoder, in which segment (0: in none yet)."""

    encoder: str
    segment: int
    images: int

    def is_like(self, other: Stand) -> bool:
        """Whether a mixture fitted to one holds for the other."""
        alike = self.images / GROWN <= other.images <= self.images * GROWN
        return (self.encoder, self.segment) == (other.encoder, other.segment) and alike


def stand_of(searcher: Searcher) -> Stand | None:
    """What is indexed now; None before the first index. Reads neither vectors nor a network."""
    state = searcher.catalogue.state()
    if state.active_encoder is None:
        return None
    return Stand(state.active_encoder, state.segment_id or 0, searcher.catalogue.count_images())


def load_mixture(searcher: Searcher, stand: Stand) -> Mixture | None:
    """The mixture that was kept, where it holds for what is indexed now; a damaged file is none."""
    with (
        suppress(OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile),
        _file(searcher, stand.encoder).open("rb") as file,
        np.load(file, allow_pickle=False) as stored,
    ):
        kept = Stand(str(stored["encoder"]), int(stored["segment"]), int(stored["images"]))
        found = Mixture(stored["weights"], stored["means"], stored["roots"])
        if kept.is_like(stand) and _is_whole(found):
            return found
    return None


def save_mixture(searcher: Searcher, stand: Stand, mixture: Mixture) -> None:
    """Keeps it in place of an earlier one; where nothing can be written it is fitted again next time."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **vars(stand), **vars(mixture))

    path = _file(searcher, stand.encoder)
    with suppress(HomeNotWritable), writing(path):
        path.parent.mkdir(exist_ok=True)
        write_durably(path, write)


def _is_whole(mixture: Mixture) -> bool:
    (k, d), arrays = mixture.means.shape, (mixture.weights, mixture.means, mixture.roots)
    shapes = mixture.weights.shape == (k,) and mixture.roots.shape == (k, d, d)
    return shapes and all(bool(np.isfinite(array).all()) for array in arrays)


def _file(searcher: Searcher, fingerprint: str) -> Path:
    return searcher.home.root / "measures" / f"{fingerprint[:16]}-mixture.npz"
