"""A map as of now: without what was deleted since it was made, with what is newer beside its nearest pictures."""

from __future__ import annotations

import os
import os.path
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

FOLDER_LABEL = "folder"  # what labels by folder are called
MAX_NEWER_IMAGES = 2000  # pictures that are put beside others while somebody waits: below a second
MAX_LABEL_NAMES = 20  # that have a name and a colour of their own, the commonest
MAX_LABEL_VALUES = 60  # different texts beyond which something said of pictures is no label


@dataclass(frozen=True, eq=False)
class MapView:
    """ids, place, clusters, density: (n,); points: (n, 2). place: the row in the map, -1 for what is newer than it.

    newer: how many are newer and shown; missing: and not shown, as there are too many for that. change: the state of
    the catalogue.
    """

    map: LatentMap
    catalogue_changes: int
    ids: Ids
    map_rows: Ids
    points: FloatArray
    clusters: ClusterNumbers
    density: FloatArray
    newer_count: int
    missing_count: int


@dataclass(frozen=True, eq=False)
class MapLabels:
    """What pictures are called by something that is said of them. index (n,) into names, -1 for none of them."""

    source: str
    names: tuple[str, ...]
    label_ids: ClusterNumbers


@dataclass(frozen=True)
class MapCluster:
    """Pictures that go together: how many, the most typical one, the middle of them, and their commonest label."""

    number: int
    size: int
    typical: int
    x: float
    y: float
    label: str | None


def make_map_view(searcher: Searcher, latent_map: LatentMap) -> MapView:
    """The map as of now. Raises NothingIndexed."""
    snapshot = searcher.index.get_snapshot()
    living = snapshot.get_live_ids()
    kept = np.flatnonzero(np.isin(latent_map.ids, living, assume_unique=True))
    newer = np.setdiff1d(living, latent_map.ids, assume_unique=True)
    shown = newer[:MAX_NEWER_IMAGES] if len(kept) else newer[:0]
    points, clusters, density = latent_map.points[kept], latent_map.clusters[kept], latent_map.density[kept]
    if len(shown):
        ids, vectors = snapshot.get_vectors(shown)
        _, known_vectors = snapshot.get_vectors(np.sort(latent_map.ids[kept]))
        order = np.argsort(latent_map.ids[kept])
        places = interpolate_points(vectors, known_vectors, points[order])
        nearest = _find_nearest_rows(vectors, known_vectors)
        clusters = np.append(clusters, clusters[order][nearest])
        points = np.concatenate([points, places])
        density = np.append(density, np.full(len(ids), np.nan, np.float32))
    return MapView(
        map=latent_map,
        catalogue_changes=snapshot.state.changes,
        ids=np.append(latent_map.ids[kept], shown),
        map_rows=np.append(kept, np.full(len(shown), -1)),
        points=points,
        clusters=clusters,
        density=density,
        newer_count=len(shown),
        missing_count=len(newer) - len(shown),
    )


def compute_error_ranks(searcher: Searcher, view: MapView) -> FloatArray:
    """The share (n,) of pictures that are reconstructed better; NaN where the error was never measured."""
    measured = load_measurements(searcher, np.sort(view.ids))
    found = np.empty(len(view.ids))
    found[np.argsort(view.ids)] = measured.error
    return compute_percentile_ranks(found)


def make_clusters(view: MapView, labels: MapLabels | None) -> list[MapCluster]:
    """Every cluster that still has pictures, the largest first."""
    found = []
    for number, typical in enumerate(view.map.typical.tolist()):
        members = np.flatnonzero(view.clusters == number)
        if len(members):
            x, y = np.median(view.points[members], axis=0).tolist()
            is_there = bool((view.ids[members] == typical).any())
            stands_for = typical if is_there else int(view.ids[members[0]])
            found.append(MapCluster(number, len(members), stands_for, x, y, _find_commonest_label(labels, members)))
    return sorted(found, key=lambda one: (-one.size, one.number))


def load_labels(searcher: Searcher, ids: Ids) -> list[MapLabels]:
    """Everything that tells the pictures apart by name: their folder, and what is said of them, few texts each."""
    wanted = ids.tolist()
    facts = searcher.catalogue.images.get_summaries(sorted(wanted))  # half a second for 50,000, as a page waits for it
    folders = {image_id: one.paths[0].rpartition(os.sep)[0] for image_id, one in facts.items() if one.paths}
    said = searcher.catalogue.metadata.get_for_images(sorted(wanted))
    texts: dict[str, dict[int, str]] = {FOLDER_LABEL: _shorten_folders(folders)}
    for image_id, one in said.items():
        for name, text in one.items():
            texts.setdefault(name if name != FOLDER_LABEL else "metadata folder", {})[image_id] = text
    found = [_make_labels(name, of_ids, wanted) for name, of_ids in texts.items()]
    return [one for one in found if one is not None]


def _make_labels(source: str, texts: Mapping[int, str], ids: Sequence[int]) -> MapLabels | None:
    counts = Counter(texts.values())
    if len(counts) < 2 or (source != FOLDER_LABEL and len(counts) > MAX_LABEL_VALUES):
        return None
    names = tuple(sorted(name for name, _ in counts.most_common(MAX_LABEL_NAMES)))
    number = {name: place for place, name in enumerate(names)}
    return MapLabels(source, names, np.array([number.get(texts.get(one, ""), -1) for one in ids], np.int32))


def _shorten_folders(folders: Mapping[int, str]) -> dict[int, str]:
    """Without what all of them have in common."""
    different = set(folders.values())
    try:
        common = os.path.commonpath(different) if different else ""
    except ValueError:  # drives of Windows
        common = ""
    short = {one: os.path.relpath(one, common) if common else one for one in different}
    return {image_id: short[folder] for image_id, folder in folders.items()}


def _find_commonest_label(labels: MapLabels | None, members: NDArray[np.int64]) -> str | None:
    """The label of at least half of these rows."""
    if labels is None:
        return None
    known = labels.label_ids[members]
    known = known[known >= 0]
    if not len(known):
        return None
    counts = np.bincount(known)
    return labels.names[int(counts.argmax())] if 2 * counts.max() >= len(members) else None


def _find_nearest_rows(vectors: FloatArray, known_vectors: FloatArray) -> NDArray[np.int64]:
    """The row (m,) of known (n, d) nearest to each of vectors (m, d)."""
    squares = np.square(known_vectors).sum(axis=1)
    blocks = [vectors[start : start + 256] for start in range(0, len(vectors), 256)]
    return np.concatenate([(squares - 2 * block @ known_vectors.T).argmin(axis=1) for block in blocks])
