"""A backup put back: everything is checked beside the home's place before anything is in it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from sqlalchemy import bindparam, update

from simile.core.atomic_write import fsync_path
from simile.core.errors import BackupDamaged, BadSetting, NoSuchPath
from simile.store.backup.create import BACKUP_FOLDERS, BACKUP_FORMAT, CATALOGUE_NAME, MANIFEST_NAME, BackupSummary
from simile.store.catalogue.catalogue import Catalogue
from simile.store.database import schema
from simile.store.database.tables import LocationRow
from simile.store.home import Home, translate_write_errors

STAGING_FOLDER = ".restoring"
DERIVED_FOLDERS = (
    "maps",
    "measures",
    "gauges",
)  # measured of a home's pictures, and made again when somebody asks for it
LOCK_FILES = ("lock", "maps.lock", "jobs.lock")
DERIVED_NAME_PATTERN = re.compile(
    r"\.?[0-9a-f]{16}[-.].+|tiles-[a-z]+|\.?[a-z.]+\.lock"
)  # encoder, and segment or kind
RESTORE_BLOCK_BYTES = 1 << 20
MAX_MANIFEST_BYTES = 1 << 30  # bytes: a line of 150 for each file
NEW_BACKUP_HINT = "Take another backup, or copy this one again."


def restore_backup(source: Path, home: Home) -> BackupSummary:
    """Makes `home`, which must be empty but for what is derived from pictures, of the backup `source`.

    Every file is unpacked into a folder beside its place and held against its SHA-256 first; the catalogue is put in
    place last, so that after a crash there is no home yet, and the same command starts again. Uploads are known by
    where they lie, so their rows get the new place. Raises BadSetting (not empty), NoSuchPath, BackupDamaged,
    HomeTooNew and HomeNotWritable.
    """
    if source.is_dir():
        raise BadSetting(f"{source} is a folder. Name the .tar that `simile backup` wrote.")
    if not source.is_file():
        raise NoSuchPath(source)
    if home.database_url is not None:
        raise BadSetting("A backup's catalogue is restored into the home. Leave SIMILE_DATABASE_URL out.")
    _refuse_non_empty_home(home)
    with home.lock("simile restore"):
        _refuse_non_empty_home(home)
        arriving = Home(home.root / STAGING_FOLDER)
        with translate_write_errors(home.root):
            try:
                _clear_staging(home)
                manifest = _unpack_backup(source, arriving)
                _relocate_uploads(arriving, home, manifest)
                _move_into_home(arriving, home)
            except BaseException:
                _clear_staging(home)
                raise
            arriving.catalogue_path.replace(home.catalogue_path)
            fsync_path(home.root)
            shutil.rmtree(arriving.root, ignore_errors=True)
    return BackupSummary(manifest["images"], len(manifest["files"]), source.stat().st_size)


def _refuse_non_empty_home(home: Home) -> None:
    """Raises BadSetting unless the folder is missing, empty, or left by a restoration that was cut short."""
    there = {path.name for path in home.root.iterdir()} if home.root.is_dir() else set()
    derived = {name for name in DERIVED_FOLDERS if name in there and _is_derived_folder(home.root / name)}
    alien = there - {*BACKUP_FOLDERS, *LOCK_FILES, *derived, STAGING_FOLDER}
    used = [name for name in BACKUP_FOLDERS if name in there and any((home.root / name).iterdir())]
    if alien or (used and STAGING_FOLDER not in there):
        found = ", ".join(sorted([*alien, *used])[:5])
        raise BadSetting(f"{home.root} is not empty (it holds {found}). Name an empty or new folder with --home.")


def _is_derived_folder(folder: Path) -> bool:
    """Whether simile wrote all that lies in it: a person's own folder may be called maps."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    return all(DERIVED_NAME_PATTERN.fullmatch(path.name) for path in folder.iterdir())


def _clear_staging(home: Home) -> None:
    """Removes what a restoration left that was cut short: nothing else was ever in these folders."""
    if (home.root / STAGING_FOLDER).exists():
        for name in (*BACKUP_FOLDERS, STAGING_FOLDER):
            shutil.rmtree(home.root / name, ignore_errors=True)


def _unpack_backup(source: Path, staging: Home) -> dict[str, Any]:
    """Every file of the backup, checked; gives its manifest. Nothing outside `arriving` is touched."""
    staging.create()
    found: dict[str, str] = {}
    manifest: dict[str, Any] | None = None
    with (
        _translate_tar_errors(source),
        tarfile.open(source, "r|*") as tar,
    ):  # as a stream: a pass over the file is enough
        for entry in tar:
            file = tar.extractfile(entry) if entry.isreg() else None
            if file is None or entry.name in found or not _is_backup_entry(entry.name):
                raise BackupDamaged(f"{source} is no backup of simile: {entry.name!r} does not belong there.")
            if entry.name == MANIFEST_NAME:
                manifest = _parse_manifest(source, file.read(MAX_MANIFEST_BYTES))
            else:
                found[entry.name] = _extract_and_hash(file, staging.root / entry.name)
    if manifest is None:
        raise BackupDamaged(f"{source} is incomplete: it has no {MANIFEST_NAME} at its end. {NEW_BACKUP_HINT}")
    _compare_hashes(source, manifest["files"], found)
    return manifest


@contextmanager
def _translate_tar_errors(source: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError) as error:
        raise BackupDamaged(f"{source} can't be read as a tar file ({error}). {NEW_BACKUP_HINT}") from error


def _is_backup_entry(name: str) -> bool:
    parts = PurePosixPath(name).parts
    if name in (MANIFEST_NAME, CATALOGUE_NAME):
        return True
    return len(parts) > 1 and parts[0] in BACKUP_FOLDERS and ".." not in parts and name == "/".join(parts)


def _extract_and_hash(file: Any, target: Path) -> str:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with target.open("xb") as copy:
        while block := file.read(RESTORE_BLOCK_BYTES):
            copy.write(block)
            digest.update(block)
    return digest.hexdigest()


def _parse_manifest(source: Path, data: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(data)
        if (
            manifest["format"] == BACKUP_FORMAT
            and isinstance(manifest["files"], dict)
            and CATALOGUE_NAME in manifest["files"]
        ):
            return {"home": str(manifest["home"]), "images": int(manifest["images"]), "files": manifest["files"]}
    except (ValueError, KeyError, TypeError):
        pass
    raise BackupDamaged(
        f"{source}: its {MANIFEST_NAME} is not one that this version knows. Update simile, or {NEW_BACKUP_HINT}"
    )


def _compare_hashes(source: Path, expected: dict[str, str], actual: dict[str, str]) -> None:
    for name in sorted(expected.keys() | actual.keys()):
        if expected.get(name) != actual.get(name):
            state = "is missing" if name not in actual else "has been altered" if name in expected else "is not listed"
            raise BackupDamaged(f"{source}: {name} {state}. {NEW_BACKUP_HINT}")


def _relocate_uploads(staging: Home, home: Home, manifest: dict[str, Any]) -> None:
    """Refuses what a newer simile made, and tells the catalogue where its uploads lie now."""
    found = schema.read_revision(staging)
    if found is None:
        raise BackupDamaged(f"The backup of {manifest['home']} holds no catalogue. {NEW_BACKUP_HINT}")
    schema.refuse_unknown_revision(staging, found)
    before = Home(Path(manifest["home"])).uploads
    with Catalogue(staging) as catalogue:
        known = catalogue.files.find_under([str(before)])
        moved = [{"old": path, "new": str(home.uploads / Path(path).name)} for path in known]
        if moved and before != home.uploads:
            at = LocationRow.path == bindparam("old")
            with catalogue.begin_write() as (connection, _):
                connection.execute(update(LocationRow).where(at).values(path=bindparam("new")), moved)


def _move_into_home(staging: Home, home: Home) -> None:
    os.sync()  # a hundred thousand uploads: one call instead of as many
    for name in DERIVED_FOLDERS:  # of other pictures with the same numbers
        shutil.rmtree(home.root / name, ignore_errors=True)
    for name in BACKUP_FOLDERS:
        if (staging.root / name).is_dir():  # a home, and older backups, may have no attributes
            (staging.root / name).replace(home.root / name)  # an empty folder gives way
