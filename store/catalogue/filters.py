"""Filters of a search as SQL conditions."""

from __future__ import annotations

import operator as operators
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, Select, func, or_, select

from simile.core.filter_parser import parse_number
from simile.core.records import Filter, MetadataCondition
from simile.store.catalogue.files import make_under_condition
from simile.store.database.tables import MAX_NANOSECONDS, ImageRow, LocationRow, MetadataRow

UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_COMPARISONS = {"<": operators.lt, "<=": operators.le, ">": operators.gt, ">=": operators.ge}


def find_matching_ids(connection: Connection, filter: Filter) -> NDArray[np.int64]:
    """Return the ids (n,) of the images that match the filter, ascending and unique."""
    image_conditions, file_conditions = list(_make_image_conditions(filter)), list(_make_file_conditions(filter))
    query: Select[int] = select(ImageRow.id).where(*image_conditions)
    if file_conditions:
        query = select(LocationRow.image_id).where(*file_conditions)
        if image_conditions:  # otherwise the table of images is not needed
            query = query.join(ImageRow, ImageRow.id == LocationRow.image_id).where(*image_conditions)
    with connection.execute(query) as result:
        cursor: Any = result.cursor  # the driver's cursor reads half a million ids in 0.4 s instead of 1.2 s
        ids = np.fromiter((row[0] for row in cursor), np.int64)
    unique: NDArray[np.int64] = np.unique(ids)
    return unique


def make_filter_conditions(filter: Filter) -> list[ColumnElement[bool]]:
    """Return conditions for a query that joins files and images. Each file is matched on its own."""
    return [*_make_image_conditions(filter), *_make_file_conditions(filter)]


def _make_image_conditions(filter: Filter) -> Iterator[ColumnElement[bool]]:
    """Yield the conditions on the image itself."""
    if filter.formats:
        yield ImageRow.format.in_(filter.formats)
    for column, name in ((ImageRow.size, "bytes"), (ImageRow.width, "width"), (ImageRow.height, "height")):
        minimum, maximum = getattr(filter, f"min_{name}"), getattr(filter, f"max_{name}")
        if minimum is not None:
            yield column >= minimum
        if maximum is not None:
            yield column <= maximum


def _make_file_conditions(filter: Filter) -> Iterator[ColumnElement[bool]]:
    """Yield the conditions that one of the image's files must satisfy together."""
    if filter.under is not None:
        yield or_(*map(make_under_condition, (filter.under, *filter.under_names)))
    if filter.since is not None:
        yield LocationRow.mtime_ns >= _to_nanoseconds(filter.since)
    if filter.until is not None:
        yield LocationRow.mtime_ns < _to_nanoseconds(filter.until) + 1000  # includes the whole microsecond
    for condition in filter.where:
        yield _make_metadata_condition(condition)


def _make_metadata_condition(condition: MetadataCondition) -> ColumnElement[bool]:
    name, operator, value = condition
    number = parse_number(value)
    matches: ColumnElement[bool]
    if operator in ("=", "!="):
        matches = MetadataRow.text == value
        if number is not None:
            matches = or_(matches, MetadataRow.number == number)
    else:
        column: Any = MetadataRow.text if number is None else MetadataRow.number
        matches = _COMPARISONS[operator](column, value if number is None else number)
    # IN instead of EXISTS lets SQLite use the index on metadata, instead of scanning all locations.
    rows = select(MetadataRow.location_id).where(MetadataRow.name == name, matches)
    return LocationRow.id.not_in(rows) if operator == "!=" else LocationRow.id.in_(rows)


def read_value_range(connection: Connection, option: str) -> tuple[Any, Any]:
    """Return the smallest and the largest value in the catalogue of what an option, such as min_width, restricts."""
    columns = {"bytes": ImageRow.size, "width": ImageRow.width, "height": ImageRow.height}
    column: Any = columns.get(option.partition("_")[2], LocationRow.mtime_ns)
    low, high = connection.execute(select(func.min(column), func.max(column))).one()
    if column is not LocationRow.mtime_ns:
        return low, high
    return UNIX_EPOCH + timedelta(microseconds=low // 1000), UNIX_EPOCH + timedelta(microseconds=high // 1000)


def _to_nanoseconds(timestamp: datetime) -> int:
    """Return the exact nanoseconds since 1970, clipped to the range that SQL stores."""
    exact = (timestamp - UNIX_EPOCH) // timedelta(microseconds=1) * 1000
    return max(-MAX_NANOSECONDS, min(exact, MAX_NANOSECONDS))
