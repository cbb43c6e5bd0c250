"""The latent space over HTTP: places, morphs, samples, traversals, attributes, outliers, uncertainty."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from core.settings import Settings
from search.searcher import Searcher
from service.app import create_app


@pytest.fixture
def client(home_with_digits: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(home_with_digits)) as client:
        yield client


def post(client: TestClient, path: str, body: dict[str, Any], status: int = 200) -> Any:
    answer = client.post(f"/v1/{path}", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def picture_in(url: str) -> np.ndarray[Any, Any]:
    kind, _, data = url.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def mu_of(client: TestClient, image_id: int) -> list[float]:
    return list(post(client, "latents", {"parts": [{"image_id": image_id}], "picture": False})["mu"])


def test_a_place_is_mixed_decoded_and_looked_around_from(client: TestClient) -> None:
    one, other = mu_of(client, 3), mu_of(client, 9)
    mixed = post(
        client,
        "latents",
        {"parts": [{"image_id": 3, "weight": 3}, {"vector": other, "weight": 1}], "nearest": 5},
    )
    assert mixed["mu"] == pytest.approx((0.75 * np.array(one) + 0.25 * np.array(other)).tolist(), abs=1e-5)
    assert picture_in(mixed["picture"]).shape == (32, 32, 3) and mixed["decoder"] and mixed["sigma"] is None
    assert len(mixed["nearest"]) == 5
    turned = post(client, "latents", {"parts": [{"image_id": 3}, {"image_id": 9}], "how": "spherical"})
    assert np.linalg.norm(turned["mu"]) == pytest.approx((np.linalg.norm(one) + np.linalg.norm(other)) / 2, rel=1e-3)
    alone = post(client, "latents", {"parts": [{"image_id": 3}], "nearest": 1})
    assert alone["nearest"][0]["image_id"] == 3 and len(alone["sigma"]) == 16


def test_dimensions_are_moved_by_deviations_of_the_collection(client: TestClient) -> None:
    walked = post(client, "traversals", {"start": {"image_id": 3}, "dims": [2, 5], "span": 2, "steps": 3})
    two = walked["dimensions"][0]
    assert two["dim"] == 2 and walked["steps"] == [-2, 0, 2] and two["frames"][1]["nearest"]["image_id"] == 3
    moved = post(client, "latents", {"parts": [{"image_id": 3}], "dims": {"2": 2}})
    assert moved["mu"] == pytest.approx(two["frames"][2]["mu"], abs=1e-5)
    assert moved["mu"][2] - mu_of(client, 3)[2] == pytest.approx(2 * two["deviation"], abs=1e-4)
    most = post(client, "traversals", {"dims": 3, "steps": 2, "nearest": False})
    deviations = [row["deviation"] for row in most["dimensions"]]
    assert len(deviations) == 3 and deviations == sorted(deviations, reverse=True)


def test_an_upload_gets_a_place_which_goes_on_as_a_vector(client: TestClient, home_with_digits: Settings) -> None:
    with Searcher(home_with_digits) as searcher:
        path = Path(searcher.image(5).paths[0])
    found = client.post("/v1/latents", files={"file": ("five.png", path.read_bytes())}).json()
    assert found["name"] == "five.png" and found["nearest"][0]["image_id"] == 5
    morph = post(client, "morphs", {"parts": [{"vector": found["mu"]}, {"image_id": 9}], "steps": 4})
    assert [len(morph[name]) for name in ("frames", "changes", "stops")] == [4, 3, 2]
    assert morph["frames"][0]["nearest"]["image_id"] == 5 and morph["frames"][3]["nearest"]["image_id"] == 9
    sure = client.post("/v1/uncertainty", files={"file": ("five.png", path.read_bytes())}).json()
    assert sure["name"] == "five.png" and picture_in(sure["deviation"]).max() == 255
    assert len(post(client, "uncertainty", {"image_id": 5, "samples": 4})["sigma"]) == 16


@pytest.mark.parametrize("kind", ["image/gif", "image/webp", "image/png"])
def test_a_morph_comes_as_a_picture_where_that_is_asked_for(client: TestClient, kind: str) -> None:
    body = {"parts": [{"image_id": 3}, {"image_id": 9}], "steps": 5}
    answer = client.post("/v1/morphs", json=body, headers={"Accept": kind})
    assert answer.headers["content-type"] == kind
    with Image.open(io.BytesIO(answer.content)) as image:
        assert getattr(image, "n_frames", 1) == (1 if kind == "image/png" else 5)


def test_samples_are_the_same_for_the_same_seed(client: TestClient) -> None:
    for asked in ({"source": "prior"}, {"source": "mixture"}, {"source": "image", "image_id": 4}):
        one, again, other = (post(client, "samples", {**asked, "count": 3, "seed": seed}) for seed in (1, 1, 2))
        assert one == again != other and len(one["samples"]) == 3
        assert picture_in(one["samples"][0]["picture"]).shape == (32, 32, 3)


def test_an_attribute_is_learned_listed_pushed_searched_with_and_removed(client: TestClient) -> None:
    learned = client.post(
        "/v1/attributes", json={"name": "late", "positive": list(range(61, 121)), "negative": list(range(1, 61))}
    )
    assert learned.status_code == 201 and learned.headers["location"] == "/v1/attributes/late"
    assert set(learned.json()["auc"]) == {"raw", "whitened"} and learned.json()["positives"] == 60
    assert [one["name"] for one in client.get("/v1/attributes").json()["attributes"]] == ["late"]
    assert client.get("/v1/attributes/late").json()["drags"] == []
    pushed = post(client, "latents", {"parts": [{"image_id": 3}], "attributes": {"late": 2}, "nearest": 3})
    hits = [hit["image_id"] for hit in pushed["nearest"]]
    for asked in ({"plus": ["late"], "strength": 2}, {"minus": ["late"], "strength": -2}):
        found = post(client, "search", {"image_id": 3, "limit": 3, **asked})
        assert [hit["image_id"] for hit in found["hits"]] == hits
    again = post(client, "attributes", {"name": "late", "positive": [1], "negative": [2]}, 409)
    assert again["type"].endswith("attribute-exists")
    assert client.delete("/v1/attributes/late").status_code == 204
    for gone in (client.get("/v1/attributes/late"), client.delete("/v1/attributes/late")):
        assert gone.status_code == 404 and gone.json()["type"].endswith("no-such-attribute")
    assert "both" in post(client, "search", {"image_id": 3, "plus": ["x"], "minus": ["x"]}, 422)["detail"]
    refused = post(client, "search", {"image_id": 3, "plus": ["late"]}, 422)
    assert "no attribute late" in refused["detail"]


def test_an_upload_is_searched_with_an_attribute(client: TestClient, home_with_digits: Settings) -> None:
    post(client, "attributes", {"name": "late", "positive": [*range(61, 121)], "negative": [*range(1, 61)]}, 201)
    with Searcher(home_with_digits) as searcher:
        data = Path(searcher.image(5).paths[0]).read_bytes()
    by_id = post(client, "search", {"image_id": 5, "plus": ["late"], "limit": 5})
    form = {"file": ("five.png", data)}
    by_file = client.post("/v1/search", params={"plus": "late", "limit": 5}, files=form).json()
    assert [hit["image_id"] for hit in by_file["hits"]] == [hit["image_id"] for hit in by_id["hits"]]


def test_outliers_are_measured_behind_the_requests(client: TestClient) -> None:
    ended = time.monotonic() + 60
    while (answer := client.get("/v1/outliers", params={"limit": 5, "offset": 1})).status_code == 503:
        assert answer.json()["type"].endswith("being-computed") and answer.headers["retry-after"]
        assert time.monotonic() < ended
        time.sleep(0.2)
    found = answer.json()
    assert found["images"] == 120 and found["total"] == 120 and len(found["outliers"]) == 5
    scores = [one["score"] for one in found["outliers"]]
    assert scores == sorted(scores, reverse=True) and found["outliers"][0]["reason"]
    gone = found["outliers"][0]["image_id"]
    assert client.delete(f"/v1/images/{gone}").status_code == 204
    while (left := client.get("/v1/outliers").json())["images"] == 120:  # listed as before until measured anew
        assert gone not in [one["image_id"] for one in left["outliers"]] and time.monotonic() < ended
        time.sleep(0.1)
    assert left["images"] == left["total"] == 119


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("latents", {"parts": []}),
        ("latents", {"parts": [{"image_id": 3, "weight": 0}]}),
        ("latents", {"parts": [{"image_id": 3}], "dims": {"99": 1}}),
        ("latents", {"parts": [{"image_id": 3}], "attributes": {"nobody": 1}}),
        ("latents", {"parts": [{"image_id": 3}] * 3, "how": "spherical"}),
        ("latents", {"parts": [{"vector": [1, 2]}]}),
        ("latents", {"parts": [{"image_id": 1, "vector": [1]}]}),
        ("morphs", {"parts": [{"image_id": 1}]}),
        ("morphs", {"parts": [{"image_id": 1}, {"image_id": 2}], "steps": 65}),
        ("samples", {"source": "image"}),
        ("traversals", {"dims": 99, "steps": 9}),
        ("attributes", {"name": "../x", "where": ["a=b"]}),
        ("attributes", {"name": "x", "positive": [1, 2], "negative": [3]}),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_reason(client: TestClient, path: str, body: dict[str, Any]) -> None:
    assert post(client, path, body, 422)["detail"]


def test_an_image_that_is_not_there_is_named(client: TestClient) -> None:
    for path, body in (
        ("latents", {"parts": [{"image_id": 4242}]}),
        ("attributes", {"name": "x", "positive": [4242], "negative": [1]}),
        ("uncertainty", {"image_id": 4242}),
    ):
        assert "4242" in post(client, path, body, 404)["detail"]


def test_without_a_decoder_or_a_variance_the_rest_goes_on(
    client: TestClient, home_with_digits: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.get("/readyz")
    encoder = client.app.state.door.open().encoder()  # type: ignore[attr-defined]
    with monkeypatch.context() as patched:
        patched.setattr(encoder, "has_variance", False)
        assert post(client, "samples", {}, 409)["type"].endswith("no-variance")
        assert post(client, "samples", {"source": "mixture"})
    monkeypatch.setattr(encoder, "has_decoder", False)
    two = [{"image_id": 1}, {"image_id": 2}]
    for path, body in (
        ("morphs", {"parts": two}),
        ("samples", {}),
        ("traversals", {}),
        ("uncertainty", {"image_id": 1}),
    ):
        problem = post(client, path, body, 409)
        assert problem["type"].endswith("no-decoder") and "--decoder-only" in problem["detail"]
    mixed = post(client, "latents", {"parts": two, "nearest": 3})
    assert mixed["picture"] is None and not mixed["decoder"] and len(mixed["nearest"]) == 3
