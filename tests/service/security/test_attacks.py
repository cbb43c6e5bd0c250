"""What somebody on the internet may try: each is refused with a reason, costs little, and leaves nothing behind."""

from __future__ import annotations

import json
import socket
import time
import zlib
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from starlette.testclient import TestClient

from simile.core.settings import Settings
from simile.indexer.pipeline.job import IndexRequest, index
from simile.service.requests.search import MAX_FORM_FIELDS
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import DuplicateRecord
from simile.store.home import Home
from tests.support.images import bomb, noise
from tests.support.server import BOUNDARY, Listening, head, is_closed, listening, read_reply

pillow_heif.register_heif_opener()

COUNT = 120  # images of the home
SCRIPT = "<script>alert(1)</script>"
EVIL = '"><img src=x onerror=alert(1)>'
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "HEIF", "JPEG2000", "ICO", "QOI")


@pytest.fixture(scope="module")
def server(shared_home: Settings) -> Iterator[Listening]:
    with listening(shared_home) as server:
        yield server


def refused(response: Any) -> str:
    """The reason of a 4xx."""
    assert 400 <= response.status_code < 500, response.text
    assert response.headers["content-type"] == "application/problem+json"
    detail: str = response.json()["detail"]
    assert len(detail) > 20 and "Traceback" not in detail and "site-packages" not in detail
    return detail


# Bad files


NO_IMAGES = {
    "nothing.png": b"",
    "one byte.jpg": b"\xff",
    "text.jpg": b"dear diary, " * 100,
    "svg.png": f'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)">{SCRIPT}</svg>'.encode(),
    "svg with bom.svg": b"\xef\xbb\xbf<?xml version='1.0'?><svg/>",
    "page.png": f"<!doctype html><html>{SCRIPT}</html>".encode(),
    "entities.svg": b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><svg>&b;</svg>',
    "postscript.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
    "metafile.png": b"\xd7\xcd\xc6\x9a" + bytes(200),
    "pdf.png": b"%PDF-1.7\n1 0 obj <</OpenAction /JavaScript>>",
    "zip.png": b"PK\x03\x04" + bytes(100),
    "gzip.png": b"\x1f\x8b\x08" + bytes(100),
    "elf.png": b"\x7fELF" + bytes(100),
    "pickle.png": b"\x80\x04cos\nsystem\n(S'id'\ntR.",
    "zeros.jpg": bytes(10_000),
    "only a head.png": b"\x89PNG\r\n\x1a\n",
    "gif head.gif": b"GIF89a\xff\xff\xff\xff\x00\x00\x00",
    "shell.jpg": b'push graphic-context\nfill "url(https://127.0.0.1/|id)"\n',
    "bomb.png": bomb(),
}


@pytest.mark.parametrize("path", ["/v1/search", "/v1/images", "/v1/reconstructions"])
@pytest.mark.parametrize("name", NO_IMAGES)
def test_what_is_no_image_is_refused_with_its_reason(shared_client: TestClient, path: str, name: str) -> None:
    started = time.monotonic()
    detail = refused(shared_client.post(path, files={"file": (name, NO_IMAGES[name], "image/png")}))
    assert name in detail and time.monotonic() - started < 5
    assert shared_client.get("/v1/images?limit=1").json()["total"] == COUNT


@pytest.mark.parametrize(("cuts", "changes"), [(3, 5), pytest.param(8, 40, marks=pytest.mark.long)])
@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_image_is_a_reason_or_an_image_and_never_an_error(
    shared_client: TestClient, format: str, cuts: int, changes: int
) -> None:
    data, random = noise(0, format), np.random.default_rng(1)
    broken = [data[:length] for length in np.linspace(1, len(data) - 1, cuts, dtype=int)]
    for _ in range(changes):
        other = bytearray(data)
        other[random.integers(len(data))] ^= int(random.integers(1, 256))
        broken.append(bytes(other))
    for item in broken:
        response = shared_client.post("/v1/search", files={"file": (f"broken.{format.lower()}", item)})
        if response.status_code != 200:
            assert "broken." in refused(response)
    assert shared_client.get("/readyz").status_code == 200


def test_every_frame_size_is_looked_at_before_pixels_are_made(shared_client: TestClient) -> None:
    huge = bytearray(noise(0, "BMP"))
    huge[18:26] = (100_000).to_bytes(4, "little") * 2
    for name, data in {"bomb.png": bomb(), "huge.bmp": bytes(huge)}.items():
        response = shared_client.post("/v1/images", files={"file": (name, data)})
        assert response.status_code == 413 and "SIMILE_MAX_PIXELS" in refused(response)


# Too much


def test_ten_gigabytes_that_are_announced_are_refused_before_they_come(server: Listening) -> None:
    with server.connect() as connection:
        started = time.monotonic()
        connection.sendall(head("/v1/images", 10 * 2**30))
        reply = read_reply(connection)
        assert reply.status == 413 and "SIMILE_MAX_BYTES" in reply.json()["detail"]
        assert time.monotonic() - started < 2


def test_ten_gigabytes_in_pieces_are_cut_off_at_the_limit(home_with_digits: Settings) -> None:
    with listening(home_with_digits.model_copy(update={"max_bytes": 1_000_000})) as server, server.connect() as sender:
        start = head("/v1/images", 0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
        part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'.encode()
        sender.sendall(start + b"%x\r\n" % len(part) + part + b"\r\n")
        piece = b"10000\r\n" + bytes(65536) + b"\r\n"
        sent = 0
        try:
            while sent < 1000 * len(piece):
                sender.sendall(piece)
                sent += len(piece)
        except OSError:  # the server has hung up
            pass
        try:
            assert read_reply(sender).status == 413
        except ConnectionError:
            assert is_closed(sender)
        assert sent < 1000 * len(piece)
        assert server.answer(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").status == 200


@pytest.mark.parametrize("kind", ["file", "text", "other files"])
def test_a_thousand_parts_are_refused_quickly(shared_client: TestClient, kind: str) -> None:
    data = noise(0)
    parts = {
        "file": [("file", (f"{n}.png", data)) for n in range(1000)],
        "other files": [(f"file{n}", (f"{n}.png", data)) for n in range(1000)],
        "text": [("file", ("a.png", data)), *((f"field{n}", (None, "x")) for n in range(1000))],
    }
    started = time.monotonic()
    for path in ("/v1/search", "/v1/images", "/v1/reconstructions", "/"):
        response = shared_client.post(path, files=parts[kind])
        assert 400 <= response.status_code < 500
    assert time.monotonic() - started < 5
    assert MAX_FORM_FIELDS < 1000


def test_a_form_of_headers_or_names_without_end_is_refused(shared_client: TestClient) -> None:
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    endless = b'--b\r\nContent-Disposition: form-data; name="' + b"x" * 200_000 + b'"\r\n\r\nx\r\n--b--\r\n'
    many = b"--b\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(10_000)) + b"\r\nx\r\n--b--\r\n"
    for body in (endless, many, b"--b\r\n" * 100_000, b"\r\n" * 100_000):
        refused(shared_client.post("/v1/search", content=body, headers=kind))
    refused(shared_client.post("/v1/search", content=b"--b", headers={"Content-Type": "multipart/form-data"}))
    refused(shared_client.post("/v1/search", content="[" * 200_000, headers={"Content-Type": "application/json"}))


def test_an_upload_that_is_left_half_way_is_no_image(home_with_digits: Settings) -> None:
    with listening(home_with_digits) as server:
        for _ in range(5):
            with server.connect() as connection:
                body = noise(3)
                connection.sendall(head("/v1/images", len(body) + 10_000) + body)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        reply = server.answer(b"GET /v1/images?limit=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert reply.json()["total"] == COUNT
    assert list((home_with_digits.home / "uploads").iterdir()) == []


# Paths


@pytest.mark.parametrize(
    "name",
    [
        "../../evil.png",
        "/etc/cron.d/evil",
        "..\\..\\evil.png",
        "C:\\evil.png",
        "a\0.png",
        "." * 300,
        "\u202egnp.exe",
        "|id",
        "-rf",
    ],
)
def test_a_file_name_becomes_no_path(shared_client: TestClient, shared_home: Settings, name: str) -> None:
    home = shared_home.home
    before = {path for path in home.parent.rglob("*") if "evil" in path.name}
    made = shared_client.post("/v1/images", files={"file": (name, noise(zlib.crc32(name.encode()) % 1000))})
    if made.status_code not in (200, 201):
        refused(made)
        return
    assert {path for path in home.parent.rglob("*") if "evil" in path.name} == before
    stored = Path(made.json()["path"])
    assert stored.parent == home / "uploads" and stored.name.startswith(made.json()["sha256"])
    assert shared_client.delete(f"/v1/images/{made.json()['image_id']}").status_code == 204


@pytest.mark.parametrize(
    "path",
    [
        "/static/..%2fapp.py",
        "/static/%2e%2e/%2e%2e/service/app.py",
        "/static/....//app.py",
        "/static//etc/passwd",
        "/static/..%5capp.py",
        "/static/%00",
        "/v1/images/..%2f..%2fetc%2fpasswd/file",
        "/v1/images/1%00/file",
        "/v1/images/1;/file",
        "/v1/images/0x1/file",
        "/v1/images/1e0/file",
        "/v1/encoders/..%2f..%2fcatalogue.sqlite",
        "/v1/encoders/%00",
    ],
)
def test_no_address_leads_to_another_file(server: Listening, path: str) -> None:
    reply = server.answer(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert 400 <= reply.status < 500, reply.body
    assert b"import" not in reply.body and b"root:" not in reply.body and b"SQLite" not in reply.body


def test_no_path_and_no_url_is_taken_from_a_client(shared_client: TestClient) -> None:
    for given in (
        {"path": "/etc/passwd"},
        {"url": "http://127.0.0.1/"},
        {"image_id": "/etc/passwd"},
        {"file": "/etc/x"},
    ):
        refused(shared_client.post("/v1/search", json=given))
    refused(shared_client.post("/v1/search", data={"file": "/etc/passwd"}))
    refused(shared_client.post("/v1/jobs", json={"root": "/etc"}))
    refused(shared_client.post("/v1/jobs", json={"root": "../.."}))


# Scripts


def pages_with(client: TestClient, image_id: int) -> Iterator[str]:
    for path in (f"/pictures/{image_id}", f"/?image_id={image_id}", "/collection?sort=newest", "/", "/duplicates"):
        response = client.get(path, headers={"Accept": "text/html"})
        assert response.status_code in (200, 503), path
        policy = response.headers["content-security-policy"]
        assert "script-src 'self'" in policy and "unsafe" not in policy and "base-uri 'none'" in policy
        yield response.text


def harmless(page: str) -> bool:
    return "<script>alert" not in page and "<img src=x" not in page and "onerror=alert(1)>" not in page


def test_names_and_metadata_are_text_on_every_page(client: TestClient) -> None:
    said = {"scan": SCRIPT, "note": EVIL, "{{7*7}}": "{% raw %}{{ config }}", "javascript:alert(1)": "'-alert(1)-'"}
    made = client.post("/v1/images", files={"file": (f"{EVIL}.png", noise(1))}, data={"metadata": json.dumps(said)})
    assert made.status_code == 201, made.text
    image_id = made.json()["image_id"]
    assert client.get(f"/v1/images/{image_id}").json()["metadata"] == said
    refused(client.put(f"/v1/images/{image_id}/metadata", json={"metadata": {SCRIPT: "a"}}))
    pages = list(pages_with(client, image_id))
    assert all(map(harmless, pages))
    assert SCRIPT in unescape(pages[0]), "what was said is shown, as text"
    assert not any("49" in page.partition("{{7*7}}")[2][:20] for page in pages)


def test_folders_and_files_with_scripts_for_names_are_text_too(client: TestClient, home_with_digits: Settings) -> None:
    photos = home_with_digits.home.parent / "<b onclick=alert(1)>"
    photos.mkdir()
    for seed in (1, 1):
        (photos / f"<img src=x onerror=alert({seed})>{len(list(photos.iterdir()))}.png").write_bytes(noise(seed))
    index(home_with_digits, [photos], IndexRequest())
    with Catalogue(Home(home_with_digits.home)) as catalogue:
        image_id = max(known.image_id for known in catalogue.files.find_under([str(photos)]).values())
    pages = list(pages_with(client, image_id))
    assert all(map(harmless, pages)) and not any("<b onclick" in page for page in pages)


def test_pairs_of_images_with_scripts_for_names_are_text_in_the_review(
    client: TestClient, home_with_digits: Settings
) -> None:
    photos = home_with_digits.home.parent / "odd"
    photos.mkdir()
    for seed in (1, 2):
        (photos / f"<img src=x onerror=alert(1)>{seed}.png").write_bytes(noise(seed))
    index(home_with_digits, [photos], IndexRequest())
    with Catalogue(Home(home_with_digits.home)) as catalogue:
        one, other = sorted(known.image_id for known in catalogue.files.find_under([str(photos)]).values())
        run = catalogue.runs.start("dedup", {})
        catalogue.duplicates.replace(run, [DuplicateRecord(one, other, "near", 0.1, 0.9, SCRIPT)])
        catalogue.runs.finish(run, "finished", {"encoder": catalogue.get_state().active_encoder})
    page = client.get("/duplicates").text
    assert "onerror=alert(1)&gt;1.png" in page, "the pair is shown"
    assert harmless(page)


def test_what_was_searched_with_comes_back_as_text(shared_client: TestClient) -> None:
    shown = shared_client.post("/", files={"file": (f"{EVIL}{SCRIPT}.png", noise(2))})
    assert shown.status_code == 200 and harmless(shown.text)
    wrong = shared_client.post("/", files={"file": (f"{EVIL}{SCRIPT}.png", SCRIPT.encode())})
    assert wrong.status_code == 422 and harmless(wrong.text)
    for address in (f"/?image_id={SCRIPT}", f"/collection?sort={EVIL}", f"/collection?where={SCRIPT}"):
        assert harmless(shared_client.get(address, headers={"Accept": "text/html"}).text)


def test_problems_are_json_whatever_was_asked(shared_client: TestClient) -> None:
    response = shared_client.get(f"/v1/{SCRIPT}", headers={"Accept": "text/html"})
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-content-type-options"] == "nosniff"


def test_images_are_served_so_that_nothing_in_them_runs(shared_client: TestClient) -> None:
    for path in ("/v1/images/1/file", "/v1/images/1/thumbnail", "/v1/images/1/reconstruction"):
        response = shared_client.get(path)
        assert response.headers["content-type"].startswith("image/")
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in response.headers["content-security-policy"]
        assert response.headers["cross-origin-resource-policy"] == "same-origin"


def test_an_image_that_hides_a_page_is_served_without_it(client: TestClient) -> None:
    polyglots = {
        "gif": noise(5, "GIF", comment=SCRIPT.encode()),
        "jpeg": noise(6, "JPEG", comment=SCRIPT.encode()),
        "png": noise(7) + SCRIPT.encode(),
    }
    for name, data in polyglots.items():
        made = client.post("/v1/images", files={"file": (f"a.{name}", data)}).json()
        assert SCRIPT.encode() in data and SCRIPT.encode() not in client.get(made["file_url"]).content


# Injections


SQL = (
    "' OR '1'='1",
    "1; DROP TABLE images; --",
    "1 UNION SELECT sha256 FROM api_keys",
    "%' --",
    '"',
    "\\",
    "\0",
    "ё" * 100,
)


@pytest.mark.parametrize("text", SQL)
def test_sql_in_any_field_is_only_text(shared_client: TestClient, text: str) -> None:
    answers = [
        shared_client.get("/v1/images", params={"where": f"a={text}"}),
        shared_client.get("/v1/images", params={"where": f"{text}=a"}),
        shared_client.get("/v1/images", params={"under": text}),
        shared_client.get("/v1/images", params={"format": text}),
        shared_client.get("/v1/images", params={"sort": text}),
        shared_client.get("/v1/images", params={"cursor": text}),
        shared_client.get("/v1/images", params={"limit": text}),
        shared_client.post("/v1/search", json={"image_id": 1, "where": [f"{text}={text}"]}),
        shared_client.get("/v1/duplicates", params={"tier": text}),
        shared_client.get("/v1/images/1/neighbours", params={"since": text}),
        shared_client.put("/v1/images/1/metadata", json={"metadata": {text: text}}),
    ]
    for answer in answers:
        assert answer.status_code < 500, answer.text
        if answer.status_code == 200 and "images" in answer.json():
            assert answer.json()["images"] == []
    assert shared_client.get("/v1/images?limit=1").json()["total"] == COUNT


def test_a_cursor_that_was_made_up_is_refused(shared_client: TestClient) -> None:
    for cursor in ("AAAA", "e30", "W10=", "gASVAA==", "9" * 300, "-1"):
        refused(shared_client.get("/v1/images", params={"cursor": cursor}))
