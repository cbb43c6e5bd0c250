"""Values of dataset files as metadata: texts by name, with limits for files of unknown origin."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time
from typing import Any

from simile.core.errors import BadSetting
from simile.images.sources.paths import is_utf8

MAX_VALUE_LENGTH = 131_072  # characters; a longer text is no metadata to search by
MAX_TOTAL_LENGTH = 256 << 20  # characters of all metadata of one file or archive, which are in memory together


def format_value(value: Any) -> str:
    """Return a value as people write it; "" for null and NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | dict):
        return ", ".join(map(format_value, value))
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def parse_object(data: bytes | str) -> dict[str, str]:
    """Return the scalars, and the lists of scalars, of a JSON object as texts. Raises ValueError with the reason."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:  # also text that is not UTF-8, and numbers of too many digits
        reason = "too deeply nested" if isinstance(error, RecursionError) else str(error)
        raise ValueError(f"not JSON ({reason})") from None
    if not isinstance(body, dict):
        raise ValueError("not a JSON object")  # the content of a file
    return select_texts({name: value for name, value in body.items() if _is_flat(value)})


def select_texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the values that are not empty as texts. Raises ValueError for one that can't be stored."""
    texts = {name: text for name, value in values.items() if (text := format_value(value))}
    for name, text in texts.items():
        if len(text) > MAX_VALUE_LENGTH or len(name) > MAX_VALUE_LENGTH:
            raise ValueError(f"{name[:40]} has more than {MAX_VALUE_LENGTH:,} characters")
        if not is_utf8(name + text):
            raise ValueError(f"{name[:40]!a} is not text in Unicode")
    return texts


def _is_flat(value: Any) -> bool:
    """Return whether the value is a scalar or a list of scalars."""
    return not isinstance(value, dict) and not (
        isinstance(value, list) and any(isinstance(item, dict | list) for item in value)
    )


class TextBudget:
    """The limit on the metadata of one file or archive in memory."""

    def __init__(self, file: str) -> None:
        self._file, self._rest = file, MAX_TOTAL_LENGTH

    def spend(self, texts: Mapping[str, str]) -> None:
        """Count the texts. Raises BadSetting if there are too many."""
        self._rest -= sum(len(text) for pair in texts.items() for text in pair) + 100 * (len(texts) + 1)
        if self._rest < 0:
            raise BadSetting(f"{self._file} has more than {MAX_TOTAL_LENGTH >> 20} MiB of metadata. Split it.")
