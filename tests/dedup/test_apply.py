"""Plans applied to real files: which files are removed, which stay, and what each action and each kill leaves."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from typer.testing import Result

from simile.core.errors import BadSetting, HomeBusy, NoSuchPath
from simile.core.records import FileStat
from simile.core.settings import Settings, load_settings
from simile.dedup.cleanup.apply import ApplyRequest, apply_plan
from simile.dedup.cleanup.file_ops import FileIdentity, identify_file
from simile.dedup.cleanup.journal import get_journals_folder, read_journals
from simile.dedup.cleanup.plan import parse_plan, plan_to_json, read_plan, write_plan
from simile.dedup.records import CleanupPlan, Decision, Removal
from simile.images.encoding import encode_png
from simile.indexer.pipeline.job import IndexRequest, index
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import DuplicateRecord
from simile.store.home import Home
from tests.support.commands import run_simile
from tests.support.dedup_records import index_file, make_removal

ROOT = Path(__file__).parents[2]
ENCODER = "e" * 64


@pytest.fixture(autouse=True)
def trash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trash for this test."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "Trash"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """a.png, a copy in another folder, a near image, and another image."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    random = np.random.default_rng(3)
    for name in ("a.png", "near.png", "other.png"):
        (folder / name).write_bytes(encode_png(random.integers(0, 256, (9, 9, 3), np.uint8)))
    shutil.copy2(folder / "a.png", folder / "sub" / "copy.png")
    (folder / "sub" / "copy.png").chmod(0o640)
    os.utime(folder / "sub" / "copy.png", ns=(10**18, 10**18 + 123456789))
    return folder


@pytest.fixture
def settings(home: Home, photos: Path) -> Iterator[Settings]:
    """A home with these images, in which a.png and near.png are near copies."""
    with Catalogue(home) as catalogue:
        catalogue.encoders.register(ENCODER, "toy", "vae", dimensions=1)
        catalogue.encoders.activate(ENCODER)
        ids = {path.name: index_file(catalogue, path, ENCODER) for path in sorted(photos.rglob("*.png"))}
        save_pairs(catalogue, (ids["a.png"], ids["near.png"], "near"))
    yield load_settings(home=home.root, device="cpu")


def save_pairs(catalogue: Catalogue, *pairs: tuple[int, int, Any]) -> None:
    """Store the pairs that a run found, each with its tier."""
    run = catalogue.runs.start("dedup", {})
    rows = [DuplicateRecord(min(one, two), max(one, two), tier, 0.1, 0.9, "planted") for one, two, tier in pairs]
    catalogue.duplicates.replace(run, rows)
    catalogue.runs.finish(run, "finished", {})


def index_link(catalogue: Catalogue, path: Path, name: Path) -> None:
    """Index another name of a file."""
    image_id = catalogue.images.find_by_sha256([identify_file(path).sha256])[identify_file(path).sha256].image_id
    catalogue.files.add([(image_id, FileStat(str(name), path.stat().st_size, path.stat().st_mtime_ns))])


def make_line(name: Path | str, keep: Path | str = "a.png", tier: Any = "bytes") -> Removal:
    """Make a line of a plan; the names are relative to the folder of photos."""
    path, kept = Path("photos", name).absolute(), Path("photos", keep).absolute()
    return make_removal(str(path), identify_file(path).sha256, str(kept), identify_file(kept).sha256, tier)


def write_plan_file(*lines: Removal, decisions: tuple[Decision, ...] = ()) -> Path:
    path = Path("plan.json").absolute()
    write_plan(path, CleanupPlan(lines, decisions, "2026-11-25T00:00:00+00:00", "/home"))
    return path


def simile(settings: Settings, *arguments: object) -> Result:
    return run_simile("dedup", *arguments, "--home", settings.home, "--json")


def apply(settings: Settings, plan: Path, *arguments: object) -> dict[str, Any]:
    result = simile(settings, "apply", plan, *arguments)
    body: dict[str, Any] = json.loads(result.stdout)
    assert result.exit_code == (1 if body["set_aside"] else 0)
    return body


def join_reasons(body: dict[str, Any]) -> str:
    return " | ".join(failure["reason"] for failure in body["set_aside"])


def test_without_an_action_everything_is_checked_and_nothing_is_touched(settings: Settings, photos: Path) -> None:
    plan = write_plan_file(make_line("sub/copy.png"), make_line("other.png"))
    for more in ([], ["--trash", "--dry-run"], ["--move-to", photos.parent / "new", "--dry-run"]):
        body = apply(settings, plan, *more)
        assert (body["applied"], body["dry_run"], body["journal"]) == (1, True, None)
        assert "does not know the two as copies" in join_reasons(body)
    assert (photos / "sub/copy.png").is_file() and not (photos.parent / "new").exists()
    assert not get_journals_folder(Home(settings.home)).exists()


def describe_file(file: FileIdentity) -> tuple[str, int, int]:
    """Return hash, time and mode of a file."""
    return file.sha256, file.status.st_mtime_ns, file.status.st_mode


def test_move_keeps_folders_times_and_modes_and_overwrites_nothing(settings: Settings, photos: Path) -> None:
    copy, gone = photos / "sub/copy.png", photos.parent / "gone"
    (gone / "photos/sub").mkdir(parents=True)
    wanted = gone / copy.relative_to("/")
    wanted.parent.mkdir(parents=True)
    wanted.write_text("was here before")
    before = identify_file(copy)
    body = apply(settings, write_plan_file(make_line(copy)), "--move-to", gone)
    assert (body["applied"], body["set_aside"], body["bytes_freed"]) == (1, [], before.status.st_size)
    moved = identify_file(wanted.with_name("copy-2.png"))
    assert describe_file(moved) == describe_file(before)
    assert wanted.read_text() == "was here before" and not copy.exists()


def test_moved_files_keep_their_path_relative_to_the_indexed_folder(settings: Settings, photos: Path) -> None:
    with Catalogue(Home(settings.home)) as catalogue:
        catalogue.runs.start("index", {"sources": [str(photos)]})
    apply(settings, write_plan_file(make_line("sub/copy.png")), "--move-to", "gone")
    assert Path("gone/sub/copy.png").is_file()


def test_links_replace_the_file_with_the_same_bytes(settings: Settings, photos: Path) -> None:
    copy, kept = photos / "sub/copy.png", photos / "a.png"
    plan = write_plan_file(make_line(copy))
    assert apply(settings, plan, "--hardlink")["applied"] == 1
    assert copy.stat().st_ino == kept.stat().st_ino and copy.stat().st_nlink == 2
    assert simile(settings, "undo").exit_code == 0
    assert apply(settings, plan, "--symlink")["applied"] == 1
    assert copy.is_symlink() and copy.read_bytes() == kept.read_bytes()
    assert sorted(path.name for path in photos.rglob("*")) == ["a.png", "copy.png", "near.png", "other.png", "sub"]


@pytest.mark.parametrize("action", ["--hardlink", "--symlink"])
def test_a_near_copy_never_becomes_a_link(settings: Settings, photos: Path, action: str) -> None:
    body = apply(settings, write_plan_file(make_line("near.png", tier="near")), action)
    assert "a link would change its content" in join_reasons(body)
    assert not (photos / "near.png").is_symlink()


def test_trash_uses_free_names_and_writes_trashinfo_files(settings: Settings, photos: Path, trash: Path) -> None:
    copy = photos / "sub/copy.png"
    (trash / "files").mkdir(parents=True)
    (trash / "files/copy.png").write_text("thrown away before")
    apply(settings, write_plan_file(make_line(copy)), "--trash")
    info = (trash / "info/copy.2.png.trashinfo").read_text().splitlines()
    assert info[0] == "[Trash Info]" and unquote(info[1].removeprefix("Path=")) == str(copy)
    assert (trash / "files/copy.2.png").is_file() and stat.S_IMODE((trash / "info").stat().st_mode) == 0o700
    assert simile(settings, "undo").exit_code == 0
    assert copy.is_file() and sorted(path.name for path in trash.rglob("*")) == ["copy.png", "files", "info"]


@pytest.mark.parametrize("name", ["n" * 251 + ".png", "ü" * 125 + "x.png", "a." + "b" * 253])
def test_long_names_are_shortened_in_the_trash_and_restored(
    settings: Settings, photos: Path, trash: Path, tmp_path: Path, name: str
) -> None:
    copies = [photos / name, photos / "sub" / name]
    for copy in copies:
        shutil.copy2(photos / "a.png", copy)
        with Catalogue(Home(settings.home)) as catalogue:
            index_link(catalogue, photos / "a.png", copy)
    plan = write_plan_file(*(make_line(copy) for copy in copies))
    body = apply(settings, plan, "--trash")
    assert body["applied"] == 2, join_reasons(body)
    stored = sorted(path.name for path in (trash / "files").iterdir())
    assert len(stored) == 2 and all(len(os.fsencode(f"{one}.trashinfo")) <= 255 for one in stored)
    infos = [(trash / "info" / f"{one}.trashinfo").read_text().splitlines()[1] for one in stored]
    assert sorted(unquote(line.removeprefix("Path=")) for line in infos) == sorted(map(str, copies))
    assert simile(settings, "undo").exit_code == 0
    assert all(copy.is_file() for copy in copies) and not any((trash / "files").iterdir())
    (tmp_path / "gone/photos").mkdir(parents=True)
    (tmp_path / "gone/photos" / name).write_text("in the way")
    (tmp_path / "gone" / name).write_text("in the way")
    assert apply(settings, plan, "--move-to", tmp_path / "gone")["applied"] == 2


def test_a_move_to_another_disk_and_back_makes_verified_copies(settings: Settings, photos: Path) -> None:
    other = Path("/dev/shm")
    if not os.access(other, os.W_OK) or other.stat().st_dev == photos.stat().st_dev:
        pytest.skip("there is no second disk at /dev/shm")
    copy, before = photos / "sub/copy.png", identify_file(photos / "sub/copy.png")
    target = other / f"simile-test-{os.getpid()}"
    try:
        apply(settings, write_plan_file(make_line(copy)), "--move-to", target)
        away = identify_file(next(target.rglob("copy.png")))
        assert describe_file(away) == describe_file(before)
        assert not copy.exists()
        assert simile(settings, "undo").exit_code == 0
        back = identify_file(copy)
        assert describe_file(back) == describe_file(before)
        assert not any(path.is_file() for path in target.rglob("*"))
    finally:
        shutil.rmtree(target, ignore_errors=True)


def test_a_plan_applied_again_skips_finished_lines(settings: Settings, photos: Path) -> None:
    with Catalogue(Home(settings.home)) as catalogue:
        shutil.copy2(photos / "a.png", photos / "copy two.png")
        index_file(catalogue, photos / "copy two.png", ENCODER)
    lines = [make_line(name) for name in ("sub/copy.png", "copy two.png")]
    for action in (["--move-to", photos.parent / "gone"], ["--hardlink"], ["--symlink"], ["--trash"]):
        assert apply(settings, write_plan_file(lines[0]), *action)["applied"] == 1
        again = apply(settings, write_plan_file(*lines), *action)
        assert (again["applied"], again["already"], again["set_aside"]) == (1, 1, [])
        assert simile(settings, "undo").exit_code == simile(settings, "undo").exit_code == 0


def test_unindexed_files_are_touched_only_in_a_named_root(settings: Settings, photos: Path, tmp_path: Path) -> None:
    outside = tmp_path / "incoming" / "again.png"
    outside.parent.mkdir()
    shutil.copy2(photos / "a.png", outside)
    plan = write_plan_file(make_line(outside))
    assert "in no --root" in join_reasons(apply(settings, plan, "--trash"))
    assert apply(settings, plan, "--trash", "--root", outside.parent)["applied"] == 1
    assert not outside.exists()


def test_an_unindexed_near_copy_is_verified_by_its_pixels(settings: Settings, tmp_path: Path) -> None:
    scene = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    root = tmp_path / "incoming"
    root.mkdir()
    for name, pixels in (("scene", scene), ("dimmed", scene // 8 * 7), ("unlike", scene[::-1, :, ::-1] // 2 + 60)):
        (root / f"{name}.png").write_bytes(encode_png(pixels))
    (root / "text.png").write_text("not an image")
    lines = [make_line(root / f"{name}.png", root / "scene.png", "near") for name in ("dimmed", "text")]
    body = apply(settings, write_plan_file(*lines), "--trash", "--root", root)
    assert (body["applied"], len(body["set_aside"])) == (1, 1)
    assert "text.png" in join_reasons(body) and (root / "text.png").exists()


def test_a_root_may_be_a_symbolic_link(settings: Settings, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    shutil.copy2(photos / "a.png", tmp_path / "real/again.png")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    plan = write_plan_file(make_line(tmp_path / "link/again.png"))
    assert apply(settings, plan, "--trash", "--root", tmp_path / "link")["applied"] == 1


def test_decisions_of_a_plan_are_stored_but_are_no_evidence(settings: Settings, photos: Path) -> None:
    near, other, kept = (identify_file(photos / name).sha256 for name in ("near.png", "other.png", "a.png"))
    decisions = [
        Decision(min(near, kept), max(near, kept), True, kept),
        Decision(min(other, kept), max(other, kept), True, None),
    ]
    plan = write_plan_file(make_line("other.png", tier="near"), decisions=tuple(decisions))
    for stored in (1, 0):  # the second time the home has it already
        body = apply(settings, plan, "--trash")
        assert (body["applied"], body["decisions"]) == (0, stored)
        assert "decide on the page" in join_reasons(body)
    with Catalogue(Home(settings.home)) as catalogue:
        (stored_decision,) = catalogue.duplicates.get_decisions()
        assert (stored_decision.first_sha256, stored_decision.keep_sha256) == (min(near, kept), kept)
        catalogue.duplicates.save_decisions([decisions[1]])  # by a person, on the page
    assert apply(settings, plan, "--trash")["applied"] == 1


def test_a_plan_does_not_change_newer_decisions(settings: Settings, photos: Path) -> None:
    near, kept = (identify_file(photos / name).sha256 for name in ("near.png", "a.png"))
    decision = Decision(min(near, kept), max(near, kept), True, kept)
    with Catalogue(Home(settings.home)) as catalogue:
        catalogue.duplicates.save_decisions([decision])
        changed = replace(decision, same=False, keep_sha256=None)
        moments = {"2000-01-01T00:00:00+00:00": True, "soon": True, "2999-01-01T00:00:00Z": False}
        for created_at, stands in moments.items():
            write_plan(Path("plan.json"), CleanupPlan((), (changed,), created_at))
            assert apply(settings, Path("plan.json"), "--trash")["decisions"] == (not stands)
            assert catalogue.duplicates.get_decisions()[0].same == stands


def test_impossible_links_are_skipped_before_anything_is_done(settings: Settings, photos: Path) -> None:
    other = Path("/dev/shm")
    if not os.access(other, os.W_OK) or other.stat().st_dev == photos.stat().st_dev:
        pytest.skip("there is no second disk at /dev/shm")
    away = other / f"simile-test-{os.getpid()}.png"
    try:
        shutil.copy2(photos / "a.png", away)
        body = apply(settings, write_plan_file(make_line(away)), "--hardlink", "--root", other)
        assert "use --symlink" in join_reasons(body) and not get_journals_folder(Home(settings.home)).exists()
        assert away.is_file()
    finally:
        away.unlink(missing_ok=True)


def test_a_file_that_was_kept_for_another_file_stays(settings: Settings, photos: Path) -> None:
    with Catalogue(Home(settings.home)) as catalogue:
        ids = {name: index_file(catalogue, photos / name, ENCODER) for name in ("a.png", "near.png", "other.png")}
        pairs = [(ids["a.png"], ids["near.png"], "near"), (ids["near.png"], ids["other.png"], "near")]
        save_pairs(catalogue, *pairs)
    assert apply(settings, write_plan_file(make_line("a.png", "near.png", "near")), "--trash")["applied"]
    chain = write_plan_file(make_line("near.png", "other.png", "near"))
    assert "it was kept for" in join_reasons(apply(settings, chain, "--trash"))
    assert simile(settings, "undo").exit_code == 0
    assert apply(settings, chain, "--trash")["applied"] == 1


def test_the_target_of_a_symbolic_link_made_by_apply_stays(settings: Settings, photos: Path) -> None:
    with Catalogue(Home(settings.home)) as catalogue:
        shutil.copy2(photos / "a.png", photos / "third.png")
        index_file(catalogue, photos / "third.png", ENCODER)
    apply(settings, write_plan_file(make_line("sub/copy.png")), "--symlink")
    body = apply(settings, write_plan_file(make_line("a.png", "third.png")), "--trash")
    assert "is a symbolic link to it" in join_reasons(body)


def test_the_target_of_an_indexed_symbolic_link_is_only_replaced_by_a_link(settings: Settings, photos: Path) -> None:
    copy, link = photos / "sub/copy.png", photos / "link.png"
    link.symlink_to(copy)
    with Catalogue(Home(settings.home)) as catalogue:
        index_link(catalogue, copy, link)
    plan = write_plan_file(make_line(copy))
    for action in ([], ["--trash"], ["--move-to", photos.parent / "gone"]):
        assert f"{link} is a symbolic link to it" in join_reasons(apply(settings, plan, *action))
    assert apply(settings, plan, "--hardlink")["applied"] == 1
    assert identify_file(link.resolve()).sha256 == identify_file(photos / "a.png").sha256
    assert simile(settings, "undo").exit_code == 0
    link.unlink()
    assert apply(settings, plan, "--trash")["applied"] == 1


def test_equal_pixels_are_transitive_but_near_pairs_are_not(settings: Settings, photos: Path, tmp_path: Path) -> None:
    """c has the pixels of b, and b is near a: c may be removed for a. d is only near b: it may not."""
    with Catalogue(Home(settings.home)) as catalogue:
        random = np.random.default_rng(8)
        for name in "bcd":
            (photos / f"{name}.png").write_bytes(encode_png(random.integers(0, 256, (9, 9, 3), np.uint8)))
        ids = {name: index_file(catalogue, photos / f"{name}.png", ENCODER) for name in "abcd"}
        pairs = [(ids["b"], ids["c"], "pixels"), (ids["a"], ids["b"], "near"), (ids["b"], ids["d"], "near")]
        save_pairs(catalogue, *pairs)
    lines = [make_line(f"{name}.png", tier="near") for name in "cd"]
    body = apply(settings, write_plan_file(*lines), "--trash")
    assert body["applied"] == 1 and body["set_aside"][0]["path"].endswith("d.png")


def test_two_actions_or_a_target_in_the_home_are_refused(settings: Settings, photos: Path) -> None:
    plan = write_plan_file(make_line("sub/copy.png"))
    with pytest.raises(BadSetting, match="Choose one"):
        simile(settings, "apply", plan, "--trash", "--hardlink")
    with pytest.raises(BadSetting, match="simile's own home"):
        simile(settings, "apply", plan, "--move-to", settings.home / "uploads" / "away")
    with pytest.raises(NoSuchPath):
        simile(settings, "apply", photos / "none.json", "--trash")


def test_two_plans_can_not_be_applied_at_the_same_time(settings: Settings, photos: Path) -> None:
    plan = write_plan_file(make_line("sub/copy.png"))
    with Home(settings.home).lock("somebody"), pytest.raises(HomeBusy):
        apply_plan(settings, plan, ApplyRequest(action="trash"))


def test_the_output_says_what_was_done_and_the_next_step(settings: Settings, photos: Path) -> None:
    plan = write_plan_file(make_line("sub/copy.png"), make_line("other.png"))
    command = ("dedup", "--home", settings.home, "apply", plan)
    output = run_simile(*command).stdout
    assert "1 files would be removed" in output and "--move-to DIR" in output
    output = run_simile(*command, "--trash").stdout
    assert "1 files moved to the trash" in output and "--prune" in output and "simile dedup undo" in output
    assert f"skipped: {photos / 'other.png'}: the home does not know" in output
    listed = run_simile("dedup", "journals", "--home", settings.home).stdout
    assert listed.startswith(read_journals(Home(settings.home))[0].name) and "1 moved to the trash" in listed


def test_copies_can_be_found_planned_removed_pruned_and_restored(
    trained_home: Settings, digits: Path, tmp_path: Path
) -> None:
    """On a real home the copies are removed, pruned from the index, and indexed again after undo."""
    for number, path in enumerate(sorted(digits.iterdir())[:5]):
        shutil.copy2(path, digits / f"again {number}.png")
    before = {path.name: identify_file(path).sha256 for path in digits.iterdir()}
    index(trained_home, [digits], IndexRequest())
    plan = tmp_path / "plan.json"
    made = simile(trained_home, "--tier", "bytes", "--plan", plan)
    assert made.exit_code == 0 and len(read_plan(plan).removals) == 5
    assert apply(trained_home, plan, "--move-to", tmp_path / "gone")["applied"] == 5
    assert len(list(digits.iterdir())) == 120
    assert index(trained_home, [digits], IndexRequest(prune=True)).removed == 5
    simile(trained_home, "--tier", "bytes", "--plan", tmp_path / "after.json")
    assert len(read_plan(tmp_path / "after.json").removals) == 0
    assert simile(trained_home, "undo").exit_code == 0
    assert {path.name: identify_file(path).sha256 for path in digits.iterdir()} == before
    assert index(trained_home, [digits], IndexRequest()).copied == 5


def test_plans_are_read_as_they_were_written(tmp_path: Path) -> None:
    lines = (make_removal("/p/ä.png", "a" * 64, "/p/b.png", "b" * 64, "near"),)
    plan = CleanupPlan(lines, (Decision("a" * 64, "b" * 64, True, "b" * 64),), "2026-11-25", "/home")
    write_plan(tmp_path / "plan.json", plan)
    assert read_plan(tmp_path / "plan.json") == plan == parse_plan(plan_to_json(plan), "body")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"simile_plan": 2}, "version 2"),
        ({"simile_plan": True}, "version True"),
        ({"more": 1}, "'more'"),
        ({"removals": {}}, "removals is not a list"),
        ({"removals": [{}]}, r"removals\[0\]"),
        ({"decisions": [None]}, r"decisions\[0\] is not an object"),
        ({"home": 7}, "home is not a text"),
    ],
)
def test_an_invalid_plan_raises_an_error_that_names_the_field(changes: dict[str, Any], words: str) -> None:
    body = plan_to_json(CleanupPlan(())) | changes
    with pytest.raises(BadSetting, match=words):
        parse_plan(body, "plan.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("path", "a.png"), ("path", "/a/../b.png"), ("path", "//a/b.png"), ("path", "/a//b.png"), ("path", "/"),
        ("path", "/a\0"), ("path", "/\udc80"), ("keep_path", "/a/."), ("tier", "similar"), ("sha256", "A" * 64),
        ("keep_sha256", "a" * 63), ("reason", 1), ("group", None),
    ],
)  # fmt: skip
def test_an_invalid_line_is_named(field: str, value: object) -> None:
    good = plan_to_json(CleanupPlan((make_removal("/p/a.png", "a" * 64, "/p/b.png", "b" * 64, "near"),)))
    good["removals"].append({**good["removals"][0], field: value})
    with pytest.raises(BadSetting, match=r"removals\[1\]"):
        parse_plan(good, "plan.json")


def test_an_invalid_decision_is_named() -> None:
    good = Decision("a" * 64, "b" * 64, True, None)
    for bad in (replace(good, first_sha256="c" * 64), replace(good, keep_sha256="d" * 64), replace(good, same=1)):  # type: ignore[arg-type]
        with pytest.raises(BadSetting, match=r"decisions\[0\]"):
            parse_plan(plan_to_json(CleanupPlan((), (bad,))), "plan.json")


@pytest.mark.parametrize("rounds", [4, pytest.param(60, marks=(pytest.mark.long, pytest.mark.timeout(3600)))])
def test_kills_and_malicious_plans_lose_no_file(rounds: int) -> None:
    """Kills at random moments, also of undo, and thirty kinds of malicious plans."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.dedup.kills", "--rounds", str(rounds), "--quick", "--groups", "1"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=3000,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kinds of malicious plans" in done.stdout and "nothing lost" in done.stdout
