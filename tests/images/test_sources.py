"""What may be named as a source: archives, lists, patterns, manifests; and what hostile ones cannot do."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from starlette.testclient import TestClient

from simile.core.errors import BadSetting, ImageTooLarge, NoSuchPath, UnreadableImage
from simile.core.records import IndexSummary
from simile.core.settings import Settings
from simile.images.encoding import encode_png
from simile.images.formats import Limits
from simile.images.loading.loader import read_arrays
from simile.images.sources.folders import WalkResult
from simile.images.sources.manifests import read_manifest
from simile.images.sources.paths import PathPatterns
from simile.images.sources.reader import read_bytes
from simile.images.sources.sources import get_reading_order, read_path_list, walk_sources
from simile.images.transforms import Preprocessing
from simile.indexer.embed import embed
from simile.indexer.maintenance.verify import verify_home
from simile.indexer.pipeline.job import IndexRequest, index
from simile.indexer.pipeline.plan import SPOOL_BLOCK_SIZE, Spool
from simile.search.encoder_registry import find_encoder
from simile.search.searcher import Searcher
from simile.service.app import create_app
from simile.store.home import Home
from tests.support.commands import run_json, run_simile

SIMILE = str(Path(sys.executable).with_name("simile"))


def image(seed: int) -> bytes:
    return encode_png(np.random.default_rng(seed).integers(0, 256, (20, 30, 3)).astype(np.uint8))


def go(settings: Settings, *sources: Path | str, **request: object) -> IndexSummary:
    return index(settings, list(sources), IndexRequest(**request))  # type: ignore[arg-type]


def names(found: WalkResult, below: Path) -> list[str]:
    return [os.path.relpath(file.path, below) for file in found.files]


def reasons(found: WalkResult | IndexSummary) -> dict[str, str]:
    return {Path(failure.path).name: failure.reason for failure in found.failures}


def tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as packed:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    return path


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as packed:
        for name, data in members.items():
            packed.writestr(name, data)
    return path


Packer = Callable[[Path, dict[str, bytes]], Path]
PACKERS: dict[str, Packer] = {
    "photos.tar": tar,
    "photos.tar.gz": lambda path, members: tar(path, members, "w:gz"),
    "photos.tgz": lambda path, members: tar(path, members, "w:gz"),
    "photos.tar.bz2": lambda path, members: tar(path, members, "w:bz2"),
    "photos.tar.xz": lambda path, members: tar(path, members, "w:xz"),
    "photos.zip": zipped,
    "stored.zip": lambda path, members: zipped(path, members, zipfile.ZIP_STORED),
}
MEMBERS = {
    "b/two.png": image(2),
    "a/one.png": image(1),
    "./three.JPG": image(3),
    "IMG_4": image(4),
    "notes.txt": b"some words",
    ".hidden.png": image(5),
    "__MACOSX/._one.png": b"a resource fork",
}


# Archives


@pytest.mark.parametrize("name", PACKERS)
def test_an_archive_stands_for_the_images_in_it(name: str, tmp_path: Path) -> None:
    archive = PACKERS[name](tmp_path / name, MEMBERS)
    found = walk_sources([archive])
    assert names(found, archive) == ["IMG_4", "a/one.png", "b/two.png", "three.JPG"]
    assert (found.failures, found.ignored_count) == ([], 1)
    facts = found.files[1]
    assert (facts.size, facts.mtime_ns) == (len(image(1)), archive.stat().st_mtime_ns)
    for file in found.files:
        assert read_bytes(Path(file.path), Limits()) in MEMBERS.values()


@pytest.mark.parametrize("name", ["photos.tar", "photos.tar.xz", "photos.zip"])
def test_images_in_an_archive_are_the_same_as_in_a_folder(name: str, trained_home: Settings, digits: Path) -> None:
    files = sorted(digits.iterdir())
    random.Random(3).shuffle(files)
    archive = PACKERS[name](digits.with_name(name), {f"deep/{path.name}": path.read_bytes() for path in files})
    encoder = find_encoder(Home(trained_home.home), _fingerprint(trained_home), "cpu")
    folder, packed = embed(trained_home, [digits], encoder), embed(trained_home, [archive], encoder)
    assert packed.paths == sorted(packed.paths)
    assert [Path(path).name for path in packed.paths] == [Path(path).name for path in folder.paths]
    assert np.abs(folder.mu - packed.mu).max() < 1e-5
    summary = go(trained_home, archive)
    assert (summary.new, summary.embedded, summary.failures) == (120, 120, [])
    again = go(trained_home, archive)
    assert (again.unchanged, again.embedded) == (120, 0)
    both = go(trained_home, digits, archive)
    assert (both.new, both.copied, both.unchanged, both.embedded) == (120, 120, 120, 0)
    assert verify_home(trained_home) == []


def _fingerprint(settings: Settings) -> str:
    return next((settings.home / "encoders").glob("[0-9a-f]*")).name


def test_an_image_in_an_archive_is_found_shown_and_searched_by(trained_home: Settings, tmp_path: Path) -> None:
    archive = zipped(tmp_path / "photos.zip", {f"{n}.png": image(n) for n in range(20)})
    go(trained_home, archive)
    with Searcher(trained_home) as searcher:
        (hit,) = searcher.by_file(archive / "7.png", name="7.png", limit=1).hits
        assert (hit.path, hit.distance) == (str(archive / "7.png"), pytest.approx(0, abs=1e-3))
        assert searcher.get_pixels(hit.image_id).shape == (20, 30, 3)
        assert searcher.get_thumbnail(hit.image_id)[0]
    result = run_json("search", archive / "7.png", "--home", trained_home.home, "-k", 1)
    assert result["hits"][0]["path"] == str(archive / "7.png")
    with pytest.raises(NoSuchPath):
        run_json("search", archive / "absent.png", "--home", trained_home.home)


def test_the_service_hands_out_an_image_from_an_archive(trained_home: Settings, tmp_path: Path) -> None:
    archive = tar(tmp_path / "photos.tar.gz", {"a.png": image(1)}, "w:gz")
    go(trained_home, archive)
    with TestClient(create_app(trained_home), base_url="http://localhost") as client:
        answer = client.get("/v1/images/1/file")
        assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, image(1), "image/png")
        assert client.get("/v1/images/1/thumbnail").status_code == 200
        archive.unlink()
        assert client.get("/v1/images/1/file").status_code == 404


def test_what_vanishes_from_an_archive_is_missing_then_pruned(trained_home: Settings, tmp_path: Path) -> None:
    members = {f"{n}.png": image(n) for n in range(6)}
    archive = zipped(tmp_path / "photos.zip", members)
    go(trained_home, archive)
    del members["3.png"]
    members["moved.png"] = members.pop("4.png")
    members["5.png"] = image(55)
    zipped(archive, members)
    os.utime(archive, (1, 1))
    planned = go(trained_home, archive, dry_run=True)
    assert (planned.missing, planned.new, planned.changed) == (2, 1, 4)
    summary = go(trained_home, archive)
    assert (summary.missing, summary.moved, summary.changed, summary.unchanged) == (1, 1, 1, 3)
    assert go(trained_home, archive, prune=True).removed == 1


def test_the_folder_around_an_archive_does_not_take_its_images_for_gone(trained_home: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.png").write_bytes(image(1))
    archive = tar(folder / "photos.tar", {"b.png": image(2)})
    go(trained_home, archive)
    summary = go(trained_home, folder, prune=True)
    assert (summary.new, summary.removed, summary.ignored) == (1, 0, 1)
    archive.unlink()
    assert go(trained_home, folder, prune=True).removed == 1


def test_what_a_damaged_archive_held_is_not_taken_for_gone(trained_home: Settings, tmp_path: Path) -> None:
    archive = zipped(tmp_path / "photos.zip", {f"{n}.png": image(n) for n in range(3)})
    (tmp_path / "a.png").write_bytes(image(9))
    go(trained_home, archive)
    archive.write_bytes(archive.read_bytes()[:500])  # a download that was broken off
    summary = go(trained_home, archive, tmp_path / "a.png", prune=True)
    assert (summary.missing, summary.removed, len(summary.failures)) == (0, 0, 1)
    zipped(archive, {"1.png": image(1)})
    assert go(trained_home, archive, prune=True).removed == 2


def test_an_archive_and_a_manifest_may_be_named_with_the_folder_around_them(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "photos.zip", {"b.png": image(1)})
    (tmp_path / "a.png").write_bytes(image(2))
    (tmp_path / "list.csv").write_text("path\na.png\n")
    found = walk_sources([tmp_path, archive, tmp_path / "list.csv"])
    assert (names(found, tmp_path), found.failures) == (["a.png", "photos.zip/b.png"], [])


def test_training_reads_archives_too(tmp_path: Path, digits: Path) -> None:
    archive = tar(tmp_path / "d.tar.gz", {path.name: path.read_bytes() for path in digits.iterdir()}, "w:gz")
    done = run_json("train", archive, "--home", tmp_path / "home", "--epochs", 1, "--device", "cpu")
    encoder = Path(done["folder"]) / "encoder.json"
    assert json.loads(encoder.read_text())["data"]["pictures"] == 120


def test_members_are_read_in_the_order_of_their_bytes(tmp_path: Path) -> None:
    archive = tar(tmp_path / "photos.tar.gz", {f"{n}.png": image(n) for n in (3, 1, 2)}, "w:gz")
    (tmp_path / "alone.png").write_bytes(image(9))
    files = walk_sources([tmp_path / "alone.png", archive]).files
    order = [Path(files[place].path).stem for place in get_reading_order(files)]
    assert order == ["alone", "3", "1", "2"]
    read = read_arrays([file.path for file in files], Preprocessing(image_size=32, channels=3), Limits(), 1)
    assert (len(read.images), read.paths, read.failures) == (4, [file.path for file in files], [])
    assert read.digests == [hashlib.sha256(image(n)).hexdigest() for n in (9, 1, 2, 3)]


def test_names_that_lead_out_and_links_are_set_aside(tmp_path: Path) -> None:
    archive = tmp_path / "hostile.tar"
    with tarfile.open(archive, "w") as packed:
        for name in ("/etc/passwd.png", "../up.png", "a/../../up2.png", "C:\\windows.png", "good.png"):
            info = tarfile.TarInfo(name)
            info.size = len(image(1))
            packed.addfile(info, io.BytesIO(image(1)))
        for name, kind in (
            ("soft.png", tarfile.SYMTYPE),
            ("hard.png", tarfile.LNKTYPE),
            ("fifo.png", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            packed.addfile(info)
    found = walk_sources([archive])
    assert names(found, archive) == ["good.png"]
    expected = dict.fromkeys(("passwd.png", "up.png", "up2.png"), "its name leads out of the archive")
    expected |= {"C:\\windows.png": "its name leads out of the archive", "fifo.png": "not a regular file"}
    assert reasons(found) == expected | dict.fromkeys(("soft.png", "hard.png"), "a link in an archive is not followed")


def test_a_zip_that_links_or_is_encrypted_or_packed_strangely_is_set_aside(tmp_path: Path) -> None:
    archive = tmp_path / "hostile.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        packed.writestr(link, "/etc/passwd")
        packed.writestr("strange.png", image(1), zipfile.ZIP_LZMA)
        packed.writestr("locked.png", image(2))
        packed.writestr("../out.png", image(3))
        packed.writestr("good.png", image(4))
    data = bytearray(archive.read_bytes())
    entry = data.rfind(b"PK\1\2", 0, data.rfind(b"locked.png"))  # its own in the central directory
    data[entry + 8] |= 1
    archive.write_bytes(data)
    found = walk_sources([archive])
    assert names(found, archive) == ["good.png"]
    assert {name: reason.split(";")[0] for name, reason in reasons(found).items()} == {
        "link.png": "a link in an archive is not followed",
        "strange.png": "its compression is not supported",
        "locked.png": "it is encrypted",
        "out.png": "its name leads out of the archive",
    }


def test_a_bomb_is_not_inflated(tmp_path: Path) -> None:
    limits = Limits(max_bytes=1_000_000)
    honest = zipped(tmp_path / "honest.zip", {"bomb.png": bytes(5_000_000)})
    with pytest.raises(ImageTooLarge, match="SIMILE_MAX_BYTES"):
        read_bytes(honest / "bomb.png", limits)
    liar = tmp_path / "liar.zip"
    data = honest.read_bytes()
    size, lie = (5_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little")
    liar.write_bytes(data.replace(size, lie))
    with pytest.raises(UnreadableImage, match="its bytes do not match its size or checksum"):
        read_bytes(liar / "bomb.png", limits)
    packed = tar(tmp_path / "bomb.tar.gz", {"bomb.png": bytes(5_000_000)}, "w:gz")
    with pytest.raises(ImageTooLarge, match="SIMILE_MAX_BYTES"):
        read_bytes(packed / "bomb.png", limits)


def test_a_tar_that_inflates_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simile.images.sources.archives.MAX_INFLATED_BYTES", 1_000_000)
    archive = tar(tmp_path / "bomb.tar.gz", {"a.png": image(1), "b.png": bytes(9_000_000), "c.png": b""}, "w:gz")
    found = walk_sources([archive])
    assert names(found, archive) == ["a.png", "b.png"]
    assert "inflates to more than 200 times its size" in reasons(found)["bomb.tar.gz"]
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 8**11 - 1
    (tmp_path / "header.tar").write_bytes(header.tobuf(tarfile.USTAR_FORMAT) + bytes(1024))
    assert "cut off or damaged" in reasons(walk_sources([tmp_path / "header.tar"]))["header.tar"]


def test_members_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    archive = tmp_path / "overlap.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("a.png", image(1))
        packed.writestr("b.png", image(1))
        packed.filelist[1].header_offset = packed.filelist[0].header_offset
    assert "its members overlap" in reasons(walk_sources([archive]))["overlap.zip"]


@pytest.mark.parametrize("name", PACKERS)
def test_a_damaged_archive_gives_failures_and_never_an_error(name: str, tmp_path: Path) -> None:
    """Cut at many places and with bytes flipped; what is still whole is taken."""
    whole = PACKERS[name](tmp_path / name, {f"{n}.png": image(n) for n in range(5)}).read_bytes()
    good = {zlib.crc32(image(n)) for n in range(5)}
    chance = random.Random(1)
    versions = [whole[: len(whole) * part // 12] for part in range(12)]
    for _ in range(25):
        flipped = bytearray(whole)
        flipped[chance.randrange(len(flipped))] ^= chance.randrange(1, 256)
        versions.append(bytes(flipped))
    taken = 0
    for number, data in enumerate(versions):
        archive = tmp_path / f"{number}-{name}"
        archive.write_bytes(data)
        found = walk_sources([archive])
        for file in found.files:
            try:
                taken += zlib.crc32(read_bytes(Path(file.path), Limits())) in good
            except UnreadableImage:
                continue
        assert found.files or found.failures
    assert taken > 4  # bzip2 loses a whole block of 900 kB, others what lies behind the damage


def test_an_empty_archive_and_one_that_is_none_are_said_to_be_so(trained_home: Settings, tmp_path: Path) -> None:
    (tmp_path / "words.zip").write_text("no archive at all")
    with pytest.raises(BadSetting, match=r"holds no images that can be read .*words\.zip: the archive is cut off"):
        go(trained_home, tmp_path / "words.zip")
    (tmp_path / "new.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd rest")
    assert "zstd" in reasons(walk_sources([tmp_path / "new.tar.zst"]))["new.tar.zst"]
    with pytest.raises(BadSetting, match="holds no images"):
        go(trained_home, tar(tmp_path / "empty.tar", {}))


# What is to be done


def test_a_spool_gives_back_what_it_took_however_long(tmp_path: Path) -> None:
    for count in (0, 3, SPOOL_BLOCK_SIZE, 2 * SPOOL_BLOCK_SIZE + 7):
        spool = Spool((number, "x") for number in range(count))
        assert len(spool) == count and bool(spool) == (count > 0)
        for _ in range(2):
            assert [number for number, _ in spool] == list(range(count))


# Lists on stdin


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\0"])
def test_a_list_is_read_line_by_line_or_by_nul_bytes(end: bytes, tmp_path: Path) -> None:
    listed = ["/a/b c.png", "/d/кот.png", *(f"/many/{n}.png" for n in range(20_000))]
    data = end.join(os.fsencode(path) for path in listed)
    assert list(read_path_list(io.BytesIO(data))) == listed
    assert list(read_path_list(io.BytesIO(data + end))) == listed
    assert list(read_path_list(io.BytesIO(b""))) == []


def test_names_with_line_breaks_come_through_nul_bytes() -> None:
    assert list(read_path_list(io.BytesIO(b"/a\nb.png\0/c.png\0"))) == ["/a\nb.png", "/c.png"]


def test_a_list_on_stdin_names_files_folders_and_archives(trained_home: Settings, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.png").write_bytes(image(1))
    (tmp_path / "alone").write_bytes(image(2))
    zipped(tmp_path / "p.zip", {"b.png": image(3)})
    listed = "folder\nalone\np.zip\nabsent.png\n"
    done = subprocess.run(
        [SIMILE, "index", "-", "--home", trained_home.home, "--json"],
        input=listed, capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    summary = json.loads(done.stdout)
    assert summary["new"] == 3
    assert summary["failures"] == [{"path": str(tmp_path / "absent.png"), "reason": "there is no such file"}]


def test_a_listed_file_that_has_vanished_is_missing_then_pruned(trained_home: Settings, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(image(number))
    listed = "\n".join(str(tmp_path / f"{number}.png") for number in range(3)).encode()
    arguments = ("index", "-", "--home", trained_home.home)
    assert run_json(*arguments, stdin=listed)["new"] == 3
    (tmp_path / "1.png").unlink()
    assert run_json(*arguments, stdin=listed)["missing"] == 1
    assert run_json(*arguments, "--prune", stdin=listed)["removed"] == 1
    for number in (0, 2):
        (tmp_path / f"{number}.png").unlink()
    with pytest.raises(BadSetting, match="None of the listed files exists, but 2 of them are known"):
        run_json(*arguments, "--prune", stdin=listed)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadSetting, match="the list on stdin holds no images"):
        run_json(*arguments, stdin=bytes(tmp_path / "empty"))


@pytest.mark.parametrize("stdin", [b"", b"\n\n", b"\0"])
@pytest.mark.parametrize("more", [[], ["--prune"], ["--dry-run"]])
def test_a_list_with_nothing_in_it_is_indexed_and_said(trained_home: Settings, stdin: bytes, more: list[str]) -> None:
    """`find` may find nothing; scripts that end at the first error go on."""
    done = run_simile("index", "-", "--home", trained_home.home, *more, stdin=stdin)
    assert (done.exit_code, "nothing to index: no file was named" in done.stdout) == (0, True)


# Patterns


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a.png", "b.jpg", "2024/c.png", "2024/june/d.png", "2024/june/raw/e.png", "thumbs/f.png", "g[1].png"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image(len(name)))
    return tmp_path / "tree"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.png", ["a.png", "g[1].png"]),
        ("**/*.png", ["2024/c.png", "2024/june/d.png", "2024/june/raw/e.png", "a.png", "g[1].png", "thumbs/f.png"]),
        ("2024/*/d.???", ["2024/june/d.png"]),
        ("[ab].*", ["a.png", "b.jpg"]),
        ("*/june", ["2024/june/d.png", "2024/june/raw/e.png"]),
        ("g[1].png", ["g[1].png"]),  # a file that has this very name
    ],
)
def test_a_pattern_means_the_files_that_match_it(
    pattern: str, expected: list[str], tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert names(walk_sources([tree / pattern]), tree) == expected
    monkeypatch.chdir(tree)
    assert names(walk_sources([Path(pattern)]), tree) == expected


def test_a_pattern_that_leads_nowhere_is_an_error(tree: Path) -> None:
    with pytest.raises(NoSuchPath):
        walk_sources([tree / "nowhere" / "*.png"])


def test_files_that_a_pattern_meant_and_that_are_gone_are_missing(trained_home: Settings, tree: Path) -> None:
    pattern = str(tree / "**" / "*.png")
    assert go(trained_home, tree).new == 7
    (tree / "2024" / "c.png").unlink()
    (tree / "b.jpg").unlink()
    assert go(trained_home, pattern).missing == 1
    assert go(trained_home, pattern, prune=True).removed == 1
    assert go(trained_home, tree).missing == 1


def test_a_pattern_whose_files_are_all_gone_says_so(trained_home: Settings, tree: Path) -> None:
    pattern = str(tree / "*.jpg")
    go(trained_home, pattern)
    (tree / "b.jpg").unlink()
    assert go(trained_home, pattern).missing == 1
    with pytest.raises(BadSetting, match="None of the listed files exists"):
        go(trained_home, pattern, prune=True)


@pytest.mark.parametrize("pattern", ["*.png", "./../odd [x]/*.png", "../*/a.png", "../odd*/../odd [x]/a.png"])
def test_a_relative_pattern_starts_from_a_folder_of_any_name(
    pattern: str, trained_home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder := tmp_path / "odd [x]").mkdir()
    monkeypatch.chdir(folder)
    (folder / "a.png").write_bytes(image(1))
    (folder / "b.jpg").write_bytes(image(2))
    assert go(trained_home, folder).new == 2
    (folder / "a.png").unlink()
    (folder / "b.jpg").unlink()
    assert go(trained_home, pattern).missing == 1


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (["*.jpg"], [], ["b.jpg"]),
        ([], ["thumbs"], ["2024/c.png", "2024/june/d.png", "2024/june/raw/e.png", "a.png", "b.jpg", "g[1].png"]),
        ([], ["thumbs/", "june/raw", "2024/june/*.png"], ["2024/c.png", "2024/june/raw/e.png", "a.png",
          "b.jpg", "g[1].png"]),
        (["2024/**/*.png"], [], ["2024/c.png", "2024/june/d.png", "2024/june/raw/e.png"]),
        (["june"], ["raw"], ["2024/june/d.png"]),
        (["/*.png"], ["[!b].png"], ["g[1].png"]),
        (["june/"], [], ["2024/june/d.png", "2024/june/raw/e.png"]),
        (["[z-a].png"], [], []),
        (["2024[!x]c.png"], [], []),
        (["2024/[!z-a].png"], [], ["2024/c.png"]),
        (["a.png/"], [], []),
    ],
)  # fmt: skip
def test_include_and_exclude_are_patterns_as_in_gitignore(
    include: list[str], exclude: list[str], expected: list[str], tree: Path
) -> None:
    assert names(walk_sources([tree], patterns=PathPatterns(tuple(include), tuple(exclude))), tree) == expected


def test_patterns_hold_in_archives_and_for_listed_files(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = zipped(tree / "p.zip", {"raw/x.png": image(1), "y.png": image(2)})
    monkeypatch.chdir(tree)
    patterns = PathPatterns(exclude=("raw", "a.png"))
    found = walk_sources([archive, tree / "a.png", tree / "b.jpg"], patterns=patterns)
    assert names(found, tree) == ["p.zip/y.png", "b.jpg"]


def test_what_is_excluded_later_stays_known(trained_home: Settings, tree: Path) -> None:
    go(trained_home, tree)
    summary = go(trained_home, tree, prune=True, patterns=PathPatterns(exclude=("2024",)))
    assert (summary.unchanged, summary.removed) == (4, 0)
    result = run_json("index", tree, "--exclude", "2024", "--exclude", "thumbs", "--home", trained_home.home)
    assert result["unchanged"] == 3


# Manifests


def metadata(settings: Settings, *paths: Path) -> dict[str, dict[str, str]]:
    with Searcher(settings) as searcher:
        found = searcher.catalogue.metadata.get_for_files(map(str, paths))
    return {Path(path).name: metadata for path, metadata in found.items()}


def write_parquet(path: Path, **columns: list[object]) -> Path:
    pyarrow.parquet.write_table(pa.table(columns), path)
    return path


def test_a_manifest_names_files_and_what_is_said_of_them(trained_home: Settings, tree: Path) -> None:
    manifest = tree / "list.csv"
    manifest.write_text("path;class;price\na.png;shirt;9.50\n2024/c.png;hat;\nabsent.png;shoe;3\n")
    summary = go(trained_home, manifest)
    assert (summary.new, reasons(summary)) == (2, {"absent.png": "there is no such file"})
    paths = (tree / "a.png", tree / "2024" / "c.png")
    assert metadata(trained_home, *paths) == {"a.png": {"class": "shirt", "price": "9.50"}, "c.png": {"class": "hat"}}


@pytest.mark.parametrize("name", ["list.csv", "list.parquet"])
def test_a_nul_byte_in_a_manifest_costs_its_line(name: str, tree: Path) -> None:
    if name.endswith(".csv"):
        (tree / name).write_bytes(b"path\nx\0y.png\na.png\n")
    else:
        write_parquet(tree / name, file=["x\0y.png", "a.png"])
    found = walk_sources([tree / name])
    assert names(found, tree) == ["a.png"]
    (failure,) = found.failures
    assert (Path(failure.path).name, failure.reason) == (r"x\0y.png", "a file name can't contain a NUL byte")


def test_what_a_manifest_says_is_brought_up_to_date_without_embedding(trained_home: Settings, tree: Path) -> None:
    manifest = tree / "list.csv"
    manifest.write_text("path,class,price\na.png,shirt,1\nb.jpg,hat,2\n")
    go(trained_home, manifest)
    manifest.write_text("path,class\na.png,trousers\nb.jpg,hat\n")
    summary = go(trained_home, manifest)
    assert (summary.unchanged, summary.embedded) == (2, 0)
    paths = (tree / "a.png", tree / "b.jpg")
    assert metadata(trained_home, *paths) == {"a.png": {"class": "trousers"}, "b.jpg": {"class": "hat"}}
    with Searcher(trained_home) as searcher:
        before = searcher.catalogue.count_changes()
    go(trained_home, manifest)
    with Searcher(trained_home) as searcher:
        assert searcher.catalogue.count_changes() == before


def test_what_is_said_of_a_file_stays_when_the_file_changes_or_moves(trained_home: Settings, tree: Path) -> None:
    manifest = tree / "list.csv"
    manifest.write_text("path,class\na.png,shirt\nb.jpg,hat\n")
    go(trained_home, manifest)
    (tree / "a.png").write_bytes(image(100))
    (tree / "b.jpg").rename(tree / "z.jpg")
    summary = go(trained_home, tree)
    assert (summary.changed, summary.moved) == (1, 1)
    expected = {"a.png": {"class": "shirt"}, "z.jpg": {"class": "hat"}}
    assert metadata(trained_home, tree / "a.png", tree / "z.jpg") == expected
    assert verify_home(trained_home) == []


def test_a_parquet_manifest_says_the_same(trained_home: Settings, tree: Path) -> None:
    manifest = write_parquet(
        tree / "list.parquet",
        image_path=["a.png", str(tree / "b.jpg")],
        price=[9.5, None],
        count=[3.0, float("nan")],
        on_sale=[True, False],
        words=[["red", "new"], []],
    )
    assert go(trained_home, manifest).new == 2
    assert metadata(trained_home, tree / "a.png", tree / "b.jpg") == {
        "a.png": {"price": "9.5", "count": "3", "on_sale": "true", "words": "red, new"},
        "b.jpg": {"on_sale": "false"},
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("name,class\na,b\n", "has no column `path`, only name, class"),
        ('path,"class\na.png,b\n', "line 1: a quote is not closed"),
    ],
)
def test_a_manifest_without_a_header_with_paths_is_an_error(
    text: str, words: str, trained_home: Settings, tmp_path: Path
) -> None:
    manifest = tmp_path / "list.csv"
    manifest.write_text(text)
    with pytest.raises(BadSetting, match=words):
        go(trained_home, manifest)
    (tmp_path / "bad.parquet").write_text("no table")
    with pytest.raises(BadSetting, match="can't be read as Parquet"):
        go(trained_home, tmp_path / "bad.parquet")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (",b", "column path is empty"),
        ("a.png,b,c", "3 columns, and the first line has 2; a cell with the separator in it needs quotes"),
        ("a.png", "1 column, and the first line has 2; a cell with the separator in it needs quotes"),
        ('a.png,"b', "a quote is not closed"),
        ('"a.png,b', "a quote is not closed"),
        ('"a.png" b,c', "text follows a closing quote"),
        ("a.png," + "b" * 131_073, "a cell has more than 131,072 characters"),
        ("a.png,\udce9t\udce9", "not UTF-8 text; save the file as CSV in UTF-8"),
    ],
)
@pytest.mark.parametrize("rest", [2, 2_000])
def test_a_row_that_makes_no_sense_costs_itself(line: str, reason: str, rest: int, tree: Path) -> None:
    manifest = tree / "list.csv"
    below = "".join(f"absent{number}.png,x\n" for number in range(rest)) + "b.jpg,hat\n"
    text = f"path,class\n2024/c.png,coat\n{line}\n{below}"
    manifest.write_text(text, errors="surrogateescape")
    found = walk_sources([manifest])
    assert names(found, tree) == ["2024/c.png", "b.jpg"]
    bad, *absent = found.failures
    assert (bad.path, bad.reason) == (f"{manifest}, line 3", reason)
    assert len(absent) == rest


def test_rows_that_make_no_sense_are_failures_of_the_run(trained_home: Settings, tree: Path) -> None:
    manifest = tree / "list.csv"
    manifest.write_text('path,class\na.png,shirt\n,hat\n"b.jpg,hat\n,coat\n')
    summary = go(trained_home, manifest)
    assert (summary.new, [Path(failure.path).name for failure in summary.failures]) == (
        1, ["list.csv, line 3", "list.csv, line 4", "list.csv, line 5"],
    )  # fmt: skip
    assert go(trained_home, write_parquet(tree / "list.parquet", file=[None, "b.jpg"])).new == 1


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_blanks_and_separators_between_quotes_belong_to_the_cell(delimiter: str, tree: Path) -> None:
    """Names that end with a blank, hold the separator, a quote or a line break; each beside its plain neighbour."""
    for name in ("b.jpg ", " b.jpg", f"x{delimiter}y.jpg", '5".jpg', "two\nlines.jpg"):
        shutil.copy(tree / "b.jpg", tree / name)
    rows = [
        ["path", "note"],
        ['"b.jpg "', '" kept "'],
        ['  " b.jpg"  ', ' " kept " '],
        ["  b.jpg  ", "  cut  "],
        [f'"x{delimiter}y.jpg"', '"a ""word"""'],
        ['5".jpg', 'an inch is "'],
        ['"two\nlines.jpg"', '""'],
        ["", ""],
        ["a.png", ""],
    ]
    manifest = tree / "list.csv"
    manifest.write_text("".join(delimiter.join(row) + "\r\n" for row in rows), newline="")
    failures: list[tuple[str, str]] = []
    entries = list(read_manifest(str(manifest), lambda *failure: failures.append(failure)))
    assert failures == []
    assert [(os.path.relpath(path, tree), values.get("note")) for path, values in entries] == [
        ("b.jpg ", " kept "),
        (" b.jpg", " kept "),
        ("b.jpg", "cut"),
        (f"x{delimiter}y.jpg", 'a "word"'),
        ('5".jpg', 'an inch is "'),
        ("two\nlines.jpg", None),
        ("a.png", None),
    ]
    assert walk_sources([manifest]).failures == []


def test_a_quote_that_is_never_closed_takes_no_long_time(tree: Path) -> None:
    """Each line opens a quote, and what follows it has pairs of quotes up to the limits."""
    block = '"a.png,x\n' + 'x,""\n' * 1_200
    (tree / "list.csv").write_text("path,class\n" + block * 20 + "b.jpg,hat\n")
    started = time.process_time()
    found = walk_sources([tree / "list.csv"])
    assert time.process_time() - started < 20
    assert names(found, tree) == ["b.jpg"]


def test_a_path_that_is_not_utf8_costs_its_row_of_a_parquet_file(tree: Path) -> None:
    column = pa.array([b"\xe9.png", b"a.png"]).view("string")
    pyarrow.parquet.write_table(pa.table({"path": column}), tree / "list.parquet")
    found = walk_sources([tree / "list.parquet"])
    assert names(found, tree) == ["a.png"]
    assert [failure.reason for failure in found.failures] == ["there is no such file"]


def test_a_manifest_may_name_folders_wrongly_and_members_of_archives_rightly(
    trained_home: Settings, tree: Path
) -> None:
    zipped(tree / "p.zip", {"x.png": image(77)})
    manifest = tree / "list.csv"
    manifest.write_text("path,class\n2024,year\np.zip/x.png,packed\np.zip/y.png,absent\n")
    summary = go(trained_home, manifest)
    assert (summary.new, reasons(summary)) == (1, {"2024": "it is a folder", "y.png": "there is no such file"})
    assert metadata(trained_home, tree / "p.zip" / "x.png") == {"x.png": {"class": "packed"}}


def test_a_missing_disk_behind_a_manifest_is_not_pruned(trained_home: Settings, tree: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "list.csv"
    manifest.write_text(f"path\n{tree}/a.png\n{tree}/b.jpg\n")
    go(trained_home, manifest)
    shutil.move(tree, tmp_path / "unmounted")
    with pytest.raises(BadSetting, match="None of the listed files exists"):
        go(trained_home, manifest, prune=True)
