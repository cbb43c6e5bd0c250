"""Read images from tar and zip archives. Nothing is unpacked onto the disk.

A member's path is the archive's path with the member's name after it: photos.zip/2024/cat.jpg. Archives can come from
anywhere: a name that leads out of the archive, a link, and an encrypted or damaged member are failures of their own,
and no member is inflated beyond the limit on a file's bytes.
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
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import IO, Self, cast

from simile.core.errors import UnreadableImage
from simile.core.records import Failure
from simile.images.formats import IMAGE_SUFFIXES, Limits, check_byte_count, has_image_signature
from simile.images.sources.paths import NOT_UTF8_REASON, is_utf8, make_printable

_ARCHIVE_SUFFIX = re.compile(r"\.(?:tar(?:\.(?:gz|bz2|xz|zst))?|tgz|tbz2?|txz|zip|cbz)(?=/|$)", re.IGNORECASE)
_OPENERS_BY_MAGIC: dict[bytes, Callable[[str, str], object]] = {
    b"\x1f\x8b": gzip.open,
    b"BZ": bz2.open,
    b"\xfd7": lzma.open,
}
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
MAX_HEADER_BYTES = 16 << 20  # bytes that tarfile may read at once; names and their extensions need a few hundred
MAX_INFLATED_BYTES = 1 << 30  # bytes of a compressed tar before its ratio is checked
MAX_INFLATION_RATIO = 200  # of inflated to compressed size, beyond that size; images are near 1, text near 10
TEXT_SUFFIXES = frozenset({".json", ".txt", ".text", ".caption", ".cls"})  # of files that may describe an image
MAX_TEXT_BYTES = 1 << 20
_LINK_REASON = "a link in an archive is not followed"
# The errors of the readers for archives that are cut off or damaged.
ARCHIVE_ERRORS = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, struct.error,
    NotImplementedError, UnicodeError, OverflowError,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ArchiveMember:
    """Where the bytes of a member are."""

    size: int  # bytes of the member
    offset: int  # position in the archive; in the inflated stream of a compressed tar
    compressed_size: int  # bytes in the archive
    method: int = zipfile.ZIP_STORED
    crc: int | None = None  # CRC-32 of the member; None in a tar


@dataclass(kw_only=True)
class ArchiveContents:
    """The contents of an archive."""

    archive: str
    members: dict[str, ArchiveMember] = field(default_factory=dict)  # images by name
    failures: list[Failure] = field(default_factory=list)  # images that cannot be used
    ignored: list[str] = field(default_factory=list)  # paths of members that are no images
    texts: dict[str, ArchiveMember] = field(default_factory=dict)  # those that may describe an image, by name
    is_complete: bool = True  # the list of members could be read to the end

    def add(self, file: IO[bytes], raw_name: str, member: ArchiveMember, rejection: str | None) -> None:
        """Add a member: an image, a failure (with the reason of its rejection) or an ignored file."""
        name = self._clean_name(raw_name)
        if name is None:
            return
        if member.crc is None:  # a tar: the last of several with one name counts, as when they are unpacked
            self.members.pop(name, None)
        has_suffix = os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122  # for every member
        if rejection is not None and has_suffix:
            self.failures.append(Failure(f"{self.archive}/{name}", rejection))
        elif rejection is None and (has_suffix or _has_image_signature(file, member)):
            self.members[name] = member
        else:
            self.ignored.append(f"{self.archive}/{name}")
            if rejection is None and os.path.splitext(name)[1].lower() in TEXT_SUFFIXES:  # noqa: PTH122
                self.texts[name] = member

    def _clean_name(self, raw_name: str) -> str | None:
        """Return the normalised member name; None for a hidden member and for a name that is a failure."""
        parts = [part for part in raw_name.split("/") if part not in ("", ".")]
        reason = None
        if raw_name.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:[\\/]", raw_name):
            reason = "its name leads out of the archive"
        elif not parts or "\0" in raw_name:
            reason = "it has no name"
        elif not is_utf8(raw_name):
            reason = NOT_UTF8_REASON
        if reason is not None:
            path = f"{self.archive}/{make_printable(raw_name)}".replace("\0", "\\0")
            self.failures.append(Failure(path, reason))
            return None
        return None if any(part.startswith(".") for part in parts) else "/".join(parts)


def is_archive(path: str) -> bool:
    """Return whether the path ends like an archive."""
    return any(match.end() == len(path) for match in _ARCHIVE_SUFFIX.finditer(path))


def split_member_path(path: str) -> tuple[str, str] | None:
    """Return (archive, member name) for a path into an archive, else None."""
    for match in _ARCHIVE_SUFFIX.finditer(path):
        if match.end() < len(path) and os.path.isfile(path[: match.end()]):  # noqa: PTH113  # called for every file
            return path[: match.end()], path[match.end() + 1 :]
    return None


def read_contents(archive: str) -> ArchiveContents:
    """Return the contents of an archive, cached for the last few archives until they change. Raises OSError."""
    facts = Path(archive).stat()
    return _read_contents_cached(archive, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=4)
def _read_contents_cached(archive: str, _size: int, _mtime_ns: int) -> ArchiveContents:
    """List the members; a damaged archive becomes a failure. Size and time are only part of the cache key."""
    contents = ArchiveContents(archive=archive)
    try:
        with Path(archive).open("rb") as file:
            head = file.read(4)
        if head.startswith(_ZSTD_MAGIC):
            raise tarfile.ReadError("it is compressed with zstd, which is not supported; pack it as .tar.gz or .zip")
        _list_zip_members(archive, contents) if head.startswith(b"PK") else _list_tar_members(archive, contents)
    except ARCHIVE_ERRORS as error:
        contents.is_complete = False
        reason = f"the archive is cut off or damaged ({_describe_error(error)})"
        contents.failures.append(Failure(make_printable(archive), reason))
    return contents


def read_texts(archive: str, select: Callable[[str], bool]) -> Iterator[tuple[str, bytes | None]]:
    """Yield name and bytes of the selected members that may describe an image; None for one that is too large.

    Raises one of ARCHIVE_ERRORS.
    """
    texts = [(name, member) for name, member in read_contents(archive).texts.items() if select(name)]
    if not texts:
        return
    with closing(_open_stream(archive)) as stream:
        for name, member in sorted(texts, key=lambda item: item[1].offset):  # a compressed tar is read forwards
            yield name, _read_member_bytes(stream, member) if member.size <= MAX_TEXT_BYTES else None


def is_compressed_tar(archive: str) -> bool:
    """Return whether reading a member means to inflate all that is before it. Raises OSError."""
    with Path(archive).open("rb") as file:
        return file.read(2) in _OPENERS_BY_MAGIC


class MemberReader:
    """Reads members. Fastest in the order of their offsets, because a compressed tar can only be read forwards."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._archive: tuple[str, int, int] | None = None  # path, size and time
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, path: str, on_passed: Callable[[bytes], object] | None = None) -> bytes | None:
        """Return the bytes of a member, None for a path outside archives. Raises UnreadableImage, ImageTooLarge.

        `on_passed` gets the bytes of each image that is inflated on the way to a member of a compressed tar.
        """
        archive_and_name = split_member_path(path)
        if archive_and_name is None:
            return None
        archive, name = archive_and_name
        try:
            members = read_contents(archive).members
            member = members.get(name)
            if member is None:
                raise UnreadableImage(path, "there is no such image in the archive")
            check_byte_count(member.size, path, self._limits)
            stream = self._open(archive)
            if on_passed is not None:
                start = stream.tell() if stream.tell() <= member.offset else 0  # it can't be read backwards
                for other in members.values():  # in the order of their offsets
                    if start <= other.offset < member.offset and other.size <= self._limits.max_bytes:
                        on_passed(_read_member_bytes(stream, other))
            data = _read_member_bytes(stream, member)
        except ARCHIVE_ERRORS as error:
            self.close()
            raise UnreadableImage(path, f"it can't be read from the archive ({_describe_error(error)})") from error
        if not data:
            raise UnreadableImage(path, "the file is empty")
        return data

    def _open(self, archive: str) -> IO[bytes]:
        """Return the stream of the archive; the last one stays open until the archive changes."""
        status = Path(archive).stat()
        key = archive, status.st_size, status.st_mtime_ns
        if self._file is None or key != self._archive:
            self.close()
            self._archive, self._file = key, _open_stream(archive)
        return self._file

    def close(self) -> None:
        """Close the archive that was read last."""
        if self._file is not None:
            with suppress(*ARCHIVE_ERRORS):
                self._file.close()
        self._file = None


def read_archive_member(path: str, limits: Limits) -> bytes | None:
    """Return the bytes of one member, as `MemberReader.read`."""
    with MemberReader(limits) as reader:
        return reader.read(path)


def is_regular_file(path: str) -> bool:
    """Return whether the path leads to a regular file, in a folder or in an archive."""
    if os.path.isfile(path):  # a path with a NUL in it must not raise  # noqa: PTH113
        return True
    archive_and_name = split_member_path(path)
    try:
        return archive_and_name is not None and archive_and_name[1] in read_contents(archive_and_name[0]).members
    except OSError:
        return False


def is_member_missing(path: str) -> bool:
    """Return whether the path is not in its archive. A damaged archive may still contain it: then False."""
    archive_and_name = split_member_path(path)
    if archive_and_name is None:
        return True
    try:
        contents = read_contents(archive_and_name[0])
    except OSError:
        return False
    return contents.is_complete and archive_and_name[1] not in contents.members


def _read_member_bytes(file: IO[bytes], member: ArchiveMember) -> bytes:
    """Return the bytes of a member. Raises one of ARCHIVE_ERRORS if size or checksum do not match."""
    if member.crc is None:  # a tar
        file.seek(member.offset)
        data = file.read(member.size)
        if len(data) != member.size:
            raise EOFError("the archive ends before it")
        return data
    _seek_member(file, member)
    data = file.read(member.compressed_size)
    if member.method == zipfile.ZIP_DEFLATED:
        # One byte more than its size, to notice when the stated size is wrong.
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, member.size + 1)
    if len(data) != member.size or zlib.crc32(data) != member.crc:
        raise zipfile.BadZipFile("its bytes do not match its size or checksum")
    return data


def _seek_member(file: IO[bytes], member: ArchiveMember) -> None:
    """Go to the bytes of a zip's member, after its local header (section 4.3.7 of the zip specification)."""
    file.seek(member.offset)
    header = file.read(30)
    if len(header) != 30 or not header.startswith(b"PK\3\4"):
        raise zipfile.BadZipFile("there is no member at its offset")
    file.seek(sum(struct.unpack("<HH", header[26:])), io.SEEK_CUR)


def _list_zip_members(archive: str, contents: ArchiveContents) -> None:
    """Add the members of a zip to `contents`."""
    with zipfile.ZipFile(archive) as zip_file, Path(archive).open("rb") as file:
        infos = [info for info in zip_file.infolist() if not info.is_dir()]
        # A zip bomb shares bytes between its members, to inflate without end.
        for info, following in pairwise(sorted(infos, key=lambda info: info.header_offset)):
            if info.header_offset + 30 + info.compress_size > following.header_offset:
                raise zipfile.BadZipFile("its members overlap")
        for info in infos:
            member = ArchiveMember(
                size=info.file_size,
                offset=info.header_offset,
                compressed_size=info.compress_size,
                method=info.compress_type,
                crc=info.CRC,
            )
            contents.add(file, info.filename, member, _get_zip_rejection_reason(info))


def _get_zip_rejection_reason(info: zipfile.ZipInfo) -> str | None:
    """Return why a member cannot be read, None if it can."""
    if info.flag_bits & 0x1:
        return "it is encrypted; unpack the archive with its password first"
    if stat.S_ISLNK(info.external_attr >> 16):
        return _LINK_REASON
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "its compression is not supported; pack it again as stored or deflated"
    return None


def _list_tar_members(archive: str, contents: ArchiveContents) -> None:
    """Add the members of a tar to `contents`."""
    with _open_stream(archive) as stream:
        bounded = _BoundedStream(stream, Path(archive).stat().st_size)
        with tarfile.TarFile(fileobj=cast(IO[bytes], bounded), encoding="utf-8", errors="surrogateescape") as tar:
            while (info := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # or a million headers stay in memory
                if info.isdir():
                    continue
                rejection = _LINK_REASON if info.issym() or info.islnk() else None
                if rejection is None and (not info.isreg() or info.issparse()):
                    rejection = "not a regular file"
                member = ArchiveMember(size=info.size, offset=info.offset_data, compressed_size=info.size)
                contents.add(stream, info.name, member, rejection)
            # tarfile takes a damaged header for the end; the real end is a block of zeros, or no block.
            if bounded.last_block not in (b"", bytes(tarfile.BLOCKSIZE)):
                raise tarfile.ReadError("a header is damaged")


def _open_stream(archive: str) -> IO[bytes]:
    """Open an archive; a compressed tar is inflated while reading."""
    with Path(archive).open("rb") as file:
        head = file.read(2)
    return cast(IO[bytes], _OPENERS_BY_MAGIC.get(head, open)(archive, "rb"))


class _BoundedStream:
    """A stream that rejects the reads and seeks of a decompression bomb."""

    def __init__(self, stream: IO[bytes], compressed_size: int) -> None:
        self._stream = stream
        self._max_offset = max(MAX_INFLATED_BYTES, MAX_INFLATION_RATIO * compressed_size)
        self.last_block = b""

    def read(self, size: int = -1) -> bytes:
        """Read and remember the block."""
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        self.last_block = self._stream.read(size)
        return self.last_block

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Seek, up to the limit."""
        if offset > self._max_offset:
            raise tarfile.ReadError(f"it inflates to more than {MAX_INFLATION_RATIO} times its size")
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._stream.tell()


def _has_image_signature(file: IO[bytes], member: ArchiveMember) -> bool:
    """Return whether the first bytes of a member are those of an image."""
    try:
        if member.crc is None:  # a tar
            file.seek(member.offset)
            return has_image_signature(file.read(min(32, member.size)))
        _seek_member(file, member)
        data = file.read(min(1024, member.compressed_size))
        return has_image_signature(
            zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, 32) if member.method else data[:32]
        )
    except (zlib.error, struct.error, zipfile.BadZipFile):
        return False


def _describe_error(error: BaseException) -> str:
    """Return the message of an error, for use inside a sentence."""
    return make_printable(str(getattr(error, "strerror", None) or error or type(error).__name__)).rstrip(".")
