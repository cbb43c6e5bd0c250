"""The service as its clients meet it: the real app, a real home, a small real encoder."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from simile.core import errors
from simile.core.settings import Settings, load_settings
from simile.service import errors as service_errors
from simile.service.app import ROUTERS, create_app
from simile.service.requests.search import make_display_name
from simile.service.security.scopes import ROUTE_SCOPES
from tests.support.images import PNG, bomb, noise


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[TestClient]:
    settings = load_settings(home=tmp_path / "no-home-yet")
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


def problem(response: Any, status: int) -> dict[str, Any]:
    """Holds a response to the contract of service/problems.py, and gives its body."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert list(body)[:5] == ["type", "title", "status", "detail", "instance"]
    assert body["status"] == status
    assert body["instance"] == response.request.url.path
    assert body["detail"] and "Traceback" not in body["detail"]
    assert body["type"] == "about:blank" or body["type"].startswith("urn:problem-type:simile:")
    return body


def search(client: TestClient, data: bytes, name: str = "query.png", **fields: Any) -> Any:
    return client.post("/v1/search", files={"file": (name, data)}, data=fields)


def test_search_by_file_gives_query_and_hits_nearest_first(shared_client: TestClient) -> None:
    data = shared_client.get("/v1/images/7/file").content
    answer = search(shared_client, data, "семёрка.png", limit=5).json()
    assert answer["query"]["name"] == "семёрка.png"
    assert (answer["query"]["width"], answer["query"]["height"], answer["query"]["format"]) == (32, 32, "png")
    assert answer["query"]["reconstruction"] is None
    distances = [hit["distance"] for hit in answer["hits"]]
    assert len(distances) == 5 and distances == sorted(distances)
    first = answer["hits"][0]
    assert first["image_id"] == 7 and first["distance"] < 1e-3
    assert first["score"] == pytest.approx(1 / (1 + first["distance"]))
    assert Path(first["path"]).read_bytes() == data
    assert shared_client.get(first["file_url"]).content == data


def test_search_by_id_leaves_the_image_itself_out(shared_client: TestClient) -> None:
    found = shared_client.post("/v1/search", json={"image_id": 7, "limit": 1000}).json()["hits"]
    assert len(found) == 119 and 7 not in {hit["image_id"] for hit in found}
    neighbours = shared_client.get("/v1/images/7/neighbours", params={"limit": 4}).json()
    assert neighbours["query"]["image_id"] == 7
    assert [hit["image_id"] for hit in neighbours["hits"]] == [hit["image_id"] for hit in found[:4]]


def test_search_by_vector_needs_the_encoder_s_length(shared_client: TestClient) -> None:
    answer = shared_client.post("/v1/search", json={"vector": [0.5] * 16, "limit": 3}).json()
    assert len(answer["hits"]) == 3 and answer["query"]["width"] is None
    wrong = problem(shared_client.post("/v1/search", json={"vector": [0.5] * 15}), 422)
    assert wrong["type"].endswith("encoder-mismatch") and "16" in wrong["detail"]


def test_offset_goes_on_where_limit_ended(shared_client: TestClient) -> None:
    data = noise(0)
    ids = [hit["image_id"] for hit in search(shared_client, data, limit=6).json()["hits"]]
    by_form = search(shared_client, data, limit=3, offset=3).json()["hits"]
    by_query = shared_client.post("/v1/search?limit=3&offset=3", files={"file": ("a.png", data)}).json()["hits"]
    assert [hit["image_id"] for hit in by_form] == [hit["image_id"] for hit in by_query] == ids[3:]
    assert shared_client.post("/v1/search?offset=200", json={"image_id": 1}).json()["hits"] == []


def test_include_reconstruction_shows_what_the_model_saw(shared_client: TestClient) -> None:
    answer = search(shared_client, noise(0), include="reconstruction", limit=2).json()
    head, _, data = answer["query"]["reconstruction"].partition(",")
    assert head == "data:image/png;base64" and base64.b64decode(data).startswith(PNG)
    hit = answer["hits"][0]
    shown = shared_client.get(hit["reconstruction_url"])
    assert shown.content.startswith(PNG) and shown.headers["content-type"] == "image/png"
    by_id = shared_client.post("/v1/search", json={"image_id": hit["image_id"], "include": ["reconstruction"]}).json()
    assert base64.b64decode(by_id["query"]["reconstruction"].partition(",")[2]) == shown.content


def test_images_are_listed_in_pages(shared_client: TestClient) -> None:
    page = shared_client.get("/v1/images", params={"limit": 50, "offset": 100}).json()
    assert (page["total"], page["limit"], page["offset"]) == (120, 50, 100)
    assert [image["image_id"] for image in page["images"]] == list(range(101, 121))
    shown = shared_client.get("/v1/images/101").json()
    assert shown["reconstruction_error"] > 0  # the job leaves it out: measured when somebody looks
    assert shown["sigma"] > 0
    common = shown.keys() - {"sigma", "reconstruction_error", "photo", "quality", "partners"}
    assert {name: page["images"][0][name] for name in common} == {name: shown[name] for name in common}


def test_upload_is_found_by_the_next_search_and_gone_after_delete(client: TestClient) -> None:
    data = noise(3)
    made = client.post("/v1/images", files={"file": ("новая картинка.png", data)})
    image_id = made.json()["image_id"]
    assert made.status_code == 201 and made.headers["location"] == f"/v1/images/{image_id}"
    assert search(client, data, limit=1).json()["hits"][0]["image_id"] == image_id
    assert client.get(f"{made.headers['location']}/file").content == data
    again = client.post("/v1/images", files={"file": ("other name.png", data)})
    assert again.status_code == 200 and again.json()["image_id"] == image_id
    assert client.delete(f"/v1/images/{image_id}").status_code == 204
    for path in ("", "/file", "/thumbnail", "/reconstruction", "/neighbours"):
        problem(client.get(f"/v1/images/{image_id}{path}"), 404)
    problem(client.delete(f"/v1/images/{image_id}"), 404)
    problem(client.post("/v1/search", json={"image_id": image_id}), 404)
    assert image_id not in {hit["image_id"] for hit in search(client, data, limit=1000).json()["hits"]}


def test_the_same_bytes_sent_many_times_at_once_become_one_image(client: TestClient) -> None:
    for seed in (20, 21):
        files = {"file": ("a.png", noise(seed))}
        with ThreadPoolExecutor(16) as threads:
            answers = list(threads.map(lambda _, files=files: client.post("/v1/images", files=files), range(16)))
        assert {answer.status_code for answer in answers} <= {200, 201}
        assert len({answer.json()["image_id"] for answer in answers}) == 1


def test_deleted_id_is_never_reused(client: TestClient) -> None:
    first = client.post("/v1/images", files={"file": ("a.png", noise(3))}).json()["image_id"]
    client.delete(f"/v1/images/{first}")
    assert client.post("/v1/images", files={"file": ("a.png", noise(4))}).json()["image_id"] > first
    assert client.post("/v1/images", files={"file": ("a.png", noise(3))}).json()["image_id"] > first + 1


def test_an_upload_never_names_a_file_on_disk(client: TestClient, home_with_digits: Settings) -> None:
    client.post("/v1/images", files={"file": ("../../escaped.png", noise(5))})
    assert [path.name for path in home_with_digits.home.parent.rglob("*escaped*")] == []
    assert make_display_name("C:\\photos\\..\\ёж\x00\u202egnp.png ") == "ёжgnp.png"
    assert (
        make_display_name("../..") == ".."
        and make_display_name("/") == "upload"
        and len(make_display_name("a" * 999)) == 200
    )


@pytest.mark.parametrize("kind", ["thumbnail", "reconstruction"])
def test_images_are_kept_by_browsers_until_their_content_changes(shared_client: TestClient, kind: str) -> None:
    first = shared_client.get(f"/v1/images/1/{kind}")
    assert first.headers["content-type"].startswith("image/") and first.headers["x-content-type-options"] == "nosniff"
    again = shared_client.get(f"/v1/images/1/{kind}", headers={"If-None-Match": f'"other", W/{first.headers["etag"]}'})
    assert again.status_code == 304 and again.content == b""
    assert shared_client.get(f"/v1/images/2/{kind}").headers["etag"] != first.headers["etag"]


def test_a_file_that_vanished_is_404_and_says_so(client: TestClient, home_with_digits: Settings) -> None:
    image_id = client.post("/v1/images", files={"file": ("a.png", noise(6))}).json()["image_id"]
    for path in (home_with_digits.home / "uploads").iterdir():
        path.unlink()
    for kind in ("file", "thumbnail"):
        assert "gone" in problem(client.get(f"/v1/images/{image_id}/{kind}"), 404)["detail"]
    assert client.get(f"/v1/images/{image_id}/reconstruction").status_code == 200


def test_a_thumbnail_that_was_made_outlives_the_file_but_not_the_image(
    client: TestClient, home_with_digits: Settings
) -> None:
    image_id = client.post("/v1/images", files={"file": ("a.jpg", noise(6, "JPEG", (600, 400)))}).json()["image_id"]
    paths = [f"/v1/images/{image_id}/thumbnail{side}" for side in ("", "?side=96", "?side=200", "?side=1024")]
    before = [client.get(path).content for path in paths]
    for path in (home_with_digits.home / "uploads").iterdir():
        path.unlink()
    assert [client.get(path).content for path in paths] == before
    assert client.delete(f"/v1/images/{image_id}").status_code == 204
    assert {client.get(path).status_code for path in paths} == {404}


BAD_FILES = {
    "text as .jpg": ("notes.jpg", b"dear diary, " * 50, 422, "not an image"),
    "truncated JPEG": ("half.jpg", noise(1, "JPEG", (200, 200))[:2000], 422, "truncated"),
    "zero-byte PNG": ("пусто.png", b"", 422, "пусто.png: the file is empty"),
    "bomb": ("bomb.png", bomb(), 413, "30000 x 30000 pixels are more than the limit"),
    "SVG": ("drawing.svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>', 422, "not an image"),
}


@pytest.mark.parametrize("path", ["/v1/search", "/v1/images"])
@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_refused_with_the_reason(shared_client: TestClient, path: str, kind: str) -> None:
    name, data, status, reason = BAD_FILES[kind]
    assert reason in problem(shared_client.post(path, files={"file": (name, data)}), status)["detail"]
    assert shared_client.get("/v1/images").json()["total"] == 120


MULTIPART = "multipart/form-data; boundary=b"
PART = '--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\nx\r\n--b--\r\n'
BAD_SEARCHES: list[tuple[str | None, bytes | str, int]] = [
    ("application/json", "{", 400),
    ("application/json", "", 400),
    ("application/json", b"\xff\xfe", 400),
    ("application/json", "[" * 100_000, 400),
    ("application/json", "null", 422),
    ("application/json", "[1]", 422),
    ("application/json", "{}", 422),
    ("application/json", '{"image_id": 1, "vector": [1]}', 422),
    ("application/json", '{"image_id": "1"}', 422),
    ("application/json", '{"image_id": true}', 422),
    ("application/json", '{"image_id": 0}', 422),
    ("application/json", '{"image_id": -1}', 422),
    ("application/json", '{"image_id": 9223372036854775808}', 422),
    ("application/json", '{"image_id": 9223372036854775807}', 404),
    ("application/json", '{"image_id": 1%s}' % ("0" * 5000), 400),
    ("application/json", '{"image_id": 1, "limit": 0}', 422),
    ("application/json", '{"image_id": 1, "limit": 1001}', 422),
    ("application/json", '{"image_id": 1, "offset": -1}', 422),
    ("application/json", '{"image_id": 1, "include": ["mu"]}', 422),
    ("application/json", '{"image_id": 1, "limt": 3}', 422),
    ("application/json", '{"vector": [NaN]}', 422),
    ("application/json", '{"vector": [1, -Infinity]}', 422),
    ("application/json", '{"vector": [1e999]}', 422),
    ("application/json", '{"vector": []}', 422),
    ("application/json", '{"vector": ["1"]}', 422),
    ("application/json", json.dumps({"vector": [1e300] * 16}), 422),
    ("application/json", " " * (1 << 21), 413),
    ("text/plain", '{"image_id": 1}', 415),
    ("image/png", noise(0), 415),
    ("application/x-www-form-urlencoded", "image_id=1", 415),
    (None, "", 415),
    ("multipart/form-data", "x", 400),
    (MULTIPART, "nonsense", 400),
    (MULTIPART, "", 422),
    (MULTIPART, PART % ("file", ""), 422),
    (MULTIPART, PART % ("photo", '; filename="a.png"'), 422),
    (MULTIPART, PART % ("limit", ""), 422),
]


@pytest.mark.parametrize(("content_type", "content", "status"), BAD_SEARCHES)
def test_a_search_that_makes_no_sense_is_refused(
    shared_client: TestClient, content_type: str | None, content: bytes | str, status: int
) -> None:
    headers = {"content-type": content_type} if content_type else {}
    problem(shared_client.post("/v1/search", content=content, headers=headers), status)


def test_a_body_over_the_limit_is_refused_with_and_without_a_length(home_with_digits: Settings) -> None:
    settings = home_with_digits.model_copy(update={"max_bytes": 1000})
    body = (PART % ("file", '; filename="a.png"')).encode().replace(b"\r\nx\r\n", b"\r\n" + bytes(100_000) + b"\r\n")
    with TestClient(create_app(settings)) as client:
        for content in (body, iter([body[:50_000], body[50_000:]])):
            refused = client.post("/v1/images", content=content, headers={"content-type": MULTIPART})
            assert "SIMILE_MAX_BYTES" in problem(refused, 413)["detail"]
        assert "limit of 1,000" in problem(search(client, bytes(2000)), 413)["detail"]


def test_every_route_gives_errors_as_problem_documents(shared_client: TestClient) -> None:
    routes = [route for router in ROUTERS for route in router.routes]
    assert len(routes) >= 13
    for route in routes:
        path: str = route.path  # type: ignore[attr-defined]
        known = re.sub(r"{\w+}", "1", path)
        problem(shared_client.request("PATCH", known), 405)
        problem(shared_client.get(f"{known.rstrip('/')}/nothing/here"), 404)
        for method in route.methods:  # type: ignore[attr-defined]
            if "{image_id}" in path and path.startswith("/v1"):
                body = {"json": {"metadata": {}}} if method == "PUT" else {}
                problem(shared_client.request(method, path.format(image_id=424242), **body), 404)
                for wrong in ("abc", "-1", "0", "99999999999999999999"):
                    listed = problem(shared_client.request(method, path.format(image_id=wrong)), 422)["errors"]
                    assert listed[0]["field"] == "path.image_id"
            elif method == "POST" and "{" in path:
                body = {"json": {"image_id": 1}} if "{name}" in path else {}
                problem(shared_client.post(path.format(job_id=424242, fingerprint="ffff", name="nobody"), **body), 404)
            elif method == "POST" and path.startswith("/v1"):  # pages show their errors as a page
                problem(shared_client.post(path, content="x", headers={"content-type": "text/plain"}), 415)
    for path in ("/v1/images?limit=0", "/v1/images?offset=-1", "/v1/images/1/neighbours?limit=x"):
        problem(shared_client.get(path), 422)
    problem(shared_client.get("/static/../app.py"), 404)


def test_a_method_that_is_not_possible_gets_all_that_are(shared_client: TestClient) -> None:
    for path, methods in {
        "/": "GET, HEAD, POST",
        "/v1/images/1": "GET, HEAD, DELETE",
        "/static/page.css": "GET, HEAD",
    }.items():
        refused = shared_client.put(path)
        assert refused.headers["allow"] == methods
        assert f"only {methods}." in problem(refused, 405)["detail"]


def test_head_is_answered_as_get_without_the_body(shared_client: TestClient) -> None:
    routes = [route.partition(" ")[2] for route in ROUTE_SCOPES if route.startswith("GET ")]
    values = {"image_id": 1, "job_id": 424242, "name": "nobody", "fingerprint": "ffff", "tile": "0-0-0.png"}
    for path in [route.format(**values) for route in routes] + ["/static/page.css", "/nothing", "/v1/images/424242"]:
        got, head = shared_client.get(path), shared_client.head(path)
        assert (head.status_code, head.content) == (got.status_code, b""), path
        changing = {"x-request-id", "content-length", "date"}
        names = got.headers.keys() - changing
        assert {name: head.headers[name] for name in names} == {name: got.headers[name] for name in names}, path
        assert ("content-length" in head.headers) == ("content-length" in got.headers), path
    assert shared_client.head("/v1/latents").status_code == 405


def test_openapi_documents_every_error_as_a_problem(shared_client: TestClient) -> None:
    document = shared_client.get("/openapi.json").json()
    described = [
        (status, list(response["content"]), response["content"])
        for operations in document["paths"].values()
        for operation in operations.values()
        for status, response in operation["responses"].items()
        if int(status) >= 400
    ]
    assert len(described) > 20
    for _, media_types, content in described:
        assert media_types == ["application/problem+json"]
        assert content["application/problem+json"]["schema"]["$ref"].endswith("/ProblemResponse")


def test_every_error_of_simile_has_a_status_and_a_shape() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.SimileError)]
    only_commands = {errors.BadUsage, errors.DownloadFailed}
    assert set(kinds) - only_commands == set(service_errors.STATUS_BY_ERROR)
    busy = service_errors.make_problem(errors.HomeBusy("The home is busy."))
    assert (busy.status, busy.headers) == (503, {"Retry-After": "5"})
    assert busy.type == "urn:problem-type:simile:home-busy" and busy.title == "Home busy"


def test_an_unforeseen_error_says_nothing_of_the_inside(home_with_digits: Settings) -> None:
    app = create_app(home_with_digits)

    @app.get("/fails")
    def fails() -> None:
        raise ValueError("password in /etc/secret")

    with TestClient(app, raise_server_exceptions=False) as client:
        assert "secret" not in json.dumps(problem(client.get("/fails"), 500))


def test_an_empty_home_is_alive_but_not_ready_and_says_what_to_do(empty: TestClient) -> None:
    assert empty.get("/livez").json() == {"status": "alive"}
    assert "simile index" in problem(empty.get("/readyz"), 503)["detail"]
    assert problem(search(empty, noise(0)), 409)["type"].endswith("nothing-indexed")
    problem(empty.post("/v1/images", files={"file": ("a.png", noise(0))}), 409)
    problem(empty.get("/v1/images"), 409)
    page = empty.get("/")
    assert page.status_code == 200 and "simile index PHOTOS" in page.text and "no-home-yet" in page.text
    assert empty.post("/", files={"file": ("a.png", noise(0))}).status_code == 409


def test_a_home_that_is_indexed_later_is_served_without_a_restart(
    empty: TestClient, home_with_digits: Settings
) -> None:
    problem(empty.get("/readyz"), 503)
    home_with_digits.home.rename(home_with_digits.home.parent / "no-home-yet")
    ready = empty.get("/readyz").json()
    assert ready["status"] == "ready" and ready["images"] == 120


def test_the_page_of_another_site_can_neither_add_nor_delete(shared_client: TestClient) -> None:
    elsewhere = {"Sec-Fetch-Site": "cross-site"}
    for method, path in (("POST", "/v1/images"), ("POST", "/v1/search"), ("POST", "/"), ("DELETE", "/v1/images/1")):
        problem(shared_client.request(method, path, headers=elsewhere, files={"file": ("a.png", noise(0))}), 403)
    assert shared_client.get("/v1/images/1", headers=elsewhere).status_code == 200


def test_no_other_site_may_read_responses_or_run_scripts(shared_client: TestClient) -> None:
    response = shared_client.get("/v1/images", headers={"Origin": "https://elsewhere.example"})
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert response.headers["x-content-type-options"] == "nosniff"
    policy = shared_client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "sandbox" in shared_client.get("/v1/images/1/file").headers["content-security-policy"]
