"""Turn values from metadata blocks, which may hold anything, into clean texts, numbers and times, or None."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

FoundValues = dict[str, Any]  # values of PhotoMetadata by name, without those that are missing

MAX_NAME_LENGTH = 200  # characters of a camera, a lens or a keyword: PostgreSQL can index them
MAX_TEXT_LENGTH = 2000  # of a title, a description or a copyright
MAX_KEYWORDS = 200
MAX_NUMBER = 1e6
MAX_OFFSET_MINUTES = 14 * 60

# Control characters, marks that change the direction of the text around them, surrogates and non-characters.
_UNWANTED = re.compile(
    "[\0-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]"
)
_TIME = re.compile(
    r"(\d{4})[-:/.](\d\d?)[-:/.](\d\d?)(?:[T ]+(\d\d?):(\d\d)(?::(\d\d)(?:[.,](\d+))?)?)?\s*(Z|[-+]\d\d:?\d\d)?"
)
_OFFSET = re.compile(r"([-+])(\d\d):?(\d\d)")
_RATIONAL = re.compile(r"([-+]?\d{1,20}(?:\.\d{1,20})?)(?:/(\d{1,20}))?")
_COORDINATE = re.compile(r"(\d{1,3})[, ]+(\d{1,3}(?:\.\d{1,20})?)(?:[, ]+(\d{1,3}(?:\.\d{1,20})?))?\s*([NSEW])", re.I)
_COMPANY = re.compile(
    r"[\s,.]+(?:imaging|optical|electric|corporation|corp|company|co|ltd|inc|gmbh|ag|techwin)\b.*", re.I
)


def collect(
    time: tuple[datetime | None, int | None],
    position: tuple[float | None, float | None] = (None, None),
    **values: object,
) -> FoundValues:
    """Return the values that are not missing. An offset belongs to its time: without one it is None."""
    found = {name: value for name, value in values.items() if value not in (None, ())}
    if time[0] is not None:
        found["taken"], found["taken_offset"] = time
    if position[0] is not None:
        found["latitude"], found["longitude"] = position
    return found


def decode_text(data: bytes) -> str:
    """Decode a text that is UTF-8, or else an older encoding of Western Europe."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def clean_text(value: str | bytes | None, max_length: int = MAX_TEXT_LENGTH) -> str | None:
    """Return the text in one line of at most so many characters, or None if nothing is left."""
    if value is None:
        return None
    text = decode_text(value[: 4 * max_length]) if isinstance(value, bytes) else value[: 4 * max_length]
    return " ".join(_UNWANTED.sub(" ", text).split())[:max_length].rstrip() or None


def clean_name(value: str | bytes | None) -> str | None:
    """Return a short text such as the name of a lens, or None."""
    return clean_text(value, MAX_NAME_LENGTH)


def clean_keywords(values: Iterable[str | bytes]) -> tuple[str, ...]:
    """Return keywords sorted, each once."""
    keywords = dict.fromkeys(keyword for value in values if (keyword := clean_name(value)))
    return tuple(sorted(list(keywords)[:MAX_KEYWORDS]))


def make_camera_name(make: str | bytes | None, model: str | bytes | None) -> str | None:
    """Return make and model, without the kind of company, and without the make if the model begins with it."""
    make, model = clean_name(make), clean_name(model)
    if make is None or model is None:
        return model or make
    if model.split()[0].casefold() in make.casefold().split():
        return model
    return clean_name(f"{_COMPANY.sub('', make)} {model}")


def parse_time(
    text: str | None, subseconds: str | None = None, offset: str | None = None
) -> tuple[datetime | None, int | None]:
    """Return the local time and its offset from UTC in minutes, of `2024:05:06 07:08:09` or a time of ISO 8601.

    Both are None unless there is a real day; the offset is None if there is none.
    """
    match = _TIME.fullmatch((text or "").strip("\0 "))
    if match is None:
        return None, None
    year, month, day, hour, minute, second, fraction, own_offset = match.groups(default="")
    fraction = fraction or (subseconds or "").strip("\0 ")
    microseconds = int(fraction[:6].ljust(6, "0")) if fraction.isascii() and fraction.isdecimal() else 0
    try:
        clock = (int(hour or 0), int(minute or 0), int(second or 0), microseconds)
        taken = datetime(int(year), int(month), int(day), *clock)
    except ValueError:  # 0000:00:00, 31 February
        return None, None
    return taken, _parse_offset(own_offset or (offset or "").strip("\0 "))


def _parse_offset(text: str) -> int | None:
    """Return the minutes of `+02:00`, of `-0330` or of `Z`."""
    if text == "Z":
        return 0
    match = _OFFSET.fullmatch(text)
    if match is None:
        return None
    minutes = int(match[2]) * 60 + int(match[3])
    return None if minutes > MAX_OFFSET_MINUTES else -minutes if match[1] == "-" else minutes


def parse_number(text: str | None) -> float | None:
    """Return the number of `2.8` or `28/10`."""
    match = _RATIONAL.fullmatch((text or "").strip())
    if match is None:
        return None
    denominator = int(match[2] or 1)
    return float(match[1]) / denominator if denominator else None


def limit_positive(number: float | None) -> float | None:
    """Return a number over 0 and below a million; None for everything else, also for not a number."""
    return number if number is not None and 0 < number < MAX_NUMBER else None


def limit_iso(number: float | None) -> int | None:
    """Return the sensitivity as a whole number."""
    number = limit_positive(number)
    return None if number is None else max(1, round(number))


def limit_rating(number: float | None) -> int | None:
    """Return -1 to 5."""
    return round(number) if number is not None and math.isfinite(number) and -1 <= round(number) <= 5 else None


def parse_coordinate(text: str | None) -> float | None:
    """Return the degrees of `52,30.5N` or `13,24,36W`, as XMP writes them."""
    match = _COORDINATE.fullmatch((text or "").strip())
    if match is None:
        return None
    return make_degrees((float(match[1]), float(match[2]), float(match[3] or 0)), match[4])


def make_degrees(parts: Iterable[float], reference: str) -> float:
    """Return degrees from degrees, minutes and seconds; negative for S and W."""
    degrees = sum(part / 60.0**power for power, part in enumerate(parts))
    return -degrees if reference.upper() in ("S", "W") else degrees


def make_position(latitude: float | None, longitude: float | None) -> tuple[float | None, float | None]:
    """Return both degrees, or None twice if this is no position on Earth.

    Exactly 0, 0 is what cameras write without a signal.
    """
    if latitude is None or longitude is None or not (abs(latitude) <= 90 and abs(longitude) <= 180):
        return None, None
    return (None, None) if latitude == longitude == 0 else (round(latitude, 7), round(longitude, 7))
