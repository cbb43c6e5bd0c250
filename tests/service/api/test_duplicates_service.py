"""Copies over HTTP: groups, decisions, plans, what differs, and uploads that are there already."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from simile.core.settings import Settings
from simile.dedup.cleanup.plan import parse_plan
from simile.indexer.pipeline.job import IndexRequest, index
from simile.service.app import create_app
from tests.conftest import Copies, app_client


@pytest.fixture
def client(copies: Copies) -> Iterator[TestClient]:
    with app_client(copies.settings) as client:
        yield client


@pytest.fixture(scope="module")
def shared_client(shared_copies: Copies) -> Iterator[TestClient]:
    """For tests that change nothing."""
    with app_client(shared_copies.settings) as client:
        yield client


def found(client: TestClient, **requested: Any) -> dict[str, Any]:
    response = client.get("/v1/duplicates", params=requested)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def decide(client: TestClient, *said: dict[str, Any]) -> Any:
    return client.post("/v1/duplicates/decisions", json={"decisions": list(said)})


def kept(body: dict[str, Any]) -> list[str]:
    return ["/".join(Path(group["keep"]).parts[-2:]) for group in body["groups"]]


def plan(client: TestClient, **requested: Any) -> Any:
    response = client.get("/v1/duplicates/plan", params=requested)
    assert response.headers["content-disposition"].startswith('attachment; filename="simile-plan-')
    return parse_plan(response.json(), "the plan")


def test_groups_come_by_tier_with_all_that_a_client_needs(shared_client: TestClient) -> None:
    body = found(shared_client)
    assert [group["tier"] for group in body["groups"]] == ["bytes"] * 2 + ["pixels"] * 2 + ["near"] * 10
    assert (body["total"], body["limit"], body["offset"], body["hint"], body["pairs"]) == (14, 100, 0, None, [])
    assert body["threshold"] == 0.5 and body["run_id"] and len(body["calibration"]["curve"]) == 20
    near = next(group for group in body["groups"] if group["keep"].endswith("camera/00.png"))
    assert (near["matched"], near["possible"], near["decided"]) == (3, 3, False)
    first, *others = near["members"]
    assert first["keep"] and first["path"] == near["keep"] and "larger" in near["keep_reason"]
    assert [other["distance"] for other in others] == [0.1, 0.3] and others[0]["reason"] == "a near one"
    for member in near["members"]:
        assert shared_client.get(member["thumbnail_url"]).headers["content-type"] == "image/png"
        assert shared_client.get(member["file_url"]).content == Path(member["path"]).read_bytes()
    assert shared_client.get(others[0]["difference_url"]).content.startswith(b"\x89PNG")
    assert first["difference_url"] is None


def test_tiers_threshold_and_pages_narrow_the_list(shared_client: TestClient) -> None:
    assert kept(found(shared_client, tier="pixels")) == ["scans/20.bmp", "scans/21.bmp"]
    assert found(shared_client, tier=["bytes", "near"])["total"] == 12
    assert kept(found(shared_client, tier="near", threshold=0.105)) == ["camera/00.png"]
    beyond = found(shared_client, tier="near", threshold=100)
    assert (beyond["threshold"], beyond["total"]) == (0.5, 10), "the run looked no further than 0.5"
    assert found(shared_client, tier="near", threshold=0.105)["threshold"] == 0.105
    assert "The last run looked no further than 0.5" in shared_client.get("/duplicates?tier=near&threshold=100").text
    assert "looked no further" not in shared_client.get("/duplicates?tier=near&threshold=0.2").text
    pages = [found(shared_client, tier="near", limit=4, offset=offset) for offset in (0, 4, 8, 12)]
    assert [len(page["groups"]) for page in pages] == [4, 4, 2, 0] and {page["total"] for page in pages} == {10}
    assert [name for page in pages for name in kept(page)] == kept(found(shared_client, tier="near"))


def test_similar_pairs_are_a_list_of_their_own(shared_client: TestClient, shared_copies: Copies) -> None:
    body = found(shared_client, tier="similar")
    assert body["groups"] == [] and body["total"] == 1
    pair = body["pairs"][0]
    ids = {shared_copies.ids["camera/08.png"], shared_copies.ids["camera/09.png"]}
    assert {pair["first"]["image_id"], pair["second"]["image_id"]} == ids and pair["distance"] == 0.9
    assert found(shared_client, tier="similar", threshold=0.105)["total"] == 12  # near ones beyond it are only similar
    assert shared_client.get("/v1/duplicates?tier=similar&tier=near").status_code == 422
    assert shared_client.get("/v1/duplicates/plan?tier=similar").status_code == 422


def test_before_the_first_run_same_bytes_are_known_and_the_rest_has_a_hint(home_with_digits: Settings) -> None:
    with TestClient(create_app(home_with_digits)) as client:
        body = found(client)
        assert (body["run_id"], body["groups"], body["calibration"]) == (None, [], None)
        assert "simile dedup" in body["hint"]
        assert "simile dedup --home" in client.get("/duplicates").text


def test_images_that_are_called_different_leave_and_come_back(client: TestClient, copies: Copies) -> None:
    first, second = copies.ids["camera/03.png"], copies.ids["phone/03.jpg"]
    said = {"first": second, "second": first, "same": False}  # either order
    for _ in range(2):
        assert decide(client, said).json() == {"stored": 1, "removed": 0}
        assert "camera/03.png" not in kept(found(client))
    assert found(client, tier="similar")["total"] == 1  # not there either
    assert decide(client, {**said, "same": None}).json() == {"stored": 0, "removed": 1}
    assert "camera/03.png" in kept(found(client))


def test_a_decision_chooses_what_is_kept_and_marks_the_group(client: TestClient, copies: Copies) -> None:
    small = copies.ids["phone/04.jpg"]
    assert decide(
        client, {"first": copies.ids["camera/04.png"], "second": small, "same": True, "keep": small}
    ).is_success
    decided = found(client, decided=True, tier="near")
    assert kept(decided) == ["phone/04.jpg"] and decided["groups"][0]["decided"]
    assert found(client, decided=False, tier="near")["total"] == 9


def test_the_last_of_several_words_on_one_pair_counts(client: TestClient, copies: Copies) -> None:
    pair = {"first": copies.ids["camera/03.png"], "second": copies.ids["phone/03.jpg"]}
    decide(client, {**pair, "same": False}, {**pair, "same": True})
    assert found(client, decided=True, tier="near")["total"] == 1


def test_decisions_that_cannot_be_meant_are_refused_and_nothing_is_stored(
    shared_client: TestClient, shared_copies: Copies
) -> None:
    item, two = shared_copies.ids["camera/03.png"], shared_copies.ids["phone/03.jpg"]
    right = {"first": item, "second": two, "same": False}
    for wrong, status, reason in [
        ({**right, "second": item}, 422, "the same image"),
        ({**right, "keep": shared_copies.ids["camera/04.png"]}, 422, "keep is neither"),
        ({**right, "second": 4242}, 404, "There is no image 4242"),
        ({**right, "same": "yes"}, 422, "same"),
        ({"first": item, "second": two}, 422, "same"),
        ({**right, "comment": "hm"}, 422, "comment"),
    ]:
        response = decide(shared_client, right, wrong)
        assert response.status_code == status and reason in response.json()["detail"]
    assert shared_client.post("/v1/duplicates/decisions", content="{").status_code == 415
    assert shared_client.post("/v1/duplicates/decisions", json={"decisions": []}).status_code == 422
    broken = shared_client.post("/v1/duplicates/decisions", content="{", headers={"content-type": "application/json"})
    assert broken.status_code == 400
    elsewhere = {"sec-fetch-site": "cross-site"}
    assert (
        shared_client.post("/v1/duplicates/decisions", json={"decisions": [right]}, headers=elsewhere).status_code
        == 403
    )
    assert found(shared_client)["total"] == 14


def test_a_scope_holds_for_groups_and_plan(client: TestClient) -> None:
    across, within = (found(client, scope=scope)["groups"] for scope in ("across", "within"))
    for group in across + within:
        others = {Path(member["path"]).parent == Path(group["keep"]).parent for member in group["members"][1:]}
        assert others == {group in within}
    removals = client.get("/v1/duplicates/plan", params={"all": True, "scope": "across"}).json()["removals"]
    assert {line["path"] for line in removals} <= {member["path"] for group in across for member in group["members"]}
    assert across and within and removals
    assert "Leave out scope" in client.get("/v1/duplicates?tier=similar&scope=within").json()["detail"]


def test_the_plan_holds_what_was_decided_or_everything(client: TestClient, copies: Copies) -> None:
    assert plan(client).removals == ()
    decide(
        client,
        {"first": copies.ids["camera/05.png"], "second": copies.ids["phone/05.jpg"], "same": True},
        {"first": copies.ids["camera/06.png"], "second": copies.ids["phone/06.jpg"], "same": False},
    )
    decided = plan(client)
    assert [(line.path, line.keep_path, line.tier) for line in decided.removals] == [
        (str(copies.photos / "phone/05.jpg"), str(copies.photos / "camera/05.png"), "near")
    ]
    assert len(decided.decisions) == 2 and decided.home == str(copies.settings.home.absolute())
    everything = plan(client, all=True)
    assert len(everything.removals) == 2 + 2 + 10  # bytes, pixels, near: without 06, and 00 has two
    assert str(copies.photos / "phone/06.jpg") not in {line.path for line in everything.removals}
    assert {line.tier for line in plan(client, all=True, tier="bytes").removals} == {"bytes"}
    nearest = {line.path for line in plan(client, all=True, tier="near", threshold=0.105).removals}
    assert nearest == {str(copies.photos / f"phone/{n}.jpg") for n in ("00", "05")}  # 05: what people say counts


def test_what_differs_is_drawn_once_and_asked_again_cheaply(client: TestClient, copies: Copies) -> None:
    requested = {"first": copies.ids["camera/02.png"], "second": copies.ids["phone/02.jpg"]}
    for show in ("difference", "overlay"):
        shown = client.get("/v1/duplicates/difference", params={**requested, "show": show})
        assert shown.headers["content-type"] == "image/png"
        with Image.open(io.BytesIO(shown.content)) as image:
            assert image.size == ((48, 64) if show == "difference" else image.size)
        again = {"if-none-match": shown.headers["etag"]}
        assert (
            client.get("/v1/duplicates/difference", params={**requested, "show": show}, headers=again).status_code
            == 304
        )
    assert client.get("/v1/duplicates/difference", params={**requested, "second": 4242}).status_code == 404
    (copies.photos / "phone/02.jpg").unlink()
    assert client.get("/v1/duplicates/difference", params=requested).status_code == 404


def test_large_previews_keep_their_pixels(shared_client: TestClient, shared_copies: Copies) -> None:
    for side, size in ((1024, (768, 1024)), (64, (48, 64)), (40, (30, 40))):
        shown = shared_client.get(f"/v1/images/{shared_copies.ids['camera/02.png']}/thumbnail?side={side}")
        with Image.open(io.BytesIO(shown.content)) as image:
            assert image.size == size
    assert shared_client.get(f"/v1/images/{shared_copies.ids['camera/02.png']}/thumbnail?side=9999").status_code == 422


def upload(client: TestClient, data: bytes, if_duplicate: str | None = None) -> Any:
    requested = {} if if_duplicate is None else {"if_duplicate": if_duplicate}
    return client.post("/v1/images", params=requested, files={"file": ("новое фото.png", data)})


def rewrapped(path: Path) -> bytes:
    """The same pixels in another file."""
    file = io.BytesIO()
    with Image.open(path) as image:
        image.save(file, "TIFF")
    return file.getvalue()


def test_an_upload_that_is_there_is_refused_with_the_image_to_use(
    shared_client: TestClient, shared_copies: Copies
) -> None:
    before = shared_client.get("/v1/images").json()["total"]
    for data, tier in (
        ((shared_copies.photos / "camera/02.png").read_bytes(), "bytes"),
        (rewrapped(shared_copies.photos / "camera/02.png"), "pixels"),
    ):
        refused = upload(shared_client, data, "reject")
        body = refused.json()
        assert refused.status_code == 409 and refused.headers["content-type"] == "application/problem+json"
        assert body["type"] == "urn:problem-type:simile:duplicate" and "if_duplicate=keep" in body["detail"]
        assert body["duplicates"][0]["image_id"] == shared_copies.ids["camera/02.png"]
        assert body["duplicates"][0]["tier"] == tier
    assert shared_client.get("/v1/images").json()["total"] == before


def test_an_upload_can_be_linked_to_what_is_there(client: TestClient, copies: Copies) -> None:
    linked = upload(client, rewrapped(copies.photos / "camera/02.png"), "link")
    original = copies.ids["camera/02.png"]
    assert linked.status_code == 200 and linked.headers["location"] == f"/v1/images/{original}"
    assert linked.json()["image_id"] == linked.json()["duplicate_of"] == original
    assert list((copies.settings.home / "uploads").iterdir()) == []


def test_an_upload_is_kept_beside_its_copies_when_asked_to(client: TestClient, copies: Copies) -> None:
    made = upload(client, rewrapped(copies.photos / "camera/02.png"), "keep")
    assert made.status_code == 201 and "duplicate_of" not in made.json()
    assert copies.ids["camera/02.png"] in [item["image_id"] for item in made.json()["duplicates"]]


def test_a_new_upload_is_stored_whatever_was_asked(client: TestClient) -> None:
    for number, requested in enumerate((None, "reject", "link", "keep")):
        file = io.BytesIO()
        Image.effect_noise((64, 64), 30 + 40 * number).save(file, "PNG")
        made = upload(client, file.getvalue(), requested)
        assert made.status_code == 201
        assert ("duplicates" in made.json()) == (requested is not None)
    assert upload(client, b"", "perhaps").status_code == 422


def test_the_page_s_errors_are_pages_with_the_right_status(shared_client: TestClient) -> None:
    for address, status, reason in (
        ("/duplicates?tier=all", 422, "tier"),
        ("/duplicates?threshold=x", 422, "threshold"),
        ("/duplicates?pair=-1", 422, "pair"),
    ):
        response = shared_client.get(address)
        assert response.status_code == status and 'role="alert"' in response.text and reason in response.text
    missing = shared_client.post("/duplicates?group=nothing", data={"answer": "same"})
    assert missing.status_code == 404 and "not in the list any more" in missing.text


def test_file_names_are_text_on_the_page(client: TestClient, copies: Copies) -> None:
    name = '"><img src=x onerror=alert(1)>.png'
    (copies.photos / "camera/01.png").rename(copies.photos / "camera" / name)
    index(copies.settings, [copies.photos], IndexRequest())
    response = client.get("/duplicates?tier=near")
    assert "&lt;img src=x onerror=alert(1)&gt;.png" in response.text and "<img src=x" not in response.text
    assert "default-src 'none'" in response.headers["content-security-policy"]


def test_a_home_without_images_says_what_to_do(tmp_path: Path) -> None:
    with TestClient(create_app(Settings(home=tmp_path / "no-home"))) as client:
        assert "simile index PHOTOS" in client.get("/duplicates").text
        assert client.get("/v1/duplicates").status_code == 409
