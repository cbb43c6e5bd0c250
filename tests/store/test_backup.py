"""A backup holds the home as of one moment, even while it is used, and restores completely or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from simile.core.errors import (
    BackupDamaged,
    BadSetting,
    HomeBusy,
    HomeNotWritable,
    HomeTooNew,
    NoSuchPath,
    NothingIndexed,
)
from simile.store.backup import create
from simile.store.backup.create import BackupSummary, create_backup
from simile.store.backup.restore import restore_backup
from simile.store.backup.verify import find_leftovers, find_problems
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import NewImage
from simile.store.database.schema import HEAD_REVISION, read_revision
from simile.store.home import Home
from simile.store.index.index import Index
from tests.support.catalogue import make_new_image
from tests.support.commands import run_json, run_simile

pytestmark = pytest.mark.sqlite

VAE = "a" * 16


@pytest.fixture
def home(home: Home) -> Home:
    """Four images, 3 and 4 of them uploads; the first three in a segment."""
    (home.encoders / VAE).mkdir()
    (home.encoders / VAE / "encoder.json").write_text("{}")
    (home.encoders / VAE / "images").mkdir()
    (home.encoders / VAE / "images" / "curve.png").write_bytes(b"curve")
    with Catalogue(home) as catalogue:
        catalogue.encoders.register(VAE, "first", "vae", dimensions=2)
        catalogue.encoders.activate(VAE)
        catalogue.images.add_batch([new_image(1), new_image(2), upload(home, 3)], VAE, "eager")
        Index(catalogue).publish()
        catalogue.images.add_batch([upload(home, 4)], VAE, "eager")
    return home


def new_image(number: int, path: str = "") -> NewImage:
    return make_new_image(number, [number, 0], path)


def upload(home: Home, number: int) -> NewImage:
    path = home.uploads / f"{number:064}.png"
    path.write_bytes(f"image {number}".encode())
    return new_image(number, str(path))


def found(home: Home) -> list[tuple[int, float]]:
    with Catalogue(home) as catalogue:
        return Index(catalogue).search(np.zeros((1, 2), np.float32), 100)[0]


def restore_elsewhere(home: Home, folder: Path) -> tuple[BackupSummary, Home]:
    """Back the home up and restore it into another folder."""
    contents, restored = create_backup(home, folder / "backup.tar"), Home(folder / "restored")
    restore_backup(folder / "backup.tar", restored)
    return contents, restored


@pytest.fixture
def backup(home: Home, tmp_path: Path) -> Path:
    create_backup(home, tmp_path / "backup.tar")
    return tmp_path / "backup.tar"


def names(path: Path) -> list[str]:
    with tarfile.open(path) as tar:
        return tar.getnames()


def test_a_backup_restores_into_another_folder_with_its_uploads(home: Home, tmp_path: Path) -> None:
    contents = create_backup(home, tmp_path / "backup.tar")
    assert (contents.images, contents.missing_files) == (4, ())
    shutil.rmtree(home.root)
    other = Home(tmp_path / "elsewhere" / "home")
    restored = restore_backup(tmp_path / "backup.tar", other)
    assert (restored.images, restored.files) == (contents.images, contents.files)
    assert find_problems(other) == find_leftovers(other) == []
    assert found(other) == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    with Catalogue(other) as catalogue:
        assert catalogue.images.get(4).paths == (str(other.uploads / f"{4:064}.png"),)
        assert catalogue.images.get(1).paths == ("/photos/1.png",)
        catalogue.images.delete(4)  # and the upload goes with it
        assert catalogue.images.add_batch([new_image(5)], VAE, "eager") == [5]
    assert [path.name for path in other.uploads.iterdir()] == [f"{3:064}.png"]
    assert (other.encoders / VAE / "images" / "curve.png").read_bytes() == b"curve"
    files = {"catalogue.sqlite", "encoders", "lock", "segments", "uploads"}
    assert {path.name for path in other.root.iterdir()} == files


def test_nobody_else_may_read_a_new_home_or_a_backup(home: Home, tmp_path: Path) -> None:
    create_backup(home, tmp_path / "backup.tar")
    restore_backup(tmp_path / "backup.tar", Home(tmp_path / "new"))
    assert (tmp_path / "backup.tar").stat().st_mode & 0o777 == 0o600
    for root in (Home(tmp_path / "other").create().root, tmp_path / "new"):
        assert root.stat().st_mode & 0o777 == 0o700


def test_unfinished_and_orphaned_files_are_not_in_the_backup(home: Home, tmp_path: Path) -> None:
    (home.encoders / ".training").mkdir()
    (home.encoders / ".training" / "state").touch()
    (home.uploads / "orphan.png").touch()
    (home.segments / "old.faiss").touch()
    (home.root / "catalogue.sqlite.bak-old").touch()
    create_backup(home, tmp_path / "backup.tar")
    kept = " ".join(names(tmp_path / "backup.tar"))
    assert [word for word in ("old", "orphan", ".training", "bak") if word in kept] == []


def test_a_home_that_others_write_to_is_backed_up_as_of_one_moment(home: Home, tmp_path: Path) -> None:
    """One thread adds and deletes uploads, another makes segments; each backup is a consistent home."""
    done = threading.Event()

    def change() -> None:
        with Catalogue(home) as catalogue:
            number = 5
            while not done.is_set():
                (image_id,) = catalogue.images.add_batch([upload(home, number)], VAE, "eager")
                if number % 3:
                    catalogue.images.delete(image_id)
                number += 1

    def publish() -> None:
        with Catalogue(home) as catalogue:
            while not done.is_set():
                with home.lock("simile compact"):
                    Index(catalogue).publish()

    threads = [threading.Thread(target=work) for work in (change, publish)]
    for thread in threads:
        thread.start()
    try:
        for number in range(6):
            assert create_backup(home, tmp_path / f"{number}.tar").missing_files == ()
    finally:
        done.set()
        for thread in threads:
            thread.join()
    for number in range(6):
        restored = Home(tmp_path / f"restored-{number}")
        restore_backup(tmp_path / f"{number}.tar", restored)
        assert find_problems(restored) == []
        assert [image_id for image_id, _ in found(restored)][:4] == [1, 2, 3, 4]


def disappearing(monkeypatch: pytest.MonkeyPatch, vanish: Callable[[], None]) -> None:
    """`vanish` happens after the catalogue is copied, before any other file is."""
    copy = create.copy_catalogue

    def copy_then_vanish(source: Path, target: Path) -> None:
        copy(source, target)
        vanish()

    monkeypatch.setattr(create, "copy_catalogue", copy_then_vanish)


def test_an_upload_deleted_meanwhile_is_deleted_in_the_backup_too(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Catalogue(home) as catalogue:
        disappearing(monkeypatch, lambda: catalogue.images.delete(3))
        contents, restored = restore_elsewhere(home, tmp_path)
    assert contents.images == 3
    assert find_problems(restored) == []
    assert [image_id for image_id, _ in found(restored)] == [1, 2, 4]


def test_an_encoder_removed_meanwhile_is_not_in_the_backup_either(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Catalogue(home) as catalogue:
        catalogue.encoders.register("b" * 16, "second", "vae", dimensions=2)
        (home.encoders / ("b" * 16)).mkdir()
        (home.encoders / ("b" * 16) / "encoder.json").touch()

        def remove() -> None:
            catalogue.encoders.delete("b" * 16)
            shutil.rmtree(home.encoders / ("b" * 16))

        disappearing(monkeypatch, remove)
        contents, restored = restore_elsewhere(home, tmp_path)
    assert contents.missing_files == ()
    assert find_problems(restored) == find_leftovers(restored) == []
    with Catalogue(restored) as catalogue:
        assert [record.fingerprint for record in catalogue.encoders.get_all()] == [VAE]


def test_a_segment_deleted_meanwhile_is_rebuilt_from_rows(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clear() -> None:
        for path in home.segments.iterdir():
            path.unlink()

    disappearing(monkeypatch, clear)
    _, restored = restore_elsewhere(home, tmp_path)
    assert find_problems(restored) == []
    assert [image_id for image_id, _ in found(restored)] == [1, 2, 3, 4]


def test_missing_files_are_named_and_the_rest_is_saved(home: Home, tmp_path: Path) -> None:
    lost = home.uploads / f"{3:064}.png"
    lost.unlink()
    shutil.rmtree(home.encoders / VAE)
    contents, restored = restore_elsewhere(home, tmp_path)
    assert sorted(contents.missing_files) == sorted([str(lost), str(home.encoders / VAE)])
    assert sorted(problem.kind for problem in find_problems(restored)) == ["encoder", "upload"]


def learned(home: Home, name: str, encoder: str = VAE) -> Path:
    path = home.attributes / encoder / f"{name}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(name.encode())
    return path


def test_complete_attributes_of_known_encoders_are_in_the_backup(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smile, glasses = learned(home, "smile"), learned(home, "glasses")
    learned(home, "smile", "f" * 16)  # of an encoder that was removed
    (smile.parent / ".hat.npz.0123.tmp").touch()  # being written
    disappearing(monkeypatch, glasses.unlink)
    contents, restored = restore_elsewhere(home, tmp_path)
    assert contents.missing_files == ()
    (stored,) = restored.attributes.rglob("*.*")
    assert stored == restored.attributes / VAE / "smile.npz"
    assert (restored.attributes / VAE / "smile.npz").read_bytes() == b"smile"
    assert find_problems(restored) == find_leftovers(restored) == []


def test_attributes_removed_between_listing_and_reading_are_left_out(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, add = learned(home, "smile"), create._TarPacker.add

    def add_late(packer: create._TarPacker, name: str, source: Path) -> bool:
        if source == path:
            path.unlink()
        return add(packer, name, source)

    monkeypatch.setattr(create._TarPacker, "add", add_late)
    contents, restored = restore_elsewhere(home, tmp_path)
    assert contents.missing_files == ()
    assert find_problems(restored) == [] and not restored.attributes.exists()


def test_existing_attributes_are_not_overwritten(backup: Path, tmp_path: Path) -> None:
    kept = Home(tmp_path / "kept")
    learned(kept, "smile")
    with pytest.raises(BadSetting, match="holds attributes"):
        restore_backup(backup, kept)
    assert (kept.attributes / VAE / "smile.npz").read_bytes() == b"smile"


def test_a_restore_replaces_derived_files_and_keeps_a_users_own_maps(backup: Path, tmp_path: Path) -> None:
    cleared = Home(tmp_path / "cleared")
    derived = ("gauges/gauge.json.lock", f"gauges/{VAE}-1-gauge.json", f"measures/{VAE}.npz")
    for name in ("maps.lock", "jobs.lock", *derived):
        (cleared.root / name).parent.mkdir(parents=True, exist_ok=True)
        (cleared.root / name).touch()
    (cleared.root / "maps" / "tiles-pca" / f"{VAE}-0").mkdir(parents=True)
    restore_backup(backup, cleared)
    assert find_problems(cleared) == []
    assert not any((cleared.root / name).exists() for name in ("maps", "gauges", "measures"))
    (tmp_path / "atlas" / "maps").mkdir(parents=True)
    (tmp_path / "atlas" / "maps" / "rome.jpg").touch()
    with pytest.raises(BadSetting, match="holds maps"):
        restore_backup(backup, Home(tmp_path / "atlas"))
    assert (tmp_path / "atlas" / "maps" / "rome.jpg").exists()


def test_a_backup_without_space_leaves_the_old_one(home: Home, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadSetting, match=r"missing/backup\.tar can't be written"):
        create_backup(home, tmp_path / "missing" / "backup.tar")
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):  # nothing but a file is replaced: think of /dev/null
        with pytest.raises(BadSetting, match=f"{name} can't be written: it is not a regular file"):
            create_backup(home, tmp_path / name)
    with pytest.raises(NothingIndexed):
        create_backup(Home(tmp_path / "none"), tmp_path / "backup.tar")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "home", "pipe"]


def test_only_an_empty_home_can_be_restored_into(home: Home, backup: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").touch()
    for used, words in ((home, "holds catalogue.sqlite"), (Home(tmp_path / "photos"), "holds 1.jpg")):
        with pytest.raises(BadSetting, match=words):
            restore_backup(backup, used)
    trained = Home(tmp_path / "trained").create()
    (trained.encoders / VAE).mkdir()
    with pytest.raises(BadSetting, match="holds encoders"):
        restore_backup(backup, trained)
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["1.jpg"]
    with pytest.raises(NoSuchPath):
        restore_backup(tmp_path / "none.tar", Home(tmp_path / "new"))
    with pytest.raises(BadSetting, match="is a folder"):
        restore_backup(tmp_path / "photos", Home(tmp_path / "new"))
    with pytest.raises(BadSetting, match="SIMILE_DATABASE_URL"):
        restore_backup(backup, Home(tmp_path / "new", "postgresql://nowhere/db"))


def test_restoring_into_a_busy_home_names_the_holder(backup: Path, tmp_path: Path) -> None:
    new = Home(tmp_path / "new")
    with Home(new.root).lock("simile index"), pytest.raises(HomeBusy, match="simile index"):
        restore_backup(backup, new)


def rewritten(source: Path, target: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """The tar with each member's bytes as `change` gives them; None leaves a member out."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old:
            file = old.extractfile(member)
            assert file is not None
            data = change(member.name, file.read())
            if data is not None:
                member.size = len(data)
                new.addfile(member, io.BytesIO(data))


def flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda name, data: flipped(data) if name.startswith("uploads/") else data, "uploads/0*3.png has been altered"),
        (lambda name, data: flipped(data) if name.startswith("segments/") else data, "has been altered"),
        (lambda name, data: None if name.startswith("segments/") else data, r"\.\w+ is missing"),
        (lambda name, data: None if name == "catalogue.sqlite" else data, "catalogue.sqlite is missing"),
        (lambda name, data: None if name == "backup.json" else data, "no backup.json"),
        (lambda name, data: b"[]" if name == "backup.json" else data, "not one that this version knows"),
    ],
)
def test_an_altered_backup_is_rejected_and_leaves_nothing(
    backup: Path, tmp_path: Path, change: Callable[[str, bytes], bytes | None], words: str
) -> None:
    rewritten(backup, tmp_path / "altered.tar", change)
    new = Home(tmp_path / "new")
    with pytest.raises(BackupDamaged, match=words):
        restore_backup(tmp_path / "altered.tar", new)
    assert read_revision(new) is None
    restore_backup(backup, new)  # the place is still good
    assert find_problems(new) == []


def test_a_truncated_backup_is_rejected(backup: Path, tmp_path: Path) -> None:
    whole = (backup).read_bytes()
    for share in (0, 0.01, 0.3, 0.6, 0.9):
        (tmp_path / "short.tar").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(BackupDamaged):
            restore_backup(tmp_path / "short.tar", Home(tmp_path / "new"))
    (tmp_path / "short.tar").write_bytes(b"no tar at all" * 1000)
    with pytest.raises(BackupDamaged, match="tar"):
        restore_backup(tmp_path / "short.tar", Home(tmp_path / "new"))
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) in (
        ["encoders", "lock", "segments", "uploads"],
        ["lock"],
    )


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    "entry",
    [
        member("../outside"),
        member("uploads/../../outside"),
        member("/tmp/outside"),
        member("uploads//x"),
        member("stranger"),
        member("uploads"),
        member("uploads/link", tarfile.SYMTYPE, "/etc/passwd"),
        member("uploads/link", tarfile.LNKTYPE, "catalogue.sqlite"),
        member("uploads/pipe", tarfile.FIFOTYPE),
    ],
)
def test_a_tar_with_foreign_entries_is_rejected(tmp_path: Path, entry: tarfile.TarInfo) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        tar.addfile(entry)
    with pytest.raises(BackupDamaged, match="it contains"):
        restore_backup(tmp_path / "evil.tar", Home(tmp_path / "a" / "new"))
    assert not list(tmp_path.rglob("outside"))


def test_a_sparse_file_or_a_huge_header_is_rejected_before_it_takes_the_disk_or_the_memory(tmp_path: Path) -> None:
    sparse = member("uploads/zeros", tarfile.GNUTYPE_SPARSE)
    with tarfile.open(tmp_path / "sparse.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        pax = member("uploads/zeros")
        pax.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(8 * 10**12)}
        pax.size = 512
        tar.addfile(pax, io.BytesIO(b"0\n".ljust(512, b"\0")))
    header = member("name", tarfile.XHDTYPE)
    header.size = 1_500_000_000
    (tmp_path / "old.tar").write_bytes(sparse.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    (tmp_path / "header.tar").write_bytes(header.tobuf(tarfile.USTAR_FORMAT) + bytes(10240))
    for name in ("sparse.tar", "old.tar", "header.tar"):
        with pytest.raises(BackupDamaged, match=r"it contains|a header of 1,500,000,000 bytes"):
            restore_backup(tmp_path / name, Home(tmp_path / "a" / name))
    assert sum(path.stat().st_size for path in (tmp_path / "a").rglob("*") if path.is_file()) < 10_000


def test_an_interrupted_restore_can_be_started_again(backup: Path, tmp_path: Path) -> None:
    new = Home(tmp_path / "new").create()
    (new.root / ".restoring").mkdir()
    (new.uploads / "half of it.png").touch()
    restore_backup(backup, new)
    assert find_problems(new) == find_leftovers(new) == []


def test_a_backup_of_a_newer_version_is_rejected(backup: Path, tmp_path: Path) -> None:

    def newer(name: str, data: bytes) -> bytes:
        if name == "catalogue.sqlite":
            data = data.replace(HEAD_REVISION.encode(), b"2099".ljust(len(HEAD_REVISION), b"x"))
            hashes[name] = hashlib.sha256(data).hexdigest()
        elif name == "backup.json":
            data = json.dumps({**json.loads(data), "files": json.loads(data)["files"] | hashes}).encode()
        return data

    hashes: dict[str, str] = {}
    rewritten(backup, tmp_path / "newer.tar", newer)
    with pytest.raises(HomeTooNew, match="2099x"):
        restore_backup(tmp_path / "newer.tar", Home(tmp_path / "new"))
    assert not (tmp_path / "new" / "catalogue.sqlite").exists()


def test_a_catalogue_outside_the_home_is_in_the_backup_too(home: Home, tmp_path: Path) -> None:
    elsewhere = tmp_path / "catalogues" / "one.sqlite"
    elsewhere.parent.mkdir()
    home.catalogue_path.rename(elsewhere)
    create_backup(Home(home.root, f"sqlite:///{elsewhere}"), tmp_path / "backup.tar")
    restore_backup(tmp_path / "backup.tar", Home(tmp_path / "new"))
    assert [image_id for image_id, _ in found(Home(tmp_path / "new"))] == [1, 2, 3, 4]
    with pytest.raises(BadSetting, match="not an SQLite file"):
        create_backup(Home(tmp_path / "other", "sqlite://"), tmp_path / "backup.tar")


def test_the_commands_say_what_they_did(home: Home, tmp_path: Path) -> None:
    skipped = home.uploads / f"{3:064}.png"
    skipped.unlink()
    done = run_simile("backup", "--home", home.root, "backup.tar")
    assert done.stdout.startswith("backup.tar: the rows of 4 images, 5 files, ")
    assert done.stderr == f"skipped: {skipped} is missing. Run `simile verify` for the next step.\n"
    assert run_simile("restore", "--home", "new", "backup.tar").stdout == "new: restored 4 images and 5 files\n"
    body = run_json("backup", "--home", "new", "again.tar")
    assert (body["output"], body["images"], body["files"], len(body["left_out"])) == ("again.tar", 4, 5, 1)


def test_a_home_that_cannot_be_made_says_so(home: Home, backup: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HomeNotWritable):
        restore_backup(backup, Home(tmp_path / "file" / "home"))
