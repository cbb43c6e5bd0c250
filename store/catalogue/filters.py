"""Filters as SQL: which images a search may give."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Connection, Select, or_, select

from simile.core.filter_parser import as_number
from simile.core.records import Condition, Filter
from simile.store.catalogue.files import under
from simile.store.database.tables import ImageRow, LocationRow, MetadataRow
from simile.store.index.flat import Ids

MOST = 2**62
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def matching(connection: Connection, wanted: Filter) -> Ids:
    """The ids (n,) of the images that satisfy the filter, ascending, each once."""
    of_image, of_file = list(_of_image(wanted)), list(_of_file(wanted))
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


def conditions(wanted: Filter) -> list[ColumnElement[bool]]:
    """What a file and its image must satisfy, in a query that joins the two: here each file stands for itself."""
    return [*_of_image(wanted), *_of_file(wanted)]


def _of_image(wanted: Filter) -> Iterator[ColumnElement[bool]]:
    """Conditions on the content: one row each."""
    if wanted.formats:
        yield ImageRow.format.in_(wanted.formats)
    bounds: tuple[tuple[Any, int | None, int | None], ...] = (
        (ImageRow.size, wanted.min_bytes, wanted.max_bytes),
        (ImageRow.width, wanted.min_width, wanted.max_width),
        (ImageRow.height, wanted.min_height, wanted.max_height),
    )
    for column, least, most in bounds:
        if least is not None:
            yield column >= least
        if most is not None:
            yield column <= most


def _of_file(wanted: Filter) -> Iterator[ColumnElement[bool]]:
    """Conditions that one of the image's files must satisfy, all of them."""
    if wanted.under is not None:
        yield under(wanted.under)
    if wanted.since is not None:
        yield LocationRow.mtime_ns >= _nanoseconds(wanted.since)
    if wanted.until is not None:
        yield LocationRow.mtime_ns < _nanoseconds(wanted.until) + 1000  # the whole of that microsecond
    for condition in wanted.where:
        yield _metadata(condition)


def _metadata(condition: Condition) -> ColumnElement[bool]:
    # IN, not EXISTS: so a narrow condition starts from its index instead of looking at every location.
    name, sign, value = condition
    positive = "=" if sign == "!=" else sign
    rows = select(MetadataRow.location_id).where(MetadataRow.name == name, _compared(positive, value))
    return LocationRow.id.not_in(rows) if sign == "!=" else LocationRow.id.in_(rows)


def _compared(sign: str, value: str) -> ColumnElement[bool]:
    number = as_number(value)
    if sign == "=":
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
    return compared[sign]


def _nanoseconds(moment: datetime) -> int:
    """Since 1970, whole: a float would lose the last digits. What no file's time can be is cut to what SQL can hold."""
    exact = (moment - EPOCH) // timedelta(microseconds=1) * 1000
    return max(-MOST, min(exact, MOST))
