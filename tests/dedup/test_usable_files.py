"""A damaged, changed or missing file is a copy of nothing until it was read again; advice works when followed."""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from simile.core.settings import Settings
from simile.dedup.detection.job import DedupRequest, find_duplicates
from simile.dedup.grouping.findings import count_similar_pairs, find_similar_pairs, load_findings
from simile.indexer.maintenance.verify import verify_home
from simile.indexer.pipeline.job import IndexRequest, index
from simile.search.searcher import Searcher
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home
from tests.conftest import Copies, app_client
from tests.support.commands import run_json, run_simile
from tests.support.servers.postgresql import copy_home


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A JPEG that is not indexed, of more than 4,000 bytes."""
    return write_photo(tmp_path / "photo.jpg", 1)


@pytest.fixture
def folder(tmp_path: Path, photo: Path) -> Path:
    """A folder with a.jpg, and other.jpg, which is another image."""
    folder = tmp_path / "d"
    folder.mkdir()
    shutil.copy(photo, folder / "a.jpg")
    write_photo(folder / "other.jpg", 2)
    return folder


def write_photo(path: Path, seed: int) -> Path:
    noise = np.random.default_rng(seed).integers(0, 256, (16, 24, 3), np.uint8)
    Image.fromarray(noise).resize((96, 64), Image.Resampling.BICUBIC).save(path, quality=95)
    return path


def damage(path: Path, size: int = 2000, *, keep_time: bool = False) -> None:
    """Cut the file; with `keep_time`, overwrite its end instead and restore its time, as a failing disk does."""
    status, data = path.stat(), path.read_bytes()
    path.write_bytes(data[:size] + bytes(len(data) - size) if keep_time else data[:size])
    if keep_time:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def run_dedup(settings: Settings, tmp_path: Path, *options: object) -> tuple[dict[str, Any], list[str], list[str]]:
    """Return groups.json, the paths that the plan removes, and all paths in the CSV."""
    plan, pairs = tmp_path / "p.json", tmp_path / "pairs.csv"
    outputs = ("--plan", plan, "-o", pairs)
    body = run_json("dedup", "--home", settings.home, "--tier", "bytes", *outputs, *options)
    rows = list(csv.DictReader(pairs.read_text().splitlines()))
    removals = [removal["path"] for removal in json.loads(plan.read_text())["removals"]]
    return body, removals, [row[name] for row in rows for name in ("path_a", "path_b")]


def follow(settings: Settings, advice: str) -> None:
    """Run the first command of an advice in this home; a file that fails again is no error of the command."""
    command = shlex.split(advice.split("`")[1])
    assert command[0] == "simile"
    result = run_simile(*command[1:], "--home", settings.home)
    assert result.exit_code == 0, result.output


def list_problems(settings: Settings) -> list[str]:
    return [problem.description for problem in verify_home(settings, files=True)]


def test_a_file_that_failed_is_a_copy_of_nothing(
    trained_home: Settings, folder: Path, photo: Path, tmp_path: Path
) -> None:
    index(trained_home, [folder], IndexRequest())
    damage(folder / "a.jpg")
    shutil.copy(photo, folder / "b.jpg")
    summary = index(trained_home, [folder], IndexRequest())
    assert [failure.path for failure in summary.failures] == [str(folder / "a.jpg")]
    body, removals, listed = run_dedup(trained_home, tmp_path)
    assert (body["groups"], removals, listed) == ([], [], [])
    assert [left["path"] for left in body["left_out"]] == [str(folder / "a.jpg")]
    text = run_simile("dedup", "--home", trained_home.home, "--tier", "bytes").stdout
    assert f"{folder / 'a.jpg'}: {summary.failures[0].reason}" in text
    shutil.copy(photo, folder / "a.jpg")
    index(trained_home, [folder], IndexRequest())
    assert len(run_dedup(trained_home, tmp_path)[0]["groups"]) == 1


def test_the_advice_of_verify_for_a_file_that_failed_works(
    trained_home: Settings, folder: Path, photo: Path, tmp_path: Path
) -> None:
    index(trained_home, [folder], IndexRequest())
    damage(folder / "a.jpg")
    index(trained_home, [folder], IndexRequest())
    (problem,) = verify_home(trained_home, files=True)
    assert problem.description.startswith(f"{folder / 'a.jpg'} no longer holds image 1, and could not be indexed again")
    restore, _, remove = problem.next_step.partition(", or remove it and ")
    damaged = (folder / "a.jpg").read_bytes()
    shutil.copy(photo, folder / "a.jpg")
    follow(trained_home, restore)
    assert list_problems(trained_home) == []
    (folder / "a.jpg").write_bytes(damaged)
    index(trained_home, [folder], IndexRequest())
    (folder / "a.jpg").unlink()
    follow(trained_home, remove)
    assert list_problems(trained_home) == []


def test_damage_that_keeps_size_and_time_is_found_by_reading_again(
    trained_home: Settings, folder: Path, photo: Path, tmp_path: Path
) -> None:
    index(trained_home, [folder], IndexRequest())
    shutil.copy(photo, folder / "b.jpg")
    index(trained_home, [folder], IndexRequest())
    damage(folder / "a.jpg", 10, keep_time=True)
    summary = index(trained_home, [folder], IndexRequest())
    assert (summary.unchanged, summary.failures) == (3, [])
    (problem,) = verify_home(trained_home, files=True)
    assert problem.next_step == f"Run `simile index {folder / 'a.jpg'} --reread`."
    follow(trained_home, problem.next_step)
    assert run_dedup(trained_home, tmp_path)[1] == []
    (problem,) = verify_home(trained_home, files=True)
    assert "could not be indexed again" in problem.description
    # It is restored with its old time.
    status = (folder / "a.jpg").stat()
    shutil.copy(photo, folder / "a.jpg")
    os.utime(folder / "a.jpg", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert list_problems(trained_home) == [
        f"{folder / 'a.jpg'} of image 1 could not be read when it was indexed last, and is intact now."
    ]
    follow(trained_home, verify_home(trained_home, files=True)[0].next_step)
    assert list_problems(trained_home) == []
    assert len(run_dedup(trained_home, tmp_path)[0]["groups"]) == 1


def test_another_image_with_the_same_size_and_time_is_indexed_by_reading_again(
    trained_home: Settings, folder: Path
) -> None:
    index(trained_home, [folder], IndexRequest())
    a, other = folder / "a.jpg", folder / "other.jpg"
    size = max(a.stat().st_size, other.stat().st_size)
    for path in (a, other):
        path.write_bytes(path.read_bytes().ljust(size, b"\0"))
        os.utime(path, (10**9, 10**9))
    index(trained_home, [folder], IndexRequest())
    shutil.copy2(other, a)
    assert index(trained_home, [folder], IndexRequest()).unchanged == 2
    result = run_json("index", folder, "--reread", "--home", trained_home.home)
    assert (result["changed"], result["unchanged"]) == (1, 1)
    assert list_problems(trained_home) == []


def test_reading_again_excludes_a_dry_run(trained_home: Settings, folder: Path) -> None:
    arguments = ("index", folder, "--reread", "--dry-run", "--home", trained_home.home)
    with pytest.raises(Exception, match="opens no file"):
        run_simile(*arguments)


def test_the_advice_of_verify_for_a_member_of_an_archive_works(
    trained_home: Settings, folder: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "my scans.tar"

    def pack(end: bytes) -> None:
        (folder / "a.jpg").write_bytes((folder / "other.jpg").read_bytes() + end)
        with tarfile.open(archive, "w") as packed:
            packed.add(folder / "a.jpg", "a.jpg")
        os.utime(archive, (10**9, 10**9))

    pack(b"1")
    index(trained_home, [archive], IndexRequest())
    pack(b"2")
    (problem,) = verify_home(trained_home, files=True)
    follow(trained_home, problem.next_step)
    assert list_problems(trained_home) == []


def test_the_advice_of_verify_for_a_missing_file_works_when_its_folder_is_gone(
    trained_home: Settings, folder: Path, photo: Path
) -> None:
    (folder / "the past").mkdir()
    shutil.move(folder / "other.jpg", folder / "the past/other.jpg")
    index(trained_home, [folder], IndexRequest())
    shutil.rmtree(folder / "the past")
    (problem,) = verify_home(trained_home, files=True)
    assert problem.next_step == f"Put it back, or run `simile index {folder} --prune`."
    follow(trained_home, problem.next_step)
    assert list_problems(trained_home) == []


def test_the_advice_of_verify_for_a_damaged_upload_works(copies: Copies) -> None:
    data = write_photo(copies.photos / "new.jpg", 5).read_bytes()
    with app_client(copies.settings) as client:
        image_id = client.post("/v1/images", files={"file": ("x.jpg", data)}).json()["image_id"]
        (upload,) = (copies.settings.home / "uploads").iterdir()
        damage(upload, 10, keep_time=True)
        follow(copies.settings, verify_home(copies.settings, files=True)[0].next_step)
        (problem,) = verify_home(copies.settings, files=True)
        restore, _, delete = problem.next_step.partition(", or remove it and ")
        upload.write_bytes(data)
        follow(copies.settings, restore)
        assert list_problems(copies.settings) == []
        assert f"DELETE /v1/images/{image_id}" in delete
        assert client.delete(f"/v1/images/{image_id}").status_code == 204
    assert list_problems(copies.settings) == []


def test_many_changed_files_have_an_advice_that_names_no_single_one(trained_home: Settings, digits: Path) -> None:
    index(trained_home, [digits], IndexRequest())
    for path in digits.iterdir():
        path.write_bytes(b"x")
    assert "run the command again" in verify_home(trained_home, files=True)[-1].next_step


@pytest.mark.parametrize("change", ["cut", "touched", "removed", "replaced by a folder"])
def test_a_file_that_changed_since_it_was_indexed_is_a_copy_of_nothing(
    change: str, trained_home: Settings, folder: Path, photo: Path, tmp_path: Path
) -> None:
    shutil.copy(photo, folder / "b.jpg")
    index(trained_home, [folder], IndexRequest())
    assert len(run_dedup(trained_home, tmp_path)[1]) == 1
    file = folder / "a.jpg"
    if change == "cut":
        damage(file)
    elif change == "touched":
        os.utime(file, (10**9, 10**9))
    else:
        file.unlink()
        if change == "replaced by a folder":
            file.mkdir()
    body, removals, listed = run_dedup(trained_home, tmp_path)
    assert (body["groups"], removals, listed) == ([], [], [])
    assert [left["path"] for left in body["left_out"]] == [str(file)]


def test_an_archive_that_changed_holds_no_copies(trained_home: Settings, folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "scans.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.write(folder / "a.jpg", "a.jpg")
    index(trained_home, [folder, archive], IndexRequest())
    assert len(run_dedup(trained_home, tmp_path)[0]["groups"]) == 1
    os.utime(archive, (10**9, 10**9))
    assert run_dedup(trained_home, tmp_path)[0]["groups"] == []
    archive.unlink()
    assert run_dedup(trained_home, tmp_path)[0]["groups"] == []


def test_splits_and_labels_ignore_a_file_that_failed(
    trained_home: Settings, folder: Path, photo: Path, tmp_path: Path
) -> None:
    (folder / "train").mkdir()
    (folder / "test").mkdir()
    for name in ("train/a.jpg", "test/b.jpg"):
        shutil.copy(photo, folder / name)
    write_photo(folder / "train/c.jpg", 3)
    index(trained_home, [folder], IndexRequest())
    options = ("--between", "train", "test", "--labels", "folders", "--last")
    (folder / "a.jpg").unlink()
    body = run_dedup(trained_home, tmp_path, *options)[0]
    assert len(body["leaks"]["pairs"]) == 1
    damage(folder / "train/a.jpg", 10, keep_time=True)
    index(trained_home, [folder], IndexRequest(reread=True))
    body = run_dedup(trained_home, tmp_path, *options)[0]
    assert (body["leaks"]["pairs"], body["conflicts"], body["groups"]) == ([], [], [])


def test_pairs_of_all_tiers_leave_out_images_without_a_usable_file(copies: Copies) -> None:
    with Catalogue(Home(copies.settings.home)) as catalogue:
        before = load_findings(catalogue)
        assert count_similar_pairs(catalogue, before) == 1
        damage(copies.photos / "camera/08.png", 40, keep_time=True)
        damage(copies.photos / "camera/20.png", 40, keep_time=True)
        index(copies.settings, [copies.photos], IndexRequest(reread=True))
        after = load_findings(catalogue)
        lost = {copies.ids["camera/08.png"], copies.ids["camera/20.png"]}
        assert {pair for pair in before.pairs if not {pair.first, pair.second} & lost} == set(after.pairs)
        assert {pair.tier for pair in set(before.pairs) - set(after.pairs)} == {"near", "pixels"}
        assert count_similar_pairs(catalogue, after) == 0
        assert list(find_similar_pairs(catalogue, after)) == []


def test_the_page_and_the_api_leave_out_a_file_that_failed(copies: Copies) -> None:
    with app_client(copies.settings) as client:
        assert count_groups(client, "bytes") == 2
        damage(copies.photos / "camera/30.png", 40, keep_time=True)
        index(copies.settings, [copies.photos], IndexRequest(reread=True))
        assert count_groups(client, "bytes") == 1
        assert "1 file is left out" in client.get("/v1/duplicates").json()["hint"]
        assert "1 file is left out" in client.get("/duplicates").text
        plan = client.get("/v1/duplicates/plan?all=true").json()
        assert not [line for line in plan["removals"] if "30" in line["path"] + line["keep_path"]]


def count_groups(client: TestClient, tier: str) -> int:
    total = client.get("/v1/duplicates", params={"tier": tier}).json()["total"]
    assert isinstance(total, int)
    return total


def test_the_report_leaves_out_a_file_that_failed(copies: Copies, tmp_path: Path) -> None:
    damage(copies.photos / "camera/30.png", 40, keep_time=True)
    index(copies.settings, [copies.photos], IndexRequest(reread=True))
    run_simile("dedup", "--last", "--home", copies.settings.home, "-o", tmp_path / "report.html")
    report = (tmp_path / "report.html").read_text()
    assert "camera/31.png" in report and "camera/30.png" not in report


def test_a_run_uses_the_files_that_are_still_as_they_were(
    trained_home: Settings, folder: Path, photo: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(photo, folder / "b.jpg")
    Image.open(photo).save(folder / "c.png")
    index(trained_home, [folder], IndexRequest())
    damage(folder / "a.jpg")
    find_duplicates(trained_home, DedupRequest(threshold=0.0))
    with Catalogue(Home(trained_home.home)) as catalogue:
        (pair,) = (pair for pair in load_findings(catalogue).pairs if pair.tier == "pixels")
        files = load_findings(catalogue).files
        names = {Path(file.path).name for image_id in (pair.first, pair.second) for file in files[image_id]}
    assert names == {"b.jpg", "c.png"}
    assert "1 files are missing or have changed" in caplog.text


def test_a_run_that_finds_a_damaged_file_leaves_it_out(trained_home: Settings, folder: Path, photo: Path) -> None:
    shutil.copy(photo, folder / "b.jpg")
    Image.open(photo).save(folder / "c.png")
    index(trained_home, [folder], IndexRequest())
    damage(folder / "a.jpg", 10, keep_time=True)
    find_duplicates(trained_home, DedupRequest(threshold=0.0))
    with Catalogue(Home(trained_home.home)) as catalogue:
        findings = load_findings(catalogue)
    assert [failure.path for failure in findings.left_out] == [str(folder / "a.jpg")]
    assert index(trained_home, [folder], IndexRequest()).failures[0].path == str(folder / "a.jpg")


def test_a_damaged_file_of_the_home_is_no_reason_to_remove_another_one(
    trained_home: Settings, folder: Path, photo: Path, tmp_path: Path
) -> None:
    index(trained_home, [folder], IndexRequest())
    damage(folder / "a.jpg", 10, keep_time=True)
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    shutil.copy(photo, incoming / "photo.jpg")
    plan = tmp_path / "p.json"
    body = run_json("dedup", "--home", trained_home.home, "--against", incoming, "--plan", plan)
    assert (body["found"], body["not_found"]) == (0, 1)
    assert json.loads(plan.read_text())["removals"] == []
    with app_client(trained_home) as client:
        files = {"file": ("photo.jpg", photo.read_bytes())}
        response = client.post("/v1/images?if_duplicate=reject", files=files)
    assert response.status_code == 200
    assert [path.startswith(str(trained_home.home)) for path in response.json()["paths"]] == [False, True]


def test_the_match_of_a_lookup_is_an_intact_file(
    trained_home: Settings, folder: Path, photo: Path, tmp_path: Path
) -> None:
    shutil.copy(photo, folder / "b.jpg")
    index(trained_home, [folder], IndexRequest())
    damage(folder / "a.jpg", 10, keep_time=True)
    body = run_json("dedup", "--home", trained_home.home, "--against", photo)
    assert body["files"][0]["matches"][0]["path"] == str(folder / "b.jpg")


@pytest.mark.sqlite
def test_another_home_is_compared_by_what_its_files_hold(trained_home: Settings, folder: Path, tmp_path: Path) -> None:
    index(trained_home, [folder], IndexRequest())
    other = trained_home.model_copy(update={"home": copy_home(trained_home.home, tmp_path / "other")})
    damage(folder / "a.jpg")
    index(other, [folder], IndexRequest())
    body = run_json("dedup", "--home", trained_home.home, "--against", other.home)
    assert [failure["path"] for failure in body["failures"]] == [str(folder / "a.jpg")]


def test_apply_says_of_a_damaged_file_what_is_true(
    trained_home: Settings, folder: Path, photo: Path, tmp_path: Path
) -> None:
    shutil.copy(photo, folder / "b.jpg")
    index(trained_home, [folder], IndexRequest())
    damage(folder / "a.jpg", 10, keep_time=True)
    assert run_dedup(trained_home, tmp_path)[1] == [str(folder / "b.jpg")]  # nobody can know without reading
    result = run_simile("dedup", "apply", tmp_path / "p.json", "--home", trained_home.home, "--trash")
    assert result.exit_code == 1
    assert "changed or damaged after simile read it" in result.output
    assert "since the plan was made" not in result.output
    assert (folder / "b.jpg").exists()


@pytest.mark.sqlite
def test_a_restored_backup_keeps_the_copies_among_its_uploads(copies: Copies, tmp_path: Path) -> None:
    home = copies.settings.home
    with app_client(copies.settings) as client:
        client.post("/v1/images", files={"file": ("x.png", (copies.photos / "camera/00.png").read_bytes())})
    assert run_simile("backup", tmp_path / "b.tar", "--home", home).exit_code == 0
    assert run_simile("restore", tmp_path / "b.tar", "--home", tmp_path / "new").exit_code == 0
    with Searcher(copies.settings.model_copy(update={"home": tmp_path / "new"})) as searcher:
        findings = load_findings(searcher.catalogue)
    assert len(findings.files[copies.ids["camera/00.png"]]) == 2
    assert findings.left_out == ()
