"""Segment files: write, open, check and delete them. A published segment never changes."""

from __future__ import annotations

import hashlib
import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from simile.core.atomic_write import fsync_path
from simile.core.errors import IndexDamaged, ObjectsUnavailable
from simile.store.catalogue.records import EncoderRecord, SegmentRecord, WrittenSegment
from simile.store.home import Home, translate_write_errors
from simile.store.index.build import IndexOptions, PreviousLists, build_exact_index, build_ivf_index
from simile.store.index.flat import FlatIndex, VectorIndex
from simile.store.index.ivf import VECTORS_SUFFIX, IvfIndex
from simile.store.index.vector_file import VectorFile
from simile.store.objects import REMOVED_PREFIX, SEGMENT_PREFIX, hash_file

log = logging.getLogger(__name__)

# By the kind in the segment's row; the first version called an exact index "flat".
INDEX_CLASSES: dict[str, type[FlatIndex] | type[IvfIndex]] = {"flat": FlatIndex, "exact": FlatIndex, "ivf": IvfIndex}
UNUSED_SECONDS = 3600  # younger files may belong to a segment that is just being published
MAX_HASHED_BYTES = 64 << 20  # size up to which a file is hashed at each opening: 50 ms. `verify` hashes all files


def write_segment(
    home: Home,
    encoder: EncoderRecord,
    vectors: Path,
    change: int,
    options: IndexOptions,
    previous: PreviousLists | None = None,
) -> WrittenSegment:
    """Write an index of a file of `write_vector_file` into segments/, durably. An ivf segment takes the file over.

    The file names contain a hash of the contents: the same contents always get the same name, other contents never do.
    `change` is the last change that the vectors include; an ivf index may take the centroids of `previous`. Raises
    HomeNotWritable.
    """
    rows, dimensions = VectorFile.open(vectors).vectors.shape
    kind = options.choose_kind(rows, dimensions)
    with translate_write_errors(home.segments), make_temporary_file(home) as index_file:
        # Build the index, then name its files by their hashes.
        if kind == "ivf":
            details, parts = build_ivf_index(vectors, index_file, options, previous), {VECTORS_SUFFIX: vectors}
        else:
            details, parts = build_exact_index(vectors, index_file), {}
        parts = {".faiss": index_file} | parts
        hashes = {suffix: hash_file(path) for suffix, path in parts.items()}
        digest = hashlib.sha256("".join(hashes.values()).encode()).hexdigest() if len(hashes) > 1 else hashes[".faiss"]
        stem = f"{change:012d}-{encoder.fingerprint[:12]}-{digest[:12]}"
        details["disk_bytes"] = sum(path.stat().st_size for path in parts.values())
        details["files"] = {stem + suffix: sha256 for suffix, sha256 in hashes.items()}
        for suffix, path in parts.items():
            fsync_path(path)
            path.replace(home.segments / (stem + suffix))
        fsync_path(home.segments)
    for name in details["files"]:  # before the row that names them
        home.objects.put(SEGMENT_PREFIX + name, home.segments / name)
    return WrittenSegment(kind=kind, file=f"{stem}.faiss", rows=rows, sha256=hashes[".faiss"], details=details)


@contextmanager
def make_temporary_file(home: Home) -> Iterator[Path]:
    """Yield a new path in segments/ to write to, and delete the file at the end if it was not renamed."""
    path = home.segments / f"{uuid.uuid4().hex}.tmp"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def open_segment(home: Home, segment: SegmentRecord, *, max_hashed_bytes: int | None = None) -> VectorIndex:
    """Open a segment's index, and compare its files up to this size (None: all) with their hashes.

    Files that are missing or altered in the home are fetched from the object store, if several hosts share one. Raises
    IndexDamaged if a file is missing, altered or inconsistent with the row, and ObjectsUnavailable.
    """
    if segment.kind not in INDEX_CLASSES:
        raise IndexDamaged(f"{segment.file} is an index of kind {segment.kind!r}, unknown here. Run `simile rebuild`.")
    if not home.objects.is_shared:
        return _open_files(home, segment, max_hashed_bytes)
    fetch_segment(home, segment)
    try:
        return _open_files(home, segment, max_hashed_bytes)
    except IndexDamaged as error:
        log.warning("%s Fetching it again.", error)
        for name in segment.file_hashes:
            (home.segments / name).unlink(missing_ok=True)
        fetch_segment(home, segment)
        return _open_files(home, segment, max_hashed_bytes)


def fetch_segment(home: Home, segment: SegmentRecord) -> None:
    """Fetch the files that the home lacks. Raises IndexDamaged if the store lacks them, ObjectsUnavailable."""
    for name, sha256 in segment.file_hashes.items():
        try:
            home.objects.fetch(SEGMENT_PREFIX + name, sha256)
        except FileNotFoundError:
            raise IndexDamaged(f"The object store has no segment file {name}. Run `simile rebuild`.") from None


def _open_files(home: Home, segment: SegmentRecord, max_hashed_bytes: int | None) -> VectorIndex:
    path = home.segments / segment.file
    try:
        for name, sha256 in segment.file_hashes.items():
            path = home.segments / name
            if (max_hashed_bytes is None or path.stat().st_size <= max_hashed_bytes) and hash_file(path) != sha256:
                raise IndexDamaged(f"{path} has been altered. Run `simile rebuild`.")
        index = INDEX_CLASSES[segment.kind].load(home.segments / segment.file)
    except OSError as error:
        raise IndexDamaged(f"{path} can't be read: {error.strerror}. Run `simile rebuild`.") from error
    if len(index) != segment.rows:
        raise IndexDamaged(f"{path} holds {len(index)} vectors instead of {segment.rows}. Run `simile rebuild`.")
    return index


def delete_unused_segment_files(home: Home, used_names: set[str]) -> None:
    """Delete every file in segments/ that is not in `used_names`, from the object store a day later.

    The caller must hold the home's lock.
    """
    with translate_write_errors(home.segments):
        for path in home.segments.iterdir():
            if path.name not in used_names:
                path.unlink(missing_ok=True)
    if not home.objects.is_shared:
        return
    try:
        marked = {mark.name for mark in home.objects.names(REMOVED_PREFIX + SEGMENT_PREFIX)}
        for stored in home.objects.names(SEGMENT_PREFIX):
            is_used = stored.name.removeprefix(SEGMENT_PREFIX) in used_names
            if not is_used and REMOVED_PREFIX + stored.name not in marked:
                home.objects.discard(stored.name)
    except ObjectsUnavailable as error:  # the next segment does it
        log.warning("Old segments stay in the object store. %s", error)


def delete_fetched_segment_files(home: Home, used_names: set[str]) -> None:
    """Delete old files of published segments that are not in `used_names`; the caller need not hold the home's lock.

    A host that only searches never publishes, so nothing else deletes the segments that it has fetched.
    """
    with translate_write_errors(home.segments):
        for path in home.segments.iterdir():
            if path.suffix == ".tmp" or path.name in used_names:  # another process may be writing a temporary file
                continue
            with suppress(FileNotFoundError):  # deleted meanwhile
                if time.time() - path.stat().st_mtime > UNUSED_SECONDS:
                    path.unlink()
