"""What a key may add: bytes of uploads by key, in one step with the row, given back by deleting."""

from __future__ import annotations

import io
import json
import threading
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from simile.cli.options import parse_byte_count
from simile.core.errors import QuotaExceeded
from simile.core.settings import Settings
from simile.indexer.pipeline import uploads
from simile.indexer.pipeline.uploads import add_upload
from simile.search.searcher import Searcher
from simile.service.app import create_app
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import UploadAccount
from simile.store.home import Home
from tests.support.commands import run_json, run_simile


def make_image(seed: int) -> bytes:
    """A PNG of about 1.5 kB."""
    pixels = np.random.default_rng(seed).integers(0, 256, (22, 22, 3), np.uint8)
    Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


ONE = len(make_image(0))


@contextmanager
def serve(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings), client=("127.0.0.1", 1), raise_server_exceptions=False) as client:
        yield client


def send(client: TestClient, seed: int, key: str = "") -> tuple[int, dict[str, object]]:
    headers = {"X-API-Key": key} if key else {}
    answer = client.post("/v1/images", files={"file": ("a.png", make_image(seed))}, headers=headers)
    return answer.status_code, answer.json()


def make_key(settings: Settings, name: str, quota: int | None) -> str:
    with Catalogue(Home(settings.home)) as catalogue:
        return catalogue.keys.create(name, "write", quota=quota)[0].text


def test_a_key_adds_as_much_as_its_quota_and_deleting_makes_room(home_with_digits: Settings) -> None:
    key, other = make_key(home_with_digits, "small", 2 * ONE + 100), make_key(home_with_digits, "other", None)
    with serve(home_with_digits) as client:
        first, _ = send(client, 1, key), send(client, 2, key)
        assert first[0] == 201 and send(client, 1, key)[0] == 200  # known bytes cost nothing
    with serve(home_with_digits) as client:  # the count survives a restart
        status, problem = send(client, 3, key)
        assert (status, str(problem["type"]).rpartition(":")[2]) == (403, "quota-exceeded")
        assert f"quota of {2 * ONE + 100:,} bytes" in str(problem["detail"]) and "Delete" in str(problem["detail"])
        assert send(client, 2, key)[0] == 200 and send(client, 3, other)[0] == 201
        assert send(client, 3, key)[0] == 200  # which is the other key's, and counts towards that one
        deleted = client.delete(f"/v1/images/{first[1]['image_id']}", headers={"X-API-Key": key})
        assert deleted.status_code == 204 and send(client, 4, key)[0] == 201 and send(client, 5, key)[0] == 403
    listed = {item["name"]: item for item in run_json("keys", "list", "--home", home_with_digits.home)["keys"]}
    assert listed["small"]["quota"] == 2 * ONE + 100 and listed["other"]["quota"] is None
    assert 2 * ONE - 100 < listed["small"]["uploaded_bytes"] <= 2 * ONE + 100


def test_the_setting_is_the_quota_of_all_without_a_key_and_of_keys_without_their_own(
    home_with_digits: Settings,
) -> None:
    limited = home_with_digits.model_copy(update={"upload_quota": ONE + 100})
    with serve(limited) as client:
        assert [send(client, seed)[0] for seed in (1, 2)] == [201, 403]
        assert "clients" in str(send(client, 2)[1]["detail"])
    key, large = make_key(limited, "default", None), make_key(limited, "large", 10 * ONE)
    with serve(limited) as client:
        assert [send(client, seed, key)[0] for seed in (3, 4)] == [201, 403]
        assert [send(client, seed, large)[0] for seed in (5, 6)] == [201, 201]
    with serve(home_with_digits) as client:
        assert send(client, 7, key)[0] == 201  # unlimited, as before


def test_uploads_at_the_same_time_do_not_exceed_the_quota(
    home_with_digits: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both pass the first check, since both wait with their files written; the refused one leaves no file."""
    both, results = threading.Barrier(2), []
    add = uploads._add_file

    def add_together(*arguments: object) -> tuple[int, bool]:
        both.wait(30)
        return add(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(uploads, "_add_file", add_together)
    with Searcher(home_with_digits) as searcher:

        def upload(seed: int) -> None:
            try:
                results.append(add_upload(searcher, make_image(seed), name="a", account=UploadAccount(None, ONE + 100)))
            except QuotaExceeded:
                results.append(None)

        threads = [threading.Thread(target=upload, args=(seed,)) for seed in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results.count(None) == 1 and len(list(searcher.home.uploads.iterdir())) == 1
        assert searcher.catalogue.keys.count_uploaded_bytes().keys() == {None}


def test_a_refused_upload_does_not_take_the_file_of_an_accepted_one(
    home_with_digits: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, data = uploads._add_file, make_image(1)

    def refused_meanwhile(*arguments: object) -> tuple[int, bool]:
        """Before the row is written, another upload of the same bytes is refused."""
        monkeypatch.setattr(uploads, "_add_file", add)
        monkeypatch.setattr("simile.store.catalogue.keys.KeyRepository.check_quota", lambda *_: None)
        with pytest.raises(QuotaExceeded):
            add_upload(searcher, data, name="a", account=UploadAccount(None, 10))
        return add(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(uploads, "_add_file", refused_meanwhile)
    with Searcher(home_with_digits) as searcher:
        image_id, is_new = add_upload(searcher, data, name="a", account=UploadAccount(None, 10**6))
        assert is_new and searcher.read_file(image_id)[0] == data


def test_uploads_leave_space_on_the_disk(home_with_digits: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    with serve(home_with_digits) as client:
        monkeypatch.setattr("shutil.disk_usage", lambda _: usage(0, 0, 32_000_000 + ONE - 200))
        status, problem = send(client, 1)
        assert status == 503 and "stay free" in str(problem["detail"])
        monkeypatch.setattr("shutil.disk_usage", lambda _: usage(0, 0, 32_000_000 + ONE + 200))
        assert send(client, 1)[0] == 201


def test_the_command_reads_sizes(home: Home) -> None:
    sizes = {"5000": 5000, "500MB": 500_000_000, "1.5 GB": 1_500_000_000, "2k": 2000, "7B": 7, "1tb": 10**12}
    assert {text: parse_byte_count(text) for text in sizes} == sizes
    for text in ("", "0", "-1", "MB", "1 PB", "1e9", "nan", "9" * 40, "999999999999999TB"):
        with pytest.raises(ValueError, match="no number of bytes"):
            parse_byte_count(text)
    made = json.loads(run_simile("keys", "create", "a", "--quota", "500MB", "--home", home.root, "--json").stdout)
    assert made["quota"] == 500_000_000
    assert "uploads 0 bytes of 500 MB" in run_simile("keys", "list", "--home", home.root).stdout
    assert run_simile("keys", "create", "b", "--quota", "much", "--home", home.root).exit_code == 2
