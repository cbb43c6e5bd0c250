"""What one query searches: the vectors of one encoder as of one commit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from sqlalchemy import Connection, select

from simile.core.records import FloatArray
from simile.store.catalogue.embeddings import iterate_vectors_since
from simile.store.catalogue.records import CatalogueState, EncoderRecord
from simile.store.database.tables import DeletionRow
from simile.store.index.delta import DeltaIndex
from simile.store.index.flat import NO_IDS, Ids, Neighbours, VectorIndex, merge_neighbours
from simile.store.index.metric import make_index_vectors

MIN_DELTA_ROWS = 2048  # rows: a part takes 15 µs of each query whatever it holds, and copying so few takes 1 ms


@dataclass(frozen=True)
class IndexSegment:
    """Some of the vectors; `masked` are ids in `index` that are deleted, or newer in a later part."""

    index: VectorIndex
    masked_ids: Ids

    def __len__(self) -> int:
        return len(self.index) - len(self.masked_ids)

    def mask(self, ids: Ids) -> IndexSegment:
        """The same, with these ids masked too."""
        more = self.index.find_present(ids)
        return replace(self, masked_ids=np.union1d(self.masked_ids, more)) if len(more) else self

    def merge_nearest(self, query: FloatArray, best: Neighbours, k: int, allowed_ids: Ids | None) -> Neighbours:
        """The k nearest of a query (1, d) among `best` and what is here: only what is as near as the last of them."""
        if len(best[0]) < k:
            found = self.index.search(query, k, self.masked_ids, allowed_ids)[0]
        else:
            found = self.index.range(query, float(best[1][-1]), self.masked_ids, allowed_ids)[0]
        return merge_neighbours([best, found], k) if len(found[0]) else best

    def get_live_ids(self) -> Ids:
        """The ids that are not masked, ascending."""
        return np.setdiff1d(self.index.ids, self.masked_ids, assume_unique=True)


@dataclass(frozen=True)
class Snapshot:
    """Never changes, so any number of threads may search it. `parts`: first the segment, then what is newer.

    `base`: the segment's id. While a newer one is being opened, it is not that of `state`.
    """

    state: CatalogueState
    encoder: EncoderRecord
    base_segment_id: int | None
    segments: tuple[IndexSegment, ...]

    def __len__(self) -> int:
        return sum(map(len, self.segments))

    @property
    def pending_count(self) -> int:
        """How many rows a new segment would take in, or leave out."""
        segment, *newer = self.segments
        return len(segment.masked_ids) + sum(map(len, newer))

    def search(self, queries: FloatArray, k: int, allowed_ids: Ids | None = None) -> list[Neighbours]:
        """The k nearest of each query (n, d'), among `only` these ids where they are given."""
        segment, *newer = self.segments
        found = segment.index.search(queries, k, segment.masked_ids, allowed_ids)
        for part in newer:
            found = [
                part.merge_nearest(query[None], best, k, allowed_ids)
                for query, best in zip(queries, found, strict=True)
            ]
        return found

    def range(self, queries: FloatArray, radius: float, allowed_ids: Ids | None = None) -> list[Neighbours]:
        """All vectors within `radius` of each query (n, d'), among `only` these ids where they are given."""
        answers = [part.index.range(queries, radius, part.masked_ids, allowed_ids) for part in self.segments]
        return [merge_neighbours(of_one_query) for of_one_query in zip(*answers, strict=True)]

    def get_vectors(self, ids: Ids) -> tuple[Ids, FloatArray]:
        """Those of the ids that a search can find, ascending, and what is compared of them (m, d')."""
        found, vectors = [NO_IDS], [np.empty((0, self.encoder.indexed_dimensions), np.float32)]
        for part in self.segments:
            here = part.index.find_present(ids)
            if len(part.masked_ids):
                here = np.setdiff1d(here, part.masked_ids, assume_unique=True)
            if len(here):
                found.append(here)
                vectors.append(part.index.get_vectors(here))
        together = np.concatenate(found)
        order = np.argsort(together)
        return together[order], np.concatenate(vectors)[order]

    def get_live_ids(self) -> Ids:
        """The ids that a search can find, ascending."""
        return np.sort(np.concatenate([part.get_live_ids() for part in self.segments]))

    def extend(self, connection: Connection, state: CatalogueState, after_change: int) -> Snapshot:
        """The snapshot at `state`, with what was committed after change `since`, read through `connection`."""
        newer = DeltaIndex.from_chunks(
            self.encoder.indexed_dimensions, iterate_index_vectors(connection, self.encoder, after_change)
        )
        deletions = select(DeletionRow.image_id).where(DeletionRow.change > after_change)
        deleted = np.array(connection.scalars(deletions).all(), np.int64)
        outdated = np.union1d(newer.ids, deleted)
        parts = [part.mask(outdated) for part in self.segments]
        if len(newer):
            parts.append(IndexSegment(newer, NO_IDS))
        return replace(self, state=state, segments=_compact_segments(parts))


def iterate_index_vectors(
    connection: Connection, encoder: EncoderRecord, after_change: int = 0
) -> Iterator[tuple[Ids, FloatArray]]:
    """(ids (m,), vectors (m, d')) as they are compared, in chunks of ascending ids, written after change `since`."""
    for ids, mu in iterate_vectors_since(connection, encoder, after_change):
        yield ids, make_index_vectors(mu, encoder.index_dims, encoder.metric)


def _compact_segments(segments: list[IndexSegment]) -> tuple[IndexSegment, ...]:
    """Joins the newest parts while they are small, or one is not twice as large as the next.

    So there are at most log2(rows) of them, and a row is copied about as many times. The segment stays as it is.
    """
    while len(segments) > 2 and (
        len(segments[-2]) < 2 * len(segments[-1]) or len(segments[-2]) + len(segments[-1]) < MIN_DELTA_ROWS
    ):
        two = [segments.pop(), segments.pop()]
        living = [(part.get_live_ids(), part.index) for part in two]
        rows = DeltaIndex.from_chunks(two[0].index.dimensions, ((ids, index.get_vectors(ids)) for ids, index in living))
        segments.append(IndexSegment(rows, NO_IDS))
    return tuple(segments)
