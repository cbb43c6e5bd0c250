"""A home on a disk without a free byte is read like a home that can't be written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from simile.core.errors import HomeNotWritable
from simile.core.settings import Settings
from simile.service.app import create_app
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home
from tests.support.commands import run_json, run_simile
from tests.support.disks import fill_disk, small_disk


@pytest.fixture
def full_home(home_with_digits: Settings, tmp_path: Path) -> Iterator[Settings]:
    """Its image files are on another disk."""
    with small_disk(tmp_path / "disk", 64) as disk:
        shutil.copytree(home_with_digits.home, disk / "home")
        fill_disk(disk)
        yield home_with_digits.model_copy(update={"home": disk / "home"})


def test_the_command_line_reads_a_home_on_a_full_disk(full_home: Settings, digits: Path, tmp_path: Path) -> None:
    query = sorted(digits.iterdir())[0]
    found = run_json("search", query, "--home", full_home.home)
    assert found["hits"][0]["distance"] < 1e-3
    assert run_json("status", "--home", full_home.home)["images"] == 120
    assert run_simile("verify", "--home", full_home.home).exit_code == 0
    assert run_simile("export", "-o", tmp_path / "rows.csv", "--home", full_home.home).exit_code == 0
    assert run_simile("backup", tmp_path / "backup.tar", "--home", full_home.home).exit_code == 0


def test_a_writer_is_told_that_the_disk_is_full(full_home: Settings, digits: Path) -> None:
    with pytest.raises(HomeNotWritable, match="Make space"):
        run_simile("index", digits, "--home", full_home.home)


def test_a_service_reads_a_full_disk_and_writes_as_soon_as_there_is_space(full_home: Settings, digits: Path) -> None:
    upload = {"file": sorted(digits.iterdir())[0].read_bytes()}
    other = Path(__file__).parents[2] / "docs" / "page.jpg"
    with TestClient(create_app(full_home)) as client:
        for _ in range(2):
            found = client.post("/v1/search", files=upload)
            assert found.status_code == 200 and found.json()["hits"][0]["distance"] < 1e-3
        for page in ("/", "/?image_id=1", "/collection", "/pictures/1", "/v1/images/1/thumbnail"):
            assert client.get(page).status_code == 200, page
        refused = client.post("/v1/images", files={"file": other.read_bytes()})
        assert refused.status_code == 503, refused.text
        (full_home.home.parent / "filling").unlink()
        assert client.post("/v1/images", files={"file": other.read_bytes()}).status_code == 201
        assert client.get("/v1/status").json()["images"] == 121


def test_a_reader_on_a_full_disk_sees_what_a_writer_commits_afterwards(full_home: Settings) -> None:
    """A connection that found no space is used for one transaction only."""
    with Catalogue(Home(full_home.home)) as reader:
        assert reader.keys.get_all() == []
        (full_home.home.parent / "filling").unlink()
        with Catalogue(Home(full_home.home)) as writer:
            writer.keys.create("phone", "search")
            assert [key.name for key in reader.keys.get_all()] == ["phone"]


def test_rows_in_the_log_are_read_on_a_full_disk(full_home: Settings) -> None:
    """A writer was killed before it moved them into the catalogue."""
    (full_home.home.parent / "filling").unlink()
    with Catalogue(Home(full_home.home)) as writer:
        writer.keys.create("phone", "search")
        for name in ("catalogue.sqlite-wal", "catalogue.sqlite-shm"):
            shutil.copy(full_home.home / name, full_home.home / f"{name}.kept")
        assert (full_home.home / "catalogue.sqlite-wal.kept").stat().st_size > 0
    copy = full_home.home.parent / "killed"
    shutil.copytree(full_home.home, copy)
    for kept in copy.glob("*.kept"):
        kept.rename(kept.with_suffix(""))
    fill_disk(full_home.home.parent)
    keys = json.loads(run_simile("keys", "list", "--json", "--home", copy).stdout)["keys"]
    assert [key["name"] for key in keys] == ["phone"]
