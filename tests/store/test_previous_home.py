"""A home made by the version before the packages were rearranged opens, searches, finds duplicates and serves.

previous_home.tar.xz holds 25 images, an upload, a tiny encoder, a finished `simile dedup`, metadata and a key. Its
paths start with /home-of-the-test; the catalogue is an SQL dump.
"""

from __future__ import annotations

import os
import sqlite3
import tarfile
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from simile.core.errors import HomeOutdated
from simile.core.settings import Settings, load_settings
from simile.dedup.grouping.findings import load_findings
from simile.dedup.grouping.groups import make_groups
from simile.indexer.maintenance.status import read_status
from simile.indexer.maintenance.verify import verify_home
from simile.indexer.pipeline.job import IndexRequest, index
from simile.search.searcher import Searcher
from simile.service.app import create_app
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home

pytestmark = pytest.mark.sqlite

ARCHIVE = Path(__file__).with_name("previous_home.tar.xz")
HITS = {1: [9, 24, 10], 5: [15, 16, 25], 9: [1, 21, 10]}  # as the previous version found them


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The unpacked home, with its paths changed to this test's folder, after the upgrade that commands ask for."""
    with tarfile.open(ARCHIVE) as tar:
        tar.extractall(tmp_path, filter="data")
    dump = tmp_path / "home" / "catalogue.sql"
    with sqlite3.connect(tmp_path / "home" / "catalogue.sqlite") as connection:
        connection.executescript(dump.read_text().replace("/home-of-the-test", str(tmp_path)))
        for path, mtime_ns in connection.execute("SELECT path, mtime_ns FROM locations"):
            os.utime(path, ns=(mtime_ns, mtime_ns))
    connection.close()
    dump.unlink()
    found = load_settings(home=tmp_path / "home", device="cpu", workers=1)
    with pytest.raises(HomeOutdated, match="simile status --upgrade"):
        read_status(found)
    read_status(found, upgrade=True)
    return found


def test_it_is_whole_and_its_status_can_be_read(settings: Settings) -> None:
    status = read_status(settings)
    assert (status["images"], status["segment"]["rows"], status["segment"]["kind"]) == (26, 25, "exact")
    assert [(run["kind"], run["status"]) for run in status["runs"]] == [("dedup", "finished"), ("index", "finished")]
    assert verify_home(settings) == []


def test_searches_find_the_same_images(settings: Settings) -> None:
    with Searcher(settings) as searcher:
        hits = {query: [hit.image_id for hit in searcher.by_id(query, limit=3).hits] for query in HITS}
        assert hits == HITS
        path = Path(searcher.read_file(12)[1].paths[0])
        nearest = searcher.by_file(path, name=path.name, limit=1).hits[0]
        assert (nearest.image_id, nearest.distance < 1e-3) == (12, True)
        assert searcher.catalogue.metadata.get_for_images([3]) == {3: {"class": "shirt", "size": "4"}}


def test_its_duplicates_are_shown(settings: Settings) -> None:
    with Catalogue(Home(settings.home)) as catalogue:
        findings = load_findings(catalogue)
    assert findings.threshold == pytest.approx(0.166, abs=1e-3)
    groups = {group.tier: {Path(member.file.path).name for member in group.members} for group in make_groups(findings)}
    assert groups["pixels"] == {"01 pixels.bmp", "01.png"}
    assert groups["bytes"] == {"00 copy.png", "00.png"}


def test_indexing_again_finds_every_file_unchanged(settings: Settings) -> None:
    summary = index(settings, [settings.home.parent / "photos"], IndexRequest())
    assert (summary.unchanged, summary.new, summary.changed, summary.embedded) == (26, 0, 0, 0)
    assert summary.failures == []
    assert verify_home(settings) == []


def test_a_service_answers_requests_with_a_key(settings: Settings) -> None:
    with Catalogue(Home(settings.home)) as catalogue:
        assert [key.name for key in catalogue.keys.get_all()] == ["me"]
        key, _ = catalogue.keys.create("test", "search")
    with TestClient(create_app(settings), base_url="http://localhost") as client:
        query = {"image_id": 1, "limit": 3}
        assert client.post("/v1/search", json=query).status_code == 401
        response = client.post("/v1/search", json=query, headers={"Authorization": f"Bearer {key.text}"})
        assert response.status_code == 200, response.text
        assert [hit["image_id"] for hit in response.json()["hits"]] == HITS[1]
