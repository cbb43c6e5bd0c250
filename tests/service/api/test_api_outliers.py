"""Outliers over HTTP: measured once behind the requests, kept in the home, shared by processes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from simile.core.settings import Settings
from simile.explore.outliers.cache import OutlierListing
from simile.search.searcher import Searcher
from tests.conftest import app_client
from tests.support.waiting import wait_until


def listed(client: TestClient, images: int = 120, **params: int) -> Any:
    """The list, once it is there and about so many images."""

    def look() -> Any:
        response = client.get("/v1/outliers", params=params)
        if response.status_code == 503:
            assert response.json()["type"].endswith("being-computed") and response.headers["retry-after"]
            return None
        return response.json() if response.json()["images"] == images else None

    return wait_until(look)


def kept(settings: Settings) -> list[Path]:
    return list((settings.home / "gauges").glob("*-outliers.npz"))


def test_outliers_are_measured_behind_the_requests(home_with_digits: Settings) -> None:
    with app_client(home_with_digits) as client:
        assert client.get("/v1/outliers").status_code == 503
        found = listed(client, limit=5, offset=1)
        assert found["total"] == 120 and len(found["outliers"]) == 5
        scores = [one["score"] for one in found["outliers"]]
        assert scores == sorted(scores, reverse=True) and found["outliers"][0]["reason"]
        gone = found["outliers"][0]["image_id"]
        assert client.delete(f"/v1/images/{gone}").status_code == 204
        before = client.get("/v1/outliers", params={"limit": 120}).json()  # as before, until measured anew
        assert gone not in [one["image_id"] for one in before["outliers"]] and before["total"] == 119
        assert listed(client, 119)["total"] == 119


def test_a_restart_and_a_second_process_find_what_is_kept(home_with_digits: Settings) -> None:
    with app_client(home_with_digits) as first:
        found = listed(first)
        (file,) = kept(home_with_digits)
        made_at = file.stat().st_mtime_ns
        with app_client(home_with_digits) as second:
            assert second.get("/v1/outliers").json() == found
            told = {"metadata": {"class": "digit"}}  # what is said of a picture changes nothing of this
            assert second.put("/v1/images/1/metadata", json=told).status_code == 200
            second.delete("/v1/images/2")
            assert listed(second, 119)
        assert listed(first, 119) and len(kept(home_with_digits)) == 1
    with app_client(home_with_digits) as again:
        answer = again.get("/v1/outliers")
        assert answer.status_code == 200 and answer.json()["images"] == 119
        assert kept(home_with_digits)[0].stat().st_mtime_ns > made_at


def test_a_listing_holds_for_just_the_images_that_were_judged(home_with_digits: Settings) -> None:
    with app_client(home_with_digits) as client:
        listed(client)
        (file,) = kept(home_with_digits)
        listing = OutlierListing.load(file)
        data = client.get("/v1/images/7/file").content
        with Searcher(home_with_digits) as searcher:
            assert listing.fits(searcher.index.get_snapshot())
            client.put("/v1/images/1/metadata", json={"metadata": {"class": "digit"}})
            assert listing.fits(searcher.index.get_snapshot())
            client.delete("/v1/images/7")
            client.post("/v1/images", files={"file": ("seven.png", data)})  # as many as before, but one is another
            assert searcher.count_images() == 120 and not listing.fits(searcher.index.get_snapshot())
        wait_until(lambda: client.get("/v1/outliers") and OutlierListing.load(file).ids[-1] == 121)


def test_a_damaged_file_is_made_anew(home_with_digits: Settings) -> None:
    with app_client(home_with_digits) as client:
        found = listed(client)
    (file,) = kept(home_with_digits)
    file.write_bytes(file.read_bytes()[:200])
    with app_client(home_with_digits) as client:
        assert client.get("/v1/outliers").status_code == 503
        assert listed(client)["outliers"] == found["outliers"]


def test_a_damaged_ranking_is_none(home_with_digits: Settings) -> None:
    """Its zip archive ended early: that was an error of another kind, and reached whoever asked."""
    with Searcher(home_with_digits) as searcher:
        searcher.outlier_rankings.start(searcher.index.get_snapshot())
        searcher.outlier_rankings.wait()
        assert searcher.outlier_rankings.get(searcher.index.get_snapshot()) is not None
    (file,) = (home_with_digits.home / "gauges").glob("*-unlike.npz")
    file.write_bytes(file.read_bytes()[:200])
    with Searcher(home_with_digits) as searcher:
        assert searcher.outlier_rankings.get(searcher.index.get_snapshot()) is None


def test_too_few_images_are_refused_at_once(home_with_digits: Settings) -> None:
    with app_client(home_with_digits) as client:
        for image_id in range(1, 105):
            client.delete(f"/v1/images/{image_id}")
        refused = client.get("/v1/outliers")
        assert refused.status_code == 422 and "16 images" in refused.json()["detail"]


def test_what_fails_is_said_and_not_tried_at_every_request(home_with_digits: Settings) -> None:
    with app_client(home_with_digits) as client:
        for weights in (home_with_digits.home / "encoders").rglob("*.safetensors"):
            weights.unlink()
        wait_until(lambda: not client.get("/v1/outliers").json()["type"].endswith("being-computed"))
        answer = client.get("/v1/outliers")
        assert answer.json()["detail"] and answer.status_code >= 400
        latents = client.app.state.latent_cache  # type: ignore[attr-defined]
        failed = latents._last_failure
        time.sleep(2.2)  # a file of another process is looked for again
        assert client.get("/v1/outliers").json()["type"] == answer.json()["type"] and latents._last_failure is failed
