"""Restore a backup. Everything is unpacked and checked in a staging folder before it is moved into the home."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Self

from sqlalchemy import bindparam, update
from sqlalchemy.exc import SQLAlchemyError

from simile.core.atomic_write import fsync_path
from simile.core.errors import BackupDamaged, BadSetting, NoSuchPath
from simile.core.keys import check_key_name
from simile.store.backup.create import BACKUP_FOLDERS, BACKUP_FORMAT, CATALOGUE_NAME, MANIFEST_NAME, BackupSummary
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import RestoredKey
from simile.store.database import schema
from simile.store.database.engine import find_foreign_objects
from simile.store.database.tables import LocationRow
from simile.store.home import Home, translate_write_errors

STAGING_FOLDER = ".restoring"
DERIVED_FOLDERS = ("maps", "measures", "gauges")  # computed from the home's images, and again when needed
# Locks, and the file that shows that a home has keys: a home may have lost its catalogue and nothing else.
ALLOWED_FILES = ("lock", "maps.lock", "jobs.lock", "keys.reserve")
# Names in these folders: encoder with segment or kind, tiles, locks.
DERIVED_NAME_PATTERN = re.compile(r"\.?[0-9a-f]{16}[-.].+|tiles-[a-z]+|\.?[a-z.]+\.lock")
RESTORE_BLOCK_BYTES = 1 << 20
MAX_MANIFEST_BYTES = 1 << 28  # 150 bytes for each file
MAX_HEADER_BYTES = 1 << 20  # of a tar entry, with its extensions
NEW_BACKUP_HINT = "Take another backup, or copy this one again."


@dataclass(frozen=True, kw_only=True)
class RestoreSummary(BackupSummary):
    """Counts of a restored backup, and the keys that were not revoked when it was made."""

    keys: tuple[RestoredKey, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the summary with the names of the JSON output."""
        return {**super().to_dict(), "keys": list(map(vars, self.keys))}


def restore_backup(source: Path, home: Home, *, keep_keys: bool = False) -> RestoreSummary:
    """Restore a backup (a tar file) into a home that is empty, except for files that are computed from images.

    Every file is unpacked into a staging folder and compared with its SHA-256 first. The catalogue is moved last, so
    that after a crash there is no home yet and the same command starts again. The paths of uploads change to the new
    home. Sessions end, and keys are revoked unless `keep_keys` is true: the backup may be another person's, and some of
    its keys may have been revoked since then.

    Raises NoSuchPath, BackupDamaged, HomeTooNew, HomeNotWritable, or BadSetting if the home is not empty or has another
    database.
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
        staging = Home(home.root / STAGING_FOLDER)
        with translate_write_errors(home.root):
            try:
                _clear_staging(home)
                manifest = _unpack_backup(source, staging)
                keys = _prepare_catalogue(source, staging, home, manifest, keep_keys)
                _move_into_home(staging, home)
            except BaseException:
                _clear_staging(home)
                raise
            staging.catalogue_path.replace(home.catalogue_path)
            fsync_path(home.root)
            shutil.rmtree(staging.root, ignore_errors=True)
    return RestoreSummary(manifest["images"], len(manifest["files"]), source.stat().st_size, keys=tuple(keys))


def _refuse_non_empty_home(home: Home) -> None:
    """Raise BadSetting unless the folder is missing, empty, or left by an interrupted restore."""
    names = {path.name for path in home.root.iterdir()} if home.root.is_dir() else set()
    derived = {name for name in DERIVED_FOLDERS if name in names and _is_derived_folder(home.root / name)}
    foreign = names - {*BACKUP_FOLDERS, *ALLOWED_FILES, *derived, STAGING_FOLDER}
    used = [name for name in BACKUP_FOLDERS if name in names and any((home.root / name).iterdir())]
    if foreign or (used and STAGING_FOLDER not in names):
        examples = ", ".join(sorted([*foreign, *used])[:5])
        raise BadSetting(f"{home.root} is not empty (it holds {examples}). Name an empty or new folder with --home.")


def _is_derived_folder(folder: Path) -> bool:
    """Return whether simile wrote everything in the folder: a user's own folder may be called maps."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    return all(DERIVED_NAME_PATTERN.fullmatch(path.name) for path in folder.iterdir())


class _BoundedTarInfo(tarfile.TarInfo):
    """A header with small extensions (long names, pax records): tarfile reads them into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Parse a header. Raises tarfile.ReadError."""
        info = super().frombuf(buf, encoding, errors)
        if not info.isreg() and info.size > MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {info.size:,} bytes")
        return info


def _clear_staging(home: Home) -> None:
    """Delete what an interrupted restore left. The folders hold nothing else."""
    if (home.root / STAGING_FOLDER).exists():
        for name in (*BACKUP_FOLDERS, STAGING_FOLDER):
            shutil.rmtree(home.root / name, ignore_errors=True)


def _unpack_backup(source: Path, staging: Home) -> dict[str, Any]:
    """Unpack and check every file of the backup, only into `staging`; return the manifest."""
    staging.create()
    hashes: dict[str, str] = {}
    manifest: dict[str, Any] | None = None
    # "r|*" reads the file as a stream, in one pass.
    try:
        with tarfile.open(source, "r|*", tarinfo=_BoundedTarInfo) as tar:
            for entry in tar:
                # A sparse file of a few bytes may write zeros until the disk is full.
                file = tar.extractfile(entry) if entry.isreg() and not entry.issparse() else None
                if file is None or entry.name in hashes or not _is_backup_entry(entry.name):
                    raise BackupDamaged(f"{source} is not a backup of simile: it contains {entry.name!r}.")
                if entry.name == MANIFEST_NAME:
                    manifest = _parse_manifest(source, file.read(MAX_MANIFEST_BYTES))
                else:
                    hashes[entry.name] = _extract_and_hash(file, staging.root / entry.name)
    except (tarfile.TarError, EOFError) as error:
        raise BackupDamaged(f"{source} can't be read as a tar file ({error}). {NEW_BACKUP_HINT}") from error
    if manifest is None:
        raise BackupDamaged(f"{source} is incomplete: it has no {MANIFEST_NAME} at its end. {NEW_BACKUP_HINT}")
    expected = manifest["files"]
    for name in sorted(expected.keys() | hashes.keys()):
        if expected.get(name) != hashes.get(name):
            state = "is missing" if name not in hashes else "has been altered" if name in expected else "is not listed"
            raise BackupDamaged(f"{source}: {name} {state}. {NEW_BACKUP_HINT}")
    return manifest


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
        files = manifest["files"]
        if manifest["format"] == BACKUP_FORMAT and isinstance(files, dict) and CATALOGUE_NAME in files:
            return {"home": str(manifest["home"]), "images": int(manifest["images"]), "files": files}
    except (ValueError, KeyError, TypeError):
        pass
    raise BackupDamaged(
        f"{source}: its {MANIFEST_NAME} is not one that this version knows. Update simile, or {NEW_BACKUP_HINT}"
    )


def _prepare_catalogue(
    source: Path, staging: Home, home: Home, manifest: dict[str, Any], keep_keys: bool
) -> list[RestoredKey]:
    """Check the backup's catalogue, end its sessions and keys, and change the paths of its uploads to the new home.

    Returns the keys that were usable. Raises BackupDamaged, HomeTooNew.
    """
    try:
        revision = schema.read_revision(staging)
        if revision is None:
            raise BackupDamaged(f"{source} holds no catalogue. {NEW_BACKUP_HINT}")
        schema.refuse_unknown_revision(staging, revision)
        with Catalogue(staging) as catalogue:
            with catalogue.begin_read() as connection:
                foreign = find_foreign_objects(connection)
            if foreign:
                raise BackupDamaged(f"{source}: its catalogue has the {foreign[0]}, which simile does not create.")
            _relocate_uploads(catalogue, home, Home(Path(manifest["home"])).uploads)
            keys = catalogue.keys.end_all(keep_keys=keep_keys)
            for key in keys:
                check_key_name(key.name)
            if catalogue.keys.has_any():
                home.keep_keys_reserve()
            return keys
    except (BadSetting, SQLAlchemyError, ValueError) as error:
        raise BackupDamaged(f"{source}: its catalogue is not one of simile: {error}") from error


def _relocate_uploads(catalogue: Catalogue, home: Home, old_uploads: Path) -> None:
    known = catalogue.files.find_under([str(old_uploads)])
    moved = [{"old": path, "new": str(home.uploads / Path(path).name)} for path in known]
    if moved and old_uploads != home.uploads:
        old_path = LocationRow.path == bindparam("old")
        with catalogue.begin_write() as (connection, _):
            connection.execute(update(LocationRow).where(old_path).values(path=bindparam("new")), moved)


def _move_into_home(staging: Home, home: Home) -> None:
    os.sync()  # one call instead of one for each of perhaps 100,000 uploads
    for name in DERIVED_FOLDERS:  # computed for other images with the same ids
        shutil.rmtree(home.root / name, ignore_errors=True)
    for name in BACKUP_FOLDERS:
        if (staging.root / name).is_dir():  # some homes and older backups have no attributes
            (staging.root / name).replace(home.root / name)  # replaces an empty folder
