"""Parse the filter options of a search into a Filter. The command line and the service share this syntax."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, time

from simile.core.errors import BadSetting
from simile.core.records import Filter, MetadataCondition

_CONDITION_PATTERN = re.compile(r"(?P<name>[^!<>=]+)(?P<operator>!=|<=|>=|=|<|>)(?P<value>.*)", re.DOTALL)
_FORMAT_ALIASES = {"jpg": "jpeg", "tif": "tiff", "heic": "heif", "jp2": "jpeg2000"}


def make_filter(
    *,
    where: Iterable[str] = (),
    under: str | None = None,
    formats: Iterable[str] = (),
    since: str | None = None,
    until: str | None = None,
    **bounds: int | None,
) -> Filter | None:
    """Make a filter from the texts that a user gave.

    Args:
        where: Conditions on metadata, such as `price<10`.
        under: Absolute path of a file, folder or archive, or the URL of a folder in a bucket.
        formats: Image formats or file suffixes, such as `jpg`.
        since, until: Modification times in ISO 8601; `until` a date without a time includes the whole day.
        **bounds: min_bytes, max_bytes, min_width … of Filter.

    Returns:
        The filter, or None if no option is given.

    Raises:
        BadSetting: An option can't be parsed; the message names it.
    """
    filter = Filter(
        where=tuple(parse_condition(_check_utf8(text, "where")) for text in where),
        under=None if under is None else _normalise_folder(_check_utf8(under, "under")),
        formats=tuple(sorted({_normalise_format(_check_utf8(name, "format")) for name in formats})),
        since=None if since is None else parse_datetime(since, "since"),
        until=None if until is None else parse_datetime(until, "until", end_of_day=True),
        **bounds,  # type: ignore[arg-type]  # of other names than `under_names`
    )
    return None if filter == Filter() else filter


def parse_condition(text: str) -> MetadataCondition:
    """Split `price<10` into ("price", "<", "10"). Raises BadSetting."""
    match = _CONDITION_PATTERN.fullmatch(text)
    name = match["name"].strip() if match else ""
    if match is None or not name:
        raise BadSetting(f"where can't be {text!r}. Write a name, one of = != < <= > >=, and a value: class=shirt.")
    return name, match["operator"], match["value"].strip()


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
