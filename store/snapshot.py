"""What one query searches: the vectors of one encoder as of one commit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from sqlalchemy import Connection, select

from core.records import FloatArray
from store.distances import to_indexed
from store.embeddings import vectors_since
from store.records import EncoderRecord, State
from store.tables import DeletionRow
from store.vectors import NO_IDS, FlatIndex, Ids, Neighbours, VectorIndex, merge


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

    def living(self) -> Ids:
        """The ids that are not masked, ascending."""
        return np.setdiff1d(self.index.ids, self.masked, assume_unique=True)


@dataclass(frozen=True)
class Snapshot:
    """Never changes, so any number of threads may search it. `parts`: first the segment, then what is newer."""

    state: State
    encoder: EncoderRecord
    parts: tuple[Part, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def pending(self) -> int:
        """How many rows a new segment would take in, or leave out."""
        segment, *newer = self.parts
        return len(segment.masked) + sum(map(len, newer))

    def search(self, queries: FloatArray, k: int) -> list[Neighbours]:
        """The k nearest of each query (n, d')."""
        return self._ask(lambda part: part.index.search(queries, k, part.masked), k)

    def range(self, queries: FloatArray, radius: float) -> list[Neighbours]:
        """All vectors within `radius` of each query (n, d')."""
        return self._ask(lambda part: part.index.range(queries, radius, part.masked), None)

    def _ask(self, question: Callable[[Part], list[Neighbours]], k: int | None) -> list[Neighbours]:
        answers = [question(part) for part in self.parts]
        return [merge(of_one_query, k) for of_one_query in zip(*answers, strict=True)]

    def extended(self, connection: Connection, state: State, since: int) -> Snapshot:
        """The snapshot at `state`, with what was committed after change `since`, read through `connection`."""
        newer = read_index(connection, self.encoder, since)
        deletions = select(DeletionRow.image_id).where(DeletionRow.change > since)
        deleted = np.array(connection.scalars(deletions).all(), np.int64)
        outdated = np.union1d(newer.ids, deleted)
        parts = [part.without(outdated) for part in self.parts]
        if len(newer):
            parts.append(Part(newer, NO_IDS))
        return Snapshot(state, self.encoder, _compacted(parts))


def read_index(connection: Connection, encoder: EncoderRecord, since: int = 0) -> FlatIndex:
    """The encoder's vectors that were written after change `since`, as they are compared."""
    index = FlatIndex(encoder.indexed_dimensions)
    for ids, mu in vectors_since(connection, encoder, since):
        index.add(ids, to_indexed(mu, encoder.index_dims, encoder.metric))
    return index


def _compacted(parts: list[Part]) -> tuple[Part, ...]:
    """Joins the newest parts while one is not twice as large as the next.

    So there are at most log2(rows) of them, and a row is copied at most as many times. The segment stays as it is.
    """
    while len(parts) > 2 and len(parts[-2]) < 2 * len(parts[-1]):
        two = [parts.pop(), parts.pop()]
        joined = FlatIndex(two[0].index.dimensions)
        ids = [part.living() for part in two]
        joined.add(
            np.concatenate(ids), np.concatenate([part.index.vectors(i) for part, i in zip(two, ids, strict=True)])
        )
        parts.append(Part(joined, NO_IDS))
    return tuple(parts)
