"""Keys that come with a backup open nothing by accident, and a home that had keys stays closed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from simile.core.errors import BackupDamaged
from simile.core.settings import Settings, load_settings
from simile.service.app import create_app
from simile.service.server.server import has_keys
from simile.store.backup.create import create_backup
from simile.store.backup.restore import restore_backup
from simile.store.backup.verify import find_problems
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import KEYS_RESERVE_BYTES, Home
from tests.support.commands import run_json, run_simile

KEY_TRIGGER = "CREATE TRIGGER t AFTER UPDATE ON api_keys BEGIN UPDATE api_keys SET revoked_at = NULL; END"
VIRTUAL_TABLE = "CREATE VIRTUAL TABLE t USING fts5(a)"


@pytest.fixture
def backup(home: Home, tmp_path: Path) -> tuple[Path, str, str]:
    """A backup with three keys, one of them revoked and one expired; the key and the token of a session."""
    with Catalogue(home) as catalogue:
        key, record = catalogue.keys.create("owner", "admin")
        catalogue.keys.create("old", "search")
        catalogue.keys.revoke("old")
        catalogue.keys.create("phone", "write", lifetime=timedelta(seconds=-1))
        token = catalogue.keys.open_session(record.id, timedelta(days=1))
    create_backup(home, tmp_path / "backup.tar")
    return tmp_path / "backup.tar", key.text, token


def execute(home: Home, statement: str) -> None:
    with closing(sqlite3.connect(home.catalogue_path)) as connection:
        connection.execute(statement)
        connection.commit()


def get_statuses(home: Home, key: str, token: str) -> tuple[int, int, int]:
    """Statuses of a request with this key, with this cookie, and with none."""
    settings = load_settings(home=home.root)
    with TestClient(create_app(settings), client=("127.0.0.1", 1), raise_server_exceptions=False) as client:
        headers: list[dict[str, str]] = [{"X-API-Key": key}, {"Cookie": f"simile_session={token}"}, {}]
        with_key, with_cookie, without = (client.get("/v1/nothing", headers=each).status_code for each in headers)
        return with_key, with_cookie, without


def test_keys_and_sessions_of_a_backup_are_revoked(backup: tuple[Path, str, str], tmp_path: Path) -> None:
    path, key, token = backup
    restored = Home(tmp_path / "new")
    done = restore_backup(path, restored)
    assert [(item.name, item.scope, item.is_usable) for item in done.keys] == [
        ("owner", "admin", False),
        ("phone", "write", False),
    ]
    with Catalogue(restored) as catalogue:
        assert all(item.revoked_at for item in catalogue.keys.get_all())
    assert get_statuses(restored, key, token) == (401, 401, 401)
    assert restored.keys_reserve.exists()


def test_keys_can_be_kept_but_sessions_end(backup: tuple[Path, str, str], tmp_path: Path) -> None:
    path, key, token = backup
    restored = Home(tmp_path / "new")
    assert [item.is_usable for item in restore_backup(path, restored, keep_keys=True).keys] == [True, True]
    assert get_statuses(restored, key, token) == (404, 401, 401)
    with Catalogue(restored) as catalogue:
        assert [bool(item.revoked_at) for item in catalogue.keys.get_all()] == [False, True, False]


def test_the_command_lists_the_keys_and_says_what_to_do(backup: tuple[Path, str, str]) -> None:
    done = run_simile("restore", "--home", "new", backup[0])
    assert "revoked  owner: admin, created 20" in done.stderr and "revoked  phone: write" in done.stderr
    assert "stays closed until it has a new key: `simile keys create NAME" in done.stderr
    done = run_simile("restore", "--home", "kept", backup[0], "--keep-keys")
    assert "kept  owner: admin, created 20" in done.stderr and "`simile keys revoke NAME`" in done.stderr
    for options, is_usable in (([], False), (["--keep-keys"], True)):
        keys = run_json("restore", "--home", f"json-{is_usable}", backup[0], *options)["keys"]
        assert [(key["name"], key["scope"], key["is_usable"]) for key in keys] == [
            ("owner", "admin", is_usable),
            ("phone", "write", is_usable),
        ]
        assert keys[0]["created_at"].startswith("20")


def test_a_backup_without_keys_is_open_as_before(home: Home, tmp_path: Path) -> None:
    create_backup(home, tmp_path / "backup.tar")
    done = run_simile("restore", "--home", "new", tmp_path / "backup.tar")
    assert done.stderr == "" and not has_keys(load_settings(home=Path("new")))


@pytest.mark.parametrize("statement", [KEY_TRIGGER, "CREATE VIEW v AS SELECT 1", VIRTUAL_TABLE])
def test_a_catalogue_with_triggers_or_views_is_rejected(home: Home, tmp_path: Path, statement: str) -> None:
    with Catalogue(home) as catalogue:
        catalogue.keys.create("owner", "admin")
    execute(home, statement)
    create_backup(home, tmp_path / "backup.tar")
    for keep_keys in (True, False):
        with pytest.raises(BackupDamaged, match=r"has the (trigger|view|table) '\w+', which simile does not create"):
            restore_backup(tmp_path / "backup.tar", Home(tmp_path / "new"), keep_keys=keep_keys)
    assert not Home(tmp_path / "new").catalogue_path.exists()
    assert "which simile does not create" in find_problems(home)[0].description


@pytest.mark.parametrize("name", ["\x1b]0;title\x07", "a\nb", ""])
def test_a_key_with_a_name_that_simile_does_not_give_is_rejected(home: Home, tmp_path: Path, name: str) -> None:
    with Catalogue(home) as catalogue:
        catalogue.keys.create("owner", "admin")
    execute(home, f"UPDATE api_keys SET name = '{name}'")
    create_backup(home, tmp_path / "backup.tar")
    with pytest.raises(BackupDamaged, match="not one of simile"):
        restore_backup(tmp_path / "backup.tar", Home(tmp_path / "new"), keep_keys=True)


@pytest.fixture
def closed(home: Home) -> Settings:
    with Catalogue(home) as catalogue:
        catalogue.keys.create("owner", "admin")
    return load_settings(home=home.root)


@pytest.mark.parametrize("loss", ["rows", "file", "folder"])
def test_a_home_whose_catalogue_is_emptied_stays_closed(closed: Settings, _empty_home: Path, loss: str) -> None:
    home = Home(closed.home)
    if loss == "rows":
        execute(home, "DELETE FROM api_keys")
    else:
        for path in home.root.glob("catalogue.sqlite*"):
            path.unlink()
        if loss == "file":
            home.catalogue_path.write_bytes((_empty_home / "catalogue.sqlite").read_bytes())
    assert get_statuses(home, "x", "x") == (401, 401, 401)
    assert has_keys(closed)
    if loss != "folder":
        listed = run_simile("keys", "list", "--home", home.root).stdout
        assert f"stays closed. Create one; or delete {home.keys_reserve}" in listed
    home.keys_reserve.unlink()
    assert get_statuses(home, "x", "x") == (404, 404, 404)


def test_a_lost_catalogue_can_be_restored_into_its_home(backup: tuple[Path, str, str], tmp_path: Path) -> None:
    home = Home(tmp_path / "lost").create()
    home.keep_keys_reserve()
    restore_backup(backup[0], home)
    assert home.catalogue_path.exists() and home.keys_reserve.exists()


def test_a_home_of_an_earlier_version_is_marked_when_it_is_served(closed: Settings) -> None:
    home = Home(closed.home)
    home.keys_reserve.unlink()
    assert has_keys(closed) and home.keys_reserve.stat().st_size == KEYS_RESERVE_BYTES


def test_a_home_is_open_again_after_its_last_key_is_forgotten(closed: Settings) -> None:
    home = Home(closed.home)
    with Catalogue(home) as catalogue:
        catalogue.keys.revoke("owner")
        assert home.keys_reserve.stat().st_size == KEYS_RESERVE_BYTES
        catalogue.keys.delete("owner")
        assert not catalogue.keys.has_any() and not home.keys_reserve.exists()
