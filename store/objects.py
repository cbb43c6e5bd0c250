"""The store of uploads, segments and encoders: the home's folder, or an S3 store that several hosts share.

Names of objects are made of their contents, and an object never changes, so that a copy in the home is always current
and it does not matter which host stores an object first:

    uploads/ab/<sha256>.<format>        encoders/<fingerprint>/<file>
    segments/<name with a hash>         attributes/<fingerprint>/<name>.<hash>.npz

An object is stored before the row that names it. After the row is deleted, the object stays for a day
(store/object_removal.py). Nothing relies on renames, appends or locks in the store.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, NamedTuple

from simile.core.atomic_write import fsync_path, write_atomically
from simile.core.errors import ObjectsUnavailable
from simile.images.sources.buckets import open_file_system, to_bucket_path, translate_store_errors
from simile.store.home import translate_write_errors

log = logging.getLogger(__name__)

COPY_BYTES = 1 << 20
ATTRIBUTE_PREFIX, ENCODER_PREFIX, SEGMENT_PREFIX, UPLOAD_PREFIX = "attributes/", "encoders/", "segments/", "uploads/"
REMOVED_PREFIX = "removed/"  # of the mark of an object that no row names


class StoredObject(NamedTuple):
    """An object in the store."""

    name: str
    size: int  # bytes
    modified: datetime  # when it was stored, by the clock of the store


class ObjectStore(ABC):
    """Objects by name. The home's folder is the local cache. Threads and processes may share it.

    Every method may raise ObjectsUnavailable, and those that write into the home HomeNotWritable.
    """

    is_shared: bool  # whether other hosts use the same objects, so that the home may lack some

    def __init__(self, root: Path) -> None:
        self.root = root

    def get_local_path(self, name: str) -> Path:
        """Return where the home holds the object, or would hold it."""
        return self.root / name

    @abstractmethod
    def put(self, name: str, path: Path) -> None:
        """Store a file under the name, unless the object exists."""

    @abstractmethod
    def put_bytes(self, name: str, data: bytes) -> None:
        """Store the bytes under the name, unless the object exists."""

    @abstractmethod
    def fetch(self, name: str, sha256: str | None = None) -> Path:
        """Return the path of the object in the home; fetch it first if it is not there.

        `sha256` is compared with what was fetched, not with a file that was there. Raises FileNotFoundError if there is
        no such object.
        """

    @abstractmethod
    def open(self, name: str) -> IO[bytes]:
        """Open an object for reading. Raises FileNotFoundError."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Return whether the store has the object."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove an object from the store, if it is there. The copy in the home stays."""

    @abstractmethod
    def discard(self, name: str) -> None:
        """Have an object removed after the row that named it was deleted; where it is shared, a day later.

        If the store can't be reached, the object stays until `simile compact` finds it.
        """

    @abstractmethod
    def names(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the objects in a folder such as `segments/`, at any depth, in the order of their names."""


class FolderObjects(ObjectStore):
    """The objects of a home that shares none: the files in its folder."""

    is_shared = False

    def put(self, name: str, path: Path) -> None:
        """Copy the file into the home, unless it is there."""
        target = self.get_local_path(name)
        if not target.exists():
            with translate_write_errors(target):
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_atomically(target, lambda temporary: shutil.copyfile(path, temporary))

    def put_bytes(self, name: str, data: bytes) -> None:
        """Write the file, unless it is there."""
        target = self.get_local_path(name)
        if not target.exists():
            with translate_write_errors(target):
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_atomically(target, lambda temporary: temporary.write_bytes(data))

    def fetch(self, name: str, sha256: str | None = None) -> Path:  # noqa: ARG002  # nothing is fetched
        """Return the path in the home. Raises FileNotFoundError."""
        path = self.get_local_path(name)
        path.stat()
        return path

    def open(self, name: str) -> IO[bytes]:
        """Open the file."""
        return self.get_local_path(name).open("rb")

    def exists(self, name: str) -> bool:
        """Return whether the home has the file."""
        return self.get_local_path(name).exists()

    def remove(self, name: str) -> None:
        """Delete the file."""
        path = self.get_local_path(name)
        with translate_write_errors(path):
            path.unlink(missing_ok=True)

    def discard(self, name: str) -> None:
        """Delete the file."""
        self.remove(name)

    def names(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the files."""
        for path in sorted((self.root / prefix).rglob("*"), key=str):
            if path.is_file():
                status = path.stat()
                modified = datetime.fromtimestamp(status.st_mtime, UTC)
                yield StoredObject(path.relative_to(self.root).as_posix(), status.st_size, modified)


class BucketObjects(ObjectStore):
    """The objects below an S3 URL, with copies in the home."""

    is_shared = True

    def __init__(self, root: Path, url: str) -> None:
        super().__init__(root)
        self.url = url

    def get_url(self, name: str) -> str:
        """Return the URL of an object."""
        return f"{self.url}/{name}"

    def put(self, name: str, path: Path) -> None:
        """Upload the file, unless an object of its size exists: equal names mean equal bytes."""
        with translate_store_errors(self.url):
            found = self._find(name)
            if found.size == path.stat().st_size:
                return
            target = self._files.open_output_stream(self._get_path(name))
            try:
                with path.open("rb") as source, target:
                    shutil.copyfileobj(source, target, COPY_BYTES)
            except OSError:
                with suppress(OSError):  # closing the stream has stored what was written so far
                    self._files.delete_file(self._get_path(name))
                raise

    def put_bytes(self, name: str, data: bytes) -> None:
        """Upload the bytes, unless an object of their size exists."""
        with translate_store_errors(self.url):
            if self._find(name).size != len(data):
                with self._files.open_output_stream(self._get_path(name)) as target:
                    target.write(data)

    def fetch(self, name: str, sha256: str | None = None) -> Path:
        """Return the path in the home; download the object first if it is not there."""
        target = self.get_local_path(name)
        if target.exists():
            return target
        # Not next to the target: a process with the home's lock deletes unknown files there.
        temporary = self.root / f"{uuid.uuid4().hex}.tmp"
        try:
            with translate_write_errors(target):
                self.root.mkdir(mode=0o700, parents=True, exist_ok=True)  # only its user may read a home
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                digest = self._download(name, temporary)
                if sha256 not in (None, digest):
                    raise ObjectsUnavailable(
                        f"{self.get_url(name)} has been altered: its SHA-256 is {digest} instead of {sha256}. Restore "
                        "it, or remove it and run `simile rebuild`."
                    )
                temporary.replace(target)
                fsync_path(target.parent)
        finally:
            temporary.unlink(missing_ok=True)
        return target

    def open(self, name: str) -> IO[bytes]:
        """Open the object. Reading it may raise OSError."""
        with translate_store_errors(self.url):
            stream: IO[bytes] = self._files.open_input_stream(self._get_path(name))
        return stream

    def exists(self, name: str) -> bool:
        """Return whether the store has the object."""
        with translate_store_errors(self.url):
            return self._find(name).size is not None

    def remove(self, name: str) -> None:
        """Remove the object."""
        with translate_store_errors(self.url):
            if self._find(name).size is not None:
                self._files.delete_file(self._get_path(name))

    def discard(self, name: str) -> None:
        """Mark the object: the time of the mark tells how long no row has named it."""
        try:
            self.remove(REMOVED_PREFIX + name)
            self.put_bytes(REMOVED_PREFIX + name, b"")
        except ObjectsUnavailable as error:
            log.warning("%s is no longer needed. %s", self.get_url(name), error)

    def names(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the objects; S3 lists them in the order of their names."""
        from pyarrow import fs  # noqa: PLC0415  # see open_file_system

        with translate_store_errors(self.url):
            selector = fs.FileSelector(self._get_path(prefix.rstrip("/")), allow_not_found=True, recursive=True)
            found = self._files.get_file_info(selector)
        start = len(self._get_path(""))
        for info in found:
            if info.size is not None:
                yield StoredObject(info.path[start:], info.size, info.mtime)

    @property
    def _files(self) -> Any:
        return open_file_system()

    def _get_path(self, name: str) -> str:
        return to_bucket_path(self.get_url(name))

    def _find(self, name: str) -> Any:
        """Return size and time of an object; the size of a missing one is None."""
        return self._files.get_file_info(self._get_path(name))

    def _download(self, name: str, target: Path) -> str:
        """Write the object to a new file, and return its SHA-256."""
        digest = hashlib.sha256()
        with self.open(name) as source, target.open("xb") as file:
            target.chmod(0o600)
            while True:
                with translate_store_errors(self.url):
                    block = source.read(COPY_BYTES)
                if not block:
                    break
                digest.update(block)
                file.write(block)
        fsync_path(target)
        return digest.hexdigest()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_object_store(root: Path, url: str | None) -> ObjectStore:
    """Return the store at the URL of SIMILE_OBJECTS, or that of the home's folder; nothing is connected yet."""
    return FolderObjects(root) if url is None else BucketObjects(root, url)
