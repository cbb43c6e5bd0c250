"""Trust boundaries: proxies in front of a home without keys, cookies of other origins, and what strangers are told."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from simile.core.hosts import parse_networks
from simile.core.logs import SingleLineFormatter
from simile.core.settings import Settings
from simile.service.app import create_app
from simile.service.security.proxies import apply_forwarded_headers, get_client_address, is_local_client
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home
from tests.conftest import own_settings

FORWARDED = (
    *("Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Server", "X-Real-IP"),
    *("Via", "True-Client-IP", "CF-Connecting-IP", "CF-Ray", "X-Client-IP", "X-Cluster-Client-IP"),
    *("X-Original-Forwarded-For", "X-Envoy-External-Address"),
)
LOCAL = "127.0.0.1"
APP = "http://testserver:8290"  # of the same site as the service, but another origin


@pytest.fixture
def settings(tmp_path: Path, _empty_home: Path) -> Settings:
    return own_settings(_empty_home, tmp_path / "home")


@pytest.fixture(scope="module")
def shared_settings(tmp_path_factory: pytest.TempPathFactory, _empty_home: Path) -> Settings:
    """A home without keys, for tests that make none."""
    return own_settings(_empty_home, tmp_path_factory.mktemp("shared") / "home")


@pytest.fixture(scope="module")
def open_client(shared_settings: Settings) -> Iterator[TestClient]:
    with serve(shared_settings) as client:
        yield client


@pytest.fixture
def key(settings: Settings) -> str:
    with Catalogue(Home(settings.home)) as catalogue:
        return catalogue.keys.create("writer", "write")[0].text


@contextmanager
def serve(settings: Settings, **options: Any) -> Iterator[TestClient]:
    with TestClient(create_app(settings), raise_server_exceptions=False, client=(LOCAL, 5000), **options) as client:
        client.follow_redirects = False
        yield client


def get_problem(response: Any, status: int) -> str:
    assert response.status_code == status, response.text
    return str(response.json()["type"]).rpartition(":")[2]


@pytest.mark.parametrize("name", FORWARDED)
def test_a_home_without_keys_refuses_what_a_proxy_sent(open_client: TestClient, name: str) -> None:
    assert open_client.get("/v1/nothing").status_code == 404
    assert get_problem(open_client.get("/v1/nothing", headers={name: "1"}), 403) == "not-from-here"
    assert get_problem(open_client.delete("/v1/images/1", headers={name: "1"}), 403) == "not-from-here"


def test_a_home_without_keys_refuses_http_1_0_which_only_proxies_send() -> None:
    request = {"type": "http", "client": (LOCAL, 1), "headers": [], "scheme": "http"}
    assert is_local_client(request | {"http_version": "1.1"})
    assert not is_local_client(request | {"http_version": "1.0"})


def test_a_home_without_keys_refuses_a_page_whose_origin_is_not_the_host(settings: Settings) -> None:
    # A proxy that rewrites Host to 127.0.0.1 still sends the Origin of the page.
    behind = {"Origin": "https://photos.example", "Sec-Fetch-Site": "same-origin"}
    with serve(settings) as client:
        for method in ("GET", "POST", "DELETE"):
            assert get_problem(client.request(method, "/v1/nothing", headers=behind), 403) == "not-from-here"
        assert client.post("/v1/nothing", headers={"Origin": "http://testserver"}).status_code == 404


def test_with_keys_a_page_behind_a_proxy_that_renames_is_let_in(settings: Settings, key: str) -> None:
    behind = {"Origin": "https://photos.example", "Sec-Fetch-Site": "same-origin"}
    with serve(settings) as client:
        client.post("/signin", data={"key": key})
        assert client.post("/v1/nothing", headers=behind).status_code == 404


def test_a_page_of_a_configured_origin_needs_a_key_and_never_uses_the_cookie(settings: Settings, key: str) -> None:
    with serve(settings.model_copy(update={"cors_origins": APP})) as client:
        client.post("/signin", data={"key": key})
        assert client.get("/v1/nothing").status_code == 404
        page = {"Origin": APP, "Sec-Fetch-Site": "same-site"}
        for headers in (page, {"Origin": APP}):
            for method in ("GET", "POST", "DELETE"):
                assert get_problem(client.request(method, "/v1/nothing", headers=headers), 401) == "key-needed"
        assert client.post("/v1/nothing", headers=page | {"X-API-Key": key}).status_code == 404


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("203.0.113.9:5678", "203.0.113.9"),
        ("[2001:db8::7]:443", "2001:db8::/64"),
        ("[2001:db8::7]", "2001:db8::/64"),
        ("1.1.1.1:1, 203.0.113.9:5678, 10.0.0.3:80", "203.0.113.9"),
    ],
)
def test_an_address_with_a_port_is_the_same_client(forwarded: str, client: str) -> None:
    scope = {"type": "http", "client": ("10.0.0.2", 1), "headers": [(b"x-forwarded-for", forwarded.encode())]}
    apply_forwarded_headers(scope, parse_networks("10.0.0.0/8"))
    assert get_client_address(scope) == client


def test_behind_https_the_cookie_is_bound_to_the_host_and_browsers_stay_with_https(
    settings: Settings, key: str
) -> None:
    with serve(settings, base_url="https://testserver") as client:
        answer = client.post("/signin", data={"key": key})
        assert answer.headers["set-cookie"].startswith("__Host-simile_session=")
        assert answer.headers["strict-transport-security"].startswith("max-age=")
        assert client.get("/v1/nothing").status_code == 404
        token = client.cookies["__Host-simile_session"]
        client.cookies.clear()
        client.cookies.set("simile_session", token)  # another host of the domain can set this name
        assert get_problem(client.get("/v1/nothing"), 401) == "key-needed"
    with serve(settings) as client:
        assert "strict-transport-security" not in client.post("/signin", data={"key": key}).headers


def test_a_form_is_read_in_few_charsets(settings: Settings, key: str) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="key"\r\n\r\nx\r\n--b--\r\n'

    def send(path: str, kind: str, content: bytes) -> int:
        return client.post(path, content=content, headers={"X-API-Key": key, "Content-Type": kind}).status_code

    with serve(settings) as client:
        for path in ("/signin", "/v1/search", "/v1/images", "/"):
            for charset in ("punycode", "idna", "undefined", "utf-16", "rot13", "unicode_escape", "nothing"):
                assert send(path, f"multipart/form-data; boundary=b; charset={charset}", body) == 415
                assert send(path, f"application/x-www-form-urlencoded; charset={charset}", b"key=x") == 415
            assert send(path, 'multipart/form-data; boundary=b; charset="UTF-8"', body) not in (415, 500)


def test_an_upload_that_finds_the_disk_full_is_a_503(
    settings: Settings, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.SpooledTemporaryFile.write", fail)
    with serve(settings) as client:
        for path in ("/v1/search", "/v1/images", "/v1/reconstructions"):
            answer = client.post(path, files={"file": ("a.png", b"x" * 100)}, headers={"X-API-Key": key})
            assert get_problem(answer, 503) == "disk-full" and answer.headers["retry-after"]
        page = client.post("/", files={"file": ("a.png", b"x" * 100)}, headers={"X-API-Key": key})
        assert page.status_code == 503


def test_readiness_tells_strangers_no_path(settings: Settings, key: str, caplog: pytest.LogCaptureFixture) -> None:
    (settings.home / "catalogue.sqlite").write_bytes(b"no catalogue" * 1000)
    with serve(settings) as client, caplog.at_level(logging.WARNING):
        for _ in range(3):
            answer = client.get("/readyz")
            assert get_problem(answer, 503) == "not-ready" and "/" not in answer.json()["detail"].replace("I/O", "")
    assert [str(settings.home) in record.getMessage() for record in caplog.records if "not ready" in record.msg] == [
        True
    ]


def test_a_line_of_the_log_has_no_commands_for_a_terminal() -> None:
    formatter = SingleLineFormatter("%(message)s")
    try:
        raise ValueError("\x1b[31m\x07")
    except ValueError:
        record = logging.LogRecord("a", logging.INFO, "", 0, "%s", ("/x\x1b]0;t\x07\x9b1m\0\r\n",), sys.exc_info())
    text = formatter.format(record)
    assert text.startswith("/x\\x1b]0;t\\x07\\x9b1m\\x00\\r\\n\nTraceback")
    assert not {letter for letter in text if ord(letter) < 32 or 127 <= ord(letter) < 160} - {"\n"}


@pytest.mark.parametrize("kind", ["link", "other image", "text"])
def test_only_what_was_indexed_is_served_from_the_path_of_an_image(
    home_with_digits: Settings, tmp_path: Path, kind: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"root:x:0:0:")
    with serve(home_with_digits) as client:
        added = []
        for colour in ("red", "blue"):
            Image.new("RGB", (32, 32), colour).save(tmp_path / f"{colour}.png")
            with (tmp_path / f"{colour}.png").open("rb") as file:
                added.append(client.post("/v1/images", files={"file": file}).json())
        address, path = f"/v1/images/{added[0]['image_id']}", Path(added[0]["path"])
        assert client.get(f"{address}/file", params={"metadata": "keep"}).content == path.read_bytes()
        path.unlink()
        if kind == "link":
            path.symlink_to(secret)
        else:
            path.write_bytes((secret if kind == "text" else Path(added[1]["path"])).read_bytes())
        for route in ("file?metadata=keep", "file", "thumbnail"):
            answer = client.get(f"{address}/{route}")
            assert answer.status_code == 404 and "changed" in answer.json()["detail"]
        assert client.get(address).status_code == 200


def test_requests_that_compute_more_count_as_several(settings: Settings) -> None:
    with serve(settings.model_copy(update={"rate": 12})) as client:
        assert [client.post("/v1/latents", json={}).status_code for _ in range(3)] == [422, 422, 429]
        assert [client.get("/v1/nothing").status_code for _ in range(3)] == [404, 404, 429]
    with serve(settings.model_copy(update={"rate": 2})) as client:  # a price above the rate is still paid
        assert [client.post("/v1/map", json={}).status_code == 429 for _ in range(2)] == [False, True]


def test_a_morph_has_a_bounded_number_of_frames(shared_home: Settings) -> None:
    parts = [{"image_id": number} for number in range(1, 9)]
    with serve(shared_home) as client:
        answer = client.post("/v1/morphs", json={"parts": parts, "steps": 64}, headers={"Accept": "image/png"})
        assert answer.status_code == 422 and "448 frames" in answer.text and "128 at most" in answer.text
        assert client.post("/v1/morphs", json={"parts": parts, "steps": 4}).status_code == 200
