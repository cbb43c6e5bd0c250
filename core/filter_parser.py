"""What a person writes to narrow a search down, read into a Filter: the same words on every door."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, time

from simile.core.errors import BadSetting
from simile.core.records import Condition, Filter

_CONDITION = re.compile(r"(?P<name>[^!<>=]+)(?P<sign>!=|<=|>=|=|<|>)(?P<value>.*)", re.DOTALL)
_FORMATS = {"jpg": "jpeg", "tif": "tiff", "heic": "heif", "jp2": "jpeg2000"}


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
        where=tuple(condition(_utf8(text, "where")) for text in where),
        under=None if under is None else _folder(_utf8(under, "under")),
        formats=tuple(sorted({_format(_utf8(name, "format")) for name in formats})),
        since=None if since is None else moment(since, "since"),
        until=None if until is None else moment(until, "until", end=True),
        **bounds,
    )
    return None if made == Filter() else made


def condition(text: str) -> Condition:
    """("price", "<", "10") of "price<10". Raises BadSetting."""
    found = _CONDITION.fullmatch(text)
    name = found["name"].strip() if found else ""
    if found is None or not name:
        raise BadSetting(f"where can't be {text!r}. Write a name, one of = != < <= > >=, and a value: class=shirt.")
    return name, found["sign"], found["value"].strip()


def as_number(text: str) -> float | None:
    """The number that a text is, or None: what a manifest says is compared as one wherever it is one."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def as_said(said: Mapping[str, str]) -> dict[str, str | float]:
    """Metadata as a program wants it: what is written as JSON writes a number is that number, all else is text."""
    return {name: _number_said(text) for name, text in said.items()}


def _number_said(text: str) -> str | float:
    number = as_number(text)
    if number is None:
        return text
    plain = int(number) if number.is_integer() and abs(number) < 2**53 else number
    return plain if text in (str(plain), repr(number)) else text


def moment(text: str, name: str, *, end: bool = False) -> datetime:
    """A date or a time in ISO 8601, in this machine's zone unless it names one; a bare date is its first moment.

    `end`: its last. Raises BadSetting.
    """
    try:
        found = datetime.fromisoformat(text.strip())
        if end and re.fullmatch(r"\d{4}-?\d{2}-?\d{2}", text.strip()):
            found = datetime.combine(found, time.max)
        return found if found.tzinfo else found.astimezone()
    except (ValueError, OverflowError):
        raise BadSetting(f"{name} can't be {text!r}. Write 2026-01-31, or 2026-01-31T18:00:00+01:00.") from None


def _utf8(text: str, name: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadSetting(f"{name} can't be {text!r}: it is not valid UTF-8, so nothing is known of it.") from None
    return text


def _folder(path: str) -> str:
    if not os.path.isabs(path):  # noqa: PTH117  # a text, whatever machine it comes from
        raise BadSetting(f"under can't be {path!r}. Give the folder's whole path, from / on.")
    return os.path.normpath(path)


def _format(name: str) -> str:
    short = name.strip().lower().removeprefix(".")
    return _FORMATS.get(short, short)
