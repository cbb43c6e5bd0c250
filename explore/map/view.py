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
from simile.explore.latent.measurements import known_measures
from simile.explore.map.clustering import Numbers
from simile.explore.map.map import Map, shares
from simile.explore.map.projection import beside
from simile.search.searcher import Searcher
from simile.store.index.flat import Ids

FOLDER = "folder"  # what labels by folder are called
MOST_NEWER = 2000  # pictures that are put beside others while somebody waits: below a second
MOST_LABELS = 20  # that have a name and a colour of their own, the commonest
MOST_TEXTS = 60  # different texts beyond which something said of pictures is no label


@dataclass(frozen=True, eq=False)
class MapView:
    """ids, place, clusters, density: (n,); points: (n, 2). place: the row in the map, -1 for what is newer than it.

    newer: how many are newer and shown; missing: and not shown, as there are too many for that. change: the state of
    the catalogue.
    """

    map: Map
    change: int
    ids: Ids
    place: Ids
    points: FloatArray
    clusters: Numbers
    density: FloatArray
    newer: int
    missing: int


@dataclass(frozen=True, eq=False)
class Labels:
    """What pictures are called by something that is said of them. index (n,) into names, -1 for none of them."""

    by: str
    names: tuple[str, ...]
    index: Numbers


@dataclass(frozen=True)
class Cluster:
    """Pictures that go together: how many, the most typical one, the middle of them, and their commonest label."""

    number: int
    size: int
    typical: int
    x: float
    y: float
    label: str | None


def view_of(searcher: Searcher, made: Map) -> MapView:
    """The map as of now. Raises NothingIndexed."""
    snapshot = searcher.index.current()
    living = snapshot.living()
    kept = np.flatnonzero(np.isin(made.ids, living, assume_unique=True))
    newer = np.setdiff1d(living, made.ids, assume_unique=True)
    shown = newer[:MOST_NEWER] if len(kept) else newer[:0]
    points, clusters, density = made.points[kept], made.clusters[kept], made.density[kept]
    if len(shown):
        ids, vectors = snapshot.vectors(shown)
        _, known_vectors = snapshot.vectors(np.sort(made.ids[kept]))
        order = np.argsort(made.ids[kept])
        places = beside(vectors, known_vectors, points[order])
        nearest = _nearest(vectors, known_vectors)
        clusters = np.append(clusters, clusters[order][nearest])
        points = np.concatenate([points, places])
        density = np.append(density, np.full(len(ids), np.nan, np.float32))
    return MapView(
        map=made,
        change=snapshot.state.changes,
        ids=np.append(made.ids[kept], shown),
        place=np.append(kept, np.full(len(shown), -1)),
        points=points,
        clusters=clusters,
        density=density,
        newer=len(shown),
        missing=len(newer) - len(shown),
    )


def errors_of(searcher: Searcher, view: MapView) -> FloatArray:
    """The share (n,) of pictures that are reconstructed better; NaN where the error was never measured."""
    measured = known_measures(searcher, np.sort(view.ids))
    found = np.empty(len(view.ids))
    found[np.argsort(view.ids)] = measured.error
    return shares(found)


def clusters_of(view: MapView, labels: Labels | None) -> list[Cluster]:
    """Every cluster that still has pictures, the largest first."""
    found = []
    for number, typical in enumerate(view.map.typical.tolist()):
        members = np.flatnonzero(view.clusters == number)
        if len(members):
            x, y = np.median(view.points[members], axis=0).tolist()
            is_there = bool((view.ids[members] == typical).any())
            stands_for = typical if is_there else int(view.ids[members[0]])
            found.append(Cluster(number, len(members), stands_for, x, y, _commonest(labels, members)))
    return sorted(found, key=lambda one: (-one.size, one.number))


def all_labels(searcher: Searcher, ids: Ids) -> list[Labels]:
    """Everything that tells the pictures apart by name: their folder, and what is said of them, few texts each."""
    wanted = ids.tolist()
    facts = searcher.catalogue.hit_facts(sorted(wanted))  # half a second for 50,000, as a page waits for it
    folders = {image_id: one.paths[0].rpartition(os.sep)[0] for image_id, one in facts.items() if one.paths}
    said = searcher.catalogue.metadata_of_images(sorted(wanted))
    texts: dict[str, dict[int, str]] = {FOLDER: _shortened(folders)}
    for image_id, one in said.items():
        for name, text in one.items():
            texts.setdefault(name if name != FOLDER else "metadata folder", {})[image_id] = text
    found = [_labels(name, of_ids, wanted) for name, of_ids in texts.items()]
    return [one for one in found if one is not None]


def _labels(by: str, texts: Mapping[int, str], ids: Sequence[int]) -> Labels | None:
    counts = Counter(texts.values())
    if len(counts) < 2 or (by != FOLDER and len(counts) > MOST_TEXTS):
        return None
    names = tuple(sorted(name for name, _ in counts.most_common(MOST_LABELS)))
    number = {name: place for place, name in enumerate(names)}
    return Labels(by, names, np.array([number.get(texts.get(one, ""), -1) for one in ids], np.int32))


def _shortened(folders: Mapping[int, str]) -> dict[int, str]:
    """Without what all of them have in common."""
    different = set(folders.values())
    try:
        common = os.path.commonpath(different) if different else ""
    except ValueError:  # drives of Windows
        common = ""
    short = {one: os.path.relpath(one, common) if common else one for one in different}
    return {image_id: short[folder] for image_id, folder in folders.items()}


def _commonest(labels: Labels | None, members: NDArray[np.int64]) -> str | None:
    """The label of at least half of these rows."""
    if labels is None:
        return None
    known = labels.index[members]
    known = known[known >= 0]
    if not len(known):
        return None
    counts = np.bincount(known)
    return labels.names[int(counts.argmax())] if 2 * counts.max() >= len(members) else None


def _nearest(vectors: FloatArray, known: FloatArray) -> NDArray[np.int64]:
    """The row (m,) of known (n, d) nearest to each of vectors (m, d)."""
    squares = np.square(known).sum(axis=1)
    blocks = [vectors[start : start + 256] for start in range(0, len(vectors), 256)]
    return np.concatenate([(squares - 2 * block @ known.T).argmin(axis=1) for block in blocks])
