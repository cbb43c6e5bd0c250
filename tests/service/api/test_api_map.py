"""The map over HTTP: what it is, its points, its tiles, and having it made in a process of its own."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import numpy as np
import pytest
from starlette.testclient import TestClient

from simile.core.settings import Settings
from simile.explore.arrays import ignore_progress
from simile.explore.map.map import MapSettings, make_map
from simile.search.searcher import Searcher
from simile.service.app import create_app
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def service(shared_home: Settings) -> Iterator[TestClient]:
    """A service whose map was made; the last test that uses it deletes an image."""
    with Searcher(shared_home) as searcher:
        make_map(searcher, MapSettings(), ignore_progress)
    with TestClient(create_app(shared_home)) as client:
        yield client


def test_a_map_over_http_says_what_it_is_and_every_point(service: TestClient) -> None:
    found = service.get("/v1/map").json()
    assert found["layout"] == "pca" and found["images"] == 120 and found["layouts"] == ["pca"]
    assert found["computing"] is None and found["failed"] is None and found["tiles"] == 1
    points = service.get("/v1/map/points").json()
    assert sorted(points["ids"]) == list(range(1, 121)) and points["label"] is None
    assert set(points["error"]) == {None} and min(points["density"]) == 0
    sizes = [points["cluster"].count(one["cluster"]) for one in found["clusters"]]
    assert sizes == [one["size"] for one in found["clusters"]]


def test_points_come_as_bare_columns_too_and_not_again_for_who_has_them(service: TestClient) -> None:
    whole = service.get("/v1/map/points").json()
    plain = {"Accept": "application/octet-stream", "Accept-Encoding": "identity"}
    bare = service.get("/v1/map/points", headers=plain)
    data, count = bare.content, 120
    assert np.frombuffer(data, "<u4", 2).tolist() == [count, 0] and len(data) == 8 + count * 25
    assert np.frombuffer(data, "<f8", count, 8).tolist() == whole["ids"]
    np.testing.assert_allclose(np.frombuffer(data, "<f4", count, 8 + 8 * count), whole["x"], atol=1e-5)
    assert np.frombuffer(data, "<i4", count, 8 + 16 * count).tolist() == whole["place"]
    assert np.frombuffer(data, "<u2", count, 8 + 20 * count).tolist() == whole["cluster"]
    assert bare.headers["vary"] == "Accept, Accept-Encoding"
    zipped = service.get("/v1/map/points", headers={"Accept": "application/octet-stream"})
    assert zipped.headers["content-encoding"] == "gzip" and zipped.content == data
    known = {**plain, "If-None-Match": bare.headers["etag"]}
    assert service.get("/v1/map/points", headers=known).status_code == 304
    assert gzip.compress(data, 1, mtime=0) == gzip.compress(data, 1, mtime=0)


def test_points_are_told_apart_by_a_label(service: TestClient) -> None:
    for image_id in (1, 2):
        service.put(f"/v1/images/{image_id}/metadata", json={"metadata": {"kind": f"k{image_id}"}})
    assert service.get("/v1/map").json()["labels"] == [{"by": "kind", "names": ["k1", "k2"]}]
    points = service.get("/v1/map/points?label=kind").json()
    named = {one: label for one, label in zip(points["ids"], points["label"], strict=True) if label is not None}
    assert named == {1: 0, 2: 1}
    assert service.get("/v1/map/points?label=taste").status_code == 422


def test_a_layout_that_nobody_asked_for_is_not_there_and_a_wrong_one_is_refused(service: TestClient) -> None:
    missing = service.get("/v1/map?layout=tsne")
    assert missing.status_code == 404 and missing.json()["type"].endswith("no-such-map")
    assert service.get("/v1/map?layout=round").status_code == 422
    assert service.post("/v1/map", json={"layout": "pca", "count": 1000}).status_code == 422
    assert service.post("/v1/map", json={"layout": "pca", "taste": 1}).status_code == 422
    page = service.get("/map?layout=tsne")
    assert page.status_code == 200 and "There is no map by t-SNE yet" in page.text


def test_tiles_are_images_with_etags_and_of_one_map(service: TestClient) -> None:
    found = service.get("/v1/map").json()
    tile = service.get(f"/v1/map/tiles/0?map={found['map']}")
    assert tile.headers["content-type"] == "image/webp" and tile.content[:4] == b"RIFF"
    assert service.get("/v1/map/tiles/0", headers={"If-None-Match": tile.headers["etag"]}).status_code == 304
    assert service.get("/v1/map/tiles/1").status_code == 404
    assert service.get(f"/v1/map/tiles/0?map={'0' * 16}").status_code == 404
    service.delete("/v1/images/5")
    assert service.get("/v1/map/tiles/0").headers["etag"] != tile.headers["etag"]
    assert service.get("/v1/map").json()["images"] == 119


def test_the_first_to_ask_has_the_map_made_in_a_process_of_its_own(home_with_digits: Settings) -> None:
    with TestClient(create_app(home_with_digits)) as service:
        first = service.get("/v1/map")
        assert first.status_code == 503 and first.json()["type"].endswith("being-computed")
        assert first.headers["retry-after"] == "2"
        assert "is being computed" in service.get("/map").text
        asked = service.post("/v1/map", json={"layout": "tsne"})
        assert asked.status_code == 202 and asked.json()["layout"] == "pca"  # one at a time
        wait_until(lambda: service.get("/v1/map").is_success and service.get("/v1/map").json()["computing"] is None)
        assert service.get("/v1/map").json()["errors"] == 120


def test_a_map_that_could_not_be_made_says_so_until_somebody_asks_anew(home_with_digits: Settings) -> None:
    (home_with_digits.home / "maps").write_text("where a folder should be")
    with TestClient(create_app(home_with_digits)) as service:
        assert service.get("/v1/map").json()["type"].endswith("being-computed")
        wait_until(lambda: service.get("/v1/map").headers["retry-after"] == "30")
        found = service.get("/v1/map")
        assert found.status_code == 503 and found.json()["type"].endswith("map-failed")
        assert "Can't write" in found.json()["detail"]
        assert "Make space or give permission" in service.get("/map").text


def test_who_may_only_search_sees_the_map_and_can_t_have_another_made(home_with_digits: Settings) -> None:
    with Searcher(home_with_digits) as searcher:
        make_map(searcher, MapSettings(), ignore_progress)
        key = {"Authorization": f"Bearer {searcher.catalogue.keys.create('reader', 'search')[0].text}"}
    with TestClient(create_app(home_with_digits)) as service:
        page = service.get("/map", headers=key).text
        assert "12 clusters" in page and "data-make" not in page
        assert service.get("/v1/map/points", headers=key).status_code == 200
        assert service.post("/v1/map", json={"layout": "tsne"}, headers=key).status_code == 403


def test_an_empty_home_is_said_to_be_empty(trained_home: Settings) -> None:
    with TestClient(create_app(trained_home)) as service:
        assert service.get("/v1/map").json()["type"].endswith("nothing-indexed")
        assert "Nothing is indexed yet" in service.get("/map").text
