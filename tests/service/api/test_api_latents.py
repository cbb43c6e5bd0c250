"""The latent space over HTTP: places, morphs, samples, traversals, attributes, outliers, uncertainty."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from typer.testing import CliRunner

from simile.cli.main import app
from simile.core.settings import Settings
from simile.search.searcher import Searcher


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


def test_a_place_is_mixed_decoded_and_looked_around_from(shared_client: TestClient) -> None:
    one, other = mu_of(shared_client, 3), mu_of(shared_client, 9)
    mixed = post(
        shared_client,
        "latents",
        {"parts": [{"image_id": 3, "weight": 3}, {"vector": other, "weight": 1}], "nearest": 5},
    )
    assert mixed["mu"] == pytest.approx((0.75 * np.array(one) + 0.25 * np.array(other)).tolist(), abs=1e-5)
    assert picture_in(mixed["picture"]).shape == (32, 32, 3) and mixed["decoder"] and mixed["sigma"] is None
    assert len(mixed["nearest"]) == 5
    turned = post(shared_client, "latents", {"parts": [{"image_id": 3}, {"image_id": 9}], "how": "spherical"})
    assert np.linalg.norm(turned["mu"]) == pytest.approx((np.linalg.norm(one) + np.linalg.norm(other)) / 2, rel=1e-3)
    alone = post(shared_client, "latents", {"parts": [{"image_id": 3}], "nearest": 1})
    assert alone["nearest"][0]["image_id"] == 3 and len(alone["sigma"]) == 16


def test_dimensions_are_moved_by_deviations_of_the_collection(shared_client: TestClient) -> None:
    walked = post(shared_client, "traversals", {"start": {"image_id": 3}, "dims": [2, 5], "span": 2, "steps": 3})
    two = walked["dimensions"][0]
    assert two["dim"] == 2 and walked["steps"] == [-2, 0, 2] and two["frames"][1]["nearest"]["image_id"] == 3
    moved = post(shared_client, "latents", {"parts": [{"image_id": 3}], "dims": {"2": 2}})
    assert moved["mu"] == pytest.approx(two["frames"][2]["mu"], abs=1e-5)
    assert moved["mu"][2] - mu_of(shared_client, 3)[2] == pytest.approx(2 * two["deviation"], abs=1e-4)
    most = post(shared_client, "traversals", {"dims": 3, "steps": 2, "nearest": False})
    deviations = [row["deviation"] for row in most["dimensions"]]
    assert len(deviations) == 3 and deviations == sorted(deviations, reverse=True)


def test_an_upload_gets_a_place_which_goes_on_as_a_vector(shared_client: TestClient, shared_home: Settings) -> None:
    with Searcher(shared_home) as searcher:
        path = Path(searcher.get_image(5).paths[0])
    found = shared_client.post("/v1/latents", files={"file": ("five.png", path.read_bytes())}).json()
    assert found["name"] == "five.png" and found["nearest"][0]["image_id"] == 5
    morph = post(shared_client, "morphs", {"parts": [{"vector": found["mu"]}, {"image_id": 9}], "steps": 4})
    assert [len(morph[name]) for name in ("frames", "changes", "stops")] == [4, 3, 2]
    assert morph["frames"][0]["nearest"]["image_id"] == 5 and morph["frames"][3]["nearest"]["image_id"] == 9
    sure = shared_client.post("/v1/uncertainty", files={"file": ("five.png", path.read_bytes())}).json()
    assert sure["name"] == "five.png" and picture_in(sure["deviation"]).max() == 255
    assert len(post(shared_client, "uncertainty", {"image_id": 5, "samples": 4})["sigma"]) == 16


def digit(home: Settings, image_id: int) -> bytes:
    with Searcher(home) as searcher:
        return Path(searcher.get_image(image_id).paths[0]).read_bytes()


def send(client: TestClient, path: str, ids: list[int], home: Settings, status: int = 200, **said: Any) -> Any:
    """A form with the files of these images, and what else is said as fields."""
    files = [("file", (f"{one}.png", digit(home, one))) for one in ids]
    answer = client.post(f"/v1/{path}", files=files, data=said)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_files_are_mixed_pushed_moved_and_walked_between_in_one_call(
    client: TestClient, home_with_digits: Settings
) -> None:
    home = home_with_digits
    post(client, "attributes", {"name": "late", "positive": [*range(61, 121)], "negative": [*range(1, 61)]}, 201)
    parts = [{"image_id": 5, "weight": 3}, {"image_id": 9, "weight": 1}, {"image_id": 12, "weight": 2}]
    moves = {"attributes": {"late": 1.5}, "dims": {"2": -1}}
    stored = post(client, "latents", {"parts": parts, "nearest": 4, **moves})
    fields = {name: json.dumps(one) for name, one in moves.items()}
    sent = send(client, "latents", [5, 9], home, weights="[3, 1]", parts=json.dumps(parts[2:]), nearest="4", **fields)
    assert sent["mu"] == pytest.approx(stored["mu"], abs=1e-4)
    assert [hit["image_id"] for hit in sent["nearest"]] == [hit["image_id"] for hit in stored["nearest"]]
    repeated = send(client, "latents", [5, 9], home, weights=["3", "1"], parts=json.dumps(parts[2]), **fields)
    assert repeated["mu"] == sent["mu"] and len(repeated["nearest"]) == 10
    way = send(client, "morphs", [5, 9], home, steps="3", how="spherical", parts='[{"image_id": 12}]')
    assert way["names"][:2] == ["5.png", "9.png"] and way["stops"] == [0, 2, 4] and way["how"] == "spherical"
    assert [way["frames"][at]["nearest"]["image_id"] for at in way["stops"]] == [5, 9, 12]
    around = send(client, "samples", [5], home, count="2", seed="7", temperature="0")
    assert around["seed"] == 7 and around["samples"][0]["mu"] == pytest.approx(mu_of(client, 5), abs=1e-4)
    walked = send(client, "traversals", [5], home, dims="[3]", steps="3", span="1")
    assert walked["name"] == "5.png" and walked["dimensions"][0]["frames"][1]["nearest"]["image_id"] == 5
    assert send(client, "uncertainty", [5], home, samples="4")["samples"] == 4


@pytest.mark.parametrize(
    ("path", "ids", "said", "reason"),
    [
        ("latents", [5], {"weights": "[1, 2]"}, "one for each file"),
        ("latents", [5], {"attributes": '{"late": "much"}'}, "attributes"),
        ("latents", [5], {"nearst": "5"}, "nearst"),
        ("latents", [5], {"attributes": '{"late": 1'}, "attributes"),
        ("latents", [5] * 5, {"parts": json.dumps([{"image_id": 1}] * 4)}, "more than 8"),
        ("morphs", [5], {}, "at least two"),
        ("morphs", [5, 6], {"steps": "two"}, "steps"),
        ("samples", [5], {"source": "prior"}, "source"),
        ("uncertainty", [5, 6], {}, ""),
    ],
)
def test_a_form_that_makes_no_sense_is_refused_with_a_reason(
    shared_client: TestClient, shared_home: Settings, path: str, ids: list[int], said: dict[str, str], reason: str
) -> None:
    status = 400 if path == "uncertainty" else 422  # more files than there is room for
    assert reason in json.dumps(send(shared_client, path, ids, shared_home, status, **said))


def test_an_attribute_is_painted_onto_an_upload_an_image_and_a_place(
    client: TestClient, home_with_digits: Settings
) -> None:
    post(client, "attributes", {"name": "late", "positive": [*range(61, 121)], "negative": [*range(1, 61)]}, 201)
    strengths = [-2, 0, 2]
    stored = post(client, "attributes/late/apply", {"image_id": 5, "strengths": strengths})
    assert [one["strength"] for one in stored["pictures"]] == strengths and stored["attribute"] == "late"
    assert stored["pictures"][1]["mu"] == pytest.approx(mu_of(client, 5), abs=1e-5)
    seen = [picture_in(one["picture"]) for one in stored["pictures"]]
    assert seen[0].shape == (32, 32, 3) and (seen[0] != seen[2]).any()
    sent = send(client, "attributes/late/apply", [5], home_with_digits, strengths="[-2, 0, 2]")
    there = post(client, "attributes/late/apply", {"vector": mu_of(client, 5), "strengths": strengths})
    pushed = post(client, "latents", {"parts": [{"image_id": 5}], "attributes": {"late": 2}})
    for made in (sent, there):
        for one, other in zip(made["pictures"], stored["pictures"], strict=True):
            assert one["mu"] == pytest.approx(other["mu"], abs=1e-4)
    assert stored["pictures"][2]["mu"] == pytest.approx(pushed["mu"], abs=1e-5)
    assert len(post(client, "attributes/late/apply", {"image_id": 5})["pictures"]) == 1
    body = {"image_id": 5, "strengths": strengths}
    strip = client.post("/v1/attributes/late/apply", json=body, headers={"Accept": "image/png"})
    with Image.open(io.BytesIO(strip.content)) as drawn:
        assert strip.headers["content-type"] == "image/png" and drawn.width > 2 * drawn.height
    assert post(client, "attributes/nobody/apply", body, 404)["type"].endswith("no-such-attribute")
    for wrong in (
        {},
        {"image_id": 5, "vector": [1]},
        {"image_id": 5, "strengths": []},
        {"image_id": 5, "strengths": [0] * 32},
    ):
        assert post(client, "attributes/late/apply", wrong, 422)["detail"]
    encoder = client.app.state.searcher_provider.get_searcher().get_encoder()  # type: ignore[attr-defined]
    encoder.has_decoder = False
    assert post(client, "attributes/late/apply", body, 409)["type"].endswith("no-decoder")


@pytest.mark.parametrize("kind", ["image/gif", "image/webp", "image/png"])
def test_a_morph_comes_as_an_image_where_that_is_asked_for(shared_client: TestClient, kind: str) -> None:
    body = {"parts": [{"image_id": 3}, {"image_id": 9}], "steps": 5}
    answer = shared_client.post("/v1/morphs", json=body, headers={"Accept": kind})
    assert answer.headers["content-type"] == kind
    with Image.open(io.BytesIO(answer.content)) as image:
        assert getattr(image, "n_frames", 1) == (1 if kind == "image/png" else 5)


def test_samples_are_the_same_for_the_same_seed_here_and_at_the_command_line(
    shared_client: TestClient, shared_home: Settings
) -> None:
    for asked, said in (
        ({"source": "prior"}, ["--from", "prior"]),
        ({"source": "mixture"}, ["--from", "mixture"]),
        ({"source": "image", "image_id": 4}, ["--id", "4"]),
    ):
        one, again, other = (post(shared_client, "samples", {**asked, "count": 3, "seed": seed}) for seed in (1, 1, 2))
        assert one == again != other and len(one["samples"]) == 3 and (one["seed"], other["seed"]) == (1, 2)
        assert picture_in(one["samples"][0]["picture"]).shape == (32, 32, 3)
        command = ["generate", *said, "--count", "3", "--seed", "1", "--json", "--home", str(shared_home.home)]
        made = json.loads(CliRunner().invoke(app, command).stdout)
        assert made["seed"] == 1
        assert np.array(made["mu"]) == pytest.approx(np.array([sample["mu"] for sample in one["samples"]]), abs=1e-5)


def test_an_attribute_is_learned_listed_pushed_searched_with_and_removed(client: TestClient) -> None:
    learned = client.post(
        "/v1/attributes", json={"name": "late", "positive": list(range(61, 121)), "negative": list(range(1, 61))}
    )
    assert learned.status_code == 201 and learned.headers["location"] == "/v1/attributes/late"
    assert set(learned.json()["auc"]) == {"raw", "whitened"} and learned.json()["positives"] == 60
    assert [one["name"] for one in client.get("/v1/attributes").json()["attributes"]] == ["late"]
    assert client.get("/v1/attributes/late").json()["drags"] == []
    pushed = post(client, "latents", {"parts": [{"image_id": 3}], "attributes": {"late": 2}, "nearest": 4})
    hits = [hit["image_id"] for hit in pushed["nearest"] if hit["image_id"] != 3][:3]  # what is asked with is no hit
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
        data = Path(searcher.get_image(5).paths[0]).read_bytes()
    by_id = post(client, "search", {"image_id": 5, "plus": ["late"], "limit": 5})
    form = {"file": ("five.png", data)}
    by_file = client.post("/v1/search", params={"plus": "late", "limit": 6}, files=form).json()
    assert [hit["image_id"] for hit in by_file["hits"] if hit["image_id"] != 5][:5] == [
        hit["image_id"] for hit in by_id["hits"]
    ]


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
def test_what_makes_no_sense_is_refused_with_a_reason(
    shared_client: TestClient, path: str, body: dict[str, Any]
) -> None:
    assert post(shared_client, path, body, 422)["detail"]


def test_an_image_that_is_not_there_is_named(shared_client: TestClient) -> None:
    for path, body in (
        ("latents", {"parts": [{"image_id": 4242}]}),
        ("attributes", {"name": "x", "positive": [4242], "negative": [1]}),
        ("uncertainty", {"image_id": 4242}),
    ):
        assert "4242" in post(shared_client, path, body, 404)["detail"]


def test_without_a_decoder_or_a_variance_the_rest_goes_on(
    client: TestClient, home_with_digits: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.get("/readyz")
    encoder = client.app.state.searcher_provider.get_searcher().get_encoder()  # type: ignore[attr-defined]
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
