"""Keys and sessions end on a full disk: a real, small file system."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from simile.core.errors import HomeNotWritable
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.keys import MAX_SESSIONS_PER_KEY
from simile.store.home import KEYS_RESERVE_BYTES, Home
from tests.support.commands import run_simile
from tests.support.disks import fill_disk, small_disk


@pytest.fixture
def small_home(home: Home, tmp_path: Path) -> Iterator[Home]:
    """A home on a file system of 6 MB."""
    with small_disk(tmp_path / "disk", 6) as disk:
        yield Home(Path(shutil.copytree(home.root, disk / "home")))


@pytest.mark.parametrize("is_served", [True, False])
def test_a_key_is_revoked_and_forgotten_on_a_full_disk(small_home: Home, is_served: bool) -> None:
    """`is_served`: another process has the catalogue open, with its log and the index of the log."""
    with Catalogue(small_home) as catalogue:
        _, record = catalogue.keys.create("filler", "write")
        tokens = [catalogue.keys.open_session(record.id, timedelta(days=1)) for _ in range(MAX_SESSIONS_PER_KEY)]
        if not is_served:
            catalogue.close()
        fill_disk(small_home.root.parent)
        if is_served:
            with pytest.raises(HomeNotWritable):
                for number in range(1000):
                    catalogue.keys.create(f"more {number}", "write")
        assert run_simile("keys", "revoke", "filler", "--home", small_home.root).stdout == "filler was revoked\n"
        fill_disk(small_home.root.parent)
        run_simile("keys", "forget", "filler", "--home", small_home.root)
        (small_home.root.parent / "filling").unlink()
        assert "filler" not in [key.name for key in catalogue.keys.get_all()]
        assert catalogue.keys.find_by_session(tokens[-1]) is None


def test_a_session_ends_on_a_full_disk_and_space_is_reserved_again(small_home: Home) -> None:
    with Catalogue(small_home) as catalogue:
        _, record = catalogue.keys.create("filler", "write")
        token = catalogue.keys.open_session(record.id, timedelta(days=1))
        fill_disk(small_home.root.parent)
        catalogue.keys.close_session(token)
        assert catalogue.keys.find_by_session(token) is None
        (small_home.root.parent / "filling").unlink()
        catalogue.keys.revoke("filler")
        assert small_home.keys_reserve.stat().st_size == KEYS_RESERVE_BYTES


def test_a_cookie_that_is_none_writes_nothing(home: Home) -> None:
    with Catalogue(home) as catalogue:
        catalogue.keys.create("phone", "search")
        before = home.keys_reserve.stat().st_mtime_ns
        with catalogue.begin_untracked_write():  # a writer would have to wait for it
            catalogue.keys.close_session("guess")
        assert home.keys_reserve.stat().st_mtime_ns == before
