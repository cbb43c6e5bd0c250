"""Two services with homes of their own and one database of PostgreSQL, and what they do without the database."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from simile.core.settings import Settings, load_settings
from simile.search.encoder_registry import find_encoder, register_encoder
from simile.service.state import job_manager
from simile.store.catalogue.catalogue import Catalogue
from simile.store.database import schema
from simile.store.home import Home
from tests.conftest import app_client
from tests.support.servers.postgresql import Postgres, running_server


@pytest.fixture(scope="module")
def server(_trained_home: Path) -> Iterator[Postgres]:
    with running_server() as server:
        server.execute("CREATE DATABASE template_home")
        home = Home(server.folder.parent / "template", server.get_url("template_home"))
        schema.upgrade_schema(home)
        shutil.copytree(_trained_home / "encoders", home.encoders, dirs_exist_ok=True)
        encoder = find_encoder(home, next(home.encoders.glob("[0-9a-f]*")).name, "cpu")
        with Catalogue(home) as catalogue:
            register_encoder(catalogue, encoder)
            catalogue.encoders.activate(encoder.fingerprint)
        yield server


@pytest.fixture
def hosts(server: Postgres, tmp_path: Path, _trained_home: Path) -> list[Settings]:
    """Settings of two hosts: the same encoders, one database, and nothing else in common."""
    name = f"test_{abs(hash(tmp_path)):x}"
    server.copy_database("template_home", name)
    settings = []
    for host in ("a", "b"):
        shutil.copytree(_trained_home / "encoders", tmp_path / host / "encoders")
        settings.append(load_settings(home=tmp_path / host, database_url=server.get_url(name), workers=1, device="cpu"))
    return settings


@pytest.fixture
def clients(hosts: list[Settings]) -> Iterator[tuple[TestClient, TestClient]]:
    with app_client(hosts[0]) as first, app_client(hosts[1]) as second:
        yield first, second


def upload(client: TestClient, path: Path) -> int:
    response = client.post("/v1/images", files={"file": (path.name, path.read_bytes())})
    assert response.status_code == 201, response.text
    image_id: int = response.json()["image_id"]
    return image_id


def search(client: TestClient, path: Path) -> list[int]:
    response = client.post("/v1/search", files={"file": (path.name, path.read_bytes())}, data={"limit": "3"})
    assert response.status_code == 200, response.text
    return [hit["image_id"] for hit in response.json()["hits"]]


def test_what_one_host_stores_or_deletes_the_next_search_of_the_other_sees(
    clients: tuple[TestClient, TestClient], digits: Path
) -> None:
    first, second = clients
    for path in sorted(digits.iterdir())[:5]:
        image_id = upload(first, path)
        assert search(second, path)[0] == image_id
    assert second.delete(f"/v1/images/{image_id}").status_code == 204
    assert image_id not in search(first, path)


def test_a_key_that_one_host_revokes_the_other_refuses(
    clients: tuple[TestClient, TestClient], hosts: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simile.service.security.api_keys.KEY_CACHE_SECONDS", 0)
    second = clients[1]
    with Catalogue(Home(hosts[0].home, hosts[0].database_url)) as catalogue:
        key, _ = catalogue.keys.create("reader", "search")
        headers = {"Authorization": f"Bearer {key.text}"}
        assert second.get("/v1/status", headers=headers).status_code == 200
        assert second.get("/v1/status").status_code == 401
        catalogue.keys.revoke("reader")
    assert second.get("/v1/status", headers=headers).status_code == 401


def test_a_job_of_one_host_is_shown_and_counted_by_the_other(
    clients: tuple[TestClient, TestClient], hosts: list[Settings], digits: Path
) -> None:
    managers = [job_manager.JobManager(settings.model_copy(update={"roots": f"digits={digits}"})) for settings in hosts]
    try:
        with Home.from_settings(hosts[0]).lock("a test"):  # the job waits for it
            job = managers[0].start("digits", prune=False)
            with pytest.raises(job_manager.JobRunning, match=f"Job {job.id} on 'digits' is running on"):
                managers[1].start("digits", prune=False)
            assert managers[1].get(job.id).status == "running"
            managers[1].cancel(job.id)
            thread = managers[0]._wait_thread
            assert thread is not None
            thread.join()
        assert managers[1].get(job.id).status == "cancelled"
    finally:
        for manager in managers:
            manager.close()


def test_without_the_database_requests_get_503_and_later_200(
    clients: tuple[TestClient, TestClient], server: Postgres, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = next(digits.iterdir())
    client = clients[0]
    image_id = upload(client, path)
    monkeypatch.setattr(client.app.state.readiness.searcher_provider.searcher.catalogue, "repeat_seconds", 0.1)  # type: ignore[attr-defined]
    server.stop()
    try:
        response = client.post("/v1/search", files={"file": (path.name, path.read_bytes())})
        assert response.status_code == 503
        assert response.json()["type"].endswith("database-unavailable")
        assert response.headers["Retry-After"] == "5"
        assert "postgres@" not in response.text
        assert client.get("/readyz").status_code == 503
        assert client.get("/livez").status_code == 200
    finally:
        server.start()
    assert search(client, path) == [image_id]
    assert client.get("/readyz").status_code == 200
