"""CSV cells that a spreadsheet shows and does not run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def escape_formulas(values: Iterable[Any]) -> list[Any]:
    """Put an apostrophe before each text of a row that a spreadsheet would run; numbers stay as they are.

    Metadata and file names may come from untrusted sources.
    """
    return [f"'{value}" if isinstance(value, str) and _is_formula(value) else value for value in values]


def _is_formula(text: str) -> bool:
    if not text.startswith(_FORMULA_STARTS):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False
