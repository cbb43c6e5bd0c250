"""Parse the filter options of a search into a Filter. The command line and the service share this syntax."""

from __future__ import annotations

import math
import os
import re
from calendar import monthrange
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta

from simile.core.errors import BadSetting
from simile.core.filters.expression import Condition, parse_expression
from simile.core.records import Filter

_DEGREES = r"(-?\d{1,3}(?:\.\d{1,12})?)"
_CIRCLE = re.compile(rf"{_DEGREES}\s*,\s*{_DEGREES}\s*,\s*(\d{{1,5}}(?:\.\d{{1,6}})?)\s*(km|m)?", re.ASCII)
_FORMAT_ALIASES = {"jpg": "jpeg", "tif": "tiff", "heic": "heif", "jp2": "jpeg2000"}


def make_filter(  # noqa: PLR0913  # keywords only
    *,
    where: Iterable[str] = (),
    under: str | None = None,
    formats: Iterable[str] = (),
    since: str | None = None,
    until: str | None = None,
    taken: str | None = None,
    camera: str | None = None,
    rating: str | None = None,
    keyword: Iterable[str] = (),
    near: str | None = None,
    **bounds: int | None,
) -> Filter | None:
    """Make a filter from the texts that a user gave.

    Args:
        where: Expressions in the language of core/filters/expression.py, such as `price<10 or class=shirt`.
        under: Absolute path of a file, folder or archive, or the URL of a folder in a bucket.
        formats: Image formats or file suffixes, such as `jpg`.
        since, until: Modification times in ISO 8601; `until` a date without a time includes the whole day.
        taken: When the photo was taken: a year, month, day or time, or two of them as `2024-05..2024-06`.
        camera: Part of the camera's name.
        rating: A number of stars, or an operator and a number: `>=3`.
        keyword: Keywords that the photo has, all of them.
        near: Latitude, longitude and distance: `52.5,13.4,10km`.
        **bounds: min_bytes, max_bytes, min_width … of Filter.

    Returns:
        The filter, or None if no option is given.

    Raises:
        BadSetting: An option can't be parsed; the message names it.
    """
    filter = Filter(
        where=(
            *(parse_expression(_check_utf8(text, "where")) for text in where),
            *_make_photo_conditions(taken, camera, rating, keyword, near),
        ),
        under=None if under is None else _normalise_folder(_check_utf8(under, "under")),
        formats=tuple(sorted({_normalise_format(_check_utf8(name, "format")) for name in formats})),
        since=None if since is None else parse_datetime(since, "since"),
        until=None if until is None else parse_datetime(until, "until", end_of_day=True),
        **bounds,  # type: ignore[arg-type]  # of other names than `under_names`
    )
    return None if filter == Filter() else filter


def _make_photo_conditions(
    taken: str | None, camera: str | None, rating: str | None, keywords: Iterable[str], near: str | None
) -> Iterator[Condition]:
    """Yield the conditions of the options about photos."""
    if taken is not None:
        first, _, last = taken.partition("..")
        if parse_period(first) is None or (".." in taken and parse_period(last) is None):
            raise BadSetting(f"taken can't be {taken!r}. Write 2024, 2024-05 or 2024-05-31, or two: 2024-05..2024-06.")
        if ".." in taken:
            yield from (Condition("taken", ">=", first), Condition("taken", "<=", last))
        else:
            yield Condition("taken", "=", taken)
    if camera is not None:
        yield Condition("camera", "contains", _check_utf8(camera, "camera"))
    if rating is not None:
        match = re.fullmatch(r"\s*(!=|<=|>=|=|<|>)?\s*(-?\d)\s*", rating)
        if match is None:
            raise BadSetting(f"rating can't be {rating!r}. Write a number of stars, 0 to 5, or a bound: >=3.")
        yield Condition("rating", match[1] or "=", match[2])
    for keyword in keywords:
        yield Condition("keyword", "=", _check_utf8(keyword, "keyword"))
    if near is not None:
        if parse_circle(near) is None:
            raise BadSetting(f"near can't be {near!r}. Write latitude, longitude and a distance: 52.5,13.4,10km.")
        yield Condition("place", "near", near)


def parse_circle(text: str) -> tuple[float, float, float] | None:
    """Return latitude and longitude in degrees and a distance in kilometres; None if the text does not name them."""
    match = _CIRCLE.fullmatch(text.strip())
    if match is None:
        return None
    latitude, longitude, distance = float(match[1]), float(match[2]), float(match[3])
    if abs(latitude) > 90 or abs(longitude) > 180:
        return None
    return latitude, longitude, distance / 1000 if match[4] == "m" else distance


def parse_period(text: str) -> tuple[datetime, datetime] | None:
    """Return the start and the end, exclusive, of a year, month, day or time in ISO 8601; None for another text."""
    try:
        if match := re.fullmatch(r"(\d{4})(?:-(\d\d))?", text):
            first_month, last_month = (int(match[2]), int(match[2])) if match[2] else (1, 12)
            first = date(int(match[1]), first_month, 1)
            last = date(first.year, last_month, monthrange(first.year, last_month)[1])
        elif re.fullmatch(r"\d{4}-?\d\d-?\d\d", text):
            first = last = date.fromisoformat(text)
        else:
            moment = datetime.fromisoformat(text)
            moment = moment.astimezone().replace(tzinfo=None) if moment.tzinfo else moment
            return moment, moment + timedelta(microseconds=1)
        return datetime.combine(first, time.min), datetime.combine(last, time.min) + timedelta(days=1)
    except (ValueError, OverflowError):
        return None


def parse_number(text: str) -> float | None:
    """Return the finite number that a text holds, or None. Metadata compares as numbers where both are numbers."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def parse_metadata(metadata: Mapping[str, str]) -> dict[str, str | float]:
    """Return metadata with numbers as numbers, where JSON would write the number in exactly the same way."""
    return {name: _parse_value(text) for name, text in metadata.items()}


def _parse_value(text: str) -> str | float:
    number = parse_number(text)
    if number is None:
        return text
    # Above 2**53 a float does not hold every integer.
    shortest = int(number) if number.is_integer() and abs(number) < 2**53 else number
    return shortest if text in (str(shortest), repr(number)) else text


def parse_datetime(text: str, option: str, *, end_of_day: bool = False) -> datetime:
    """Parse a date or time in ISO 8601; without a time zone it is in this machine's zone.

    A date without a time means its first moment, or its last one with `end_of_day`. Raises BadSetting, which names the
    option.
    """
    try:
        parsed = datetime.fromisoformat(text.strip())
        if end_of_day and re.fullmatch(r"\d{4}-?\d{2}-?\d{2}", text.strip()):
            parsed = datetime.combine(parsed, time.max)
        return parsed if parsed.tzinfo else parsed.astimezone()
    except (ValueError, OverflowError):
        raise BadSetting(f"{option} can't be {text!r}. Write 2026-01-31, or 2026-01-31T18:00:00+01:00.") from None


def _check_utf8(text: str, option: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadSetting(f"{option} can't be {text!r}: it is not valid UTF-8, so nothing can match it.") from None
    return text


def _normalise_folder(path: str) -> str:
    if path.startswith("s3://"):
        return path.rstrip("/")
    if not os.path.isabs(path):  # a text, which may come from another machine  # noqa: PTH117
        raise BadSetting(f"under can't be {path!r}. Give the folder's absolute path, starting with /.")
    return os.path.normpath(path)


def _normalise_format(name: str) -> str:
    short = name.strip().lower().removeprefix(".")
    return _FORMAT_ALIASES.get(short, short)
