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

from simile.core.atomic_write import write_atomically
from simile.core.records import FloatArray
from simile.explore.latent.aggregate_posterior import AggregatePosterior, load_aggregate_posterior
from simile.explore.latent.measurements import OnProgress, measure_images
from simile.explore.map.clustering import (
    ClusterMethod,
    ClusterNumbers,
    check_cluster_settings,
    find_clusters,
    find_typical_rows,
)
from simile.explore.map.projection import LayoutName, check_layout, compute_layout
from simile.explore.outliers.detector import compute_neighbour_distances
from simile.search.searcher import Searcher
from simile.store.home import translate_write_errors
from simile.store.index.flat import Ids

HILBERT_BITS = 10  # of each coordinate on the curve along which pictures are numbered


@dataclass(frozen=True)
class MapSettings:
    """What map is wanted. count: see find_clusters; None for what is usual."""

    layout: LayoutName = "pca"
    clusters: ClusterMethod = "kmeans"
    count: int | None = None
    seed: int = 0

    def check(self, images: int) -> None:
        """Raises BadSetting, TooFewPictures."""
        check_layout(self.layout, images)
        check_cluster_settings(self.clusters, self.count)


@dataclass(frozen=True, eq=False)
class LatentMap:
    """ids (n,), neighbours in the plane near each other in the list, too; points (n, 2) float32 within [-1, 1].

    clusters: (n,), see find_clusters. density: (n,) float32, the share of pictures that lie less thickly, NaN for a
    lone one. typical: the id (c,) of each cluster's most typical picture.
    """

    settings: MapSettings
    encoder: str
    segment: int | None
    ids: Ids
    points: FloatArray
    clusters: ClusterNumbers
    density: FloatArray
    typical: Ids

    @property
    def tag(self) -> str:
        """Names what is in it."""
        parts = (self.encoder.encode(), self.ids.tobytes(), self.points.tobytes(), self.clusters.tobytes())
        return hashlib.sha256(b"".join(parts)).hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Writes it as an .npz without pickle."""
        wish = self.settings
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
    def load(cls, path: Path) -> LatentMap:
        """Reads it. Raises OSError, EOFError, KeyError, ValueError or BadZipFile for anything else."""
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            layout, method = str(stored["layout"]), str(stored["method"])
            count, seed = int(stored["count"]) or None, int(stored["seed"])
            wish = MapSettings(layout, method, count, seed)  # type: ignore[arg-type]
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


def make_map(searcher: Searcher, map_settings: MapSettings, on_progress: OnProgress) -> LatentMap:
    """The map of all pictures, kept for the next time; the one that is kept, if it is of just these pictures.

    Raises NothingIndexed, BadSetting, TooFewPictures, HomeNotWritable.
    """
    collection = load_aggregate_posterior(searcher)
    map_settings.check(len(collection))
    segment = searcher.index.get_snapshot().base_segment_id
    known = load_stored_map(searcher, map_settings.layout)
    same = known is not None and np.array_equal(np.sort(known.ids), collection.ids)
    if known is not None and same and known.settings == map_settings:
        return known
    made = _compute_map(collection, segment, map_settings, known if same else None, on_progress)
    save_map(searcher, made)
    return made


def measure_reconstruction_errors(searcher: Searcher, ids: Ids, on_progress: OnProgress) -> None:
    """Has every picture's reconstruction error measured and kept; does nothing without a decoder."""
    if searcher.get_encoder().has_decoder:
        measure_images(searcher, np.sort(ids), on_progress)


def load_stored_map(searcher: Searcher, layout: LayoutName) -> LatentMap | None:
    """The map of this layout by the encoder in use: of the current segment, or else the last that was made."""
    path = find_map_path(searcher, layout)
    if path is not None:
        with suppress(OSError, EOFError, KeyError, ValueError, BadZipFile):
            return LatentMap.load(path)
    return None


def find_map_path(searcher: Searcher, layout: LayoutName) -> Path | None:
    """Where that map lies, if there is one."""
    encoder = searcher.catalogue.get_state().active_encoder
    paths = [] if encoder is None else list(_find_map_paths(searcher, encoder, layout))
    return max(paths, key=_get_modification_time, default=None)


def save_map(searcher: Searcher, latent_map: LatentMap) -> None:
    """Keeps it in place of others of its encoder and layout. Raises HomeNotWritable."""
    path = (
        get_maps_folder(searcher)
        / f"{latent_map.encoder[:16]}-{latent_map.segment or 0}-{latent_map.settings.layout}.npz"
    )
    old = set(_find_map_paths(searcher, latent_map.encoder, latent_map.settings.layout)) - {path}
    with translate_write_errors(path):
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, latent_map.save)
        for one in old:
            one.unlink(missing_ok=True)
    tiles = get_maps_folder(searcher) / f"tiles-{latent_map.settings.layout}"
    for other in tiles.glob(f"{latent_map.encoder[:16]}-*"):
        if other.name != f"{latent_map.encoder[:16]}-{latent_map.tag}":
            shutil.rmtree(other, ignore_errors=True)


def get_maps_folder(searcher: Searcher) -> Path:
    """Where maps and their tiles are kept."""
    return searcher.home.root / "maps"


def _compute_map(
    posterior: AggregatePosterior,
    segment: int | None,
    map_settings: MapSettings,
    known_map: LatentMap | None,
    on_progress: OnProgress,
) -> LatentMap:
    """A new map; where `known` is of the same pictures, what they have in common is taken from it."""
    vectors, count = posterior.get_index_vectors(), len(posterior)
    if known_map is not None and (known_map.settings.layout, known_map.settings.seed) == (
        map_settings.layout,
        map_settings.seed,
    ):
        order = np.searchsorted(posterior.ids, known_map.ids)
        points, density = known_map.points, known_map.density
    else:
        on_progress(f"laying out ({map_settings.layout})", 0, count)
        placed = compute_layout(vectors, map_settings.layout, map_settings.seed)
        order = compute_hilbert_order(placed)
        points, density = placed[order], _compute_density_ranks(vectors, map_settings.seed, on_progress)[order]
    on_progress(f"finding clusters ({map_settings.clusters})", 0, count)
    clusters = find_clusters(vectors, map_settings.clusters, map_settings.count, map_settings.seed)
    ids = posterior.ids
    stands_for = ids[find_typical_rows(vectors, clusters)]
    return LatentMap(
        map_settings, posterior.encoder.fingerprint, segment, ids[order], points, clusters[order], density, stands_for
    )


def _compute_density_ranks(vectors: FloatArray, seed: int, on_progress: OnProgress) -> FloatArray:
    if len(vectors) < 2:
        return np.full(len(vectors), np.nan, np.float32)
    distances, _ = compute_neighbour_distances(vectors, seed, lambda done: on_progress("comparing", done, len(vectors)))
    return compute_percentile_ranks(-distances)


def compute_percentile_ranks(values: NDArray[np.float64]) -> FloatArray:
    """The share of the others (n,) that are smaller, from 0 to 1; NaN stays NaN and counts for nothing."""
    known = np.isfinite(values)
    found = np.full(len(values), np.nan, np.float32)
    below = np.searchsorted(np.sort(values[known]), values[known], "left")
    found[known] = below / max(1, known.sum() - 1)
    return found


def compute_hilbert_order(points: FloatArray) -> NDArray[np.int64]:
    """The order (n,) in which a curve that fills the plane comes by points (n, 2): near in it means near in the plane.

    Hilbert, 1891; by the loop over bits of https://en.wikipedia.org/wiki/Hilbert_curve.
    """
    last = (1 << HILBERT_BITS) - 1
    x, y = np.clip(np.round((points.T + 1) / 2 * last), 0, last).astype(np.int64)
    along = np.zeros(len(points), np.int64)
    for bit in range(HILBERT_BITS - 1, -1, -1):
        side = 1 << bit
        right, upper = (x & side) > 0, (y & side) > 0
        along += side * side * ((3 * right) ^ upper)
        turned = ~upper & right
        x, y = np.where(turned, last - x, x), np.where(turned, last - y, y)
        x, y = np.where(upper, x, y), np.where(upper, y, x)
    return np.argsort(along, kind="stable")


def _find_map_paths(searcher: Searcher, encoder: str, layout: str) -> Iterator[Path]:
    return get_maps_folder(searcher).glob(f"{encoder[:16]}-*-{layout}.npz")


def _get_modification_time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another process has just made a newer one
        return 0.0
