"""The collection over HTTP: pages, metadata, files and their ETags, encoders and status."""

from __future__ import annotations

import io

from PIL import Image
from starlette.testclient import TestClient

from simile.core.settings import Settings
from simile.service.app import create_app
from tests.support.images import make_bag, make_exif, make_photo, make_xmp, noise


def with_gps() -> bytes:
    """A JPEG that says where it was taken."""
    exif = Image.Exif()
    exif.get_ifd(0x8825)[1] = "N"
    exif[0x010E] = "a secret place"
    file = io.BytesIO()
    Image.effect_noise((32, 32), 90).convert("RGB").save(file, "JPEG", exif=exif)
    return file.getvalue()


def test_the_collection_is_gone_through_with_cursors_while_it_changes(client: TestClient) -> None:
    for sort in ("id", "newest"):
        found: list[int] = []
        requested: dict[str, str | int] = {"sort": sort, "limit": 50}
        while True:
            page = client.get("/v1/images", params=requested).json()
            found += [image["image_id"] for image in page["images"]]
            if page["next"] is None:
                break
            client.post("/v1/images", files={"file": ("a.png", noise(len(found)))})
            requested["cursor"] = page["next"]
        assert found == sorted(set(found), reverse=sort == "newest")
        assert len(found) >= 120
    assert client.get("/v1/images", params={"cursor": "nonsense"}).status_code == 422
    assert (
        client.get("/v1/images", params={"sort": "id", "cursor": page["next"] or "WyJuZXdlc3QiLCA1XQ"})
        .json()["detail"]
        .startswith("cursor")
    )


def test_those_least_like_the_rest_are_computed_first_and_then_listed(client: TestClient) -> None:
    waiting = client.get("/v1/images?sort=unlike")
    assert waiting.status_code == 503 and waiting.json()["type"].endswith("being-computed")
    assert int(waiting.headers["retry-after"]) > 0
    client.app.state.searcher_provider.get_searcher().outlier_rankings.wait()  # type: ignore[attr-defined]
    page = client.get("/v1/images?sort=unlike&limit=30").json()
    distances = [image["unlike_distance"] for image in page["images"]]
    assert distances == sorted(distances, reverse=True) and page["total"] == 120
    following = client.get(f"/v1/images?sort=unlike&limit=1&cursor={page['next']}").json()["images"][0]
    assert following["unlike_distance"] <= distances[-1]


def test_a_filter_narrows_the_list(client: TestClient) -> None:
    client.put("/v1/images/7/metadata", json={"metadata": {"class": "seven"}})
    page = client.get("/v1/images", params={"where": "class=seven"}).json()
    assert [image["image_id"] for image in page["images"]] == [7] and page["total"] == 1
    assert page["images"][0]["metadata"] == {"class": "seven"}
    assert client.get("/v1/images", params={"format": "gif"}).json()["total"] == 0


def test_metadata_is_replaced_as_a_whole(client: TestClient) -> None:
    said = {"class": "shirt", "price": 9.5, "count": 3, "code": "007", "empty": None}
    shown = client.put("/v1/images/7/metadata", json={"metadata": said}).json()
    assert shown["metadata"] == {"class": "shirt", "price": 9.5, "count": 3, "code": "007"}
    assert client.get("/v1/images/7").json() == shown
    assert client.put("/v1/images/7/metadata", json={"metadata": {"class": "shoe"}}).json()["metadata"] == {
        "class": "shoe"
    }
    assert client.post("/v1/search", json={"image_id": 1, "where": ["class=shoe"]}).json()["hits"][0]["image_id"] == 7
    for bad in ({"a<b": 1}, {"": 1}, {" a": 1}, {"a": [1]}, {"a": True}, {"a": "x" * 5000}):
        assert client.put("/v1/images/7/metadata", json={"metadata": bad}).status_code == 422
    assert client.put("/v1/images/4242/metadata", json={"metadata": {}}).status_code == 404
    bad_form = client.post("/v1/images", files={"file": ("a.png", noise(1))}, data={"metadata": "{"})
    assert bad_form.status_code == 422 and bad_form.json()["errors"][0]["field"] == "body.metadata"
    assert client.get("/v1/images").json()["total"] == 120


def test_a_file_is_sent_once_and_in_stretches(shared_client: TestClient) -> None:
    whole = shared_client.get("/v1/images/1/file")
    tag, size = whole.headers["etag"], len(whole.content)
    assert whole.headers["accept-ranges"] == "bytes" and "private" in whole.headers["cache-control"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = shared_client.get("/v1/images/1/file", headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    for requested, expected in {
        "bytes=0-9": (0, 9),
        "bytes=5-": (5, size - 1),
        "bytes=-4": (size - 4, size - 1),
        f"bytes=3-{size + 99}": (3, size - 1),
        "bytes=-99999999": (0, size - 1),
    }.items():
        part = shared_client.get("/v1/images/1/file", headers={"Range": requested})
        assert part.status_code == 206
        assert part.headers["content-range"] == f"bytes {expected[0]}-{expected[1]}/{size}"
        assert part.content == whole.content[expected[0] : expected[1] + 1]
    for requested in ("bytes=9-3", "bytes=-", "lines=1-2", "bytes=0-1,5-6"):
        assert shared_client.get("/v1/images/1/file", headers={"Range": requested}).status_code == 200
    stale = shared_client.get("/v1/images/1/file", headers={"Range": "bytes=0-9", "If-Range": '"other"'})
    assert stale.status_code == 200
    for requested in (f"bytes={size}-", "bytes=-0"):
        behind = shared_client.get("/v1/images/1/file", headers={"Range": requested})
        assert behind.status_code == 416 and behind.headers["content-range"] == f"bytes */{size}"


def test_where_an_image_was_taken_stays_here_unless_asked(client: TestClient) -> None:
    data = with_gps()
    image_id = client.post("/v1/images", files={"file": ("a.jpg", data)}).json()["image_id"]
    plain, kept = (client.get(f"/v1/images/{image_id}/file", params=given) for given in ({}, {"metadata": "keep"}))
    assert b"secret" not in plain.content and kept.content == data
    assert plain.headers["etag"] != kept.headers["etag"]
    with Image.open(io.BytesIO(plain.content)) as item, Image.open(io.BytesIO(data)) as other:
        assert item.getexif() == {} and item.tobytes() == other.tobytes()


def test_what_a_photo_tells_is_a_part_of_its_image(client: TestClient) -> None:
    data = make_photo(exif=make_exif(), xmp=make_xmp('xmp:Rating="4"', make_bag("dc:subject", "red", "&lt;b&gt;")))
    image_id = client.post("/v1/images", files={"file": ("a.jpg", data)}).json()["image_id"]
    photo = client.get(f"/v1/images/{image_id}").json()["photo"]
    assert {name: photo[name] for name in ("taken", "camera", "exposure_time", "rating", "keywords", "title")} == {
        "taken": "2024-05-06T07:08:09.250000+02:00",
        "camera": "NIKON D850",
        "exposure_time": 0.01,
        "rating": 4,
        "keywords": ["<b>", "red"],
        "title": None,
    }
    assert client.get("/v1/images/1").json()["photo"] is None
    page = client.get(f"/pictures/{image_id}").text
    for text in ("6 May 2024, 07:08 (UTC+02:00)", "1/100 s, f/2.8, ISO 400, 50 mm", "★★★★☆", "&lt;b&gt;, red"):
        assert text in page
    assert "52.50000° N, 13.40000° E" in page
    assert 'id="photo-heading"' not in client.get("/pictures/1").text


def test_thumbnails_and_reconstructions_are_not_made_twice(shared_client: TestClient) -> None:
    for path in ("/v1/images/1/thumbnail", "/v1/images/1/reconstruction"):
        tag = shared_client.get(path).headers["etag"]
        assert shared_client.get(path, headers={"If-None-Match": tag}).status_code == 304


def test_encoders_are_listed_shown_and_put_in_use(shared_client: TestClient) -> None:
    (encoder,) = shared_client.get("/v1/encoders").json()["encoders"]
    assert encoder["active"] and encoder["vectors"] == encoder["images"] == 120
    shown = shared_client.get(f"/v1/encoders/{encoder['fingerprint'][:5]}").json()
    assert shown["description"]["recipe"]["name"] == encoder["recipe"]
    used = shared_client.post(f"/v1/encoders/{encoder['fingerprint']}/activate").json()
    assert used == {"fingerprint": encoder["fingerprint"], "vectors": 120, "lacking": 0}
    missing = shared_client.get("/v1/encoders/ffff")
    assert missing.status_code == 404 and missing.json()["type"].endswith("no-such-encoder")
    assert shared_client.get("/v1/encoders/..%2f..").status_code in (404, 422)


def test_status_says_how_things_stand(client: TestClient) -> None:
    before = client.get("/v1/status").json()
    assert before["images"] == before["index"]["rows"] == 120
    assert before["index"]["kind"] == "exact" and before["index"]["recall"] == 1 and before["index"]["pending"] == 0
    assert before["gauge"]["status"] == "unknown" and before["runs"][0]["status"] == "finished"
    client.post("/v1/images", files={"file": ("a.png", noise(1))})
    after = client.get("/v1/status").json()
    assert (after["images"], after["index"]["pending"]) == (121, 1)


def test_an_empty_home_has_a_status_and_no_encoder(trained_home: Settings) -> None:
    with TestClient(create_app(trained_home)) as client:
        status = client.get("/v1/status").json()
        assert status["images"] == 0 and status["index"] is None and status["encoder"]
        assert client.get("/v1/images?sort=unlike").status_code == 409
        assert client.get("/v1/images").json()["images"] == []
