"""Duplicates: the pairs that the last `simile dedup` found, and people's decisions on pairs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, exists, func, insert, or_, select
from sqlalchemy.orm import aliased

from simile.core.errors import BadSetting
from simile.core.records import Failure, Filter
from simile.store.catalogue.filters import make_filter_conditions
from simile.store.catalogue.metadata import METADATA_JOIN
from simile.store.catalogue.records import CopyPair, DecisionRecord, DuplicateRecord, ImageLocation, NewDecision
from simile.store.database.tables import DecisionRow, DuplicateRow, ImageRow, LocationRow, MetadataRow, utc_now
from simile.store.database.transactions import Repository, once, split_chunks

SHA256_PATTERN = re.compile("[0-9a-f]{64}")
# Identical files are not stored: they are locations of one image.
STORED_TIERS = ("pixels", "near", "series", "similar")
COLLAPSED_TIERS = ("pixels", "near", "series")  # a search with `distinct` shows one image of them
DUPLICATE_INSERT_ROWS = 5000  # rows written at a time


class DuplicateRepository(Repository):
    """Queries and updates of duplicate pairs and decisions. Both count as changes, because caches depend on them."""

    @once  # the pairs may come from a generator, and are too many to keep
    def replace(
        self,
        run_id: int,
        pairs: Iterable[DuplicateRecord],
        tiers: Sequence[str] = STORED_TIERS,
        image_ids: Collection[int] | None = None,
    ) -> int:
        """Replace the pairs of a run in one transaction, with some thousands in memory; return how many were stored.

        The run searched these tiers and images (None: all): pairs of other tiers and pairs with another image stay.
        New pairs with a deleted image are left out.
        """
        count = 0
        with self.database.begin_write() as (connection, _):
            _delete_pairs(connection, tiers, image_ids)
            for chunk in split_chunks(pairs, DUPLICATE_INSERT_ROWS):
                ids = {image_id for pair in chunk for image_id in (pair.first, pair.second)}
                existing: set[int] = set()
                for id_chunk in split_chunks(ids):
                    existing.update(connection.scalars(select(ImageRow.id).where(ImageRow.id.in_(id_chunk))))
                rows = [{**pair._asdict(), "run": run_id} for pair in chunk if {pair.first, pair.second} <= existing]
                if rows:
                    connection.execute(_DELETE_PAIR, [{"a": row["first"], "b": row["second"]} for row in rows])
                    connection.execute(insert(DuplicateRow), rows)
                count += len(rows)
        return count

    def iterate_pairs(
        self, tiers: Sequence[str] = STORED_TIERS, *, min_near_distance: float | None = None
    ) -> Iterator[DuplicateRecord]:
        """Yield the pairs of these tiers, nearest first; none of the tier `near` at `min_near_distance` or less."""
        query = _PAIRS_QUERY.where(DuplicateRow.tier.in_(tiers))
        if min_near_distance is not None:
            query = query.where(or_(DuplicateRow.tier != "near", DuplicateRow.distance > min_near_distance))
        ordered = query.order_by(DuplicateRow.distance, DuplicateRow.first, DuplicateRow.second)
        yield from map(DuplicateRecord._make, self.stream(ordered))

    def get_copy_pairs(self) -> list[CopyPair]:
        """Return the pairs of copies and series, and what people decided to be the same, without what they deny."""
        first, second = aliased(ImageRow), aliased(ImageRow)
        decided = (
            select(first.id, second.id, DecisionRow.same)
            .join(first, first.sha256 == DecisionRow.first_sha256)
            .join(second, second.sha256 == DecisionRow.second_sha256)
        )
        found = select(DuplicateRow.first, DuplicateRow.second, DuplicateRow.tier == "pixels")
        with self.database.begin_read() as connection:
            decisions = {frozenset((a, b)): same for a, b, same in connection.execute(decided)}
            pairs = [
                CopyPair(a, b, bool(is_equal))
                for a, b, is_equal in connection.execute(found.where(DuplicateRow.tier.in_(COLLAPSED_TIERS)))
                if decisions.get(frozenset((a, b)), True)
            ]
        return pairs + [CopyPair(min(pair), max(pair), is_equal=False) for pair, same in decisions.items() if same]

    def save_decisions(self, decisions: Iterable[NewDecision]) -> int:
        """Store decisions, which replace older ones on the same pairs, and return how many.

        Safe to repeat. Raises BadSetting with the pair that is wrong; nothing is stored then.
        """
        rows = {(item.first_sha256, item.second_sha256): _make_decision_row(item) for item in decisions}
        if not rows:
            return 0
        with self.database.begin_write() as (connection, _):
            for chunk in split_chunks(rows, 200):  # two parameters each
                connection.execute(delete(DecisionRow).where(_make_pairs_condition(chunk)))
                connection.execute(insert(DecisionRow), [rows[pair] for pair in chunk])
        return len(rows)

    def delete_decisions(self, pairs: Iterable[tuple[str, str]]) -> int:
        """Delete the decisions on these pairs of hashes, in either order, and return how many there were."""
        ordered = {(min(pair), max(pair)) for pair in pairs}
        if not ordered:
            return 0
        with self.database.begin_write() as (connection, _):
            return sum(
                connection.execute(delete(DecisionRow).where(_make_pairs_condition(chunk))).rowcount
                for chunk in split_chunks(ordered, 200)
            )

    def get_decisions(self) -> list[DecisionRecord]:
        """Return all decisions, sorted by the hashes."""
        ordered = select(DecisionRow.__table__).order_by(DecisionRow.first_sha256, DecisionRow.second_sha256)
        return self.read_all(DecisionRecord, ordered)

    def iterate_candidate_files(self, filter: Filter | None = None) -> Iterator[ImageLocation]:
        """Yield the files of the candidates, by image id and path; with a filter only the matching files.

        Candidates are images with several files, in a pair of copies or of a series, or in a decision. Files that could
        not be read the last time are left out here and in `iterate_files`.
        """
        yield from self._iterate_locations(_make_candidate_condition(), filter)

    def iterate_files(
        self, image_ids: Iterable[int] | None = None, filter: Filter | None = None
    ) -> Iterator[ImageLocation]:
        """Yield the files of these images, or of all, by image id and path; with a filter only the matching files."""
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
        yield from map(ImageLocation._make, self.stream(query))

    def get_failures(self, filter: Filter | None = None) -> list[Failure]:
        """Return the known files that could not be read the last time, with the reasons."""
        query = select(LocationRow.path, LocationRow.failure.label("reason")).where(LocationRow.failure.is_not(None))
        if filter is not None:
            query = query.join(ImageRow, ImageRow.id == LocationRow.image_id).where(*make_filter_conditions(filter))
        return self.read_all(Failure, query.order_by(LocationRow.path))

    def get_ids_without_file(self) -> set[int]:
        """Return the images that have only files which could not be read the last time."""
        other = aliased(LocationRow)
        has_file = exists().where(other.image_id == LocationRow.image_id, other.failure.is_(None))
        failed = select(LocationRow.image_id).where(LocationRow.failure.is_not(None), ~has_file)
        return {image_id for (image_id,) in self.stream(failed)}

    def iterate_labels(
        self, name: str | None = None, *, candidates_only: bool = False
    ) -> Iterator[tuple[str, str, str]]:
        """Yield the metadata of files as (path, name, text): all, or of one name, or of candidates only."""
        query = select(LocationRow.path, MetadataRow.name, MetadataRow.text).join(MetadataRow, METADATA_JOIN)
        if name is not None:
            query = query.where(MetadataRow.name == name)
        if candidates_only:
            query = query.join(ImageRow, ImageRow.id == LocationRow.image_id).where(_make_candidate_condition())
        for row in self.stream(query):
            yield row.path, row.name, row.text


_PAIRS_QUERY = select(*(DuplicateRow.__table__.c[name] for name in DuplicateRecord._fields))
_IMAGE_COLUMNS = (ImageRow.id, ImageRow.sha256, ImageRow.width, ImageRow.height, ImageRow.format)
_IMAGE_LOCATIONS_QUERY = (
    select(*_IMAGE_COLUMNS, LocationRow.path, LocationRow.size, LocationRow.mtime_ns)
    .join(LocationRow, LocationRow.image_id == ImageRow.id)
    .where(LocationRow.failure.is_(None))
    .order_by(ImageRow.id, LocationRow.path)
)
_DELETE_PAIR = delete(DuplicateRow).where(DuplicateRow.first == bindparam("a"), DuplicateRow.second == bindparam("b"))


def _delete_pairs(connection: Connection, tiers: Sequence[str], image_ids: Collection[int] | None) -> None:
    """Delete the pairs of these tiers; with `image_ids` only the pairs of two such images."""
    if image_ids is None:
        connection.execute(delete(DuplicateRow).where(DuplicateRow.tier.in_(tiers)))
        return
    pairs = select(DuplicateRow.first, DuplicateRow.second).where(DuplicateRow.tier.in_(tiers))
    outdated = [{"a": a, "b": b} for a, b in connection.execute(pairs) if a in image_ids and b in image_ids]
    if outdated:
        connection.execute(_DELETE_PAIR, outdated)


def _make_candidate_condition() -> ColumnElement[bool]:
    copies = DuplicateRow.tier.in_(COLLAPSED_TIERS)
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


def _make_decision_row(decision: NewDecision) -> dict[str, Any]:
    """Return the row of a decision. Raises BadSetting if it is invalid."""
    first, second, keep = decision.first_sha256, decision.second_sha256, decision.keep_sha256
    if not (SHA256_PATTERN.fullmatch(first) and SHA256_PATTERN.fullmatch(second)):
        raise BadSetting(f"A decision can't be on {first!r} and {second!r}. Give the SHA-256 of two images.")
    if first >= second:
        raise BadSetting(f"A decision can't be on {first} and {second}. Name two images, the smaller hash first.")
    if keep is not None and keep not in (first, second):
        raise BadSetting(f"A decision on {first} and {second} can't keep {keep!r}. Keep one of the two.")
    # Of different images both are kept.
    return {**vars(decision), "keep_sha256": keep if decision.same else None, "decided_at": utc_now()}
