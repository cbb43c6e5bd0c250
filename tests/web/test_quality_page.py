"""The quality of the collection over HTTP, on the page, and of one image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from simile.core.settings import Settings
from simile.indexer.pipeline.job import IndexRequest, index
from tests.conftest import app_client, own_settings
from tests.support.synthetic_images import FAULTS, write_faulty_images


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, _trained_home: Path) -> Settings:
    """A home with images of each issue, which tests leave as it is."""
    root = tmp_path_factory.mktemp("quality")
    (root / "photos").mkdir()
    write_faulty_images(root / "photos")
    settings = own_settings(_trained_home, root / "home")
    index(settings, [root / "photos"], IndexRequest())
    return settings


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[TestClient]:
    with app_client(settings) as client:
        yield client


def test_issues_have_counts_limits_and_their_worst_images(client: TestClient) -> None:
    body = client.get("/v1/quality").json()
    issues = {issue["issue"]: issue for issue in body["issues"]}
    for name in FAULTS:
        worst = issues[name]["images"][0]
        assert Path(worst["path"]).name == f"{name}.png"
        assert client.get(worst["thumbnail_url"]).status_code == 200
    assert (body["images"], body["measured"], body["unreadable_count"]) == (48, 48, 1)
    assert body["unreadable"][0]["reason"] == "the file is truncated"
    (dark,) = client.get("/v1/quality?issue=dark&limit=1").json()["issues"]
    assert (dark["count"], dark["measure"], dark["high"]) == (1, "brightness_p99", None)
    assert dark["images"][0]["value"] < dark["low"]


def test_an_unknown_issue_is_refused_with_the_names(client: TestClient) -> None:
    response = client.get("/v1/quality?issue=noisy")
    assert response.status_code == 422 and "blurred, dark" in response.json()["detail"]


def test_an_image_has_its_measures_and_issues(client: TestClient) -> None:
    (listed,) = client.get("/v1/images", params={"where": "quality=dark"}).json()["images"]
    quality = client.get(f"/v1/images/{listed['image_id']}").json()["quality"]
    assert "dark" in quality["issues"] and quality["brightness"] < 0.2
    assert ">dark</a>" in client.get(f"/pictures/{listed['image_id']}").text


def test_the_page_shows_each_issue_with_its_images(client: TestClient) -> None:
    page = client.get("/quality").text
    for name in FAULTS:
        assert f'<h2 id="{name}">' in page and f"{name}.png" in page
    assert "truncated.png" in page and "the file is truncated" in page
    assert "(brightness_p99 below 0." in page
