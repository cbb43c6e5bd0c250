"""The map of a collection: where each picture lies in a plane, which go together, and how thick they lie there.

Computed once and kept in HOME/maps by encoder, segment and layout, in files that never change. Derived: they may be
deleted at any time.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from simile.core.atomic_write import write_durably
from simile.core.records import FloatArray
from simile.explore.latent.aggregate_posterior import Aggregate, aggregate_of
from simile.explore.latent.measurements import OnProgress, measures_of
from simile.explore.map.clustering import Method, Numbers, check_clusters, find_clusters, typical
from simile.explore.map.projection import LayoutName, check_layout, lay_out
from simile.explore.outliers.detector import neighbour_distance
from simile.search.searcher import Searcher
from simile.store.home import writing
from simile.store.index.flat import Ids

BITS = 10  # of each coordinate on the curve along which pictures are numbered


@dataclass(frozen=True)
class Wish:
    """What map is wanted. count: see find_clusters; None for what is usual."""

    layout: LayoutName = "pca"
    clusters: Method = "kmeans"
    count: int | None = None
    seed: int = 0

    def check(self, images: int) -> None:
        """Raises BadSetting, TooFewPictures."""
        check_layout(self.layout, images)
        check_clusters(self.clusters, self.count)


@dataclass(frozen=True, eq=False)
class Map:
    """ids (n,), neighbours in the plane near each other in the list, too; points (n, 2) float32 within [-1, 1].

    clusters: (n,), see find_clusters. density: (n,) float32, the share of pictures that lie less thickly, NaN for a
    lone one. typical: the id (c,) of each cluster's most typical picture.
    """

    wish: Wish
    encoder: str
    segment: int | None
    ids: Ids
    points: FloatArray
    clusters: Numbers
    density: FloatArray
    typical: Ids

    @property
    def tag(self) -> str:
        """Names what is in it."""
        parts = (self.encoder.encode(), self.ids.tobytes(), self.points.tobytes(), self.clusters.tobytes())
        return hashlib.sha256(b"".join(parts)).hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Writes it as an .npz without pickle."""
        wish = self.wish
        with path.open("wb") as file:
            np.savez(
                file,
                layout=wish.layout,
                method=wish.clusters,
                count=wish.count or 0,
                seed=wish.seed,
                encoder=self.encoder,
                segment=-1 if self.segment is None else self.segment,
                ids=self.ids,
                points=self.points,
                clusters=self.clusters,
                density=self.density,
                typical=self.typical,
            )

    @classmethod
    def load(cls, path: Path) -> Map:
        """Reads it. Raises OSError, EOFError, KeyError, ValueError or BadZipFile for anything else."""
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            wish = Wish(str(stored["layout"]), str(stored["method"]), int(stored["count"]) or None, int(stored["seed"]))  # type: ignore[arg-type]
            segment = int(stored["segment"])
            made = cls(
                wish,
                str(stored["encoder"]),
                None if segment < 0 else segment,
                *(stored[name] for name in ("ids", "points", "clusters", "density", "typical")),
            )
        lengths = {len(made.ids), len(made.points), len(made.clusters), len(made.density)}
        if len(lengths) > 1 or not len(made.ids) or made.points.shape[1:] != (2,):
            raise ValueError("its parts don't belong together")
        return made


def make_map(searcher: Searcher, wish: Wish, on_progress: OnProgress) -> Map:
    """The map of all pictures, kept for the next time; the one that is kept, if it is of just these pictures.

    Raises NothingIndexed, BadSetting, TooFewPictures, HomeNotWritable.
    """
    collection = aggregate_of(searcher)
    wish.check(len(collection))
    segment = searcher.index.current().base
    known = stored_map(searcher, wish.layout)
    same = known is not None and np.array_equal(np.sort(known.ids), collection.ids)
    if known is not None and same and known.wish == wish:
        return known
    made = _made(collection, segment, wish, known if same else None, on_progress)
    store_map(searcher, made)
    return made


def measure_errors(searcher: Searcher, ids: Ids, on_progress: OnProgress) -> None:
    """Has every picture's reconstruction error measured and kept; does nothing without a decoder."""
    if searcher.encoder().has_decoder:
        measures_of(searcher, np.sort(ids), on_progress)


def stored_map(searcher: Searcher, layout: LayoutName) -> Map | None:
    """The map of this layout by the encoder in use: of the current segment, or else the last that was made."""
    path = stored_path(searcher, layout)
    if path is not None:
        with suppress(OSError, EOFError, KeyError, ValueError, BadZipFile):
            return Map.load(path)
    return None


def stored_path(searcher: Searcher, layout: LayoutName) -> Path | None:
    """Where that map lies, if there is one."""
    encoder = searcher.catalogue.state().active_encoder
    paths = [] if encoder is None else list(_paths(searcher, encoder, layout))
    return max(paths, key=_made_at, default=None)


def store_map(searcher: Searcher, made: Map) -> None:
    """Keeps it in place of others of its encoder and layout. Raises HomeNotWritable."""
    path = folder_of(searcher) / f"{made.encoder[:16]}-{made.segment or 0}-{made.wish.layout}.npz"
    old = set(_paths(searcher, made.encoder, made.wish.layout)) - {path}
    with writing(path):
        path.parent.mkdir(exist_ok=True)
        write_durably(path, made.save)
        for one in old:
            one.unlink(missing_ok=True)
    tiles = folder_of(searcher) / f"tiles-{made.wish.layout}"
    for other in tiles.glob(f"{made.encoder[:16]}-*"):
        if other.name != f"{made.encoder[:16]}-{made.tag}":
            shutil.rmtree(other, ignore_errors=True)


def folder_of(searcher: Searcher) -> Path:
    """Where maps and their tiles are kept."""
    return searcher.home.root / "maps"


def _made(collection: Aggregate, segment: int | None, wish: Wish, known: Map | None, on_progress: OnProgress) -> Map:
    """A new map; where `known` is of the same pictures, what they have in common is taken from it."""
    vectors, count = collection.indexed(), len(collection)
    if known is not None and (known.wish.layout, known.wish.seed) == (wish.layout, wish.seed):
        order = np.searchsorted(collection.ids, known.ids)
        points, density = known.points, known.density
    else:
        on_progress(f"laying out ({wish.layout})", 0, count)
        placed = lay_out(vectors, wish.layout, wish.seed)
        order = along_curve(placed)
        points, density = placed[order], _density(vectors, wish.seed, on_progress)[order]
    on_progress(f"finding clusters ({wish.clusters})", 0, count)
    clusters = find_clusters(vectors, wish.clusters, wish.count, wish.seed)
    ids = collection.ids
    stands_for = ids[typical(vectors, clusters)]
    return Map(wish, collection.encoder.fingerprint, segment, ids[order], points, clusters[order], density, stands_for)


def _density(vectors: FloatArray, seed: int, on_progress: OnProgress) -> FloatArray:
    if len(vectors) < 2:
        return np.full(len(vectors), np.nan, np.float32)
    distances, _ = neighbour_distance(vectors, seed, lambda done: on_progress("comparing", done, len(vectors)))
    return shares(-distances)


def shares(values: NDArray[np.float64]) -> FloatArray:
    """The share of the others (n,) that are smaller, from 0 to 1; NaN stays NaN and counts for nothing."""
    known = np.isfinite(values)
    found = np.full(len(values), np.nan, np.float32)
    below = np.searchsorted(np.sort(values[known]), values[known], "left")
    found[known] = below / max(1, known.sum() - 1)
    return found


def along_curve(points: FloatArray) -> NDArray[np.int64]:
    """The order (n,) in which a curve that fills the plane comes by points (n, 2): near in it means near in the plane.

    Hilbert, 1891; by the loop over bits of https://en.wikipedia.org/wiki/Hilbert_curve.
    """
    last = (1 << BITS) - 1
    x, y = np.clip(np.round((points.T + 1) / 2 * last), 0, last).astype(np.int64)
    along = np.zeros(len(points), np.int64)
    for bit in range(BITS - 1, -1, -1):
        side = 1 << bit
        right, upper = (x & side) > 0, (y & side) > 0
        along += side * side * ((3 * right) ^ upper)
        turned = ~upper & right
        x, y = np.where(turned, last - x, x), np.where(turned, last - y, y)
        x, y = np.where(upper, x, y), np.where(upper, y, x)
    return np.argsort(along, kind="stable")


def _paths(searcher: Searcher, encoder: str, layout: str) -> Iterator[Path]:
    return folder_of(searcher).glob(f"{encoder[:16]}-*-{layout}.npz")


def _made_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another process has just made a newer one
        return 0.0
