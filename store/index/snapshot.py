"""The vectors of one encoder as of one commit: what a query searches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from sqlalchemy import Connection, select

from simile.core.records import FloatArray
from simile.store.catalogue.embeddings import iterate_vectors_since
from simile.store.catalogue.records import EncoderRecord
from simile.store.database.tables import DeletionRow
from simile.store.database.transactions import CatalogueState
from simile.store.index.flat import NO_IDS, FlatIndex, Ids, Neighbours, VectorIndex, merge_neighbours
from simile.store.index.metric import make_index_vectors

MIN_DELTA_ROWS = 2048  # smaller deltas are merged: each costs every query some 100 µs, and copying this many rows 1 ms


@dataclass(frozen=True)
class IndexSegment:
    """A part of a snapshot."""

    index: VectorIndex
    masked_ids: Ids  # ids of `index` that are deleted, or replaced in a later part

    def __len__(self) -> int:
        return len(self.index) - len(self.masked_ids)

    def mask(self, ids: Ids) -> IndexSegment:
        """Return a copy in which these ids are masked too."""
        present = self.index.find_present(ids)
        return replace(self, masked_ids=np.union1d(self.masked_ids, present)) if len(present) else self

    def merge_nearest(self, query: FloatArray, best: Neighbours, k: int, allowed_ids: Ids | None) -> Neighbours:
        """Merge the neighbours of a query (1, d) in this part into the best ones so far; return the k nearest."""
        if len(best[0]) < k:
            found = self.index.search(query, k, self.masked_ids, allowed_ids)[0]
        else:  # only rows as near as the k-th neighbour matter
            found = self.index.range(query, float(best[1][-1]), self.masked_ids, allowed_ids)[0]
        return merge_neighbours([best, found], k) if len(found[0]) else best

    def get_live_ids(self) -> Ids:
        """Return the ids that are not masked, ascending."""
        return np.setdiff1d(self.index.ids, self.masked_ids, assume_unique=True)


@dataclass(frozen=True)
class Snapshot:
    """An immutable view of the vectors, which any number of threads may search."""

    state: CatalogueState  # at the commit
    encoder: EncoderRecord
    base_segment_id: int | None  # of the first segment; it differs from `state` while a newer one is being opened
    segments: tuple[IndexSegment, ...]  # the published segment, then deltas: vectors that are newer

    def __len__(self) -> int:
        return sum(map(len, self.segments))

    @property
    def pending_count(self) -> int:
        """How many rows are newer than the published segment, or deleted in it."""
        base, *deltas = self.segments
        return len(base.masked_ids) + sum(map(len, deltas))

    def search(self, queries: FloatArray, k: int, allowed_ids: Ids | None = None) -> list[Neighbours]:
        """Find the k nearest neighbours of each query (n, d'), among the allowed ids if they are given."""
        base, *deltas = self.segments
        results = base.index.search(queries, k, base.masked_ids, allowed_ids)
        for delta in deltas:
            results = [
                delta.merge_nearest(query[None], best, k, allowed_ids)
                for query, best in zip(queries, results, strict=True)
            ]
        return results

    def range(self, queries: FloatArray, radius: float, allowed_ids: Ids | None = None) -> list[Neighbours]:
        """Find all vectors within `radius` of each query (n, d'), among the allowed ids if they are given."""
        results = [part.index.range(queries, radius, part.masked_ids, allowed_ids) for part in self.segments]
        return [merge_neighbours(of_one_query) for of_one_query in zip(*results, strict=True)]

    def get_vectors(self, ids: Ids) -> tuple[Ids, FloatArray]:
        """Return those of the ids that a search can find, ascending, and their indexed vectors (m, d')."""
        found_ids, vectors = [NO_IDS], [np.empty((0, self.encoder.indexed_dimensions), np.float32)]
        for part in self.segments:
            live_ids = np.setdiff1d(part.index.find_present(ids), part.masked_ids, assume_unique=True)
            found_ids.append(live_ids)
            vectors.append(part.index.get_vectors(live_ids))
        all_ids = np.concatenate(found_ids)
        order = np.argsort(all_ids)
        return all_ids[order], np.concatenate(vectors)[order]

    def get_live_ids(self) -> Ids:
        """Return the ids that a search can find, ascending."""
        return np.sort(np.concatenate([part.get_live_ids() for part in self.segments]))

    def extend(self, connection: Connection, state: CatalogueState, after_change: int) -> Snapshot:
        """Return the snapshot at `state`: this one with everything that was committed after change `after_change`."""
        delta = FlatIndex.from_chunks(
            self.encoder.indexed_dimensions, iterate_index_vectors(connection, self.encoder, after_change)
        )
        deletions = select(DeletionRow.image_id).where(DeletionRow.change > after_change)
        deleted_ids = np.array(connection.scalars(deletions).all(), np.int64)
        outdated_ids = np.union1d(delta.ids, deleted_ids)
        parts = [part.mask(outdated_ids) for part in self.segments]
        if len(delta):
            parts.append(IndexSegment(delta, NO_IDS))
        return replace(self, state=state, segments=_merge_small_deltas(parts))


def iterate_index_vectors(
    connection: Connection, encoder: EncoderRecord, after_change: int = 0
) -> Iterator[tuple[Ids, FloatArray]]:
    """Yield (ids (m,), indexed vectors (m, d')) written after a change, in chunks of ascending ids."""
    for ids, mu in iterate_vectors_since(connection, encoder, after_change):
        yield ids, make_index_vectors(mu, encoder.index_dims, encoder.metric)


def _merge_small_deltas(segments: list[IndexSegment]) -> tuple[IndexSegment, ...]:
    """Merge the newest deltas while they are small, or while one is less than twice as large as the next.

    So there are at most log2(rows) deltas, and each row is copied about as many times. The first segment never changes.
    """
    while len(segments) > 2 and (
        len(segments[-2]) < 2 * len(segments[-1]) or len(segments[-2]) + len(segments[-1]) < MIN_DELTA_ROWS
    ):
        parts = [segments.pop(), segments.pop()]
        chunks = ((ids, part.index.get_vectors(ids)) for part in parts for ids in [part.get_live_ids()])
        segments.append(IndexSegment(FlatIndex.from_chunks(parts[0].index.dimensions, chunks), NO_IDS))
    return tuple(segments)
