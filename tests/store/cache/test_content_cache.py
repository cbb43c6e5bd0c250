"""The cache of a home: bounded, private, and never wrong."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from simile.store.content_cache import BLOCK_BYTES, SHARES, ContentCache

FIRST, SECOND = "aa" * 32, "bb" * 32


def stored(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_an_entry_is_found_by_image_and_kind_and_only_its_user_may_read_it(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        cache = ContentCache(tmp_path / "cache", 1 << 20)
        cache.put(FIRST, "thumbnail-96", b"small")
    finally:
        os.umask(previous)
    assert cache.get(FIRST, "thumbnail-96") == b"small"
    assert cache.get(FIRST, "thumbnail-256") is None and cache.get(SECOND, "thumbnail-96") is None
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "cache", *(tmp_path / "cache").iterdir())}
    assert modes == {0o700} and {stat.S_IMODE(path.stat().st_mode) for path in stored(tmp_path)} == {0o600}
    cache.remove(FIRST)
    assert cache.get(FIRST, "thumbnail-96") is None and stored(tmp_path) == []


@pytest.mark.parametrize("damage", ["changed", "cut off", "empty", "swapped", "folder"])
def test_a_damaged_entry_counts_as_missing_and_is_replaced(tmp_path: Path, damage: str) -> None:
    cache = ContentCache(tmp_path / "cache", 1 << 20)
    cache.put(FIRST, "file", b"first")
    cache.put(SECOND, "file", b"second")
    path = next(path for path in stored(tmp_path) if FIRST in path.name)
    content = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    elif damage == "swapped":
        shutil.copyfile(next(path for path in stored(tmp_path) if SECOND in path.name), path)
    else:
        path.write_bytes({"changed": content[:-1] + b"T", "cut off": content[:-1], "empty": b""}[damage])
    assert cache.get(FIRST, "file") is None and cache.get(SECOND, "file") == b"second"
    if damage != "folder":
        cache.put(FIRST, "file", b"first")
        assert cache.get(FIRST, "file") == b"first"


def test_the_entries_not_used_for_longest_make_room(tmp_path: Path) -> None:
    limit = SHARES * 3 * BLOCK_BYTES
    cache, names = ContentCache(tmp_path / "cache", limit), [f"{number:064x}" for number in range(40)]
    left_over = tmp_path / "cache" / "00" / ".killed.tmp"
    for age, name in enumerate(names):
        cache.put(name, "file", bytes(2 * BLOCK_BYTES))
        if age == 0:
            left_over.write_bytes(bytes(10))
            os.utime(left_over, ns=(0, 0))
        for path in stored(tmp_path):
            if name in path.name:
                os.utime(path, ns=(age, age))
        assert sum(path.stat().st_blocks * 512 for path in stored(tmp_path)) <= limit
        assert cache.get(names[0], "file") is not None  # in use, so that it stays
    assert cache.get(names[1], "file") is None and cache.get(names[-1], "file") is not None
    assert not left_over.exists()


def test_an_entry_larger_than_a_share_is_not_stored_and_zero_stores_nothing(tmp_path: Path) -> None:
    ContentCache(tmp_path / "cache", 0).put(FIRST, "file", b"x")
    ContentCache(tmp_path / "cache", SHARES << 20).put(FIRST, "file", bytes(1 << 20))
    assert stored(tmp_path) == []


def test_a_disk_that_takes_no_file_costs_only_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    cache = ContentCache(tmp_path / "file", 1 << 20)  # not a folder: every access to it fails
    cache.put(FIRST, "file", b"x")
    cache.remove(FIRST)
    assert cache.get(FIRST, "file") is None
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    ContentCache(tmp_path / "cache", 1 << 20).put(FIRST, "file", b"x")
    assert stored(tmp_path / "cache") == []
