"""Watching folders: runs of indexing after changes, by a made-up source of changes and by the real one."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from PIL import Image

from simile.core.errors import BadSetting, BadUsage
from simile.core.records import IndexSummary
from simile.core.settings import Settings
from simile.indexer import watch
from simile.indexer.pipeline.job import IndexRequest
from simile.indexer.watch import MAX_DELAY_SECONDS, RETRY_SECONDS, SETTLE_SECONDS, Schedule
from tests.conftest import Copies, copy_some
from tests.support.commands import run_simile
from tests.support.images import noise
from tests.support.waiting import wait_until


@pytest.fixture
def photos(tmp_path: Path, _all_digits: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six images; runs are due at once, and are repeated at once."""
    monkeypatch.setattr(watch, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(watch, "RETRY_SECONDS", 0.0)
    return copy_some(_all_digits, tmp_path / "photos", 6)


def counts(summary: IndexSummary) -> dict[str, int]:
    names = ("new", "changed", "moved", "removed", "embedded")
    return {name: count for name in names if (count := getattr(summary, name))}


def run_watch(settings: Settings, photos: Path, changes: Iterator[set[str]], **options: Any) -> list[dict[str, int]]:
    """The counts of the runs that the changes cause; each item is what happens before it is yielded."""
    runs: list[dict[str, int]] = []
    request = IndexRequest(**options)
    watch.index_and_watch(settings, [photos], request, lambda summary: runs.append(counts(summary)), changes)
    return runs


def test_changes_are_indexed_and_a_rename_embeds_nothing(trained_home: Settings, photos: Path) -> None:
    first, second, *_ = sorted(photos.iterdir())

    def changes() -> Iterator[set[str]]:
        yield from ({str(photos)}, set())
        (photos / "new.png").write_bytes(noise(1))
        (photos / "broken.png").write_bytes(noise(2)[:100])
        yield {str(photos / "new.png"), str(photos / "broken.png")}
        (photos / "album").mkdir()
        for path in (first, second):
            path.rename(photos / "album" / path.name)
        yield {str(first), str(photos / "album")}
        shutil.rmtree(photos / "album")
        yield {str(photos / "album")}
        yield {str(trained_home.home / "catalogue.sqlite"), str(trained_home.home / "segments/1.faiss")}

    runs = run_watch(trained_home, photos, changes(), prune=True)
    assert runs == [{"new": 6, "embedded": 6}, {"new": 1, "embedded": 1}, {"moved": 2}, {"removed": 2}]


def test_a_folder_that_vanishes_is_not_forgotten(
    trained_home: Settings, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moved = photos.with_name("moved")

    def changes() -> Iterator[set[str]]:
        yield from ({str(photos)}, set())
        photos.rename(moved)
        yield {str(photos)}
        yield set()
        photos.mkdir()  # a mount point without its disk
        yield {str(photos)}
        photos.rmdir()
        moved.rename(photos)
        (photos / "new.png").write_bytes(noise(1))
        yield {str(photos)}

    assert run_watch(trained_home, photos, changes(), prune=True) == [
        {"new": 6, "embedded": 6},
        {"new": 1, "embedded": 1},
    ]
    texts = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(texts) == 2 and "does not exist" in texts[0] and "mount it" in texts[1]


def test_a_file_that_is_still_written_waits_for_the_next_run(
    trained_home: Settings, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "MAX_DELAY_SECONDS", 0.0)  # changes that go on
    monkeypatch.setattr(watch, "SETTLE_SECONDS", 100.0)
    whole, future = noise(1), time.time() + 1000

    def changes() -> Iterator[set[str]]:
        yield from ({str(photos)}, set())
        (photos / "part.png").write_bytes(whole[:100])
        (photos / "wrong clock.png").write_bytes(noise(2))
        os.utime(photos / "wrong clock.png", (future, future))
        yield {str(photos / "part.png")}
        (photos / "part.png").write_bytes(whole)
        os.utime(photos / "part.png", (1, 1))
        yield {str(photos / "part.png")}

    runs = run_watch(trained_home, photos, changes())
    assert runs == [{"new": 6, "embedded": 6}, {"new": 1, "embedded": 1}, {"new": 1, "embedded": 1}]


def test_a_run_waits_until_changes_have_settled_but_not_for_ever() -> None:
    schedule = Schedule()
    assert not schedule.take_due(0)
    schedule.add_change(10)
    assert not schedule.take_due(10 + SETTLE_SECONDS / 2)
    assert schedule.take_due(10 + SETTLE_SECONDS) and not schedule.take_due(1000)
    due = []
    for second in range(2000, 2000 + 2 * int(MAX_DELAY_SECONDS) + 1):
        schedule.add_change(second)
        due += [second] if schedule.take_due(second) else []
    assert due == [2000 + MAX_DELAY_SECONDS, 2000 + 2 * MAX_DELAY_SECONDS]
    assert schedule.take_due(3000), "what was modified during the last run"
    schedule.repeat(4000)
    assert not schedule.take_due(4000 + RETRY_SECONDS / 2) and schedule.take_due(4000 + RETRY_SECONDS)


def test_the_file_system_tells_what_changes(tmp_path: Path) -> None:
    folder, seen, is_over = tmp_path / "photos", set[str](), False
    folder.mkdir()

    def collect() -> None:
        for paths in watch.watch_folders([folder]):
            seen.update(paths)
            if is_over:
                return

    thread = Thread(target=collect)
    thread.start()
    try:
        wait_until(lambda: str(folder) in seen)

        def written(name: str) -> bool:  # again and again: the watcher may not have begun
            (folder / name).write_bytes(b"")
            return str(folder / name) in seen

        wait_until(lambda: written("a.png"))
        folder.rename(tmp_path / "moved")
        folder.mkdir()
        wait_until(lambda: written("b.png"))
    finally:
        is_over = True
        thread.join()


def test_a_new_copy_is_reported_with_its_original(copies: Copies, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copies.photos

    def changes(_folders: list[Path]) -> Iterator[set[str]]:
        yield from ({str(folder)}, set())
        Image.open(folder / "camera/05.png").convert("RGB").save(folder / "again.bmp")
        (folder / "other.png").write_bytes(noise(1))
        yield {str(folder / "again.bmp")}

    monkeypatch.setattr(watch, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(watch, "watch_folders", changes)
    done = run_simile("index", folder, "--watch", "--report-copies", "--home", copies.settings.home)
    lines = done.stdout.splitlines()
    assert done.exit_code == 0 and [line.split(":")[0] for line in lines] == ["run 3", "run 4", "copy"]
    assert "again.bmp is a copy of" in lines[2] and "camera/05.png: the same pixels" in lines[2]


def test_copies_are_reported_only_while_watching(photos: Path) -> None:
    with pytest.raises(BadUsage, match="simile dedup"):
        run_simile("index", photos, "--report-copies")


@pytest.mark.parametrize("options", [["--dry-run"], ["--labels", "labels.json"], ["--metadata"]])
def test_watching_excludes_what_does_not_go_on(photos: Path, options: list[str]) -> None:
    with pytest.raises(BadSetting, match="excludes"):
        run_simile("index", photos, "--watch", *options)


def test_only_folders_are_watched(trained_home: Settings, photos: Path) -> None:
    with pytest.raises(BadSetting, match="Name its folder"):
        run_simile("index", next(photos.iterdir()), "--watch", "--home", trained_home.home)


def test_without_the_package_the_error_names_the_extra(
    trained_home: Settings, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    with pytest.raises(BadSetting, match=r"pip install 'simile\[watch\]'"):
        run_simile("index", photos, "--watch", "--home", trained_home.home)
