"""POST /v1/search and its neighbours over HTTP: what goes in, what comes out, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from simile.core.settings import Settings
from simile.images.matching.tasks import ComparableImage
from simile.service.app import create_app
from tests.support.images import noise

Files = list[tuple[str, tuple[str, bytes]]]


@pytest.fixture(scope="module")
def files(shared_client: TestClient) -> list[bytes]:
    """The files of the first three images."""
    shown = [shared_client.get(f"/v1/images/{n}").json() for n in (1, 2, 3)]
    return [Path(item["path"]).read_bytes() for item in shown]


def sent(*data: bytes, field: str = "file") -> Files:
    return [(field, (f"{n}.png", item)) for n, item in enumerate(data)]


def ids(response: Any) -> list[int]:
    return [hit["image_id"] for hit in response.json()["hits"]]


def test_several_images_are_one_query_and_negatives_turn_it_away(shared_client: TestClient, files: list[bytes]) -> None:
    together = shared_client.post("/v1/search", files=sent(*files[:2]), data={"limit": "119"})
    by_ids = shared_client.post("/v1/search", json={"positive": [1, 2], "limit": 118})
    assert [item for item in ids(together) if item > 2][:50] == ids(by_ids)[:50]
    turned = shared_client.post("/v1/search", files=sent(files[0]) + sent(files[2], field="negative"))
    mixed = shared_client.post(
        "/v1/search", files=sent(files[0]), data={"negative_id": ["3"], "positive_id": ["5", "7"]}
    )
    assert turned.status_code == mixed.status_code == 200
    assert not {3, 5, 7} & set(ids(mixed))
    query = mixed.json()["query"]
    assert query["positives"] == [
        {"image_id": None, "name": "0.png"},
        *(
            {"image_id": n, "name": shared_client.get(f"/v1/images/{n}").json()["path"].rpartition("/")[2]}
            for n in (5, 7)
        ),
    ]
    assert len(query["negatives"]) == 1 and query["unlike"] is None


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"image_id": 1, "positive": [2]},
        {"image_id": None},
        {"negative": [1]},
        {"positive": []},
        {"image_id": 1, "negative": [2]},
        {"positive": list(range(1, 31)), "negative": [31, 32, 33]},
        {"image_id": 1, "include": ["everything"]},
        {"image_id": 1, "within": 1.0, "distance": 2.0},
        {"image_id": 1, "certainty": "some"},
        {"image_id": 1, "where": ["shirt"]},
    ],
)
def test_a_query_that_makes_no_sense_is_refused(shared_client: TestClient, body: dict[str, Any]) -> None:
    assert shared_client.post("/v1/search", json=body).status_code == 422


def test_too_many_images_and_text_in_their_place_are_refused(shared_client: TestClient, files: list[bytes]) -> None:
    many = shared_client.post("/v1/search", files=sent(*files), data={"positive_id": [str(n) for n in range(1, 31)]})
    assert many.status_code == 422 and "32" in many.json()["detail"]
    assert shared_client.post("/v1/search", files=sent(*[b"x"] * 40)).status_code == 400
    text = shared_client.post("/v1/search", files=sent(files[0]), data={"negative": "text"})
    assert text.json()["errors"][0]["field"] == "body.negative"


def test_options_stand_anywhere_and_the_body_wins(shared_client: TestClient, files: list[bytes]) -> None:
    requested = "/v1/search?limit=3&include=metadata,reconstruction"
    by_json = shared_client.post(requested, json={"image_id": 1})
    assert len(ids(by_json)) == 3
    assert by_json.json()["hits"][0]["metadata"] == {} and by_json.json()["hits"][0]["reconstruction_url"]
    assert len(ids(shared_client.post(requested, json={"image_id": 1, "limit": 2}))) == 2
    assert len(ids(shared_client.post(requested, files=sent(files[0]), data={"limit": "4"}))) == 4
    for name in ("within", "distance"):
        near = shared_client.post("/v1/search", json={"image_id": 1, "limit": 50, name: 0.4}).json()["hits"]
        assert near and all(hit["distance"] <= 0.4 for hit in near)
    plain = shared_client.post("/v1/search", json={"image_id": 1}).json()["hits"][0]
    assert plain["metadata"] is None and plain["spread"] > 0


def test_a_batch_has_results_in_order_and_a_bad_image_costs_nothing_else(
    shared_client: TestClient, files: list[bytes]
) -> None:
    found = shared_client.post("/v1/search/batch", files=sent(files[0], b"bad", files[1]), data={"limit": "2"}).json()
    first, bad, last = found["results"]
    assert (first["hits"][0]["image_id"], last["hits"][0]["image_id"]) == (1, 2) and len(last["hits"]) == 2
    assert bad["problem"]["status"] == 422 and bad["problem"]["type"].endswith("unreadable-image")
    alone = shared_client.post("/v1/search", files=sent(files[0]), data={"limit": "2"}).json()
    np.testing.assert_allclose(
        [hit["distance"] for hit in first["hits"]], [hit["distance"] for hit in alone["hits"]], atol=1e-5
    )
    requested = [{"image_id": 1}, {"image_id": 4242}, {"image_id": 2, "where": ["?"]}, {"positive": [1, 2], "limit": 1}]
    results = shared_client.post("/v1/search/batch?limit=3", json={"searches": requested}).json()["results"]
    assert [len(item.get("hits", ())) for item in results] == [3, 0, 0, 1]
    assert [item["problem"]["status"] for item in results if "problem" in item] == [404, 422]


def test_a_batch_that_is_no_batch_is_refused(shared_client: TestClient, files: list[bytes]) -> None:
    for body in ({"searches": []}, {"searches": [{"image_id": 1}] * 101}, {"searches": [{}]}, []):
        assert shared_client.post("/v1/search/batch", json=body).status_code == 422
    assert shared_client.post("/v1/search/batch", files=sent(files[0]), data={"positive_id": "1"}).status_code == 422
    assert shared_client.post("/v1/search/batch", files=sent(files[0], field="other")).status_code == 422
    assert (
        shared_client.post("/v1/search/batch", content=b"x", headers={"content-type": "image/png"}).status_code == 415
    )


def test_any_image_is_reconstructed_under_a_tag_of_its_content(shared_client: TestClient, files: list[bytes]) -> None:
    item, again, other = (
        shared_client.post("/v1/reconstructions", files=sent(data)) for data in (*files[:1] * 2, noise(1))
    )
    assert item.headers["content-type"] == "image/png" and item.content.startswith(b"\x89PNG")
    assert item.headers["etag"] == again.headers["etag"] != other.headers["etag"]
    assert item.content == shared_client.get("/v1/images/1/reconstruction").content
    assert shared_client.post("/v1/reconstructions", files=sent(b"bad")).status_code == 422


def test_the_nearest_hits_are_verified_in_worker_processes(
    shared_client: TestClient, files: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def compare(*_: object) -> None:
        raise AssertionError("images are compared in the process of the service")

    monkeypatch.setattr(ComparableImage, "compare", compare)
    plain = shared_client.post("/v1/search", files=sent(files[0]), data={"limit": "30"}).json()["hits"]
    assert {hit["verified"] for hit in plain} == {hit["relation"] for hit in plain} == {None}
    form = shared_client.post("/v1/search?limit=30", files=sent(files[0]), data={"verify": "true"}).json()["hits"]
    assert (form[0]["image_id"], form[0]["verified"], form[0]["relation"]) == (1, True, "the same bytes")
    compared = [hit["verified"] for hit in form]
    assert None not in compared[:20] and set(compared[20:]) == {None} and False in compared
    assert {hit["image_id"] for hit in form[:20]} == {hit["image_id"] for hit in plain[:20]}
    by_json = shared_client.post("/v1/search", json={"image_id": 1, "verify": True, "include": ["metadata"]}).json()
    neighbours = shared_client.get("/v1/images/1/neighbours?verify=true&include=metadata").json()
    assert by_json == neighbours and 1 not in [hit["image_id"] for hit in neighbours["hits"]]
    assert all(hit["verified"] is not None and hit["metadata"] is not None for hit in neighbours["hits"])
    missing = shared_client.post("/v1/search", json={"image_id": 4242, "verify": True})
    assert missing.status_code == 404 and missing.json()["type"].endswith("no-such-image")
    bad = shared_client.post("/v1/search?verify=true", files=sent(b"bad"))
    assert bad.status_code == 422 and bad.json()["type"].endswith("unreadable-image")


def test_only_a_search_by_one_image_is_verified(shared_client: TestClient, files: list[bytes]) -> None:
    vector = [0.0] * 16
    refused = [
        shared_client.post("/v1/search?verify=true", json=body)
        for body in ({"vector": vector}, {"positive": [1, 2]}, {"positive": [1], "negative": [2]})
    ]
    refused.append(shared_client.post("/v1/search?verify=true", files=sent(*files[:2])))
    for response in refused:
        assert response.status_code == 422 and response.json()["type"].endswith("bad-setting")
        assert "Leave it out" in response.json()["detail"]
    batches = [
        shared_client.post("/v1/search/batch?verify=true", files=sent(*files[:2])),
        shared_client.post("/v1/search/batch", json={"searches": [{"image_id": 1}, {"image_id": 2, "verify": True}]}),
    ]
    for response in batches:
        assert response.status_code == 422 and response.json()["errors"][0]["field"] == "body.verify"
        assert "/v1/search" in response.json()["detail"]
    assert shared_client.post("/v1/search?verify=yes", json={"image_id": 1}).status_code == 422


def test_hits_with_a_lower_score_are_left_out(shared_client: TestClient) -> None:
    plain = shared_client.post("/v1/search", json={"image_id": 1, "limit": 30}).json()
    bound = plain["hits"][9]["score"]
    bounded = shared_client.post("/v1/search", json={"image_id": 1, "limit": 30, "min_score": bound}).json()
    assert bounded["hits"] == plain["hits"][:10] and bounded["score_calibrated"] == plain["score_calibrated"]
    assert shared_client.post("/v1/search", json={"image_id": 1, "min_score": 1.0}).json()["hits"] == []
    for wrong in ("1.1", "-0.1", "nan"):
        response = shared_client.post(f"/v1/search?min_score={wrong}", json={"image_id": 1})
        assert response.status_code == 422 and response.json()["errors"][0]["field"] == "query.min_score"


def test_scores_are_calibrated_by_a_service_that_measures(home_with_digits: Settings, files: list[bytes]) -> None:
    with TestClient(create_app(home_with_digits, preload=True)) as client:
        client.post("/v1/search", json={"image_id": 1})
        client.app.state.searcher_provider.get_searcher().calibrations.wait()  # type: ignore[attr-defined]
        response = client.post("/v1/search", files=sent(noise(1))).json()
        assert response["score_calibrated"] and response["query"]["unlike"] is True
        assert response["query"]["error_percentile"] == 100 and "%" in response["query"]["unlike_reason"]
        every = [client.get(f"/v1/images/{n}/file").content for n in range(1, 121)]
        batches = [client.post("/v1/search/batch", files=sent(*every[at : at + 60])).json() for at in (0, 60)]
        own = [item["query"] for batch in batches for item in batch["results"]]
        rate = own[0]["false_alarm_rate"]
        assert 0 < rate <= 0.1 and sum(query["unlike"] for query in own) <= rate * 120
        quick = client.post("/v1/search?certainty=quick", files=sent(noise(1))).json()["query"]
        assert quick["reconstruction_error"] is None and quick["false_alarm_rate"] is not None
        assert client.get("/v1/status").json()["gauge"]["status"] == "ready"


def test_a_result_is_json_whatever_files_are_called(client: TestClient, home_with_digits: Settings) -> None:
    added = client.post("/v1/images", files={"file": ("a.png", noise(9))}, data={"metadata": '{"artist": "Ada ✓"}'})
    found = client.post("/v1/search?include=metadata", json={"image_id": added.json()["image_id"], "limit": 1})
    assert json.loads(found.content)["hits"]
    assert client.get(added.headers["location"]).json()["metadata"] == {"artist": "Ada ✓"}


def test_hits_are_selected_by_options_of_a_form_or_of_json(shared_client: TestClient, files: list[bytes]) -> None:
    body = {"image_id": 1, "limit": 5, "group_by": "format", "group_size": 2}
    grouped = shared_client.post("/v1/search", json=body).json()
    assert [hit["group"] for hit in grouped["hits"]] == ["png", "png"]
    ids = [hit["image_id"] for hit in grouped["hits"]]
    assert grouped["groups"] == [{"value": "png", "count": 119, "image_ids": ids}]
    plain = shared_client.post("/v1/search", files=sent(files[0]), data={"limit": "5"}).json()
    diverse = shared_client.post(
        "/v1/search?distinct=true", files=sent(files[0]), data={"limit": "5", "diversity": "1"}
    ).json()
    assert plain["groups"] is diverse["groups"] is None and plain["hits"] != diverse["hits"]
    assert [hit["copy_count"] for hit in diverse["hits"]] == [0] * 5
    for refused in (
        {"diversity": 1.5},
        {"group_by": ""},
        {"group_by": "nonsense"},
        {"group_by": "format", "limit": 999},
    ):
        assert shared_client.post("/v1/search", json={"image_id": 1, **refused}).status_code == 422


def test_a_box_searches_by_a_part_of_one_image(shared_client: TestClient, files: list[bytes]) -> None:
    box = {"box": "0.25,0,0.5,1"}
    by_id = shared_client.post("/v1/search", json={"image_id": 1, **box}).json()
    assert (
        by_id["query"]["width"] == 16 and by_id["hits"] != shared_client.get("/v1/images/1/neighbours").json()["hits"]
    )
    assert shared_client.get("/v1/images/1/neighbours", params=box).json() == by_id
    uploaded = shared_client.post("/v1/search", files=sent(files[0]), data={**box, "limit": "11"}).json()["hits"]
    assert [hit["image_id"] for hit in uploaded if hit["image_id"] != 1][:9] == [
        hit["image_id"] for hit in by_id["hits"]
    ][:9]
    refused = [
        shared_client.post("/v1/search", files=sent(*files[:2]), data=box),
        *(shared_client.post("/v1/search", json=body | box) for body in ({"vector": [0.0] * 16}, {"positive": [1, 2]})),
        shared_client.post("/v1/search?box=2", json={"image_id": 1}),
    ]
    for response in refused:
        assert response.status_code == 422 and "box" in response.json()["detail"]


def test_several_images_are_combined_by_their_mean_or_by_the_best_match(shared_client: TestClient) -> None:
    body = {"positive": [1, 40], "negative": [2], "limit": 20}
    mean, best = (shared_client.post("/v1/search", json=body | {"combine": how}).json() for how in ("mean", "best"))
    assert mean == shared_client.post("/v1/search", json=body).json() and mean["hits"] != best["hits"]
    distances = {
        hit["image_id"]: hit["distance"]
        for hit in shared_client.post("/v1/search", json={"image_id": 40, "limit": 119}).json()["hits"]
    }
    assert all(hit["distance"] <= distances[hit["image_id"]] + 1e-6 for hit in best["hits"])
    assert shared_client.post("/v1/search", json=body | {"combine": "worst"}).status_code == 422
