"""Filters as SQL: which images a search may give."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Connection, Select, or_, select

from simile.core.filter_parser import parse_number
from simile.core.records import Filter, MetadataCondition
from simile.store.catalogue.files import make_under_condition
from simile.store.database.tables import ImageRow, LocationRow, MetadataRow
from simile.store.index.flat import Ids

MAX_FILTER_NANOSECONDS = 2**62
UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def find_matching_ids(connection: Connection, filter: Filter) -> Ids:
    """The ids (n,) of the images that satisfy the filter, ascending, each once."""
    of_image, of_file = list(_make_image_conditions(filter)), list(_make_file_conditions(filter))
    query: Select[int] = select(ImageRow.id).where(*of_image)
    if of_file:
        # Without the images' own conditions the locations tell everything.
        query = select(LocationRow.image_id).where(*of_file)
        if of_image:
            query = query.join(ImageRow, ImageRow.id == LocationRow.image_id).where(*of_image)
    with connection.execute(query) as found:
        cursor: Any = found.cursor  # the driver's own: half a million numbers in 0.4 s instead of 1.2
        ids = np.fromiter((row[0] for row in cursor), np.int64)
    unique: Ids = np.unique(ids)
    return unique


def make_filter_conditions(filter: Filter) -> list[ColumnElement[bool]]:
    """What a file and its image must satisfy, in a query that joins the two: here each file stands for itself."""
    return [*_make_image_conditions(filter), *_make_file_conditions(filter)]


def _make_image_conditions(filter: Filter) -> Iterator[ColumnElement[bool]]:
    """Conditions on the content: one row each."""
    if filter.formats:
        yield ImageRow.format.in_(filter.formats)
    bounds: tuple[tuple[Any, int | None, int | None], ...] = (
        (ImageRow.size, filter.min_bytes, filter.max_bytes),
        (ImageRow.width, filter.min_width, filter.max_width),
        (ImageRow.height, filter.min_height, filter.max_height),
    )
    for column, least, most in bounds:
        if least is not None:
            yield column >= least
        if most is not None:
            yield column <= most


def _make_file_conditions(filter: Filter) -> Iterator[ColumnElement[bool]]:
    """Conditions that one of the image's files must satisfy, all of them."""
    if filter.under is not None:
        yield make_under_condition(filter.under)
    if filter.since is not None:
        yield LocationRow.mtime_ns >= _to_nanoseconds(filter.since)
    if filter.until is not None:
        yield LocationRow.mtime_ns < _to_nanoseconds(filter.until) + 1000  # the whole of that microsecond
    for condition in filter.where:
        yield _make_metadata_condition(condition)


def _make_metadata_condition(condition: MetadataCondition) -> ColumnElement[bool]:
    # IN, not EXISTS: so a narrow condition starts from its index instead of looking at every location.
    name, sign, value = condition
    positive = "=" if sign == "!=" else sign
    rows = select(MetadataRow.location_id).where(MetadataRow.name == name, _make_comparison(positive, value))
    return LocationRow.id.not_in(rows) if sign == "!=" else LocationRow.id.in_(rows)


def _make_comparison(operator: str, value: str) -> ColumnElement[bool]:
    number = parse_number(value)
    if operator == "=":
        same = MetadataRow.text == value
        return same if number is None else or_(same, MetadataRow.number == number)
    column: Any = MetadataRow.text if number is None else MetadataRow.number
    left: Any = value if number is None else number
    compared: dict[str, ColumnElement[bool]] = {
        "<": column < left,
        "<=": column <= left,
        ">": column > left,
        ">=": column >= left,
    }
    return compared[operator]


def _to_nanoseconds(timestamp: datetime) -> int:
    """Since 1970, whole: a float would lose the last digits. What no file's time can be is cut to what SQL can hold."""
    exact = (timestamp - UNIX_EPOCH) // timedelta(microseconds=1) * 1000
    return max(-MAX_FILTER_NANOSECONDS, min(exact, MAX_FILTER_NANOSECONDS))
