"""A current view of a map: without images that were deleted since, with newer images near the most similar ones."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simile.core.records import FloatArray
from simile.explore.latent.measurements import load_measurements
from simile.explore.map.clustering import ClusterNumbers
from simile.explore.map.map import LatentMap, compute_percentile_ranks
from simile.explore.map.projection import interpolate_points
from simile.search.searcher import Searcher
from simile.store.index.flat import Ids

FOLDER_LABEL = "folder"  # name of the labels by folder
MAX_NEWER_IMAGES = 2000  # interpolated during a request: takes less than a second
MAX_LABEL_NAMES = 20  # names with their own colour, the most frequent ones
MAX_LABEL_VALUES = 60  # metadata with more different values are not useful as labels


@dataclass(frozen=True, eq=False, kw_only=True)
class MapView:
    """A view of n images."""

    map: LatentMap
    catalogue_changes: int  # state of the catalogue
    ids: Ids  # image ids (n,)
    map_rows: Ids  # row (n,) of each image in the map; -1 for a newer image
    points: FloatArray  # points (n, 2), float32
    clusters: ClusterNumbers  # cluster (n,) of each image
    density: FloatArray  # fraction (n,) of images in thinner places; NaN for a newer image
    newer_count: int  # number of newer images in the view
    missing_count: int  # number of newer images that are not in the view, as they are too many


@dataclass(frozen=True, eq=False)
class MapLabels:
    """Labels of n images from one source."""

    source: str  # `folder`, or a metadata field
    names: tuple[str, ...]  # the most frequent labels
    label_ids: ClusterNumbers  # index (n,) into `names`; -1 for any other label or none


@dataclass(frozen=True, kw_only=True)
class MapCluster:
    """One cluster of a view."""

    number: int
    size: int
    typical: int  # id of the most typical image
    x: float  # median of the points, like `y`
    y: float
    label: str | None  # the label of at least half of the images, if there is one


def make_map_view(searcher: Searcher, latent_map: LatentMap) -> MapView:
    """Make the current view of a map. Raises NothingIndexed."""
    snapshot = searcher.index.get_snapshot()
    live_ids = snapshot.get_live_ids()
    # Keep the images that still exist, and list the newer ones.
    rows = np.flatnonzero(np.isin(latent_map.ids, live_ids, assume_unique=True))
    newer_ids = np.setdiff1d(live_ids, latent_map.ids, assume_unique=True)
    added_ids = newer_ids[:MAX_NEWER_IMAGES] if len(rows) else newer_ids[:0]
    points, clusters, density = latent_map.points[rows], latent_map.clusters[rows], latent_map.density[rows]
    # Place newer images among their nearest neighbours in the map, in the cluster of the nearest one.
    if len(added_ids):
        from sklearn.metrics import pairwise_distances_argmin  # noqa: PLC0415  # slow to import, and rarely needed

        order = np.argsort(latent_map.ids[rows])
        _, added_vectors = snapshot.get_vectors(added_ids)
        _, known_vectors = snapshot.get_vectors(latent_map.ids[rows][order])
        nearest = pairwise_distances_argmin(added_vectors, known_vectors)
        clusters = np.append(clusters, clusters[order][nearest])
        points = np.concatenate([points, interpolate_points(added_vectors, known_vectors, points[order])])
        density = np.append(density, np.full(len(added_ids), np.nan, np.float32))
    return MapView(
        map=latent_map,
        catalogue_changes=snapshot.state.changes,
        ids=np.append(latent_map.ids[rows], added_ids),
        map_rows=np.append(rows, np.full(len(added_ids), -1)),
        points=points,
        clusters=clusters,
        density=density,
        newer_count=len(added_ids),
        missing_count=len(newer_ids) - len(added_ids),
    )


def compute_error_ranks(searcher: Searcher, view: MapView) -> FloatArray:
    """Return for each image (n,) the fraction that is reconstructed better; NaN if its error was never measured."""
    errors = np.empty(len(view.ids))
    errors[np.argsort(view.ids)] = load_measurements(searcher, np.sort(view.ids)).error
    return compute_percentile_ranks(errors)


def make_clusters(view: MapView, labels: MapLabels | None) -> list[MapCluster]:
    """Return all clusters that still have images, the largest first."""
    clusters = []
    for number, typical in enumerate(view.map.typical.tolist()):
        members = np.flatnonzero(view.clusters == number)
        if not len(members):
            continue
        member_ids = view.ids[members]
        x, y = np.median(view.points[members], axis=0).tolist()
        clusters.append(
            MapCluster(
                number=number,
                size=len(members),
                typical=typical if typical in member_ids else int(member_ids[0]),  # it may have been deleted
                x=x,
                y=y,
                label=_find_majority_label(labels, members),
            )
        )
    return sorted(clusters, key=lambda cluster: (-cluster.size, cluster.number))


def load_labels(searcher: Searcher, ids: Ids) -> list[MapLabels]:
    """Load all usable labels of images (n,): by folder, and by each metadata field with few different values."""
    sorted_ids = sorted(ids.tolist())
    # Summaries take half a second for 50,000 images, full records several seconds.
    summaries = searcher.catalogue.images.get_summaries(sorted_ids)
    folders = {
        image_id: summary.paths[0].rpartition(os.sep)[0] for image_id, summary in summaries.items() if summary.paths
    }
    values_by_source: dict[str, dict[int, str]] = {FOLDER_LABEL: _shorten_folders(folders)}
    for image_id, metadata in searcher.catalogue.metadata.get_for_images(sorted_ids).items():
        for field, value in metadata.items():
            source = field if field != FOLDER_LABEL else "metadata folder"
            values_by_source.setdefault(source, {})[image_id] = value
    labels = [_make_labels(source, values, ids.tolist()) for source, values in values_by_source.items()]
    return [label for label in labels if label is not None]


def _make_labels(source: str, values: Mapping[int, str], ids: Sequence[int]) -> MapLabels | None:
    """Make labels from the value of each image id; None if the values are too few or too many."""
    counts = Counter(values.values())
    if len(counts) < 2 or (source != FOLDER_LABEL and len(counts) > MAX_LABEL_VALUES):
        return None
    names = tuple(sorted(name for name, _ in counts.most_common(MAX_LABEL_NAMES)))
    numbers = {name: number for number, name in enumerate(names)}
    label_ids = np.array([numbers.get(values.get(image_id, ""), -1) for image_id in ids], np.int32)
    return MapLabels(source, names, label_ids)


def _shorten_folders(folders: Mapping[int, str]) -> dict[int, str]:
    """Remove the common parent of all folders."""
    distinct = set(folders.values())
    try:
        common = os.path.commonpath(distinct) if distinct else ""
    except ValueError:  # folders on several drives of Windows
        common = ""
    short = {folder: os.path.relpath(folder, common) if common else folder for folder in distinct}
    return {image_id: short[folder] for image_id, folder in folders.items()}


def _find_majority_label(labels: MapLabels | None, rows: NDArray[np.int64]) -> str | None:
    """Return the label of at least half of these rows, if there is one."""
    if labels is None:
        return None
    known = labels.label_ids[rows]
    known = known[known >= 0]
    if not len(known):
        return None
    counts = np.bincount(known)
    return labels.names[int(counts.argmax())] if 2 * counts.max() >= len(rows) else None
