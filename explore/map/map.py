"""The map of a collection: a point in the plane for each image, its cluster, and the local density.

Maps are stored in HOME/maps by encoder, segment and layout. They are derived data and may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from simile.core.arrays import ARRAY_FILE_ERRORS, read_arrays, write_arrays
from simile.core.atomic_write import write_atomically
from simile.core.records import Float64Array, FloatArray
from simile.explore.arrays import OnProgress
from simile.explore.latent.aggregate_posterior import AggregatePosterior, load_aggregate_posterior
from simile.explore.latent.measurements import measure_images
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

HILBERT_BITS = 10  # of each coordinate on the Hilbert curve: 1024 x 1024 cells
_ROW_ARRAYS = ("ids", "points", "clusters", "density")  # one row for each image


@dataclass(frozen=True)
class MapSettings:
    """Settings of a map. count: as of `find_clusters`; None for the default."""

    layout: LayoutName = "pca"
    clusters: ClusterMethod = "kmeans"
    count: int | None = None
    seed: int = 0

    def check(self, images: int) -> None:
        """Check the settings for so many images. Raises BadSetting, TooFewPictures."""
        check_layout(self.layout, images)
        check_cluster_settings(self.clusters, self.count)


@dataclass(frozen=True, eq=False, kw_only=True)
class LatentMap:
    """A map of n images in c clusters."""

    settings: MapSettings
    encoder: str  # fingerprint of the encoder
    segment: int | None  # index segment; None before the first one
    ids: Ids  # image ids (n,), in the order of a Hilbert curve: neighbours in the plane are near each other in the list
    points: FloatArray  # (n, 2), float32, in [-1, 1]
    clusters: ClusterNumbers  # cluster (n,) of each image, as of `find_clusters`
    density: FloatArray  # fraction (n,), float32, of images in thinner places; NaN for a single image
    typical: Ids  # id (c,) of the most typical image of each cluster

    @property
    def tag(self) -> str:
        """Return a hash of the content."""
        parts = (self.encoder.encode(), self.ids.tobytes(), self.points.tobytes(), self.clusters.tobytes())
        return hashlib.sha256(b"".join(parts)).hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Write the map as an .npz file without pickles."""
        write_arrays(
            path,
            layout=self.settings.layout,
            method=self.settings.clusters,
            count=self.settings.count or 0,
            seed=self.settings.seed,
            encoder=self.encoder,
            segment=-1 if self.segment is None else self.segment,
            typical=self.typical,
            **{name: getattr(self, name) for name in _ROW_ARRAYS},
        )

    @classmethod
    def load(cls, path: Path) -> LatentMap:
        """Read a map. Raises one of ARRAY_FILE_ERRORS for any other file."""
        stored = read_arrays(path)
        layout, method = str(stored["layout"]), str(stored["method"])
        count, seed, segment = int(stored["count"]) or None, int(stored["seed"]), int(stored["segment"])
        latent_map = cls(
            settings=MapSettings(layout, method, count, seed),  # type: ignore[arg-type]
            encoder=str(stored["encoder"]),
            segment=None if segment < 0 else segment,
            typical=stored["typical"],
            **{name: stored[name] for name in _ROW_ARRAYS},
        )
        lengths = {len(getattr(latent_map, name)) for name in _ROW_ARRAYS}
        if len(lengths) > 1 or not len(latent_map.ids) or latent_map.points.shape[1:] != (2,):
            raise ValueError("the arrays of the map don't have the same length")
        return latent_map


def make_map(searcher: Searcher, map_settings: MapSettings, on_progress: OnProgress) -> LatentMap:
    """Make and store the map of all images. A stored map of the same images and settings is returned instead.

    Raises NothingIndexed, BadSetting, TooFewPictures, HomeNotWritable.
    """
    posterior = load_aggregate_posterior(searcher)
    map_settings.check(len(posterior))
    segment = searcher.index.get_snapshot().base_segment_id
    stored = load_stored_map(searcher, map_settings.layout)
    if stored is not None and not np.array_equal(np.sort(stored.ids), posterior.ids):
        stored = None  # the collection has changed since
    if stored is not None and stored.settings == map_settings:
        return stored
    latent_map = _compute_map(posterior, segment, map_settings, stored, on_progress)
    save_map(searcher, latent_map)
    return latent_map


def measure_reconstruction_errors(searcher: Searcher, ids: Ids, on_progress: OnProgress) -> None:
    """Measure and store the reconstruction error of each image; do nothing without a decoder."""
    if searcher.get_encoder().has_decoder:
        measure_images(searcher, np.sort(ids), on_progress)


def load_stored_map(searcher: Searcher, layout: LayoutName) -> LatentMap | None:
    """Load the latest map of a layout by the active encoder; None if it is missing or damaged."""
    path = find_map_path(searcher, layout)
    if path is not None:
        with suppress(*ARRAY_FILE_ERRORS):
            return LatentMap.load(path)
    return None


def find_map_path(searcher: Searcher, layout: LayoutName) -> Path | None:
    """Return the path of the latest map of a layout by the active encoder, if there is one."""
    encoder = searcher.catalogue.get_state().active_encoder
    paths = [] if encoder is None else list(_find_map_paths(searcher, encoder, layout))
    return max(paths, key=_get_modification_time, default=None)


def save_map(searcher: Searcher, latent_map: LatentMap) -> None:
    """Store a map, and delete older maps of its encoder and layout with their tiles. Raises HomeNotWritable."""
    encoder, layout = latent_map.encoder[:16], latent_map.settings.layout
    path = get_maps_folder(searcher) / f"{encoder}-{latent_map.segment or 0}-{layout}.npz"
    old_paths = set(_find_map_paths(searcher, latent_map.encoder, layout)) - {path}
    with translate_write_errors(path):
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, latent_map.save)
        for old_path in old_paths:
            old_path.unlink(missing_ok=True)
    tiles = get_tiles_folder(searcher, latent_map)
    for folder in tiles.parent.glob(f"{encoder}-*"):
        if folder != tiles:
            shutil.rmtree(folder, ignore_errors=True)


def get_maps_folder(searcher: Searcher) -> Path:
    """Return the folder of the maps in the home."""
    return searcher.home.root / "maps"


def get_tiles_folder(searcher: Searcher, latent_map: LatentMap) -> Path:
    """Return the folder of the tiles of a map."""
    layout_folder = get_maps_folder(searcher) / f"tiles-{latent_map.settings.layout}"
    return layout_folder / f"{latent_map.encoder[:16]}-{latent_map.tag}"


def compute_percentile_ranks(values: Float64Array) -> FloatArray:
    """Return for each value (n,) the fraction of the others that are smaller, 0 to 1. NaN stays NaN."""
    count = np.isfinite(values).sum()
    ranks: FloatArray = ((rankdata(values, "min", nan_policy="omit") - 1) / max(1, count - 1)).astype(np.float32)
    return ranks


def compute_hilbert_order(points: FloatArray) -> NDArray[np.int64]:
    """Return the order (n,) of points (n, 2) along a Hilbert curve: near in the order means near in the plane.

    Hilbert, 1891; computed bit by bit as on https://en.wikipedia.org/wiki/Hilbert_curve.
    """
    last = (1 << HILBERT_BITS) - 1
    x, y = np.clip(np.round((points.T + 1) / 2 * last), 0, last).astype(np.int64)
    distance = np.zeros(len(points), np.int64)  # along the curve
    for bit in range(HILBERT_BITS - 1, -1, -1):
        # Find the quadrant, and add the length of the curve in the quadrants before it.
        side = 1 << bit
        is_right, is_upper = (x & side) > 0, (y & side) > 0
        distance += side * side * ((3 * is_right) ^ is_upper)
        # Rotate the quadrant.
        is_flipped = ~is_upper & is_right
        x, y = np.where(is_flipped, last - x, x), np.where(is_flipped, last - y, y)
        x, y = np.where(is_upper, x, y), np.where(is_upper, y, x)
    return np.argsort(distance, kind="stable")


def _compute_map(
    posterior: AggregatePosterior,
    segment: int | None,
    map_settings: MapSettings,
    stored_map: LatentMap | None,
    on_progress: OnProgress,
) -> LatentMap:
    """Compute a map. Points of a stored map of the same images are used again if layout and seed are the same."""
    vectors, count, seed = posterior.get_index_vectors(), len(posterior), map_settings.seed
    # Points and density, which don't depend on the cluster settings.
    if stored_map is not None and (stored_map.settings.layout, stored_map.settings.seed) == (map_settings.layout, seed):
        order = np.searchsorted(posterior.ids, stored_map.ids)
        points, density = stored_map.points, stored_map.density
    else:
        on_progress(f"laying out ({map_settings.layout})", 0, count)
        points = compute_layout(vectors, map_settings.layout, seed)
        density = np.full(count, np.nan, np.float32)
        if count > 1:
            distances, _ = compute_neighbour_distances(
                vectors, seed, lambda done: on_progress("comparing", done, count)
            )
            density = compute_percentile_ranks(-distances)
        order = compute_hilbert_order(points)
        points, density = points[order], density[order]
    # Clusters.
    on_progress(f"finding clusters ({map_settings.clusters})", 0, count)
    clusters = find_clusters(vectors, map_settings.clusters, map_settings.count, seed)
    return LatentMap(
        settings=map_settings,
        encoder=posterior.encoder.fingerprint,
        segment=segment,
        ids=posterior.ids[order],
        points=points,
        clusters=clusters[order],
        density=density,
        typical=posterior.ids[find_typical_rows(vectors, clusters)],
    )


def _find_map_paths(searcher: Searcher, encoder: str, layout: str) -> Iterator[Path]:
    return get_maps_folder(searcher).glob(f"{encoder[:16]}-*-{layout}.npz")


def _get_modification_time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another process has just replaced it by a newer map
        return 0.0
