"""Duplicates: the pairs that the last `simile dedup` found, and what people decided of pairs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, func, insert, or_, select

from simile.core.errors import BadSetting
from simile.core.records import Filter
from simile.store.catalogue.files import STREAM
from simile.store.catalogue.filters import conditions
from simile.store.catalogue.records import DecisionRecord, DuplicateRecord, LocatedImage
from simile.store.database.tables import DecisionRow, DuplicateRow, ImageRow, LocationRow, MetadataRow, now
from simile.store.database.transactions import Transactions, chunks

SHA256 = re.compile("[0-9a-f]{64}")
FOUND_TIERS = ("pixels", "near", "similar")  # copies byte for byte are never stored: the locations tell them
ROWS = 5000  # rows written together


class Decided(Protocol):
    """What `decide` takes: two hashes in order, and what was said of the pictures."""

    @property
    def first_sha256(self) -> str: ...
    @property
    def second_sha256(self) -> str: ...
    @property
    def same(self) -> bool: ...
    @property
    def keep_sha256(self) -> str | None: ...


class Duplicates(Transactions):
    """Verbs on pairs of copies and on decisions. Both count as changes: what is kept of them elsewhere goes stale."""

    def replace_duplicates(
        self,
        run_id: int,
        pairs: Iterable[DuplicateRecord],
        tiers: Sequence[str] = FOUND_TIERS,
        among: Collection[int] | None = None,
    ) -> int:
        """Puts these pairs in place of all of their tiers that were found before, in one transaction.

        tiers: that were looked for; among: the ids of the pictures that were, None for all. What was found of others
        before stays. Gives how many pairs were stored. Some
        thousands are in memory at a time. A pair whose picture was deleted meanwhile is left out.
        """
        count = 0
        with self.writing() as (connection, _):
            _forget(connection, tiers, among)
            for chunk in chunks(pairs, ROWS):
                ids = {image_id for pair in chunk for image_id in (pair.first, pair.second)}
                there: set[int] = set()
                for part in chunks(ids):
                    there.update(connection.scalars(select(ImageRow.id).where(ImageRow.id.in_(part))))
                rows = [{**pair._asdict(), "run": run_id} for pair in chunk if {pair.first, pair.second} <= there]
                if rows:
                    connection.execute(_ONE, [{"one": row["first"], "two": row["second"]} for row in rows])
                    connection.execute(insert(DuplicateRow), rows)
                count += len(rows)
        return count

    def duplicates(
        self, tiers: Sequence[str] = FOUND_TIERS, *, beyond: float | None = None
    ) -> Iterator[DuplicateRecord]:
        """The pairs of these tiers, the nearest first, as of the first; streamed. `beyond`: only near pairs farther
        apart than that, next to all of the other tiers.
        """
        query = _FOUND.where(DuplicateRow.tier.in_(tiers))
        if beyond is not None:
            query = query.where(or_(DuplicateRow.tier != "near", DuplicateRow.distance > beyond))
        ordered = query.order_by(DuplicateRow.distance, DuplicateRow.first, DuplicateRow.second)
        with self.reading() as connection:
            for row in connection.execute(ordered, execution_options=STREAM):
                yield DuplicateRecord(*row)

    def count_duplicates(self) -> dict[str, int]:
        """How many pairs were found, by tier; a tier without any is left out."""
        with self.reading() as connection:
            query = select(DuplicateRow.tier, func.count()).group_by(DuplicateRow.tier)
            return dict(connection.execute(query).all())

    def duplicate_tier(self, one_sha256: str, other_sha256: str) -> str | None:
        """The tier at which two pictures were found to be alike, None where they were not."""
        ids = select(ImageRow.id).where(ImageRow.sha256.in_((one_sha256, other_sha256))).order_by(ImageRow.id)
        with self.reading() as connection:
            found = list(connection.scalars(ids))
            if len(found) != 2:
                return None
            pair = and_(DuplicateRow.first == found[0], DuplicateRow.second == found[1])
            return connection.scalar(select(DuplicateRow.tier).where(pair))

    def decide(self, decisions: Iterable[Decided]) -> int:
        """Stores what people said of pairs, in place of what they said before; gives how many pairs.

        Safe to repeat. Raises BadSetting, which names the pair; nothing is stored then.
        """
        rows = {(one.first_sha256, one.second_sha256): _decision_row(one) for one in decisions}
        if not rows:
            return 0
        with self.writing() as (connection, _):
            for chunk in chunks(rows, 200):  # two parameters each
                connection.execute(delete(DecisionRow).where(_one_of(chunk)))
                connection.execute(insert(DecisionRow), [rows[pair] for pair in chunk])
        return len(rows)

    def undecide(self, pairs: Iterable[tuple[str, str]]) -> int:
        """Forgets what was said of these pairs of hashes, in either order; gives how many there were."""
        ordered = {(min(pair), max(pair)) for pair in pairs}
        if not ordered:
            return 0
        with self.writing() as (connection, _):
            gone = [connection.execute(delete(DecisionRow).where(_one_of(chunk))) for chunk in chunks(ordered, 200)]
            return sum(result.rowcount for result in gone)

    def decisions(self) -> list[DecisionRecord]:
        """All that people said, by the hashes."""
        ordered = select(DecisionRow.__table__).order_by(DecisionRow.first_sha256, DecisionRow.second_sha256)
        with self.reading() as connection:
            return [DecisionRecord(**row._mapping) for row in connection.execute(ordered)]

    def decision(self, one_sha256: str, other_sha256: str) -> DecisionRecord | None:
        """What was said of two pictures, None where nothing was."""
        pair = (min(one_sha256, other_sha256), max(one_sha256, other_sha256))
        with self.reading() as connection:
            row = connection.execute(select(DecisionRow.__table__).where(_one_of([pair]))).one_or_none()
            return None if row is None else DecisionRecord(**row._mapping)

    def suspects(self, only: Filter | None = None) -> Iterator[LocatedImage]:
        """The files of every picture with several files, in a pair of copies, or decided on, by image id and path.

        `only`: those that satisfy it, each file for itself.
        """
        yield from self._located(_suspected(), only)

    def located(self, image_ids: Iterable[int] | None = None, only: Filter | None = None) -> Iterator[LocatedImage]:
        """The files of these pictures, or of all, by image id and path; `only` as in `suspects`."""
        if image_ids is None:
            yield from self._located(None, only)
            return
        for chunk in chunks(sorted(set(image_ids))):
            yield from self._located(ImageRow.id.in_(chunk), only)

    def _located(self, wanted: ColumnElement[bool] | None, only: Filter | None) -> Iterator[LocatedImage]:
        query = _LOCATED if wanted is None else _LOCATED.where(wanted)
        if only is not None:
            query = query.where(*conditions(only))
        with self.reading() as connection:
            for row in connection.execute(query, execution_options=STREAM):
                yield LocatedImage(*row)

    def labels(self, name: str | None = None, *, suspects: bool = False) -> Iterator[tuple[str, str, str]]:
        """(path, name, text) of what manifests say of files, under one name or all; of `suspects`, or of every file."""
        query = select(LocationRow.path, MetadataRow.name, MetadataRow.text).join_from(
            MetadataRow, LocationRow, MetadataRow.location_id == LocationRow.id
        )
        if name is not None:
            query = query.where(MetadataRow.name == name)
        if suspects:
            query = query.join(ImageRow, ImageRow.id == LocationRow.image_id).where(_suspected())
        with self.reading() as connection:
            for row in connection.execute(query, execution_options=STREAM):
                yield row.path, row.name, row.text


_FOUND = select(
    DuplicateRow.first,
    DuplicateRow.second,
    DuplicateRow.tier,
    DuplicateRow.distance,
    DuplicateRow.agreement,
    DuplicateRow.reason,
)
_LOCATED = (
    select(
        ImageRow.id,
        ImageRow.sha256,
        ImageRow.width,
        ImageRow.height,
        ImageRow.format,
        LocationRow.path,
        LocationRow.size,
        LocationRow.mtime_ns,
    )
    .join(LocationRow, LocationRow.image_id == ImageRow.id)
    .order_by(ImageRow.id, LocationRow.path)
)


_ONE = delete(DuplicateRow).where(DuplicateRow.first == bindparam("one"), DuplicateRow.second == bindparam("two"))


def _forget(connection: Connection, tiers: Sequence[str], among: Collection[int] | None) -> None:
    """Deletes the pairs of these tiers, those of two pictures in `among` where it is given."""
    if among is None:
        connection.execute(delete(DuplicateRow).where(DuplicateRow.tier.in_(tiers)))
        return
    pairs = select(DuplicateRow.first, DuplicateRow.second).where(DuplicateRow.tier.in_(tiers))
    known = [{"one": first, "two": second} for first, second in connection.execute(pairs)]
    gone = [pair for pair in known if pair["one"] in among and pair["two"] in among]
    if gone:
        connection.execute(_ONE, gone)


def _suspected() -> ColumnElement[bool]:
    copies = DuplicateRow.tier.in_(("pixels", "near"))
    return ImageRow.id.in_(
        select(DuplicateRow.first)
        .where(copies)
        .union(
            select(DuplicateRow.second).where(copies),
            select(LocationRow.image_id).group_by(LocationRow.image_id).having(func.count() > 1),
            select(ImageRow.id).join(DecisionRow, DecisionRow.first_sha256 == ImageRow.sha256),
            select(ImageRow.id).join(DecisionRow, DecisionRow.second_sha256 == ImageRow.sha256),
        )
    )


def _one_of(pairs: Iterable[tuple[str, str]]) -> ColumnElement[bool]:
    return or_(
        *(and_(DecisionRow.first_sha256 == first, DecisionRow.second_sha256 == second) for first, second in pairs)
    )


def _decision_row(said: Decided) -> dict[str, Any]:
    """Raises BadSetting for what can't be a decision."""
    first, second, keep = said.first_sha256, said.second_sha256, said.keep_sha256
    if not (SHA256.fullmatch(first) and SHA256.fullmatch(second)):
        raise BadSetting(f"A decision can't be on {first!r} and {second!r}. Give the SHA-256 of two pictures.")
    if first >= second:
        raise BadSetting(f"A decision can't be on {first} and {second}. Name two pictures, the smaller hash first.")
    if keep is not None and keep not in (first, second):
        raise BadSetting(f"A decision on {first} and {second} can't keep {keep!r}. Keep one of the two.")
    return {
        "first_sha256": first,
        "second_sha256": second,
        "same": said.same,
        "keep_sha256": keep if said.same else None,  # of different pictures both stay
        "decided_at": now(),
    }
