"""Partners of images: the raw file with the name of a JPEG or HEIC, and the film of a Live Photo.

A camera that stores a raw file and a JPEG, and a phone that stores a Live Photo, make several files of one photo, with
the same name up to the suffix and in the same folder. The JPEG or HEIC represents them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from simile.images.formats import FORMATS
from simile.images.sources.buckets import is_remote


def _with_upper_case(suffixes: Iterable[str]) -> frozenset[str]:
    """Return the suffixes in lower and in upper case. lower() for a million names is slow."""
    return frozenset(name for suffix in suffixes for name in (suffix, suffix.upper()))


CAMERA_SUFFIXES = _with_upper_case((".jpg", ".jpeg", ".heic", ".heif", ".hif"))  # of images that can have partners
RAW_SUFFIXES = _with_upper_case(FORMATS["RAW"][1].split())
FILM_SUFFIXES = _with_upper_case((".mov", ".mp4"))


def get_suffix(path: str) -> str:
    """Return the suffix with its dot."""
    return path[path.rfind(".") :]


def get_stem(path: str) -> str:
    """Return the path without the suffix."""
    return path[: path.rfind(".")]


def select_partners(paths: Iterable[str], others: Iterable[str]) -> set[str]:
    """Return those of the other paths, of raw files and films, that are partners of an image among `paths`."""
    candidates = list(others)
    stems = {get_stem(path) for path in paths if get_suffix(path) in CAMERA_SUFFIXES} if candidates else set()
    return {path for path in candidates if get_stem(path) in stems}


def find_partners(path: str) -> list[str]:
    """Return the partners of an image in a folder that exist now, sorted."""
    if is_remote(path) or get_suffix(path) not in CAMERA_SUFFIXES:
        return []
    names = (get_stem(path) + suffix for suffix in RAW_SUFFIXES | FILM_SUFFIXES)
    return sorted(filter(os.path.isfile, names))
