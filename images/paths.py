"""Names of files: which can be stored, and how the others are shown."""

from __future__ import annotations

import os


def is_utf8(path: str) -> bool:
    """Whether the name can be stored and shown."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def make_printable(path: str) -> str:
    """The path with bytes that are not UTF-8 written as escapes, so that it can be stored and shown."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
