"""Tar and zip archives: which pictures they hold, and their bytes. Nothing is ever unpacked onto the disk.

A member's path is the archive's with the member's name behind it: photos.zip/2024/cat.jpg. Archives come from anywhere:
a name that leads out of the archive, a link, an encrypted or damaged member is a failure of its own, and no member is
inflated beyond the limit on a file's bytes.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import IO, Self, cast

from simile.core.errors import UnreadableImage
from simile.core.records import Failure
from simile.images.formats import IMAGE_SUFFIXES, Limits, check_byte_count, has_image_signature
from simile.images.sources.paths import is_utf8, make_printable

_ARCHIVE_SUFFIX = re.compile(r"\.(?:tar(?:\.(?:gz|bz2|xz|zst))?|tgz|tbz2?|txz|zip|cbz)(?=/|$)", re.IGNORECASE)
_OPENERS_BY_MAGIC: dict[bytes, Callable[[str, str], object]] = {
    b"\x1f\x8b": gzip.open,
    b"BZ": bz2.open,
    b"\xfd7": lzma.open,
}
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
MAX_HEADER_BYTES = 16 << 20  # bytes that tarfile may want at once: names and their extensions take a few hundred
MAX_INFLATED_BYTES = 1 << 30  # bytes of a compressed tar before its ratio is looked at
MAX_INFLATION_RATIO = 200  # inflated to stored, beyond that size; pictures are near 1, text near 10
# What the readers raise on archives that are cut off or damaged.
ARCHIVE_ERRORS = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, struct.error,
    NotImplementedError, UnicodeError, OverflowError,
)  # fmt: skip


@dataclass(frozen=True)
class ArchiveMember:
    """Where a file's bytes are. `offset`: in the archive, inflated if it is a tar; `stored`: bytes there."""

    size: int
    offset: int
    compressed_size: int
    method: int = zipfile.ZIP_STORED
    crc: int | None = None


@dataclass
class ArchiveContents:
    """What an archive holds: pictures by name, and what was set aside. `whole`: its list could be read to the end."""

    members: dict[str, ArchiveMember] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    ignored_count: int = 0
    is_complete: bool = True


def is_archive(path: str) -> bool:
    """Whether its name calls it an archive."""
    found = [match.end() for match in _ARCHIVE_SUFFIX.finditer(path)]
    return bool(found) and found[-1] == len(path)


def split_member_path(path: str) -> tuple[str, str] | None:
    """(archive, member's name) of a path that leads into an archive, else None."""
    for match in _ARCHIVE_SUFFIX.finditer(path):
        if match.end() < len(path) and os.path.isfile(path[: match.end()]):  # noqa: PTH113  # called for every file
            return path[: match.end()], path[match.end() + 1 :]
    return None


def read_contents(archive: str) -> ArchiveContents:
    """What the archive holds; the last few are remembered until their files change. Raises OSError."""
    facts = Path(archive).stat()
    return _read_contents_cached(archive, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=4)
def _read_contents_cached(archive: str, _size: int, _mtime_ns: int) -> ArchiveContents:
    found = ArchiveContents()
    try:
        with Path(archive).open("rb") as file:
            head = file.read(4)
        if head.startswith(_ZSTD_MAGIC):
            raise tarfile.ReadError("it is compressed with zstd, which is not read; pack it as .tar.gz or .zip")
        _list_zip_members(archive, found) if head.startswith(b"PK") else _list_tar_members(archive, found)
    except ARCHIVE_ERRORS as error:
        found.is_complete = False
        found.failures.append(
            Failure(make_printable(archive), f"the archive is cut off or damaged ({_describe_error(error)})")
        )
    return found


class MemberReader:
    """Reads members: best in the order of their offsets, for a compressed tar can only be read forwards."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._archive: str | None = None
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def read(self, path: str) -> bytes | None:
        """The bytes of a member, None for a path outside archives. Raises UnreadableImage, ImageTooLarge."""
        found = split_member_path(path)
        if found is None:
            return None
        archive, name = found
        try:
            member = read_contents(archive).members.get(name)
            if member is None:
                raise UnreadableImage(path, "there is no such picture in the archive")
            check_byte_count(member.size, path, self._limits)
            data = _read_member_bytes(self._open(archive), member)
        except ARCHIVE_ERRORS as error:
            self._close()
            raise UnreadableImage(path, f"it can't be read from the archive ({_describe_error(error)})") from error
        if not data:
            raise UnreadableImage(path, "the file is empty")
        return data

    def _open(self, archive: str) -> IO[bytes]:
        if self._file is None or archive != self._archive:
            self._close()
            self._archive, self._file = archive, _open_stream(archive)
        return self._file

    def _close(self) -> None:
        if self._file is not None:
            with suppress(*ARCHIVE_ERRORS):
                self._file.close()
        self._file = None


def read_archive_member(path: str, limits: Limits) -> bytes | None:
    """The bytes of one member, None for a path outside archives. Raises UnreadableImage, ImageTooLarge."""
    with MemberReader(limits) as reader:
        return reader.read(path)


def is_regular_file(path: str) -> bool:
    """Whether the path leads to a regular file, in a folder or in an archive."""
    if os.path.isfile(path):  # a path with a NUL in it must not raise  # noqa: PTH113
        return True
    found = split_member_path(path)
    if found is None:
        return False
    try:
        return found[1] in read_contents(found[0]).members
    except OSError:
        return False


def is_member_missing(path: str) -> bool:
    """Whether an archive was in the way to this path and lacks it; one that is damaged may hold it still."""
    found = split_member_path(path)
    if found is None:
        return True
    try:
        held = read_contents(found[0])
    except OSError:
        return False
    return held.is_complete and found[1] not in held.members


def _read_member_bytes(file: IO[bytes], member: ArchiveMember) -> bytes:
    """The member's bytes; raises one of DAMAGE where they are not what the archive says."""
    if member.crc is None:  # a tar
        file.seek(member.offset)
        data = file.read(member.size)
        if len(data) != member.size:
            raise EOFError("the archive ends before it")
        return data
    file.seek(member.offset)
    header = file.read(30)  # as section 4.3.7 of the zip specification has it
    if len(header) != 30 or not header.startswith(b"PK\3\4"):
        raise zipfile.BadZipFile("no member where one should be")
    file.seek(sum(struct.unpack("<HH", header[26:])), io.SEEK_CUR)
    data = file.read(member.compressed_size)
    if member.method == zipfile.ZIP_DEFLATED:
        # One byte more than it should be, to see that it is more: what it says of its size may be a lie.
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, member.size + 1)
    if len(data) != member.size or zlib.crc32(data) != member.crc:
        raise zipfile.BadZipFile("its bytes are not those that were packed")
    return data


# Zip


def _list_zip_members(archive: str, contents: ArchiveContents) -> None:
    with zipfile.ZipFile(archive) as packed, Path(archive).open("rb") as file:
        infos = [info for info in packed.infolist() if not info.is_dir()]
        _check_overlap(infos)
        for info in infos:
            if (name := _clean_member_name(archive, info.filename, contents)) is None:
                continue
            member = ArchiveMember(
                size=info.file_size,
                offset=info.header_offset,
                compressed_size=info.compress_size,
                method=info.compress_type,
                crc=info.CRC,
            )
            if reason := _get_zip_rejection_reason(info):
                _skip_member(archive, name, reason, contents)
            elif _is_image_member(file, name, member):
                contents.members[name] = member
            else:
                contents.ignored_count += 1


def _check_overlap(infos: list[zipfile.ZipInfo]) -> None:
    """Members that share their bytes are the work of somebody who wants a small file to be endless."""
    placed = sorted(infos, key=lambda info: info.header_offset)
    for one, other in pairwise(placed):
        if one.header_offset + 30 + one.compress_size > other.header_offset:
            raise zipfile.BadZipFile("its members overlap")


def _get_zip_rejection_reason(info: zipfile.ZipInfo) -> str | None:
    if info.flag_bits & 0x1:
        return "it is encrypted; unpack the archive with its password first"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "a link in an archive is not followed"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "it is packed by a method other than stored or deflated; pack it again"
    return None


# Tar


def _list_tar_members(archive: str, contents: ArchiveContents) -> None:
    with _open_stream(archive) as stream:
        guarded = _BoundedStream(stream, Path(archive).stat().st_size)
        with tarfile.TarFile(fileobj=cast(IO[bytes], guarded), encoding="utf-8", errors="surrogateescape") as tar:
            for info in _iterate_headers(tar):
                _add_tar_member(archive, info, stream, contents)
            _check_end_block(guarded.last_block)


def _iterate_headers(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (info := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # or a million of them stay in memory
        yield info


def _add_tar_member(archive: str, info: tarfile.TarInfo, stream: IO[bytes], contents: ArchiveContents) -> None:
    if info.isdir() or (name := _clean_member_name(archive, info.name, contents)) is None:
        return
    member = ArchiveMember(size=info.size, offset=info.offset_data, compressed_size=info.size)
    contents.members.pop(name, None)  # the last of several by one name counts, as when they are unpacked
    if info.issym() or info.islnk():
        _skip_member(archive, name, "a link in an archive is not followed", contents)
    elif not info.isreg() or info.issparse():
        _skip_member(archive, name, "not a regular file", contents)
    elif _is_image_member(stream, name, member):
        contents.members[name] = member
    else:
        contents.ignored_count += 1


def _check_end_block(last_block: bytes) -> None:
    """tarfile takes a damaged header for the end; a real end is a block of zeros, or of nothing."""
    if last_block not in (b"", bytes(tarfile.BLOCKSIZE)):
        raise tarfile.ReadError("a header makes no sense")


def _open_stream(archive: str) -> IO[bytes]:
    """The archive's bytes, inflated if it is a compressed tar."""
    with Path(archive).open("rb") as file:
        head = file.read(2)
    opened = _OPENERS_BY_MAGIC.get(head, open)(archive, "rb")
    return cast(IO[bytes], opened)


class _BoundedStream:
    """A stream that refuses what only a bomb asks for."""

    def __init__(self, stream: IO[bytes], compressed_size: int) -> None:
        self._stream = stream
        self._max_offset = max(MAX_INFLATED_BYTES, MAX_INFLATION_RATIO * compressed_size)
        self.last_block = b""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        self.last_block = self._stream.read(size)
        return self.last_block

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if offset > self._max_offset:
            raise tarfile.ReadError(f"it inflates to more than {MAX_INFLATION_RATIO} times its size")
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


# Both


def _clean_member_name(archive: str, raw_name: str, contents: ArchiveContents) -> str | None:
    """The member's name below the archive; None for a hidden one, and for one that can't be used (a failure)."""
    parts = [part for part in raw_name.split("/") if part not in ("", ".")]
    reason = None
    if raw_name.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:[\\/]", raw_name):
        reason = "its name leads out of the archive"
    elif not parts or "\0" in raw_name:
        reason = "it has no name"
    elif not is_utf8(raw_name):
        reason = "the file's name is not valid UTF-8; rename it"
    if reason is not None:
        contents.failures.append(Failure(f"{archive}/{make_printable(raw_name)}".replace("\0", "\\0"), reason))
        return None
    return None if any(part.startswith(".") for part in parts) else "/".join(parts)


def _skip_member(archive: str, name: str, reason: str, contents: ArchiveContents) -> None:
    """A failure if its name calls it a picture; what else an archive holds is passed over."""
    if _has_image_suffix(name):
        contents.failures.append(Failure(f"{archive}/{name}", reason))
    else:
        contents.ignored_count += 1


def _is_image_member(file: IO[bytes], name: str, member: ArchiveMember) -> bool:
    if _has_image_suffix(name):
        return True
    try:
        return has_image_signature(_read_member_head(file, member))
    except (zlib.error, struct.error):
        return False


def _read_member_head(file: IO[bytes], member: ArchiveMember) -> bytes:
    """The first 32 bytes."""
    file.seek(member.offset)
    if member.crc is None:
        return file.read(min(32, member.size))
    file.seek(sum(struct.unpack("<HH", file.read(30)[26:])), io.SEEK_CUR)
    data = file.read(min(1024, member.compressed_size))
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, 32) if member.method else data[:32]


def _has_image_suffix(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122  # for every member


def _describe_error(error: BaseException) -> str:
    return make_printable(str(getattr(error, "strerror", None) or error or type(error).__name__)).rstrip(".")
