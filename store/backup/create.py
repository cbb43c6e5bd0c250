"""A whole home in one tar file, taken while others read and write it, and put back.

Order in the tar: segments, encoders with what was learned by them (attributes), uploads, the catalogue, and last
`backup.json` with the SHA-256 of each of them: a backup without it was cut short. Only SQLite is copied; other
databases have tools of their own.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from sqlalchemy import delete, select, update

from simile.core.atomic_write import write_durably
from simile.core.errors import BadSetting
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import SegmentRecord
from simile.store.database import schema
from simile.store.database.engine import catalogue_file, copy_catalogue
from simile.store.database.tables import SegmentRow, StateRow
from simile.store.database.transactions import read_state
from simile.store.home import Home
from simile.store.index.segments import files_of

MANIFEST, CATALOGUE, FORMAT = "backup.json", "catalogue.sqlite", 1
FOLDERS = ("segments", "encoders", "uploads", "attributes")


@dataclass(frozen=True)
class Contents:
    """What a backup holds. `bytes` of all its files together; `left_out`: files that the home lacked."""

    images: int
    files: int
    bytes: int
    left_out: tuple[str, ...] = ()


def write_backup(home: Home, target: Path) -> Contents:
    """Writes the home as it stands now to `target`, a tar file; one that is there is replaced when the new is whole.

    Needs no lock: the catalogue is copied in one moment, and every other file of a home never changes. One that is
    cleared away before it is copied (an old segment, an upload that somebody deletes) is left out of the copied
    catalogue too; an attribute that somebody removes is in none. Raises BadSetting where `target` can't be
    written.
    """
    source = catalogue_file(home)
    if source is None:
        raise BadSetting("SIMILE_DATABASE_URL names a database that is no SQLite file. Back it up with its own tools.")
    if target.exists() and not target.is_file():  # a folder; or a device, which must not be replaced
        raise BadSetting(f"{target} can't be written: it is not a regular file. Name another file.")
    schema.check(home)
    copied = Home(target.absolute().with_name(f".{target.name}.{uuid.uuid4().hex}"))
    with _writing(target):
        try:
            copied.root.mkdir()
            copy_catalogue(source, copied.catalogue)
            contents: list[Contents] = []
            write_durably(target, lambda path: contents.append(_write(home, copied, path)))
            return contents[0]
        finally:
            shutil.rmtree(copied.root, ignore_errors=True)


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadSetting(f"{target} can't be written: {error.strerror}. Make space, or name another file.") from error


def _write(home: Home, copied: Home, path: Path) -> Contents:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        packer = _Packer(tar)
        with Catalogue(copied) as catalogue:
            gone = [source for source in _wanted(home, catalogue) if not packer.add(_name(home, source), source)]
            left_out = _account_for(home, catalogue, gone)
            images = catalogue.count_images()
        packer.add(CATALOGUE, copied.catalogue)
        contents = Contents(images, len(packer.hashes), packer.bytes, tuple(map(str, left_out)))
        packer.add_manifest(
            {
                "format": FORMAT,
                "home": str(home.root),
                "schema": schema.HEAD,
                "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "images": images,
                "files": packer.hashes,
            }
        )
    return contents


def _name(home: Home, path: Path) -> str:
    return path.relative_to(home.root).as_posix()


def _wanted(home: Home, catalogue: Catalogue) -> Iterator[Path]:
    """The files that the copied catalogue speaks of. Segments first: they are the first to be cleared away."""
    yield from sorted(home.segments / name for name in catalogue.segment_files())
    for encoder in catalogue.encoders():
        folder = home.encoders / encoder.fingerprint
        yield from sorted(path for path in folder.rglob("*") if path.is_file()) or [folder]
        attributes = (home.attributes / encoder.fingerprint).glob("[a-z0-9]*.npz")  # a temporary one begins with a dot
        yield from sorted(attributes)
    yield from map(Path, sorted(catalogue.known_locations([str(home.uploads)])))


def _account_for(home: Home, copied: Catalogue, gone: Sequence[Path]) -> list[Path]:
    """Takes what was cleared away meanwhile out of the copied catalogue; gives what the home itself misses."""
    _forget_segments(copied, {path.name for path in gone if path.parent == home.segments})
    uploads = {path for path in gone if path.parent == home.uploads}
    encoders = {
        home.encoders / path.relative_to(home.encoders).parts[0] for path in gone if home.encoders in path.parents
    }
    with Catalogue(home) as live:
        if uploads:
            deleted = uploads - {Path(path) for path in live.known_locations([str(home.uploads)])}
            copied.forget_paths(sorted(map(str, deleted)))
            uploads -= deleted
        known, in_use = {record.fingerprint for record in live.encoders()}, copied.state().active_encoder
    for folder in [folder for folder in encoders if folder.name not in known and folder.name != in_use]:
        copied.remove_encoder(folder.name)
        encoders.remove(folder)
    return sorted(uploads | encoders)


def _forget_segments(catalogue: Catalogue, names: set[str]) -> None:
    """Without its file a segment is only a promise; searches read the rows until there is a new one."""
    with catalogue.writing() as (connection, _):
        rows = connection.execute(select(SegmentRow.__table__)).all()
        broken = [row.id for row in rows if names & files_of(SegmentRecord(**row._mapping)).keys()]
        if read_state(connection).segment_id in broken:
            connection.execute(update(StateRow).values(segment_id=None))
        connection.execute(delete(SegmentRow).where(SegmentRow.id.in_(broken)))


class _Packer:
    """Puts files into a tar and notes what they hold."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self.hashes: dict[str, str] = {}
        self.bytes = 0

    def add(self, name: str, source: Path) -> bool:
        """Adds a file; False where it is gone."""
        try:
            file = source.open("rb")
        except (FileNotFoundError, IsADirectoryError):
            return False
        with file:
            entry = self._tar.gettarinfo(arcname=name, fileobj=file)
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            reader = _Hashing(file)
            self._tar.addfile(entry, reader)
        self.hashes[name] = reader.digest.hexdigest()
        self.bytes += entry.size
        return True

    def add_manifest(self, manifest: dict[str, Any]) -> None:
        data = json.dumps(manifest, indent=1, ensure_ascii=False).encode()
        entry = tarfile.TarInfo(MANIFEST)
        entry.size = len(data)
        self._tar.addfile(entry, io.BytesIO(data))


class _Hashing:
    """A file that is hashed as it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        return data
