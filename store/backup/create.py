"""Back up a whole home into one tar file, while others read and write the home.

Order in the tar: segments, encoders with their attributes, uploads, the catalogue, and last `backup.json` with the
SHA-256 of every file: a backup without it is incomplete. Only SQLite is copied; other databases have their own tools.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from sqlalchemy import delete, update

from simile.core.atomic_write import write_atomically
from simile.core.errors import BadSetting
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.segments import read_segments
from simile.store.database import schema
from simile.store.database.engine import copy_catalogue, find_catalogue_file
from simile.store.database.tables import SegmentRow, StateRow
from simile.store.database.transactions import read_state
from simile.store.home import Home

MANIFEST_NAME, CATALOGUE_NAME, BACKUP_FORMAT = "backup.json", "catalogue.sqlite", 1
BACKUP_FOLDERS = ("segments", "encoders", "uploads", "attributes")


@dataclass(frozen=True)
class BackupSummary:
    """Counts of a backup."""

    images: int
    files: int
    total_bytes: int  # of all files together
    missing_files: tuple[str, ...] = ()  # files that the catalogue knows and the home does not have

    def to_dict(self) -> dict[str, Any]:
        """Return the summary with the names of the JSON output."""
        counts = {"images": self.images, "files": self.files, "bytes": self.total_bytes}
        return {**counts, "left_out": list(self.missing_files)}


def create_backup(home: Home, target: Path) -> BackupSummary:
    """Write the home as of this moment to a tar file. An existing file is replaced when the new one is complete.

    No lock is needed: the catalogue is copied in one transaction, and the other files of a home never change. A file
    that is deleted before it is copied (an old segment, an upload) is also removed from the copied catalogue. Raises
    BadSetting if `target` can't be written, or the catalogue is not an SQLite file.
    """
    source = find_catalogue_file(home)
    if home.objects.is_shared:
        raise BadSetting(
            "The uploads, encoders and segments of this home are in the object store of SIMILE_OBJECTS. Back up that "
            "store and the catalogue with their own tools (docs/scaling.md)."
        )
    if source is None:
        raise BadSetting(
            "SIMILE_DATABASE_URL names a database that is not an SQLite file. Back it up with its own tools."
        )
    if target.exists() and not target.is_file():  # a folder, or a device, which must not be replaced
        raise BadSetting(f"{target} can't be written: it is not a regular file. Name another file.")
    schema.check_schema(home)
    snapshot = Home(target.absolute().with_name(f".{target.name}.{uuid.uuid4().hex}"))
    try:
        snapshot.root.mkdir(mode=0o700)
        copy_catalogue(source, snapshot.catalogue_path)
        summaries: list[BackupSummary] = []
        write_atomically(target, lambda path: summaries.append(_write_backup_tar(home, snapshot, path)))
        return summaries[0]
    except OSError as error:
        raise BadSetting(f"{target} can't be written: {error.strerror}. Make space, or name another file.") from error
    finally:
        shutil.rmtree(snapshot.root, ignore_errors=True)


def _write_backup_tar(home: Home, snapshot_home: Home, path: Path) -> BackupSummary:
    path.touch(mode=0o600)  # it holds the hashes of keys, and uploads with all their metadata
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        packer = _TarPacker(tar)
        with Catalogue(snapshot_home) as catalogue:
            missing = [
                path
                for path in _iterate_home_files(home, catalogue)
                if not packer.add(path.relative_to(home.root).as_posix(), path)
            ]
            missing = _drop_missing_files(home, catalogue, missing)
            images = catalogue.images.count()
        packer.add(CATALOGUE_NAME, snapshot_home.catalogue_path)
        summary = BackupSummary(images, len(packer.hashes), packer.total_bytes, tuple(map(str, missing)))
        made_at = datetime.now(UTC).isoformat(timespec="seconds")
        manifest = {"format": BACKUP_FORMAT, "home": str(home.root), "schema": schema.HEAD_REVISION, "made_at": made_at}
        packer.add_manifest(manifest | {"images": images, "files": packer.hashes})
    return summary


def _iterate_home_files(home: Home, catalogue: Catalogue) -> Iterator[Path]:
    """Yield the files of the copied catalogue. Segments come first, because they are deleted soonest."""
    yield from sorted(home.segments / name for name in catalogue.segments.get_file_names())
    for encoder in catalogue.encoders.get_all():
        folder = home.encoders / encoder.fingerprint
        yield from sorted(path for path in folder.rglob("*") if path.is_file()) or [folder]
        # Names of temporary files start with a dot.
        yield from sorted((home.attributes / encoder.fingerprint).glob("[a-z0-9]*.npz"))
    yield from map(Path, sorted(catalogue.files.find_under([str(home.uploads)])))


def _drop_missing_files(home: Home, snapshot: Catalogue, missing: Sequence[Path]) -> list[Path]:
    """Remove files that were deleted meanwhile from the copied catalogue; return files that the home itself misses."""
    _delete_segments_of_files(snapshot, {path.name for path in missing if path.parent == home.segments})
    uploads = {path for path in missing if path.parent == home.uploads}
    encoders = {
        home.encoders / path.relative_to(home.encoders).parts[0] for path in missing if home.encoders in path.parents
    }
    with Catalogue(home) as live:
        if uploads:
            deleted = uploads - {Path(path) for path in live.files.find_under([str(home.uploads)])}
            snapshot.files.delete(sorted(map(str, deleted)))
            uploads -= deleted
        known, active = {record.fingerprint for record in live.encoders.get_all()}, snapshot.get_state().active_encoder
    for folder in [folder for folder in encoders if folder.name not in known and folder.name != active]:
        snapshot.encoders.delete(folder.name)
        encoders.remove(folder)
    return sorted(uploads | encoders)


def _delete_segments_of_files(catalogue: Catalogue, file_names: set[str]) -> None:
    """Delete the rows of segments whose files are missing. Searches then read the vectors from the catalogue."""
    with catalogue.begin_write() as (connection, _):
        broken = [record.id for record in read_segments(connection) if file_names & record.file_hashes.keys()]
        if read_state(connection).segment_id in broken:
            connection.execute(update(StateRow).values(segment_id=None))
        connection.execute(delete(SegmentRow).where(SegmentRow.id.in_(broken)))


class _TarPacker:
    """Add files to a tar, and compute their hashes."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self.hashes: dict[str, str] = {}
        self.total_bytes = 0

    def add(self, name: str, source: Path) -> bool:
        """Add a file. Return False if it does not exist."""
        try:
            file = source.open("rb")
        except (FileNotFoundError, IsADirectoryError):
            return False
        with file:
            entry = self._tar.gettarinfo(arcname=name, fileobj=file)
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            reader = _HashingReader(file)
            self._tar.addfile(entry, reader)
        self.hashes[name] = reader.digest.hexdigest()
        self.total_bytes += entry.size
        return True

    def add_manifest(self, manifest: dict[str, Any]) -> None:
        """Add the manifest as the last file."""
        data = json.dumps(manifest, indent=1, ensure_ascii=False).encode()
        entry = tarfile.TarInfo(MANIFEST_NAME)
        entry.size = len(data)
        self._tar.addfile(entry, io.BytesIO(data))


class _HashingReader:
    """A file that is hashed while it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Read and hash."""
        data = self._file.read(size)
        self.digest.update(data)
        return data
