"""What one query searches: the vectors of one encoder as of one commit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from sqlalchemy import Connection, select

from simile.core.records import FloatArray
from simile.store.catalogue.embeddings import vectors_since
from simile.store.catalogue.records import EncoderRecord, State
from simile.store.database.tables import DeletionRow
from simile.store.index.delta import NewerRows
from simile.store.index.flat import NO_IDS, Ids, Neighbours, VectorIndex, merge
from simile.store.index.metric import to_indexed

SMALL = 2048  # rows: a part takes 15 µs of each query whatever it holds, and copying so few takes 1 ms


@dataclass(frozen=True)
class Part:
    """Some of the vectors; `masked` are ids in `index` that are deleted, or newer in a later part."""

    index: VectorIndex
    masked: Ids

    def __len__(self) -> int:
        return len(self.index) - len(self.masked)

    def without(self, ids: Ids) -> Part:
        """The same, with these ids masked too."""
        more = self.index.present(ids)
        return replace(self, masked=np.union1d(self.masked, more)) if len(more) else self

    def nearer(self, query: FloatArray, best: Neighbours, k: int, only: Ids | None) -> Neighbours:
        """The k nearest of a query (1, d) among `best` and what is here: only what is as near as the last of them."""
        if len(best[0]) < k:
            found = self.index.search(query, k, self.masked, only)[0]
        else:
            found = self.index.range(query, float(best[1][-1]), self.masked, only)[0]
        return merge([best, found], k) if len(found[0]) else best

    def living(self) -> Ids:
        """The ids that are not masked, ascending."""
        return np.setdiff1d(self.index.ids, self.masked, assume_unique=True)


@dataclass(frozen=True)
class Snapshot:
    """Never changes, so any number of threads may search it. `parts`: first the segment, then what is newer.

    `base`: the segment's id. While a newer one is being opened, it is not that of `state`.
    """

    state: State
    encoder: EncoderRecord
    base: int | None
    parts: tuple[Part, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def pending(self) -> int:
        """How many rows a new segment would take in, or leave out."""
        segment, *newer = self.parts
        return len(segment.masked) + sum(map(len, newer))

    def search(self, queries: FloatArray, k: int, only: Ids | None = None) -> list[Neighbours]:
        """The k nearest of each query (n, d'), among `only` these ids where they are given."""
        segment, *newer = self.parts
        found = segment.index.search(queries, k, segment.masked, only)
        for part in newer:
            found = [part.nearer(query[None], best, k, only) for query, best in zip(queries, found, strict=True)]
        return found

    def range(self, queries: FloatArray, radius: float, only: Ids | None = None) -> list[Neighbours]:
        """All vectors within `radius` of each query (n, d'), among `only` these ids where they are given."""
        answers = [part.index.range(queries, radius, part.masked, only) for part in self.parts]
        return [merge(of_one_query) for of_one_query in zip(*answers, strict=True)]

    def vectors(self, ids: Ids) -> tuple[Ids, FloatArray]:
        """Those of the ids that a search can find, ascending, and what is compared of them (m, d')."""
        found, vectors = [NO_IDS], [np.empty((0, self.encoder.indexed_dimensions), np.float32)]
        for part in self.parts:
            here = part.index.present(ids)
            if len(part.masked):
                here = np.setdiff1d(here, part.masked, assume_unique=True)
            if len(here):
                found.append(here)
                vectors.append(part.index.vectors(here))
        together = np.concatenate(found)
        order = np.argsort(together)
        return together[order], np.concatenate(vectors)[order]

    def living(self) -> Ids:
        """The ids that a search can find, ascending."""
        return np.sort(np.concatenate([part.living() for part in self.parts]))

    def extended(self, connection: Connection, state: State, since: int) -> Snapshot:
        """The snapshot at `state`, with what was committed after change `since`, read through `connection`."""
        newer = NewerRows.of(self.encoder.indexed_dimensions, indexed_vectors(connection, self.encoder, since))
        deletions = select(DeletionRow.image_id).where(DeletionRow.change > since)
        deleted = np.array(connection.scalars(deletions).all(), np.int64)
        outdated = np.union1d(newer.ids, deleted)
        parts = [part.without(outdated) for part in self.parts]
        if len(newer):
            parts.append(Part(newer, NO_IDS))
        return replace(self, state=state, parts=_compacted(parts))


def indexed_vectors(connection: Connection, encoder: EncoderRecord, since: int = 0) -> Iterator[tuple[Ids, FloatArray]]:
    """(ids (m,), vectors (m, d')) as they are compared, in chunks of ascending ids, written after change `since`."""
    for ids, mu in vectors_since(connection, encoder, since):
        yield ids, to_indexed(mu, encoder.index_dims, encoder.metric)


def _compacted(parts: list[Part]) -> tuple[Part, ...]:
    """Joins the newest parts while they are small, or one is not twice as large as the next.

    So there are at most log2(rows) of them, and a row is copied about as many times. The segment stays as it is.
    """
    while len(parts) > 2 and (len(parts[-2]) < 2 * len(parts[-1]) or len(parts[-2]) + len(parts[-1]) < SMALL):
        two = [parts.pop(), parts.pop()]
        living = [(part.living(), part.index) for part in two]
        rows = NewerRows.of(two[0].index.dimensions, ((ids, index.vectors(ids)) for ids, index in living))
        parts.append(Part(rows, NO_IDS))
    return tuple(parts)
