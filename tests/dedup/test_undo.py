"""Undo: every byte, mode and time is back, nothing that came since is overwritten, and a kill does no harm."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from simile.cli.main import app
from simile.core.errors import BadSetting, HomeError, NothingIndexed
from simile.core.records import FileStat
from simile.core.settings import Settings, load_settings
from simile.dedup.cleanup.apply import ApplyRequest, apply_plan
from simile.dedup.cleanup.file_identity import identify_file
from simile.dedup.cleanup.file_ops import exchange_files
from simile.dedup.cleanup.journal import CleanupAction, FileOperation, get_journals_folder, list_journals, read_journals
from simile.dedup.cleanup.plan import write_plan
from simile.dedup.cleanup.undo import undo_journal
from simile.dedup.records import CleanupPlan
from simile.images.encoding import encode_png
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import NewImage
from simile.store.home import Home
from tests.support.dedup_records import make_removal

ENCODER = "f" * 64
ACTIONS: tuple[CleanupAction, ...] = ("move", "hardlink", "symlink", "trash")


@pytest.fixture(autouse=True)
def _trash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """kept.png with three copies, each with a time and a mode of its own."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    pixels = np.random.default_rng(4).integers(0, 256, (9, 9, 3), np.uint8)
    (folder / "kept.png").write_bytes(encode_png(pixels))
    for number, name in enumerate(("one.png", "sub/two.png", "sub/three.png")):
        shutil.copy(folder / "kept.png", folder / name)
        (folder / name).chmod((0o600, 0o444, 0o664)[number])
        os.utime(folder / name, ns=(10**18, 10**18 + number * 10**9 + 123))
    return folder


@pytest.fixture
def settings(home: Home, photos: Path) -> Iterator[Settings]:
    with Catalogue(home) as catalogue:
        catalogue.encoders.register(ENCODER, "toy", "vae", dimensions=1)
        for path in sorted(photos.rglob("*.png")):
            facts = FileStat(str(path), path.stat().st_size, path.stat().st_mtime_ns)
            new = NewImage(
                sha256=identify_file(path).sha256,
                size=facts.size,
                format="png",
                width=9,
                height=9,
                file=facts,
                mu=np.zeros(1, np.float32),
            )
            catalogue.images.add_batch([new], ENCODER, "eager")
    yield load_settings(home=home.root, device="cpu")


@pytest.fixture
def plan(photos: Path) -> Path:
    copies = (path for path in sorted(photos.rglob("*.png")) if path.name != "kept.png")
    sha, kept = identify_file(photos / "kept.png").sha256, str(photos / "kept.png")
    lines = tuple(make_removal(str(path), sha, kept, sha) for path in copies)
    write_plan(photos.parent / "plan.json", CleanupPlan(lines))
    return photos.parent / "plan.json"


def act(settings: Settings, plan: Path, action: CleanupAction) -> list[FileOperation]:
    """Applies the plan; gives what was done."""
    request = ApplyRequest(action=action, target_folder=plan.parent / "gone" if action == "move" else None)
    done = apply_plan(settings, plan, request)
    assert (done.applied, done.set_aside) == (3, [])
    return [entry.operation for entry in read_journals(Home(settings.home))[-1].entries.values()]


def tree(folder: Path) -> dict[str, tuple[str, int, int, bool]]:
    """Hash, time, mode of every file, and whether it is a name of its own."""
    files = {str(path): identify_file(path) for path in folder.rglob("*") if not path.is_dir()}
    return {path: (seen.sha256, seen.mtime_ns, seen.mode, seen.link_count == 1) for path, seen in files.items()}


@pytest.mark.parametrize("action", ACTIONS)
def test_undo_brings_back_bytes_modes_and_times(
    settings: Settings, photos: Path, plan: Path, action: CleanupAction
) -> None:
    before = tree(photos)
    act(settings, plan, action)
    done = undo_journal(settings)
    assert (done.restored, done.set_aside) == (3, [])
    assert tree(photos) == before
    left = [path for folder in ("gone", "data") for path in (photos.parent / folder).rglob("*") if path.is_file()]
    assert left == []
    with pytest.raises(BadSetting, match="nothing to undo"):
        undo_journal(settings)


@pytest.mark.parametrize("action", ACTIONS)
def test_a_file_that_came_since_is_never_overwritten(
    settings: Settings, photos: Path, plan: Path, action: CleanupAction
) -> None:
    before = tree(photos)
    act(settings, plan, action)
    (photos / "one.png").unlink(missing_ok=True)
    (photos / "one.png").write_text("new")
    done = undo_journal(settings)
    assert (done.restored, [left.path for left in done.set_aside]) == (2, [str(photos / "one.png")])
    assert "another file is there now" in done.set_aside[0].reason
    assert (photos / "one.png").read_text() == "new"
    (photos / "one.png").unlink()
    assert undo_journal(settings).restored == 1
    assert tree(photos) == before


def test_the_newest_is_undone_first_and_any_by_its_name(settings: Settings, photos: Path, plan: Path) -> None:
    before = tree(photos)
    for _ in range(2):
        act(settings, plan, "move")
        undo_journal(settings)
    act(settings, plan, "symlink")
    home = Home(settings.home)
    states = [(one["action"], one["done"], one["undone"]) for one in list_journals(home)]
    assert states == [("symlink", 3, 0), ("move", 0, 3), ("move", 0, 3)]
    assert undo_journal(settings, "1").restored == 0
    newest = read_journals(home)[-1]
    for name in ("no-such", "../journals/x", "4"):
        with pytest.raises(BadSetting, match="There is no journal"):
            undo_journal(settings, name)
    assert undo_journal(settings, str(newest.path)).restored == 3
    assert tree(photos) == before


def test_a_folder_that_was_removed_meanwhile_is_made_again(settings: Settings, photos: Path, plan: Path) -> None:
    before = tree(photos)
    act(settings, plan, "move")
    (photos / "sub").rmdir()
    assert undo_journal(settings).restored == 3
    assert tree(photos) == before


def test_a_folder_that_became_a_link_is_not_followed(
    settings: Settings, photos: Path, plan: Path, tmp_path: Path
) -> None:
    act(settings, plan, "move")
    (photos / "sub").rmdir()
    (tmp_path / "other").mkdir()
    (photos / "sub").symlink_to(tmp_path / "other")
    done = undo_journal(settings)
    assert (done.restored, len(done.set_aside)) == (1, 2) and not any((tmp_path / "other").iterdir())


def test_what_was_thrown_away_or_changed_elsewhere_is_said(settings: Settings, photos: Path, plan: Path) -> None:
    first, second, _ = act(settings, plan, "trash")
    Path(first.target).unlink()
    Path(second.target).chmod(0o644)
    Path(second.target).write_text("changed")
    done = undo_journal(settings)
    assert done.restored == 1
    assert {left.path: left.reason.split()[-1] for left in done.set_aside} == {
        first.path: "exist",
        second.path: "there",
    }
    shutil.copy2(photos / "kept.png", first.path)  # whoever has another copy may put it back himself
    assert undo_journal(settings).restored == 1


def test_a_link_whose_kept_file_was_edited_is_set_aside(settings: Settings, photos: Path, plan: Path) -> None:
    act(settings, plan, "symlink")
    (photos / "kept.png").write_text("edited")
    done = undo_journal(settings)
    assert done.restored == 0 and "missing or was changed since" in done.set_aside[0].reason
    assert (photos / "one.png").is_symlink()


def test_a_hard_link_is_made_independent_though_the_kept_file_is_gone(
    settings: Settings, photos: Path, plan: Path
) -> None:
    before = tree(photos)
    act(settings, plan, "hardlink")
    (photos / "kept.png").unlink()
    assert undo_journal(settings).restored == 3
    del before[str(photos / "kept.png")]
    assert tree(photos) == before


def test_after_undo_an_edit_of_the_copy_leaves_the_kept_file_alone(
    settings: Settings, photos: Path, plan: Path
) -> None:
    kept = (photos / "kept.png").read_bytes()
    act(settings, plan, "hardlink")
    undo_journal(settings)
    with (photos / "one.png").open("ab") as file:
        file.write(b"more")
    assert (photos / "kept.png").read_bytes() == kept


def test_extended_attributes_come_back(settings: Settings, photos: Path, plan: Path) -> None:
    try:
        os.setxattr(photos / "one.png", "user.rating", b"5\xff")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    act(settings, plan, "symlink")
    undo_journal(settings)
    assert os.getxattr(photos / "one.png", "user.rating") == b"5\xff"


def cut(settings: Settings, lines: int) -> None:
    """Leaves only so many lines of the newest journal, and a part of the next one: as a kill would."""
    path = read_journals(Home(settings.home))[-1].path
    kept = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(kept[:lines]) + kept[lines][:20])


Step = Callable[[FileOperation], None]


def _reserved(operation: FileOperation) -> None:
    Path(operation.target).touch()


def _trash_begun(operation: FileOperation) -> None:
    Path(operation.info).touch()


def _trash_reserved(operation: FileOperation) -> None:
    Path(operation.info).write_text(f"[Trash Info]\nPath={operation.path}\nDeletionDate=2026-11-25T00:00:00\n")
    Path(operation.target).touch()


def link_up(operation: FileOperation) -> None:
    """What stands before the link takes the file's place."""
    os.link(operation.path, operation.aside)
    if operation.action == "symlink":
        Path(operation.temporary).symlink_to(operation.keep_path)
    else:
        os.link(operation.keep_path, operation.temporary)


def _swapped(operation: FileOperation) -> None:
    link_up(operation)
    exchange_files(Path(operation.temporary), Path(operation.path))


def _half_copied(operation: FileOperation) -> None:
    _reserved(operation)
    Path(operation.temporary).write_bytes(b"half")


def _copied(operation: FileOperation) -> None:
    shutil.copy2(operation.path, operation.target)


def _copied_and_aside(operation: FileOperation) -> None:
    _copied(operation)
    Path(operation.path).rename(operation.aside)


@pytest.mark.parametrize(
    ("action", "steps", "done"),
    [
        ("move", _reserved, False),
        ("move", _half_copied, False),
        ("move", _copied, False),
        ("move", _copied_and_aside, True),
        ("trash", _trash_begun, False),
        ("trash", _trash_reserved, False),
        ("hardlink", link_up, False),
        ("hardlink", _swapped, True),
        ("symlink", link_up, False),
        ("symlink", _swapped, True),
    ],
)
def test_what_a_kill_left_is_completed_or_taken_back(
    settings: Settings, photos: Path, plan: Path, action: CleanupAction, steps: Step, done: bool
) -> None:
    """The first file was under way: the journal has its intent, and the disk what the steps left."""
    before = tree(photos)
    first = act(settings, plan, action)[0]
    undo_journal(settings)
    cut(settings, 2)
    Path(first.target).parent.mkdir(parents=True, exist_ok=True)
    steps(first)
    again = undo_journal(settings)
    assert (again.restored, again.set_aside) == (int(done), [])
    assert tree(photos) == before
    assert not any(path.is_file() for name in ("gone", "data") for path in (photos.parent / name).rglob("*"))
    assert list_journals(Home(settings.home))[0]["unfinished"] == 0


def test_a_disk_that_was_missing_after_a_kill_may_come_back(settings: Settings, photos: Path, plan: Path) -> None:
    before = tree(photos)
    act(settings, plan, "move")
    cut(settings, 2)  # the other two are done, but nothing says so
    gone = photos.parent / "gone"
    gone.rename(photos.parent / "unplugged")
    said = undo_journal(settings)
    assert said.restored == 0 and "connect it" in said.set_aside[0].reason
    (photos.parent / "unplugged").rename(gone)
    assert undo_journal(settings).restored == 1
    assert tree(photos).items() <= before.items() and (photos / "one.png").exists()


@pytest.mark.parametrize("action", ["hardlink", "symlink"])
def test_what_was_written_into_a_file_while_a_link_was_made_of_it_is_not_lost(
    settings: Settings, photos: Path, plan: Path, action: CleanupAction
) -> None:
    first = act(settings, plan, action)[0]
    undo_journal(settings)
    cut(settings, 2)
    link_up(first)
    exchange_files(Path(first.temporary), Path(first.path))
    with Path(first.aside).open("ab") as file:  # a program that had it open
        file.write(b"edited")
    assert undo_journal(settings).restored == 0
    assert Path(first.path).read_bytes().endswith(b"edited") and not Path(first.path).is_symlink()
    assert sorted(path.name for path in photos.iterdir()) == ["kept.png", "one.png", "sub"]


def test_a_file_changed_while_a_killed_apply_had_it_aside_is_not_lost(
    settings: Settings, photos: Path, plan: Path
) -> None:
    first = act(settings, plan, "move")[0]
    undo_journal(settings)
    cut(settings, 2)
    Path(first.path).rename(first.aside)
    Path(first.path).write_text("another file")
    undo_says = undo_journal(settings)
    assert undo_says.restored == 0 and first.aside in undo_says.set_aside[0].reason
    assert Path(first.path).read_text() == "another file" and identify_file(Path(first.aside)).sha256 == first.sha256


@pytest.mark.parametrize("action", ["hardlink", "symlink"])
def test_a_file_that_came_the_moment_a_link_was_put_there_is_not_lost(
    settings: Settings, photos: Path, plan: Path, action: CleanupAction
) -> None:
    first = act(settings, plan, action)[0]
    undo_journal(settings)
    cut(settings, 2)
    link_up(first)
    Path(first.path).unlink()
    Path(first.path).write_text("saved by an editor")
    exchange_files(Path(first.temporary), Path(first.path))
    assert undo_journal(settings).restored == 0
    with pytest.raises(BadSetting, match="nothing to undo"):
        undo_journal(settings)
    assert Path(first.path).read_text() == "saved by an editor"
    assert sorted(path.name for path in photos.iterdir()) == ["kept.png", "one.png", "sub"]


def test_a_torn_last_line_is_passed_over_and_a_damaged_one_is_named(
    settings: Settings, photos: Path, plan: Path
) -> None:
    act(settings, plan, "move")
    path = read_journals(Home(settings.home))[0].path
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"event": "und')
    assert list_journals(Home(settings.home))[0]["done"] == 3
    assert path.read_bytes() != whole  # who only reads does not write
    assert undo_journal(settings).restored == 3
    lines = path.read_bytes().splitlines()
    assert all(json.loads(line) for line in lines)
    path.write_bytes(b"\n".join([lines[0], b"{]", *lines[2:]]) + b"\n")
    with pytest.raises(HomeError, match="damaged in line 2"):
        undo_journal(settings)


def test_a_home_that_is_none_is_not_made_by_undo(tmp_path: Path) -> None:
    with pytest.raises(NothingIndexed):
        undo_journal(load_settings(home=tmp_path / "nothing"))
    assert not (tmp_path / "nothing").exists()


def test_undo_on_the_command_line_says_what_it_did(settings: Settings, photos: Path, plan: Path) -> None:
    act(settings, plan, "move")
    (photos / "one.png").write_text("new")
    command = ["dedup", "undo", "--home", str(settings.home)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1 and result.stdout.startswith("2 files restored")
    assert f"skipped: {photos / 'one.png'}: another file" in result.stdout
    (photos / "one.png").unlink()
    body = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert (body["restored"], body["set_aside"]) == (1, []) and body["journal"].endswith("-1")
    assert get_journals_folder(Home(settings.home)).is_dir()
