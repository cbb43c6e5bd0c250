"""Undo restores bytes, modes and times, overwrites no new file, and survives a kill."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from simile.core.errors import BadSetting, HomeError, NothingIndexed
from simile.core.settings import Settings, load_settings
from simile.dedup.cleanup.apply import ApplyRequest, apply_plan
from simile.dedup.cleanup.file_ops import exchange_files, identify_file
from simile.dedup.cleanup.journal import CleanupAction, FileOperation, get_journals_folder, list_journals, read_journals
from simile.dedup.cleanup.plan import write_plan
from simile.dedup.cleanup.undo import undo_journal
from simile.dedup.records import CleanupPlan
from simile.images.encoding import encode_png
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home
from tests.support.commands import run_json, run_simile
from tests.support.dedup_records import index_file, make_removal

ENCODER = "f" * 64
ACTIONS: tuple[CleanupAction, ...] = ("move", "hardlink", "symlink", "trash")


@pytest.fixture(autouse=True)
def _trash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """kept.png with three copies that have different times and modes."""
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
            index_file(catalogue, path, ENCODER)
    yield load_settings(home=home.root, device="cpu")


@pytest.fixture
def plan(photos: Path) -> Path:
    copies = (path for path in sorted(photos.rglob("*.png")) if path.name != "kept.png")
    sha, kept = identify_file(photos / "kept.png").sha256, str(photos / "kept.png")
    lines = tuple(make_removal(str(path), sha, kept, sha) for path in copies)
    write_plan(photos.parent / "plan.json", CleanupPlan(lines))
    return photos.parent / "plan.json"


def apply(settings: Settings, plan: Path, action: CleanupAction) -> list[FileOperation]:
    """Apply the plan and return its operations."""
    request = ApplyRequest(action=action, target_folder=plan.parent / "gone" if action == "move" else None)
    result = apply_plan(settings, plan, request)
    assert (result.applied, result.set_aside) == (3, [])
    return [entry.operation for entry in read_journals(Home(settings.home))[-1].entries.values()]


def describe_files(folder: Path) -> dict[str, tuple[str, int, int, bool]]:
    """Return hash, time and mode of every file, and whether it has no other name."""
    files = [identify_file(path) for path in folder.rglob("*") if not path.is_dir()]
    return {
        str(file.path): (file.sha256, file.status.st_mtime_ns, file.status.st_mode, file.status.st_nlink == 1)
        for file in files
    }


@pytest.mark.parametrize("action", ACTIONS)
def test_undo_restores_bytes_modes_and_times(
    settings: Settings, photos: Path, plan: Path, action: CleanupAction
) -> None:
    before = describe_files(photos)
    apply(settings, plan, action)
    result = undo_journal(settings)
    assert (result.restored, result.set_aside) == (3, [])
    assert describe_files(photos) == before
    left = [path for folder in ("gone", "data") for path in (photos.parent / folder).rglob("*") if path.is_file()]
    assert left == []
    with pytest.raises(BadSetting, match="nothing to undo"):
        undo_journal(settings)


@pytest.mark.parametrize("action", ACTIONS)
def test_undo_never_overwrites_a_new_file(settings: Settings, photos: Path, plan: Path, action: CleanupAction) -> None:
    before = describe_files(photos)
    apply(settings, plan, action)
    (photos / "one.png").unlink(missing_ok=True)
    (photos / "one.png").write_text("new")
    result = undo_journal(settings)
    assert (result.restored, [left.path for left in result.set_aside]) == (2, [str(photos / "one.png")])
    assert "another file is there now" in result.set_aside[0].reason
    assert (photos / "one.png").read_text() == "new"
    (photos / "one.png").unlink()
    assert undo_journal(settings).restored == 1
    assert describe_files(photos) == before


def test_undo_takes_the_newest_journal_or_a_named_one(settings: Settings, photos: Path, plan: Path) -> None:
    before = describe_files(photos)
    for _ in range(2):
        apply(settings, plan, "move")
        undo_journal(settings)
    apply(settings, plan, "symlink")
    home = Home(settings.home)
    states = [(one["action"], one["done"], one["undone"]) for one in list_journals(home)]
    assert states == [("symlink", 3, 0), ("move", 0, 3), ("move", 0, 3)]
    assert undo_journal(settings, "1").restored == 0
    newest = read_journals(home)[-1]
    for name in ("no-such", "../journals/x", "4"):
        with pytest.raises(BadSetting, match="There is no journal"):
            undo_journal(settings, name)
    assert undo_journal(settings, str(newest.path)).restored == 3
    assert describe_files(photos) == before


def test_undo_creates_a_removed_folder(settings: Settings, photos: Path, plan: Path) -> None:
    before = describe_files(photos)
    apply(settings, plan, "move")
    (photos / "sub").rmdir()
    assert undo_journal(settings).restored == 3
    assert describe_files(photos) == before


def test_undo_does_not_follow_a_folder_that_became_a_link(
    settings: Settings, photos: Path, plan: Path, tmp_path: Path
) -> None:
    apply(settings, plan, "move")
    (photos / "sub").rmdir()
    (tmp_path / "other").mkdir()
    (photos / "sub").symlink_to(tmp_path / "other")
    result = undo_journal(settings)
    assert (result.restored, len(result.set_aside)) == (1, 2) and not any((tmp_path / "other").iterdir())


def test_undo_reports_deleted_and_changed_files(settings: Settings, photos: Path, plan: Path) -> None:
    first, second, _ = apply(settings, plan, "trash")
    Path(first.target).unlink()
    Path(second.target).chmod(0o644)
    Path(second.target).write_text("changed")
    result = undo_journal(settings)
    assert result.restored == 1
    reasons = {left.path: left.reason.split()[-1] for left in result.set_aside}
    assert reasons == {first.path: "exist", second.path: "there"}
    shutil.copy2(photos / "kept.png", first.path)  # whoever has another copy may put it back himself
    assert undo_journal(settings).restored == 1


def test_a_link_is_skipped_if_its_kept_file_was_edited(settings: Settings, photos: Path, plan: Path) -> None:
    apply(settings, plan, "symlink")
    (photos / "kept.png").write_text("edited")
    result = undo_journal(settings)
    assert result.restored == 0 and "missing or was changed since" in result.set_aside[0].reason
    assert (photos / "one.png").is_symlink()


def test_a_hard_link_is_restored_without_the_kept_file(settings: Settings, photos: Path, plan: Path) -> None:
    before = describe_files(photos)
    apply(settings, plan, "hardlink")
    (photos / "kept.png").unlink()
    assert undo_journal(settings).restored == 3
    del before[str(photos / "kept.png")]
    assert describe_files(photos) == before


def test_after_undo_an_edit_of_the_copy_does_not_change_the_kept_file(
    settings: Settings, photos: Path, plan: Path
) -> None:
    kept = (photos / "kept.png").read_bytes()
    apply(settings, plan, "hardlink")
    undo_journal(settings)
    with (photos / "one.png").open("ab") as file:
        file.write(b"more")
    assert (photos / "kept.png").read_bytes() == kept


def test_undo_restores_extended_attributes(settings: Settings, photos: Path, plan: Path) -> None:
    try:
        os.setxattr(photos / "one.png", "user.rating", b"5\xff")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    apply(settings, plan, "symlink")
    undo_journal(settings)
    assert os.getxattr(photos / "one.png", "user.rating") == b"5\xff"


def cut_journal(settings: Settings) -> None:
    """Cut the newest journal in its third line, like a kill."""
    path = read_journals(Home(settings.home))[-1].path
    kept = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(kept[:2]) + kept[2][:20])


def begin_first(settings: Settings, plan: Path, action: CleanupAction) -> FileOperation:
    """Make the state after a kill in the first operation: only its intent is in the journal. Return it."""
    first = apply(settings, plan, action)[0]
    undo_journal(settings)
    cut_journal(settings)
    return first


Step = Callable[[FileOperation], None]


def _reserved(operation: FileOperation) -> None:
    Path(operation.target).touch()


def _trash_begun(operation: FileOperation) -> None:
    Path(operation.info).touch()


def _trash_reserved(operation: FileOperation) -> None:
    Path(operation.info).write_text(f"[Trash Info]\nPath={operation.path}\nDeletionDate=2026-11-25T00:00:00\n")
    Path(operation.target).touch()


def link_up(operation: FileOperation) -> None:
    """Make the state just before the link replaces the file."""
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
def test_a_killed_operation_is_completed_or_taken_back(
    settings: Settings, photos: Path, plan: Path, action: CleanupAction, steps: Step, done: bool
) -> None:
    """The journal contains the first file's intent, and the disk the result of the steps."""
    before = describe_files(photos)
    first = begin_first(settings, plan, action)
    Path(first.target).parent.mkdir(parents=True, exist_ok=True)
    steps(first)
    again = undo_journal(settings)
    assert (again.restored, again.set_aside) == (int(done), [])
    assert describe_files(photos) == before
    assert not any(path.is_file() for name in ("gone", "data") for path in (photos.parent / name).rglob("*"))
    assert list_journals(Home(settings.home))[0]["unfinished"] == 0


def test_a_disk_may_be_missing_after_a_kill_and_be_connected_again(
    settings: Settings, photos: Path, plan: Path
) -> None:
    before = describe_files(photos)
    apply(settings, plan, "move")
    cut_journal(settings)  # the other two are done, but nothing says so
    gone = photos.parent / "gone"
    gone.rename(photos.parent / "unplugged")
    result = undo_journal(settings)
    assert result.restored == 0 and "connect it" in result.set_aside[0].reason
    (photos.parent / "unplugged").rename(gone)
    assert undo_journal(settings).restored == 1
    assert describe_files(photos).items() <= before.items() and (photos / "one.png").exists()


@pytest.mark.parametrize("action", ["hardlink", "symlink"])
def test_an_edit_during_linking_is_not_lost(
    settings: Settings, photos: Path, plan: Path, action: CleanupAction
) -> None:
    first = begin_first(settings, plan, action)
    _swapped(first)
    with Path(first.aside).open("ab") as file:  # a program that had it open
        file.write(b"edited")
    assert undo_journal(settings).restored == 0
    assert Path(first.path).read_bytes().endswith(b"edited") and not Path(first.path).is_symlink()
    assert sorted(path.name for path in photos.iterdir()) == ["kept.png", "one.png", "sub"]


def test_a_file_that_replaces_the_moved_file_during_a_kill_is_not_lost(
    settings: Settings, photos: Path, plan: Path
) -> None:
    first = begin_first(settings, plan, "move")
    Path(first.path).rename(first.aside)
    Path(first.path).write_text("another file")
    result = undo_journal(settings)
    assert result.restored == 0 and first.aside in result.set_aside[0].reason
    assert Path(first.path).read_text() == "another file" and identify_file(Path(first.aside)).sha256 == first.sha256


@pytest.mark.parametrize("action", ["hardlink", "symlink"])
def test_a_file_that_appears_during_the_exchange_is_not_lost(
    settings: Settings, photos: Path, plan: Path, action: CleanupAction
) -> None:
    first = begin_first(settings, plan, action)
    link_up(first)
    saved = photos / "saved"  # written while the old file exists: a new file could get the inode of a deleted one
    saved.write_text("saved by an editor")
    saved.replace(first.path)
    exchange_files(Path(first.temporary), Path(first.path))
    assert undo_journal(settings).restored == 0
    with pytest.raises(BadSetting, match="nothing to undo"):
        undo_journal(settings)
    assert Path(first.path).read_text() == "saved by an editor"
    assert sorted(path.name for path in photos.iterdir()) == ["kept.png", "one.png", "sub"]


def test_an_incomplete_last_line_is_ignored_and_a_damaged_line_is_named(
    settings: Settings, photos: Path, plan: Path
) -> None:
    apply(settings, plan, "move")
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


def test_undo_does_not_create_a_home(tmp_path: Path) -> None:
    with pytest.raises(NothingIndexed):
        undo_journal(load_settings(home=tmp_path / "nothing"))
    assert not (tmp_path / "nothing").exists()


def test_undo_on_the_command_line_reports_its_result(settings: Settings, photos: Path, plan: Path) -> None:
    apply(settings, plan, "move")
    (photos / "one.png").write_text("new")
    command = ("dedup", "undo", "--home", settings.home)
    result = run_simile(*command)
    assert result.exit_code == 1 and result.stdout.startswith("2 files restored")
    assert f"skipped: {photos / 'one.png'}: another file" in result.stdout
    (photos / "one.png").unlink()
    body = run_json(*command)
    assert (body["restored"], body["set_aside"]) == (1, []) and body["journal"].endswith("-1")
    assert get_journals_folder(Home(settings.home)).is_dir()


@pytest.mark.parametrize("field", ["temporary", "aside", "info"])
def test_a_journal_that_names_files_of_others_touches_none_of_them(
    settings: Settings, photos: Path, plan: Path, tmp_path: Path, field: str
) -> None:
    operation = begin_first(settings, plan, "trash")
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    path = read_journals(Home(settings.home))[-1].path
    path.write_text(path.read_text().replace(json.dumps(getattr(operation, field)), json.dumps(str(victim))))
    for run in (lambda: undo_journal(settings), lambda: apply(settings, plan, "move")):
        with pytest.raises(HomeError, match=r"is damaged in line 2 .*names|is damaged in line 2 .*trashinfo"):
            run()
    assert victim.read_bytes() == b"precious" and Path(operation.path).exists()
