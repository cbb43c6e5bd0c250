"""`index`: what it stores, what it does the second time, and what no bad file or kill can cost."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simile.core.errors import BadSetting, HomeBusy, NoSuchEncoder, NoSuchPath, NothingIndexed, TooFewPictures
from simile.core.records import IndexSummary
from simile.core.settings import Settings, load_settings
from simile.images.encoding import encode_jpeg, encode_png
from simile.images.sources.sources import is_path_missing
from simile.indexer.maintenance.rebuild import rebuild_index
from simile.indexer.maintenance.status import read_status
from simile.indexer.maintenance.verify import verify_home
from simile.indexer.pipeline import writer
from simile.indexer.pipeline.job import IndexRequest, index
from simile.indexer.pipeline.uploads import add_upload
from simile.indexer.training.train import TrainingRequest, train_on_sources
from simile.search.encoder_registry import find_encoder, register_encoder
from simile.search.searcher import Searcher
from simile.service import urls
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import OWN_FOLDERS, Home
from tests.conftest import app_client
from tests.support.commands import run_json
from tests.support.servers.postgresql import copy_home

SIMILE = str(Path(sys.executable).with_name("simile"))
AddEncoder = Callable[[Settings], str]


def go(settings: Settings, *sources: Path, **request: object) -> IndexSummary:
    return index(settings, list(sources), IndexRequest(**request))  # type: ignore[arg-type]


def image(seed: int) -> bytes:
    return encode_png(np.random.default_rng(seed).integers(0, 256, (20, 30, 3)).astype(np.uint8))


def counts(summary: IndexSummary) -> tuple[int, int, int, int, int, int]:
    changes = (summary.new, summary.changed, summary.unchanged, summary.moved, summary.removed)
    return (*changes, len(summary.failures))


def test_a_folder_becomes_searchable_in_one_step(tmp_path: Path, digits: Path) -> None:
    settings = load_settings(home=tmp_path / "home", device="cpu")
    summary = go(settings, digits, minutes=0.02)
    assert counts(summary) == (120, 0, 0, 0, 0, 0)
    query = sorted(digits.iterdir())[7]
    with Searcher(settings) as searcher:
        hits = searcher.by_file(query, name=query.name, limit=5).hits
    assert (hits[0].path, hits[0].distance) == (str(query), pytest.approx(0, abs=1e-3))
    assert len({hit.image_id for hit in hits}) == 5
    assert verify_home(settings) == []


def test_an_unchanged_folder_embeds_nothing(home_with_digits: Settings, tmp_path: Path) -> None:
    photos = photos_of(home_with_digits)
    summary = go(home_with_digits, photos)
    assert counts(summary) == (0, 0, 120, 0, 0, 0)
    assert summary.embedded == 0


def photos_of(settings: Settings) -> Path:
    with Searcher(settings) as searcher:
        return Path(searcher.list_images(limit=1)[0].paths[0]).parent


def test_moved_changed_copied_touched_and_vanished_files_are_told_apart(trained_home: Settings, digits: Path) -> None:
    names = sorted(path.name for path in digits.iterdir())
    go(trained_home, digits)
    (digits / names[0]).rename(digits / "moved.png")
    shutil.copy(digits / names[1], digits / "copied.png")
    (digits / names[2]).write_bytes(image(1))
    os.utime(digits / names[3], (1, 1))
    (digits / names[4]).unlink()
    (digits / "new.png").write_bytes(image(2))

    planned = go(trained_home, digits, dry_run=True)
    assert (planned.new, planned.changed, planned.missing) == (3, 2, 2)
    summary = go(trained_home, digits)
    assert counts(summary) == (2, 1, 117, 1, 0, 0)
    assert (summary.missing, summary.duplicates, summary.copied, summary.embedded) == (1, 1, 1, 2)
    assert go(trained_home, digits, prune=True).removed == 1
    assert counts(go(trained_home, digits, prune=True)) == (0, 0, 121, 0, 0, 0)
    assert verify_home(trained_home) == []


def test_the_work_for_many_copies_of_one_image_grows_with_their_number(
    trained_home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[str] = []

    def is_missing(path: str) -> bool:
        looked_at.append(path)
        return is_path_missing(path)

    monkeypatch.setattr(writer, "is_path_missing", is_missing)
    settings, copies = trained_home.model_copy(update={"batch_size": 32}), tmp_path / "copies"
    copies.mkdir()
    for number in range(300):
        (copies / f"{number:03}.png").write_bytes(image(1))
    summary = go(settings, copies)
    assert (summary.new, summary.copied, summary.embedded) == (300, 299, 1)
    assert len(looked_at) == len(set(looked_at)) <= 300  # before: 1,400
    (elsewhere := tmp_path / "elsewhere").mkdir()
    for number in range(0, 300, 3):
        (copies / f"{number:03}.png").rename(elsewhere / f"{number:03}.png")
    (elsewhere / "more.png").write_bytes(image(1))
    looked_at.clear()
    summary = go(settings, elsewhere)
    assert (summary.new, summary.moved, summary.copied, summary.missing) == (1, 100, 1, 0)
    assert len(looked_at) == len(set(looked_at))


def test_the_files_of_an_image_in_a_response_are_limited_and_counted(trained_home: Settings, tmp_path: Path) -> None:
    (copies := tmp_path / "copies").mkdir()
    for number in range(250):
        (copies / f"{number:03}.png").write_bytes(image(1))
    go(trained_home, copies)
    first = [str(copies / f"{number:03}.png") for number in range(100)]
    hit = run_json("search", "--home", trained_home.home, copies / "000.png")["hits"][0]
    assert (hit["path"], hit["paths"], hit["path_count"]) == (first[0], first, 250)
    with app_client(trained_home) as client:
        details = client.get(f"/v1/images/{hit['image_id']}").json()
        assert (details["path"], details["paths"], details["path_count"]) == (first[0], first, 250)
        assert "150 more files" in client.get(f"{urls.IMAGE_PAGES}/{hit['image_id']}").text
        shutil.rmtree(copies)
        gone = client.get(f"/v1/images/{hit['image_id']}/file").json()["detail"]
    assert first[99] in gone and "100.png" not in gone and "and 150 more" in gone
    with Searcher(trained_home) as searcher:
        assert len(searcher.get_image(hit["image_id"]).paths) == 250


def test_the_files_of_a_home_in_the_folder_of_photos_are_never_indexed(trained_home: Settings, tmp_path: Path) -> None:
    root = trained_home.home
    names = ["one.png", "albums/two.png", "digits/three.png"]
    own = [f"{folder}/x.png" for folder in OWN_FOLDERS]
    for seed, name in enumerate(names + own):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(image(seed))
    (tmp_path / "link").symlink_to(root)
    (manifest := tmp_path / "list.csv").write_text("path\n" + "".join(f"{root}/{name}\n" for name in names + own))
    for source in (root, str(root / "**/*.png"), manifest):
        summary = index(trained_home, [source], IndexRequest())
        assert summary.new + summary.unchanged == 3 and not summary.failures, source
    index(trained_home, [tmp_path / "link"], IndexRequest())
    with Catalogue(Home(root)) as catalogue:
        found = catalogue.files.find_under([str(root)]).keys()
    assert found == {str(root / name) for name in names}


def test_a_moved_file_keeps_its_id(trained_home: Settings, digits: Path) -> None:
    go(trained_home, digits)
    first = sorted(digits.iterdir())[0]
    with Searcher(trained_home) as searcher:
        (before,) = (record.id for record in searcher.list_images(limit=500) if record.paths == (str(first),))
        first.rename(digits / "elsewhere.png")
        go(trained_home, digits)
        assert searcher.get_image(before).paths == (str(digits / "elsewhere.png"),)


def test_a_folder_with_another_name_is_moved(trained_home: Settings, digits: Path) -> None:
    twice = shutil.copy(digits / sorted(path.name for path in digits.iterdir())[0], digits / "twice.png")
    go(trained_home, digits)
    shutil.copy(twice, digits / "thrice.png")
    elsewhere = digits.rename(digits.with_name("elsewhere"))
    summary = go(trained_home, elsewhere)
    assert (*counts(summary), summary.copied) == (1, 0, 0, 121, 0, 0, 1)
    assert go(trained_home, elsewhere).unchanged == 122
    with Searcher(trained_home) as searcher:
        shown = [path for record in searcher.list_images(limit=500) for path in record.paths]
    assert sorted(shown) == sorted(str(path) for path in elsewhere.iterdir())
    assert verify_home(trained_home, files=True) == []


def test_one_content_at_two_paths_is_one_image(trained_home: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "twice"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(image(3))
    summary = go(trained_home, folder)
    assert (*counts(summary), summary.copied) == (2, 0, 0, 0, 0, 0, 1)
    with Searcher(trained_home) as searcher:
        (record,) = searcher.list_images(limit=10)
    assert record.paths == (str(folder / "a.png"), str(folder / "b.png"))


def test_dry_run_writes_nothing(tmp_path: Path, digits: Path) -> None:
    settings = load_settings(home=tmp_path / "nowhere")
    assert go(settings, digits, dry_run=True).new == 120
    assert not (tmp_path / "nowhere").exists()


def test_a_dry_run_counts_for_the_encoder_that_is_named(home_with_digits: Settings, other_encoder: AddEncoder) -> None:
    photos = photos_of(home_with_digits)
    other = other_encoder(home_with_digits)
    assert go(home_with_digits, photos, dry_run=True).unchanged == 120
    assert go(home_with_digits, photos, dry_run=True, encoder=other[:6]).unchanged == 0
    with pytest.raises(NoSuchEncoder):
        go(home_with_digits, photos, dry_run=True, encoder="nowhere")


def test_a_folder_that_is_suddenly_empty_is_not_pruned(trained_home: Settings, digits: Path) -> None:
    go(trained_home, digits)
    digits.rename(digits.with_name("unmounted"))
    digits.mkdir()
    for dry_run in (False, True):
        with pytest.raises(BadSetting, match=rf"120 in it are known.*simile index {digits.parent} --prune"):
            go(trained_home, digits, prune=True, dry_run=dry_run)
    assert go(trained_home, digits).missing == 120
    digits.rmdir()
    digits.with_name("unmounted").rename(digits)
    assert go(trained_home, digits, prune=True).unchanged == 120


def test_a_folder_whose_name_is_not_utf8_costs_nothing_else(trained_home: Settings, digits: Path) -> None:
    odd = digits.with_name("odd\udcff")
    odd.mkdir()
    (odd / "a.png").write_bytes(image(1))
    summary = go(trained_home, odd, digits)
    assert (summary.new, len(summary.failures)) == (120, 1)


def test_a_mistyped_source_leaves_no_home_behind(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "home")
    with pytest.raises(NoSuchPath):
        go(settings, tmp_path / "photso")
    with pytest.raises(NoSuchPath):
        train_on_sources(settings, [tmp_path / "photso"], TrainingRequest(), lambda _: None)
    with pytest.raises(NothingIndexed):
        rebuild_index(settings)
    assert not settings.home.exists()


def bomb(side: int = 30_000) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def add_bad_files(folder: Path) -> dict[str, str]:
    """Writes one of each; gives the reason to expect for each name."""
    jpeg = encode_jpeg(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8), 90)
    (folder / "text.jpg").write_text("this is no image")
    (folder / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (folder / "zero.png").write_bytes(b"")
    (folder / "bomb.png").write_bytes(bomb())
    (folder / "broken.jpg").symlink_to(folder / "nothing.jpg")
    os.mkfifo(folder / "pipe.jpg")
    return {
        "text.jpg": "not an image",
        "cut.jpg": "truncated",
        "zero.png": "empty",
        "bomb.png": "SIMILE_MAX_PIXELS",
        "broken.jpg": "broken symbolic link",
        "pipe.jpg": "FIFO",
    }


def test_bad_files_are_listed_with_their_reasons_and_cost_nothing_else(trained_home: Settings, digits: Path) -> None:
    (digits / "Мой кот на окне.png").write_bytes(image(5))
    expected = add_bad_files(digits)
    summary = go(trained_home, digits)
    assert summary.new == 121
    reasons = {Path(failure.path).name: failure.reason for failure in summary.failures}
    assert reasons.keys() == expected.keys()
    for name, reason in expected.items():
        assert reason in reasons[name]
    assert {f["path"] for f in read_status(trained_home)["runs"][0]["failures"]} == {str(digits / n) for n in expected}
    again = go(trained_home, digits)
    assert (again.unchanged, again.embedded, len(again.failures)) == (121, 0, 6)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_read_permission_is_set_aside(trained_home: Settings, digits: Path) -> None:
    sorted(digits.iterdir())[0].chmod(0)
    summary = go(trained_home, digits)
    assert (summary.new, len(summary.failures)) == (119, 1)


def test_a_file_that_turns_bad_keeps_its_old_row(trained_home: Settings, digits: Path) -> None:
    go(trained_home, digits)
    first = sorted(digits.iterdir())[0]
    first.write_text("overwritten")
    summary = go(trained_home, digits)
    assert (summary.unchanged, len(summary.failures)) == (119, 1)
    assert read_status(trained_home)["images"] == 120


def test_too_few_images_and_nothing_to_index_say_what_to_do(tmp_path: Path, digits: Path) -> None:
    settings = load_settings(home=tmp_path / "home", device="cpu")
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(digits.iterdir())[:15]:
        shutil.copy(path, few)
    with pytest.raises(TooFewPictures, match="at least 16"):
        go(settings, few, train=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadSetting, match="holds no images"):
        go(settings, tmp_path / "empty")
    with pytest.raises(NoSuchPath):
        go(settings, tmp_path / "absent")
    with pytest.raises(NoSuchEncoder):
        go(settings, digits, encoder="feedfeed")


def test_sixteen_images_are_enough(tmp_path: Path, digits: Path) -> None:
    for path in sorted(digits.iterdir())[16:]:
        path.unlink()
    settings = load_settings(home=tmp_path / "home", device="cpu")
    assert go(settings, digits, minutes=0.02).new == 16


def test_a_second_writer_is_told_who_holds_the_home(trained_home: Settings, digits: Path) -> None:
    with Home(trained_home.home).lock("a test"), pytest.raises(HomeBusy, match="a test"):
        go(trained_home, digits)


def test_another_encoder_takes_over_only_when_all_is_embedded(home_with_digits: Settings, tmp_path: Path) -> None:
    photos = photos_of(home_with_digits)
    trained = train_on_sources(home_with_digits, [photos], BAD_TRAINING, lambda _: None)
    assert not trained["active"]
    before = read_status(home_with_digits)["encoder"]["fingerprint"]
    summary = go(home_with_digits, photos, encoder=trained["fingerprint"])
    assert (summary.embedded, summary.unchanged) == (120, 120)
    after = read_status(home_with_digits)
    assert after["encoder"]["fingerprint"] == trained["fingerprint"] != before
    assert (after["segment"]["rows"], after["pending"]) == (120, 0)
    with Searcher(home_with_digits) as searcher:
        assert len(searcher.by_id(1, limit=3).hits) == 3
    assert verify_home(home_with_digits) == []


BAD_TRAINING = TrainingRequest(overrides={"latent_dim": 5, "width": 4, "epochs": 1}, seed=1)


@pytest.fixture(scope="module")
def _bad_encoder(_trained: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = load_settings(home=tmp_path_factory.mktemp("bad") / "home", device="cpu")
    return Path(train_on_sources(settings, [_trained[1]], BAD_TRAINING, lambda _: None)["folder"])


@pytest.fixture
def other_encoder(_bad_encoder: Path) -> AddEncoder:
    """A function that adds a second, bad encoder to a home and returns its fingerprint."""

    def add(settings: Settings) -> str:
        home = Home(settings.home)
        shutil.copytree(_bad_encoder, home.encoders / _bad_encoder.name)
        with Catalogue(home) as catalogue:
            register_encoder(catalogue, find_encoder(home, _bad_encoder.name, "cpu"))
        return _bad_encoder.name

    return add


def in_use(settings: Settings) -> str:
    return str(read_status(settings)["encoder"]["fingerprint"])


def test_every_image_of_the_home_and_every_upload_follows_to_another_encoder(
    home_with_digits: Settings, tmp_path: Path, other_encoder: AddEncoder
) -> None:
    with Searcher(home_with_digits) as searcher:
        uploaded, _ = add_upload(searcher, image(5), name="upload.png")
    new = tmp_path / "new"
    new.mkdir()
    (new / "one.png").write_bytes(image(6))
    other = other_encoder(home_with_digits)
    summary = go(home_with_digits, new, encoder=other)
    assert (summary.new, summary.unchanged, summary.embedded, summary.lacking) == (1, 0, 122, 0)
    assert in_use(home_with_digits) == other
    with Searcher(home_with_digits) as searcher:
        assert len(searcher.by_id(uploaded, limit=500).hits) == 121
    assert verify_home(home_with_digits) == []


def test_the_old_encoder_stays_in_use_while_images_lack_the_new_ones_vector(
    trained_home: Settings, digits: Path, caplog: pytest.LogCaptureFixture, other_encoder: AddEncoder
) -> None:
    go(trained_home, digits)
    before, other = in_use(trained_home), other_encoder(trained_home)
    first, second = sorted(digits.iterdir())[:2]
    first.unlink()
    second.write_text("no image any more")
    (digits / "new.png").write_bytes(image(1))
    summary = go(trained_home, digits, encoder=other)
    assert (summary.embedded, summary.lacking, summary.missing, len(summary.failures)) == (119, 2, 1, 1)
    assert in_use(trained_home) == before
    assert f"simile encoders activate {other}" in caplog.text
    second.write_bytes(image(2))
    summary = go(trained_home, digits, encoder=other, prune=True)
    assert (summary.embedded, summary.changed, summary.removed, summary.lacking) == (1, 1, 1, 0)
    assert in_use(trained_home) == other
    assert verify_home(trained_home) == []


def test_prune_forgets_lacking_images_only_where_their_folder_still_holds_something(
    trained_home: Settings, digits: Path, tmp_path: Path, other_encoder: AddEncoder
) -> None:
    disk, folder = tmp_path / "disk", tmp_path / "folder"
    for place in (disk, folder):
        place.mkdir()
    (disk / "a.png").write_bytes(image(1))
    for name in "bc":
        (folder / f"{name}.png").write_bytes(image(ord(name)))
    go(trained_home, digits, disk, folder)
    other = other_encoder(trained_home)
    (disk / "a.png").unlink()  # as if it were not mounted
    (folder / "b.png").unlink()
    summary = go(trained_home, digits, encoder=other, prune=True)
    assert (summary.embedded, summary.removed, summary.lacking) == (121, 1, 1)
    assert in_use(trained_home) != other


def test_an_image_is_embedded_from_whichever_of_its_files_can_still_be_read(
    trained_home: Settings, digits: Path, tmp_path: Path, other_encoder: AddEncoder
) -> None:
    folder = tmp_path / "three"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.png").write_bytes(image(3))
    go(trained_home, digits, folder)
    other = other_encoder(trained_home)
    (folder / "a.png").unlink()
    (folder / "b.png").write_text("no image any more")
    summary = go(trained_home, digits, encoder=other)
    assert (summary.embedded, summary.lacking, len(summary.failures)) == (121, 0, 1)
    assert in_use(trained_home) == other


def test_moved_and_copied_are_told_apart_under_another_encoder_too(
    trained_home: Settings, digits: Path, other_encoder: AddEncoder
) -> None:
    go(trained_home, digits)
    other = other_encoder(trained_home)
    first, second = sorted(digits.iterdir())[:2]
    first.rename(digits / "moved.png")
    shutil.copy(second, digits / "copied.png")
    summary = go(trained_home, digits, encoder=other)
    assert (summary.moved, summary.copied, summary.new, summary.missing, summary.unchanged) == (1, 1, 1, 0, 119)
    assert (read_status(trained_home)["images"], in_use(trained_home)) == (120, other)
    assert verify_home(trained_home) == []


def test_an_encoder_from_elsewhere_is_copied_into_the_home(
    home_with_digits: Settings, tmp_path: Path, digits: Path
) -> None:
    (folder,) = (path for path in (home_with_digits.home / "encoders").iterdir() if not path.name.startswith("."))
    other = load_settings(home=tmp_path / "other", device="cpu")
    assert go(other, digits, encoder=str(folder)).new == 120
    assert (other.home / "encoders" / folder.name / "weights.safetensors").is_file()
    assert verify_home(other) == []


def test_embedding_a_file_twice_gives_the_same_row(trained_home: Settings, digits: Path, tmp_path: Path) -> None:
    go(trained_home, digits)
    alone = load_settings(home=copy_home(trained_home.home, tmp_path / "alone"), device="cpu", batch_size=1)
    with Searcher(trained_home) as searcher, Searcher(alone) as single:
        for record in searcher.list_images(limit=5):
            path = Path(record.paths[0])
            mu = single.by_file(path, name=path.name).query.mu
            stored = searcher.catalogue.embeddings.get(record.id, searcher.get_encoder().fingerprint).mu
            assert np.abs(mu - stored).max() <= 1e-5 * np.abs(stored).max()


def test_kill_minus_nine_loses_nothing_and_doubles_nothing(
    trained_home: Settings, digits: Path, tmp_path: Path
) -> None:
    for number in range(120, 600):
        (digits / f"{number}.png").write_bytes(image(number))
    environment = os.environ | {"SIMILE_BATCH_SIZE": "2", "SIMILE_HOME": str(trained_home.home)}
    chance, stored, was_interrupted = random.Random(7), 0, False
    for _ in range(3):
        command, quiet = [SIMILE, "index", str(digits)], subprocess.DEVNULL
        job = subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet)
        deadline = time.monotonic() + 60
        while job.poll() is None and images_in(trained_home) <= stored and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(chance.random() * 0.15)
        job.send_signal(signal.SIGKILL)
        job.wait()
        assert images_in(trained_home) >= stored
        stored = images_in(trained_home)
        was_interrupted |= stored < 600  # on a busy machine the job may be done before it is killed
        assert verify_home(trained_home) == []
    summary = go(trained_home, digits)
    assert summary.new + summary.unchanged == 600
    assert summary.unchanged == stored > 0
    assert verify_home(trained_home) == []
    with Searcher(trained_home) as searcher:
        shas = sorted(record.sha256 for record in searcher.list_images(limit=1000))
    assert shas == sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in digits.iterdir())
    assert not was_interrupted or "interrupted" in {run["status"] for run in read_status(trained_home)["runs"]}


def images_in(settings: Settings) -> int:
    with Searcher(settings) as searcher:
        return searcher.count_images()


def test_ctrl_c_keeps_what_was_stored_and_says_how_to_go_on(trained_home: Settings, digits: Path) -> None:
    for number in range(120, 900):
        (digits / f"{number}.png").write_bytes(image(number))
    environment = os.environ | {"SIMILE_BATCH_SIZE": "8", "SIMILE_HOME": str(trained_home.home)}
    job = subprocess.Popen([SIMILE, "index", str(digits)], env=environment, stderr=subprocess.PIPE, text=True)
    while images_in(trained_home) == 0:
        time.sleep(0.01)
    job.send_signal(signal.SIGINT)
    _, said = job.communicate(timeout=60)
    assert job.returncode == 130
    assert "finishing the current batch" in said
    assert "rerun to resume" in said
    assert "Traceback" not in said
    assert 0 < images_in(trained_home) <= 900
    assert read_status(trained_home)["runs"][0]["status"] == "interrupted"
    assert verify_home(trained_home) == []


def test_the_second_ctrl_c_stops_at_once_whatever_the_decoder_does(trained_home: Settings, digits: Path) -> None:
    Image.new("RGB", (13_000, 13_000)).save(digits / "0.png", compress_level=1)  # takes seconds, and is read first
    command = [SIMILE, "index", str(digits), "--home", str(trained_home.home)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as job:
        while not any(run["kind"] == "index" for run in read_status(trained_home)["runs"]):
            time.sleep(0.05)
        time.sleep(1)
        for _ in range(2):
            job.send_signal(signal.SIGINT)
            time.sleep(0.05)
        _, said = job.communicate(timeout=30)
    assert job.returncode in (130, -signal.SIGINT)  # the latter where Python was ending already; 130 to a shell
    assert "Traceback" not in said
    assert verify_home(trained_home) == []


def test_a_job_may_wait_for_a_home_that_is_in_use(trained_home: Settings, digits: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        with Home(trained_home.home).lock("a test"):
            waiting = pool.submit(go, trained_home, digits, wait=60)
            time.sleep(0.3)
            assert not waiting.done()
        assert waiting.result().new == 120


def test_progress_comes_as_json_lines_on_stderr(trained_home: Settings, digits: Path) -> None:
    (digits / "bad.png").write_text("no image")
    done = subprocess.run(
        [SIMILE, "index", str(digits), "--home", str(trained_home.home), "--json"],
        env=os.environ | {"SIMILE_BATCH_SIZE": "50"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    summary = json.loads(done.stdout)
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert events[-1] | {"per_second": 0, "seconds_left": 0} == {
        "event": "progress", "stage": "indexing", "run_id": summary["run_id"], "done": 121, "total": 121,
        "per_second": 0, "seconds_left": 0, "failures": 1,
    }  # fmt: skip
    assert events[-1]["per_second"] > 0
    assert read_status(trained_home)["runs"][0]["id"] == summary["run_id"]


def test_failures_are_noted_batch_by_batch(trained_home: Settings, digits: Path) -> None:
    (digits / "bad.png").write_text("no image")
    noted: list[int] = []

    def look(summary: IndexSummary, total: int) -> None:
        noted.append(len(read_status(trained_home)["runs"][0]["failures"]))

    go(trained_home, digits, on_progress=look)
    assert noted == [1]


def test_an_index_that_was_cut_off_while_training_goes_on_or_starts_afresh(tmp_path: Path, digits: Path) -> None:
    settings = load_settings(home=tmp_path / "home", device="cpu")
    state = settings.home / "encoders" / ".training" / "state.safetensors"
    environment = os.environ | {"SIMILE_HOME": str(settings.home), "SIMILE_DEVICE": "cpu"}
    job = subprocess.Popen([SIMILE, "index", "--train", str(digits)], env=environment, stderr=subprocess.DEVNULL)
    while not state.exists():
        time.sleep(0.01)
    job.kill()
    job.wait()
    (digits / "one more.png").write_bytes(image(1))  # other images: the unfinished training is of no use
    assert go(settings, digits, minutes=0.02).new == 121
    assert not state.exists()


@pytest.mark.real_processes
def test_a_run_with_nothing_to_embed_never_loads_torch(home_with_digits: Settings) -> None:
    script = (
        "import sys; from pathlib import Path; from simile.core.settings import load_settings\n"
        "from simile.indexer.pipeline.job import IndexRequest, index\n"
        "summary = index(load_settings(home=Path(sys.argv[1])), [Path(sys.argv[2])], IndexRequest())\n"
        "assert summary.unchanged == 120 and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, home_with_digits.home, photos_of(home_with_digits)], check=True)


def test_a_file_from_the_far_future_costs_nothing(trained_home, digits):
    path = next(digits.iterdir())
    os.utime(path, ns=(10**19, 10**19))
    if path.stat().st_mtime_ns < 2**63:
        pytest.skip("this file system holds no such times")
    assert index(trained_home, [digits], IndexRequest()).new == 120
    assert index(trained_home, [digits], IndexRequest()).failures == []
