"""Two hosts with one catalogue and one store of objects: what one of them stores, the other one finds and shows."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete
from starlette.testclient import TestClient

from simile.core.errors import BadSetting
from simile.core.settings import Settings
from simile.dedup.detection.job import DedupRequest, find_duplicates
from simile.indexer.maintenance.rebuild import compact_index
from simile.indexer.maintenance.verify import verify_home
from simile.indexer.pipeline.job import IndexRequest, index
from simile.search.encoder_registry import load_encoder, register_encoder
from simile.service import urls
from simile.store.backup.create import create_backup
from simile.store.catalogue.catalogue import Catalogue
from simile.store.database import schema
from simile.store.database.tables import EmbeddingRow
from simile.store.home import Home
from tests.conftest import app_client
from tests.support.images import noise
from tests.support.object_store import KEY_ID, SECRET, ObjectServer
from tests.support.servers.postgresql import running_server


@dataclass(frozen=True)
class Hosts:
    """The settings and a client of each host."""

    settings: tuple[Settings, Settings]
    one: TestClient
    two: TestClient


@contextmanager
def serve_hosts(home: Settings, digits: Path, objects_url: str, database_url: str) -> Iterator[Hosts]:
    one = home.model_copy(update={"database_url": database_url, "objects": objects_url})
    two = one.model_copy(update={"home": home.home.with_name("two")})
    index(one, [digits], IndexRequest())
    with ExitStack() as stack:
        yield Hosts((one, two), stack.enter_context(app_client(one)), stack.enter_context(app_client(two)))


@pytest.fixture
def hosts(trained_home: Settings, digits: Path, object_server: ObjectServer) -> Iterator[Hosts]:
    """One home had no store and has indexed 120 digits; the other one is empty and knows the catalogue."""
    url = f"sqlite:///{trained_home.home}/catalogue.sqlite"
    with serve_hosts(trained_home, digits, object_server.url, url) as hosts:
        yield hosts


@pytest.fixture
def hosts_on_postgresql(trained_home: Settings, digits: Path, object_server: ObjectServer) -> Iterator[Hosts]:
    """As `hosts`, with a catalogue on a server."""
    with running_server() as server:
        server.execute("CREATE DATABASE simile")
        home = Home(trained_home.home, server.get_url("simile"), object_server.url)
        schema.upgrade_schema(home)
        with Catalogue(home) as catalogue:
            encoder = load_encoder(home, next(home.encoders.glob("[0-9a-f]*")).name, "cpu")
            register_encoder(catalogue, encoder)
            catalogue.encoders.activate(encoder.fingerprint)
        with serve_hosts(trained_home, digits, object_server.url, server.get_url("simile")) as hosts:
            yield hosts


def upload(client: TestClient, data: bytes, **params: Any) -> Any:
    return client.post("/v1/images", files={"file": ("a.png", data)}, params=params)


def find(client: TestClient, data: bytes) -> dict[str, Any]:
    """The nearest image."""
    hit: dict[str, Any] = client.post("/v1/search", files={"file": ("a.png", data)}).json()["hits"][0]
    return hit


def get_object(data: bytes) -> str:
    sha256 = hashlib.sha256(data).hexdigest()
    return f"uploads/{sha256[:2]}/{sha256}.png"


@pytest.mark.parametrize("fixture", ["hosts", "hosts_on_postgresql"])
def test_an_upload_is_found_shown_and_deleted_by_the_other_host(
    fixture: str, object_server: ObjectServer, request: pytest.FixtureRequest
) -> None:
    hosts: Hosts = request.getfixturevalue(fixture)
    data = noise(1)
    made = upload(hosts.one, data)
    image_id = made.json()["image_id"]
    assert (made.status_code, made.json()["paths"]) == (201, [f"upload:{get_object(data)[11:]}"])
    assert object_server.read(get_object(data)) == data
    hit = find(hosts.two, data)
    assert (hit["image_id"], hit["distance"]) == (image_id, pytest.approx(0, abs=1e-3))
    assert hosts.two.get(f"/v1/images/{image_id}/thumbnail").headers["content-type"] == "image/png"
    assert hosts.two.get(f"/v1/images/{image_id}/file?metadata=keep").content == data
    assert upload(hosts.two, data).status_code == 200
    copy = upload(hosts.two, data, if_duplicate="reject")
    assert (copy.status_code, copy.json()["duplicates"][0]["tier"]) == (409, "bytes")
    assert "its file is deleted too" in hosts.two.get(f"{urls.IMAGE_PAGES}/{image_id}").text
    assert hosts.two.delete(f"/v1/images/{image_id}").status_code == 204
    assert hosts.one.get(f"/v1/images/{image_id}").status_code == 404
    assert find(hosts.one, data)["image_id"] != image_id
    assert not list(hosts.settings[0].home.joinpath("uploads").iterdir())
    assert hosts.settings[1].home.stat().st_mode & 0o77 == 0


def test_the_object_of_a_deleted_image_goes_a_day_later(
    hosts: Hosts, object_server: ObjectServer, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted, again, never_committed = noise(1), noise(2), noise(3)
    for data in (deleted, again):
        assert hosts.two.delete(f"/v1/images/{upload(hosts.one, data).json()['image_id']}").status_code == 204
    object_server.write(get_object(never_committed), never_committed)
    upload(hosts.one, again)
    index(hosts.settings[0], [digits], IndexRequest())
    compact_index(hosts.settings[0])
    assert set(object_server.names("uploads")) == set(map(get_object, (deleted, again, never_committed)))
    monkeypatch.setattr("simile.store.object_removal.REMOVAL_DELAY", timedelta(seconds=-5))
    index(hosts.settings[0], [digits], IndexRequest())
    assert set(object_server.names("uploads")) == set(map(get_object, (again, never_committed)))
    compact_index(hosts.settings[0])
    assert object_server.names("uploads") == [get_object(again)]
    with Catalogue(Home.from_settings(hosts.settings[0])) as catalogue:
        assert set(object_server.names("segments")) == {
            f"segments/{name}" for name in catalogue.segments.get_file_names()
        }
    assert len({name.split("/")[1] for name in object_server.names("encoders")}) == 1


def test_an_upload_during_the_removal_of_its_object_keeps_it(
    hosts: Hosts, object_server: ObjectServer, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The upload finds the object, and it is removed before the row is committed."""
    from simile.store import object_removal

    data = noise(1)
    hosts.one.delete(f"/v1/images/{upload(hosts.one, data).json()['image_id']}")
    find_named = object_removal._find_named
    named: list[set[str]] = []

    def upload_meanwhile(catalogue: Catalogue, names: list[str]) -> set[str]:
        named.append(find_named(catalogue, names))
        if len(named) == 1:
            assert upload(hosts.two, data).status_code == 201
        return named[-1]

    monkeypatch.setattr(object_removal, "_find_named", upload_meanwhile)
    monkeypatch.setattr(object_removal, "REMOVAL_DELAY", timedelta(seconds=-5))
    index(hosts.settings[0], [digits], IndexRequest())
    assert named == [set(), {get_object(data)}]
    assert object_server.read(get_object(data)) == data


def test_a_damaged_copy_of_an_upload_is_fetched_again(hosts: Hosts) -> None:
    data = noise(1)
    image_id = upload(hosts.one, data).json()["image_id"]
    url = f"/v1/images/{image_id}/file?metadata=keep"
    assert hosts.two.get(url).content == data
    (entry,) = hosts.settings[1].home.joinpath("cache").rglob("*-file")
    entry.write_bytes(entry.read_bytes()[:-1] + b"\0")
    assert hosts.two.get(url).content == data


def test_an_upload_that_the_store_lost_is_named(hosts: Hosts, object_server: ObjectServer) -> None:
    data = noise(1)
    image_id = upload(hosts.one, data).json()["image_id"]
    assert verify_home(hosts.settings[1], files=True) == []
    object_server.remove(get_object(data))
    lost = hosts.two.get(f"/v1/images/{image_id}/file")
    assert (lost.status_code, "there is no such object" in lost.json()["detail"]) == (404, True)
    assert hosts.two.get(f"/v1/images/{image_id}/reconstruction").status_code == 200
    problems = verify_home(hosts.settings[1], files=True)
    assert [problem.kind for problem in problems] == ["upload", "file"]
    assert all("DELETE" in problem.next_step for problem in problems)


def test_without_the_store_searches_go_on_and_an_upload_gets_503(
    hosts: Hosts, object_server: ObjectServer, caplog: pytest.LogCaptureFixture
) -> None:
    cached, other, new = noise(1), noise(2), noise(3)
    image_id = upload(hosts.one, cached).json()["image_id"]
    other_id = upload(hosts.one, other).json()["image_id"]
    assert hosts.two.get(f"/v1/images/{image_id}/thumbnail").status_code == 200
    find(hosts.two, cached)
    object_server.stop()
    for client in (hosts.one, hosts.two):
        assert find(client, cached)["image_id"] == image_id
        assert client.post("/v1/search", json={"image_id": image_id}).status_code == 200
    assert hosts.two.get(f"/v1/images/{image_id}/thumbnail").status_code == 200
    assert hosts.two.get(f"{urls.IMAGE_PAGES}/{other_id}").status_code == 200
    refused = upload(hosts.one, new)
    unseen = hosts.two.get(f"/v1/images/{other_id}/file")
    for answer in (refused, unseen):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert answer.json()["type"].endswith(":objects-unavailable")
    assert find(hosts.one, new)["distance"] > 0.01
    assert hosts.two.delete(f"/v1/images/{other_id}").status_code == 204  # the row goes, the object stays
    object_server.start()
    assert upload(hosts.one, new).status_code == 201
    for text in (caplog.text, refused.text, unseen.text):
        assert SECRET not in text and KEY_ID not in text


def test_uploads_of_a_home_move_to_the_store(trained_home: Settings, digits: Path, object_server: ObjectServer) -> None:
    data = noise(1)
    with app_client(trained_home) as client:
        index(trained_home, [digits], IndexRequest())
        image_id = upload(client, data).json()["image_id"]
    shared = trained_home.model_copy(update={"objects": object_server.url})
    for _ in range(2):
        index(shared, [digits], IndexRequest())
        with app_client(shared) as client:
            assert client.get(f"/v1/images/{image_id}").json()["paths"] == [f"upload:{get_object(data)[11:]}"]
            assert client.get(f"/v1/images/{image_id}/file?metadata=keep").content == data
    assert not list(trained_home.home.joinpath("uploads").iterdir())
    assert verify_home(shared, files=True) == []
    shutil.rmtree(trained_home.home / "cache")
    with app_client(trained_home) as client:  # without the setting
        assert "SIMILE_OBJECTS" in client.get(f"/v1/images/{image_id}/file").json()["detail"]
    with pytest.raises(BadSetting, match="SIMILE_OBJECTS"):
        create_backup(Home.from_settings(shared), trained_home.home / "backup.tar")


def test_uploads_get_the_vectors_that_they_lack(hosts: Hosts, digits: Path) -> None:
    image_id = upload(hosts.one, noise(1)).json()["image_id"]
    settings = hosts.settings[1]
    with Catalogue(Home.from_settings(settings)) as catalogue:
        with catalogue.begin_untracked_write() as connection:
            connection.execute(delete(EmbeddingRow).where(EmbeddingRow.image_id == image_id))
        summary = index(settings, [digits], IndexRequest())
        assert (summary.failures, summary.unchanged) == ([], 120)
        (fingerprint,) = catalogue.encoders.count_embeddings()
        assert catalogue.embeddings.count(fingerprint) == 121
        assert catalogue.files.get_folders() == [str(digits)]


def test_copies_among_uploads_are_found_on_any_host(hosts: Hosts) -> None:
    ids = [upload(hosts.one, noise(1, format)).json()["image_id"] for format in ("PNG", "BMP")]
    find_duplicates(hosts.settings[1], DedupRequest(tiers=("bytes", "pixels")))
    groups = hosts.two.get("/v1/duplicates").json()["groups"]
    assert [{member["image_id"] for member in group["members"]} for group in groups] == [set(ids)]
