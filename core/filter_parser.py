"""What a person writes to narrow a search down, read into a Filter: the same words on every door."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, time

from simile.core.errors import BadSetting
from simile.core.records import Filter, MetadataCondition

_CONDITION_PATTERN = re.compile(r"(?P<name>[^!<>=]+)(?P<sign>!=|<=|>=|=|<|>)(?P<value>.*)", re.DOTALL)
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
    """The filter, or None where nothing is asked for. `bounds`: min_bytes, max_bytes, min_width … of Filter.

    Raises BadSetting, which names what can't be understood.
    """
    made = Filter(
        where=tuple(parse_condition(_check_utf8(text, "where")) for text in where),
        under=None if under is None else _normalise_folder(_check_utf8(under, "under")),
        formats=tuple(sorted({_normalise_format(_check_utf8(name, "format")) for name in formats})),
        since=None if since is None else parse_datetime(since, "since"),
        until=None if until is None else parse_datetime(until, "until", end_of_day=True),
        **bounds,
    )
    return None if made == Filter() else made


def parse_condition(text: str) -> MetadataCondition:
    """("price", "<", "10") of "price<10". Raises BadSetting."""
    found = _CONDITION_PATTERN.fullmatch(text)
    name = found["name"].strip() if found else ""
    if found is None or not name:
        raise BadSetting(f"where can't be {text!r}. Write a name, one of = != < <= > >=, and a value: class=shirt.")
    return name, found["sign"], found["value"].strip()


def parse_number(text: str) -> float | None:
    """The number that a text is, or None: what a manifest says is compared as one wherever it is one."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def parse_metadata(metadata: Mapping[str, str]) -> dict[str, str | float]:
    """Metadata as a program wants it: what is written as JSON writes a number is that number, all else is text."""
    return {name: _parse_value(text) for name, text in metadata.items()}


def _parse_value(text: str) -> str | float:
    number = parse_number(text)
    if number is None:
        return text
    plain = int(number) if number.is_integer() and abs(number) < 2**53 else number
    return plain if text in (str(plain), repr(number)) else text


def parse_datetime(text: str, option: str, *, end_of_day: bool = False) -> datetime:
    """A date or a time in ISO 8601, in this machine's zone unless it names one; a bare date is its first moment.

    `end`: its last. Raises BadSetting.
    """
    try:
        found = datetime.fromisoformat(text.strip())
        if end_of_day and re.fullmatch(r"\d{4}-?\d{2}-?\d{2}", text.strip()):
            found = datetime.combine(found, time.max)
        return found if found.tzinfo else found.astimezone()
    except (ValueError, OverflowError):
        raise BadSetting(f"{option} can't be {text!r}. Write 2026-01-31, or 2026-01-31T18:00:00+01:00.") from None


def _check_utf8(text: str, option: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadSetting(f"{option} can't be {text!r}: it is not valid UTF-8, so nothing is known of it.") from None
    return text


def _normalise_folder(path: str) -> str:
    if not os.path.isabs(path):  # a text, whatever machine it comes from  # noqa: PTH117
        raise BadSetting(f"under can't be {path!r}. Give the folder's whole path, from / on.")
    return os.path.normpath(path)


def _normalise_format(name: str) -> str:
    short = name.strip().lower().removeprefix(".")
    return _FORMAT_ALIASES.get(short, short)
