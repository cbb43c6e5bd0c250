"""Keys: made, shown once, kept as hashes, revoked, forgotten; and the sessions that they open."""

from __future__ import annotations

import json
import re
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from simile.cli.main import app
from simile.core.errors import BadSetting, NothingIndexed
from simile.core.keys import hash_secret, make_key, matches_digest, parse_key_prefix, scope_allows
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.keys import MAX_SESSIONS_PER_KEY
from simile.store.home import Home


def simile(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_key_has_256_random_bits_and_is_told_by_its_prefix() -> None:
    keys = [make_key() for _ in range(100)]
    assert len({key.text for key in keys}) == len({key.prefix for key in keys}) == 100
    assert all(re.fullmatch(r"simile_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", key.text) for key in keys)
    assert [parse_key_prefix(key.text) for key in keys] == [key.prefix for key in keys]
    for text in ("", "simile_", keys[0].text[:-1], f"{keys[0].text}x", f" {keys[0].text}", "ё" * 63, "a" * 10**6):
        assert parse_key_prefix(text) is None


def test_a_key_is_not_in_what_python_prints_of_it() -> None:
    key = make_key()
    assert key.text not in repr(key)


def test_comparing_takes_a_digest_of_everything_whatever_it_is() -> None:
    key = make_key()
    assert matches_digest(key.text, hash_secret(key.text))
    for other in ("", "x" * 10**6, "\ud800", f"{key.text}\0"):
        assert not matches_digest(other, hash_secret(key.text))


def test_each_scope_may_what_those_before_it_may() -> None:
    assert [scope_allows("write", wanted) for wanted in ("search", "write", "admin")] == [True, True, False]
    assert scope_allows("admin", "write") and not scope_allows("search", "write")


def test_only_the_hash_of_a_key_is_on_disk(home: Home) -> None:
    with Catalogue(home) as catalogue:
        key, record = catalogue.keys.create("phone", "write", rate=30, lifetime=timedelta(days=2))
        token = catalogue.keys.open_session(record.id, timedelta(days=1))
        assert catalogue.keys.find_by_prefix(key.prefix) == record
        assert (record.name, record.scope, record.rate, record.sha256) == ("phone", "write", 30, hash_secret(key.text))
        assert record.expires_at == record.created_at + timedelta(days=2)
    secret = key.text.split("_", 2)[2]  # which may hold a "_" itself
    assert len(secret) == 43
    on_disk = b"".join(path.read_bytes() for path in home.root.glob("catalogue.sqlite*"))
    assert hash_secret(key.text).encode() in on_disk and hash_secret(token).encode() in on_disk
    assert secret.encode() not in on_disk and token.encode() not in on_disk


@pytest.mark.parametrize("name", ["", " a", "1a", "a\nb", "a" * 65, "ключ", "a;--", "<b>"])
def test_a_name_that_would_look_odd_in_a_log_is_refused(home: Home, name: str) -> None:
    with Catalogue(home) as catalogue, pytest.raises(BadSetting, match="can't be called"):
        catalogue.keys.create(name, "search")


def test_a_name_is_used_once(home: Home) -> None:
    with Catalogue(home) as catalogue:
        catalogue.keys.create("phone", "search")
        with pytest.raises(BadSetting, match="already"):
            catalogue.keys.create("phone", "admin")
        assert [key.scope for key in catalogue.keys.get_all()] == ["search"]


def test_a_scope_that_is_none_is_refused(home: Home) -> None:
    with Catalogue(home) as catalogue, pytest.raises(BadSetting, match="search, write, admin"):
        catalogue.keys.create("phone", "root")  # type: ignore[arg-type]


def test_a_revoked_key_takes_its_sessions_with_it_and_stays_revoked_since_then(home: Home) -> None:
    with Catalogue(home) as catalogue:
        _, record = catalogue.keys.create("phone", "search")
        _, other = catalogue.keys.create("tablet", "search")
        token = catalogue.keys.open_session(record.id, timedelta(days=1))
        kept = catalogue.keys.open_session(other.id, timedelta(days=1))
        first = catalogue.keys.revoke("phone")
        assert catalogue.keys.revoke(record.prefix).revoked_at == first.revoked_at
        assert not first.is_usable(datetime.now(UTC)) and other.is_usable(datetime.now(UTC))
        assert catalogue.keys.find_by_session(token) is None and catalogue.keys.find_by_session(kept) == other


def test_a_key_that_has_expired_is_not_usable(home: Home) -> None:
    with Catalogue(home) as catalogue:
        _, record = catalogue.keys.create("phone", "search", lifetime=timedelta(seconds=5))
        assert record.is_usable(record.created_at) and not record.is_usable(record.created_at + timedelta(seconds=5))


def test_only_a_key_that_opens_nothing_can_be_forgotten(home: Home) -> None:
    with Catalogue(home) as catalogue:
        catalogue.keys.create("phone", "search")
        with pytest.raises(BadSetting, match="Revoke it first"):
            catalogue.keys.delete("phone")
        catalogue.keys.revoke("phone")
        assert catalogue.keys.has_any()
        catalogue.keys.delete("phone")
        assert not catalogue.keys.has_any()
        for verb in (catalogue.keys.revoke, catalogue.keys.delete):
            with pytest.raises(BadSetting, match="There is no key 'phone'"):
                verb("phone")


def test_a_session_ends_when_it_is_closed_or_its_time_is_over(home: Home) -> None:
    with Catalogue(home) as catalogue:
        _, record = catalogue.keys.create("phone", "search")
        token, over = (catalogue.keys.open_session(record.id, timedelta(seconds=time)) for time in (60, -1))
        assert catalogue.keys.find_by_session(token) == record
        assert catalogue.keys.find_by_session(over) is None and catalogue.keys.find_by_session("") is None
        catalogue.keys.close_session(token)
        assert catalogue.keys.find_by_session(token) is None


def test_one_key_has_a_bounded_number_of_sessions(home: Home) -> None:
    with Catalogue(home) as catalogue:
        _, record = catalogue.keys.create("phone", "search")
        tokens = [catalogue.keys.open_session(record.id, timedelta(days=1)) for _ in range(MAX_SESSIONS_PER_KEY + 5)]
        assert (
            catalogue.keys.find_by_session(tokens[0]) is None and catalogue.keys.find_by_session(tokens[-1]) == record
        )
    connection = sqlite3.connect(home.catalogue_path)
    assert connection.execute("SELECT count(*) FROM sessions").fetchone() == (MAX_SESSIONS_PER_KEY,)
    connection.close()


def test_making_and_revoking_keys_is_no_change_for_searches(home: Home) -> None:
    with Catalogue(home) as catalogue:
        before = catalogue.count_changes()
        catalogue.keys.create("phone", "search")
        catalogue.keys.revoke("phone")
        assert catalogue.count_changes() == before


def test_the_command_line_shows_a_key_once_and_lists_it_without(tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    key = simile(
        "keys", "create", "phone", "--scope", "write", "--expires", "30", "--rate", "60", "--home", home
    ).strip()
    assert parse_key_prefix(key)
    listed = simile("keys", "list", "--home", home)
    assert key not in listed and parse_key_prefix(key) in listed  # type: ignore[operator]
    assert re.search(r"write +phone  60 per minute  created \d{4}-\d\d-\d\d, expires", listed)
    (one,) = json.loads(simile("keys", "list", "--home", home, "--json"))["keys"]
    assert (one["name"], one["scope"], one["rate"], one["revoked_at"]) == ("phone", "write", 60, None)
    assert "sha256" not in one
    assert simile("keys", "revoke", "phone", "--home", home) == "phone was revoked\n"
    assert "revoked" in simile("keys", "list", "--home", home)
    simile("keys", "forget", "phone", "--home", home)
    assert "no keys" in simile("keys", "list", "--home", home)


def test_the_command_line_gives_a_key_as_json(tmp_path: Path) -> None:
    made = json.loads(simile("keys", "create", "script", "--home", str(tmp_path / "home"), "--json"))
    assert parse_key_prefix(made["key"]) == made["prefix"] and made["scope"] == "search" and made["expires_at"] is None


def test_listing_the_keys_of_nothing_makes_nothing(tmp_path: Path) -> None:
    home = tmp_path / "nowhere"
    with pytest.raises(NothingIndexed):
        CliRunner().invoke(app, ["keys", "list", "--home", str(home)], catch_exceptions=False)
    assert not home.exists()
