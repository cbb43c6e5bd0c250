"""Folders that may be indexed over HTTP, by the names that the operator gave them: a client never names a path."""

from __future__ import annotations

import re
from pathlib import Path

_ROOT_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def parse_roots(text: str | None) -> dict[str, Path]:
    """`photos=/pictures,scans=/scans` by name, absolute. Raises ValueError, which says what is wrong."""
    roots: dict[str, Path] = {}
    for pair in filter(None, (part.strip() for part in (text or "").split(","))):
        name, _, folder = (part.strip() for part in pair.partition("="))
        if not folder:
            raise ValueError(f"{pair!r} is not NAME=FOLDER (and no folder's name may hold a comma)")
        if not _ROOT_NAME_PATTERN.fullmatch(name):
            raise ValueError(f"{name!r} is no name: letters, digits, - and _, at most 64")
        if name in roots:
            raise ValueError(f"{name!r} is there twice")
        roots[name] = Path(folder).expanduser().absolute()
    return roots
