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

from simile.core.atomic_write import sync
from simile.core.errors import BackupDamaged, BadSetting, NoSuchPath
from simile.store.backup.create import CATALOGUE, FOLDERS, FORMAT, MANIFEST, Contents
from simile.store.catalogue.catalogue import Catalogue
from simile.store.database import schema
from simile.store.database.tables import LocationRow
from simile.store.home import Home, writing

STAGING = ".restoring"
DERIVED = ("maps", "measures", "gauges")  # measured of a home's pictures, and made again when somebody asks for it
LOCKS = ("lock", "maps.lock", "jobs.lock")
DERIVED_NAME = re.compile(r"\.?[0-9a-f]{16}[-.].+|tiles-[a-z]+|\.?[a-z.]+\.lock")  # encoder, and segment or kind
BLOCK = 1 << 20
MOST_MANIFEST = 1 << 30  # bytes: a line of 150 for each file
AGAIN = "Take another backup, or copy this one again."


def restore_backup(source: Path, home: Home) -> Contents:
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
    _refuse_used(home)
    with home.lock("simile restore"):
        _refuse_used(home)
        arriving = Home(home.root / STAGING)
        with writing(home.root):
            try:
                _clear(home)
                manifest = _unpack(source, arriving)
                _settle(arriving, home, manifest)
                _put_in_place(arriving, home)
            except BaseException:
                _clear(home)
                raise
            arriving.catalogue.replace(home.catalogue)
            sync(home.root)
            shutil.rmtree(arriving.root, ignore_errors=True)
    return Contents(manifest["images"], len(manifest["files"]), source.stat().st_size)


def _refuse_used(home: Home) -> None:
    """Raises BadSetting unless the folder is missing, empty, or left by a restoration that was cut short."""
    there = {path.name for path in home.root.iterdir()} if home.root.is_dir() else set()
    derived = {name for name in DERIVED if name in there and _is_derived(home.root / name)}
    alien = there - {*FOLDERS, *LOCKS, *derived, STAGING}
    used = [name for name in FOLDERS if name in there and any((home.root / name).iterdir())]
    if alien or (used and STAGING not in there):
        found = ", ".join(sorted([*alien, *used])[:5])
        raise BadSetting(f"{home.root} is not empty (it holds {found}). Name an empty or new folder with --home.")


def _is_derived(folder: Path) -> bool:
    """Whether simile wrote all that lies in it: a person's own folder may be called maps."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    return all(DERIVED_NAME.fullmatch(path.name) for path in folder.iterdir())


def _clear(home: Home) -> None:
    """Removes what a restoration left that was cut short: nothing else was ever in these folders."""
    if (home.root / STAGING).exists():
        for name in (*FOLDERS, STAGING):
            shutil.rmtree(home.root / name, ignore_errors=True)


def _unpack(source: Path, arriving: Home) -> dict[str, Any]:
    """Every file of the backup, checked; gives its manifest. Nothing outside `arriving` is touched."""
    arriving.create()
    found: dict[str, str] = {}
    manifest: dict[str, Any] | None = None
    with _reading(source), tarfile.open(source, "r|*") as tar:  # as a stream: a pass over the file is enough
        for entry in tar:
            file = tar.extractfile(entry) if entry.isreg() else None
            if file is None or entry.name in found or not _belongs(entry.name):
                raise BackupDamaged(f"{source} is no backup of simile: {entry.name!r} does not belong there.")
            if entry.name == MANIFEST:
                manifest = _manifest(source, file.read(MOST_MANIFEST))
            else:
                found[entry.name] = _write(file, arriving.root / entry.name)
    if manifest is None:
        raise BackupDamaged(f"{source} is incomplete: it has no {MANIFEST} at its end. {AGAIN}")
    _compare(source, manifest["files"], found)
    return manifest


@contextmanager
def _reading(source: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError) as error:
        raise BackupDamaged(f"{source} can't be read as a tar file ({error}). {AGAIN}") from error


def _belongs(name: str) -> bool:
    parts = PurePosixPath(name).parts
    if name in (MANIFEST, CATALOGUE):
        return True
    return len(parts) > 1 and parts[0] in FOLDERS and ".." not in parts and name == "/".join(parts)


def _write(file: Any, target: Path) -> str:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with target.open("xb") as copy:
        while block := file.read(BLOCK):
            copy.write(block)
            digest.update(block)
    return digest.hexdigest()


def _manifest(source: Path, data: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(data)
        if manifest["format"] == FORMAT and isinstance(manifest["files"], dict) and CATALOGUE in manifest["files"]:
            return {"home": str(manifest["home"]), "images": int(manifest["images"]), "files": manifest["files"]}
    except (ValueError, KeyError, TypeError):
        pass
    raise BackupDamaged(f"{source}: its {MANIFEST} is not one that this version knows. Update simile, or {AGAIN}")


def _compare(source: Path, promised: dict[str, str], found: dict[str, str]) -> None:
    for name in sorted(promised.keys() | found.keys()):
        if promised.get(name) != found.get(name):
            state = "is missing" if name not in found else "has been altered" if name in promised else "is not listed"
            raise BackupDamaged(f"{source}: {name} {state}. {AGAIN}")


def _settle(arriving: Home, home: Home, manifest: dict[str, Any]) -> None:
    """Refuses what a newer simile made, and tells the catalogue where its uploads lie now."""
    found = schema.revision(arriving)
    if found is None:
        raise BackupDamaged(f"The backup of {manifest['home']} holds no catalogue. {AGAIN}")
    schema.refuse_unknown(arriving, found)
    before = Home(Path(manifest["home"])).uploads
    with Catalogue(arriving) as catalogue:
        known = catalogue.known_locations([str(before)])
        moved = [{"old": path, "new": str(home.uploads / Path(path).name)} for path in known]
        if moved and before != home.uploads:
            at = LocationRow.path == bindparam("old")
            with catalogue.writing() as (connection, _):
                connection.execute(update(LocationRow).where(at).values(path=bindparam("new")), moved)


def _put_in_place(arriving: Home, home: Home) -> None:
    os.sync()  # a hundred thousand uploads: one call instead of as many
    for name in DERIVED:  # of other pictures with the same numbers
        shutil.rmtree(home.root / name, ignore_errors=True)
    for name in FOLDERS:
        if (arriving.root / name).is_dir():  # a home, and older backups, may have no attributes
            (arriving.root / name).replace(home.root / name)  # an empty folder gives way
