"""Memory that the C library keeps after it was freed."""

from __future__ import annotations

import ctypes
from contextlib import suppress

# For mallopt() of glibc: M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD. Not for the processes that decode images:
# a new mapping for each block makes decoding a large PNG slower by a fifth.
MALLOC_OPTIONS = {-8: 2, -3: 1 << 20, -1: 1 << 20}


def return_freed_memory() -> None:
    """Make glibc return large freed blocks to the system; by default it keeps those of a burst for the next one."""
    with suppress(AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in MALLOC_OPTIONS.items():
            mallopt(option, value)
