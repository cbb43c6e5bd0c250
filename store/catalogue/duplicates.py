"""Duplicates: the pairs that the last `simile dedup` found, and what people decided of pairs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, func, insert, or_, select

from simile.core.errors import BadSetting
from simile.core.records import Filter
from simile.store.catalogue.files import STREAM_OPTIONS
from simile.store.catalogue.filters import make_filter_conditions
from simile.store.catalogue.records import DecisionRecord, DuplicateRecord, ImageLocation
from simile.store.database.tables import DecisionRow, DuplicateRow, ImageRow, LocationRow, MetadataRow, utc_now
from simile.store.database.transactions import Repository, split_chunks

SHA256_PATTERN = re.compile("[0-9a-f]{64}")
STORED_TIERS = ("pixels", "near", "similar")  # copies byte for byte are never stored: the locations tell them
DUPLICATE_INSERT_ROWS = 5000  # rows written together


class DecisionLike(Protocol):
    """What `decide` takes: two hashes in order, and what was said of the pictures."""

    @property
    def first_sha256(self) -> str: ...
    @property
    def second_sha256(self) -> str: ...
    @property
    def same(self) -> bool: ...
    @property
    def keep_sha256(self) -> str | None: ...


class DuplicateRepository(Repository):
    """Verbs on pairs of copies and on decisions. Both count as changes: what is kept of them elsewhere goes stale."""

    def replace(
        self,
        run_id: int,
        pairs: Iterable[DuplicateRecord],
        tiers: Sequence[str] = STORED_TIERS,
        image_ids: Collection[int] | None = None,
    ) -> int:
        """Puts these pairs in place of all of their tiers that were found before, in one transaction.

        tiers: that were looked for; among: the ids of the pictures that were, None for all. What was found of others
        before stays. Gives how many pairs were stored. Some
        thousands are in memory at a time. A pair whose picture was deleted meanwhile is left out.
        """
        count = 0
        with self.database.begin_write() as (connection, _):
            _delete_pairs(connection, tiers, image_ids)
            for chunk in split_chunks(pairs, DUPLICATE_INSERT_ROWS):
                ids = {image_id for pair in chunk for image_id in (pair.first, pair.second)}
                there: set[int] = set()
                for part in split_chunks(ids):
                    there.update(connection.scalars(select(ImageRow.id).where(ImageRow.id.in_(part))))
                rows = [{**pair._asdict(), "run": run_id} for pair in chunk if {pair.first, pair.second} <= there]
                if rows:
                    connection.execute(_DELETE_PAIR, [{"one": row["first"], "two": row["second"]} for row in rows])
                    connection.execute(insert(DuplicateRow), rows)
                count += len(rows)
        return count

    def iterate_pairs(
        self, tiers: Sequence[str] = STORED_TIERS, *, min_near_distance: float | None = None
    ) -> Iterator[DuplicateRecord]:
        """The pairs of these tiers, the nearest first, as of the first; streamed. `beyond`: only near pairs farther
        apart than that, next to all of the other tiers.
        """
        query = _PAIRS_QUERY.where(DuplicateRow.tier.in_(tiers))
        if min_near_distance is not None:
            query = query.where(or_(DuplicateRow.tier != "near", DuplicateRow.distance > min_near_distance))
        ordered = query.order_by(DuplicateRow.distance, DuplicateRow.first, DuplicateRow.second)
        with self.database.begin_read() as connection:
            for row in connection.execute(ordered, execution_options=STREAM_OPTIONS):
                yield DuplicateRecord(*row)

    def count_by_tier(self) -> dict[str, int]:
        """How many pairs were found, by tier; a tier without any is left out."""
        with self.database.begin_read() as connection:
            query = select(DuplicateRow.tier, func.count()).group_by(DuplicateRow.tier)
            return dict(connection.execute(query).all())

    def find_tier(self, first_sha256: str, second_sha256: str) -> str | None:
        """The tier at which two pictures were found to be alike, None where they were not."""
        ids = select(ImageRow.id).where(ImageRow.sha256.in_((first_sha256, second_sha256))).order_by(ImageRow.id)
        with self.database.begin_read() as connection:
            found = list(connection.scalars(ids))
            if len(found) != 2:
                return None
            pair = and_(DuplicateRow.first == found[0], DuplicateRow.second == found[1])
            return connection.scalar(select(DuplicateRow.tier).where(pair))

    def save_decisions(self, decisions: Iterable[DecisionLike]) -> int:
        """Stores what people said of pairs, in place of what they said before; gives how many pairs.

        Safe to repeat. Raises BadSetting, which names the pair; nothing is stored then.
        """
        rows = {(one.first_sha256, one.second_sha256): _make_decision_row(one) for one in decisions}
        if not rows:
            return 0
        with self.database.begin_write() as (connection, _):
            for chunk in split_chunks(rows, 200):  # two parameters each
                connection.execute(delete(DecisionRow).where(_make_pairs_condition(chunk)))
                connection.execute(insert(DecisionRow), [rows[pair] for pair in chunk])
        return len(rows)

    def delete_decisions(self, pairs: Iterable[tuple[str, str]]) -> int:
        """Forgets what was said of these pairs of hashes, in either order; gives how many there were."""
        ordered = {(min(pair), max(pair)) for pair in pairs}
        if not ordered:
            return 0
        with self.database.begin_write() as (connection, _):
            gone = [
                connection.execute(delete(DecisionRow).where(_make_pairs_condition(chunk)))
                for chunk in split_chunks(ordered, 200)
            ]
            return sum(result.rowcount for result in gone)

    def get_decisions(self) -> list[DecisionRecord]:
        """All that people said, by the hashes."""
        ordered = select(DecisionRow.__table__).order_by(DecisionRow.first_sha256, DecisionRow.second_sha256)
        with self.database.begin_read() as connection:
            return [DecisionRecord(**row._mapping) for row in connection.execute(ordered)]

    def find_decision(self, first_sha256: str, second_sha256: str) -> DecisionRecord | None:
        """What was said of two pictures, None where nothing was."""
        pair = (min(first_sha256, second_sha256), max(first_sha256, second_sha256))
        with self.database.begin_read() as connection:
            row = connection.execute(select(DecisionRow.__table__).where(_make_pairs_condition([pair]))).one_or_none()
            return None if row is None else DecisionRecord(**row._mapping)

    def iterate_candidate_files(self, filter: Filter | None = None) -> Iterator[ImageLocation]:
        """The files of every picture with several files, in a pair of copies, or decided on, by image id and path.

        `only`: those that satisfy it, each file for itself.
        """
        yield from self._iterate_locations(_make_candidate_condition(), filter)

    def iterate_files(
        self, image_ids: Iterable[int] | None = None, filter: Filter | None = None
    ) -> Iterator[ImageLocation]:
        """The files of these pictures, or of all, by image id and path; `only` as in `suspects`."""
        if image_ids is None:
            yield from self._iterate_locations(None, filter)
            return
        for chunk in split_chunks(sorted(set(image_ids))):
            yield from self._iterate_locations(ImageRow.id.in_(chunk), filter)

    def _iterate_locations(
        self, condition: ColumnElement[bool] | None, filter: Filter | None
    ) -> Iterator[ImageLocation]:
        query = _IMAGE_LOCATIONS_QUERY if condition is None else _IMAGE_LOCATIONS_QUERY.where(condition)
        if filter is not None:
            query = query.where(*make_filter_conditions(filter))
        with self.database.begin_read() as connection:
            for row in connection.execute(query, execution_options=STREAM_OPTIONS):
                yield ImageLocation(*row)

    def iterate_labels(
        self, name: str | None = None, *, candidates_only: bool = False
    ) -> Iterator[tuple[str, str, str]]:
        """(path, name, text) of what manifests say of files, under one name or all; of `suspects`, or of every file."""
        query = select(LocationRow.path, MetadataRow.name, MetadataRow.text).join_from(
            MetadataRow, LocationRow, MetadataRow.location_id == LocationRow.id
        )
        if name is not None:
            query = query.where(MetadataRow.name == name)
        if candidates_only:
            query = query.join(ImageRow, ImageRow.id == LocationRow.image_id).where(_make_candidate_condition())
        with self.database.begin_read() as connection:
            for row in connection.execute(query, execution_options=STREAM_OPTIONS):
                yield row.path, row.name, row.text


_PAIRS_QUERY = select(
    DuplicateRow.first,
    DuplicateRow.second,
    DuplicateRow.tier,
    DuplicateRow.distance,
    DuplicateRow.agreement,
    DuplicateRow.reason,
)
_IMAGE_LOCATIONS_QUERY = (
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


_DELETE_PAIR = delete(DuplicateRow).where(
    DuplicateRow.first == bindparam("one"), DuplicateRow.second == bindparam("two")
)


def _delete_pairs(connection: Connection, tiers: Sequence[str], image_ids: Collection[int] | None) -> None:
    """Deletes the pairs of these tiers, those of two pictures in `among` where it is given."""
    if image_ids is None:
        connection.execute(delete(DuplicateRow).where(DuplicateRow.tier.in_(tiers)))
        return
    pairs = select(DuplicateRow.first, DuplicateRow.second).where(DuplicateRow.tier.in_(tiers))
    known = [{"one": first, "two": second} for first, second in connection.execute(pairs)]
    gone = [pair for pair in known if pair["one"] in image_ids and pair["two"] in image_ids]
    if gone:
        connection.execute(_DELETE_PAIR, gone)


def _make_candidate_condition() -> ColumnElement[bool]:
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


def _make_pairs_condition(pairs: Iterable[tuple[str, str]]) -> ColumnElement[bool]:
    return or_(
        *(and_(DecisionRow.first_sha256 == first, DecisionRow.second_sha256 == second) for first, second in pairs)
    )


def _make_decision_row(decision: DecisionLike) -> dict[str, Any]:
    """Raises BadSetting for what can't be a decision."""
    first, second, keep = decision.first_sha256, decision.second_sha256, decision.keep_sha256
    if not (SHA256_PATTERN.fullmatch(first) and SHA256_PATTERN.fullmatch(second)):
        raise BadSetting(f"A decision can't be on {first!r} and {second!r}. Give the SHA-256 of two pictures.")
    if first >= second:
        raise BadSetting(f"A decision can't be on {first} and {second}. Name two pictures, the smaller hash first.")
    if keep is not None and keep not in (first, second):
        raise BadSetting(f"A decision on {first} and {second} can't keep {keep!r}. Keep one of the two.")
    return {
        "first_sha256": first,
        "second_sha256": second,
        "same": decision.same,
        "keep_sha256": keep if decision.same else None,  # of different pictures both stay
        "decided_at": utc_now(),
    }
