"""What a person may name as a source of pictures, and the files that it means.

a folder                everything below it            models/folders.py
a file                  that file
an archive              the pictures in it             models/archives.py
a manifest              the files it lists, with what it says of them      models/manifests.py
"photos/**/*.jpg"       a pattern that matches files, or folders, or archives
-                       a list on stdin, one in each line or ended by NUL bytes; files, folders, archives
"""

from __future__ import annotations

import glob
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile
from pathlib import Path
from typing import BinaryIO

from simile.core.errors import NoSuchPath
from simile.core.records import Failure, FileFacts
from simile.images.paths import is_utf8
from simile.images.sources import archives
from simile.images.sources.folders import NOT_UTF8, Facts, Folders, Found, identities, why_not
from simile.images.sources.gitignore import Patterns, expression
from simile.images.sources.manifests import is_manifest, read_manifest

LISTED = 500  # listed files that are looked up together
STDIN = "-"


@dataclass
class Part:
    """Some of the files.

    tree: the folder or archive that they lie in; the parts of a tree follow each other, each behind the one before by
    path, in no order within (an archive is one part). None for files that were listed one by one; `metadata` is what a
    manifest says of each of them, `missing` are listed paths where nothing is. `pattern`: what was known below a
    folder and matches is gone if its file is.
    """

    tree: str | None
    files: list[Facts] = field(default_factory=list)
    metadata: list[dict[str, str]] | None = None
    missing: list[str] = field(default_factory=list)
    pattern: tuple[str, re.Pattern[str]] | None = None


def is_stdin(source: Path | str) -> bool:
    return str(source) == STDIN


def is_pattern(source: Path | str) -> bool:
    """Whether it is a pattern: a file that really has a star in its name is meant before that."""
    return glob.has_magic(str(source)) and not os.path.lexists(source)


class Sources:
    """Sources, ready to be walked. `found`: what was set aside on the way, so far."""

    def __init__(
        self, sources: Sequence[Path | str], skip: Sequence[Path] = (), patterns: Patterns | None = None
    ) -> None:
        """`skip`: folders not to enter, for the home may lie among the pictures. Raises NoSuchPath."""
        check_sources([Path(source) for source in sources])
        self.patterns = patterns or Patterns()
        self.given = list(
            dict.fromkeys(str(source) if _is_special(source) else _absolute(source) for source in sources)
        )
        named = frozenset(path for path in self.given if _is_file(path) and not _holds_files(path))
        skipped = identities(folder for folder in skip if folder.is_dir())
        self._folders = Folders(self.patterns, skipped, named)
        # Whether a file can come twice; a single folder's can't, and its paths need not be kept.
        self._seen: set[str] | None = None if len(self.given) == 1 and _is_folder(self.given[0]) else set()
        self._failed: set[str] = set()

    @property
    def found(self) -> Found:
        return self._folders.found

    def parts(self) -> Iterator[Part]:
        """The files, each once; sources in their order."""
        for source in self.given:
            for part in self._of(source):
                if self._seen is not None:
                    _drop(part, self._seen)
                yield part

    def _of(self, source: str) -> Iterator[Part]:
        if is_stdin(source):
            yield from self._listed(((path, None) for path in read_list(sys.stdin.buffer)), expand=True)
        elif is_pattern(source):
            yield from self._matching(source)
        elif is_manifest(source) and _is_file(source):
            yield from self._listed(read_manifest(source), expand=False)
        else:
            yield from self._listed([(source, None)], expand=True)

    def _matching(self, pattern: str) -> Iterator[Part]:
        matching = [_absolute(path) for path in sorted(glob.iglob(pattern, recursive=True))]  # noqa: PTH207  # absolute ones too
        prefix, whole = _fixed_part(pattern)
        if not matching and not _is_folder(prefix):
            raise NoSuchPath(pattern)
        yield from self._listed(((path, None) for path in matching), expand=True)
        yield Part(None, pattern=(prefix, whole))

    def _listed(self, entries: Iterable[tuple[str, dict[str, str] | None]], *, expand: bool) -> Iterator[Part]:
        """Entries one by one; with `expand`, folders and archives among them stand for what is in them."""
        rest = iter(entries)
        part = Part(None)
        while chunk := list(islice(rest, LISTED)):
            for path, said in chunk:
                if expand and _is_folder(path):
                    yield part
                    part = Part(None)
                    yield from self._tree(path)
                elif expand and archives.is_archive(path) and _is_file(path):
                    yield part
                    part = Part(None)
                    yield self._archive(path)
                else:
                    self._one(path, said, part)
            yield part
            part = Part(None)

    def _tree(self, folder: str) -> Iterator[Part]:
        yield Part(folder)  # though it be empty: what was known in it has vanished
        for files in self._folders.files(folder):
            yield Part(folder, files)

    def _archive(self, archive: str) -> Part:
        part = Part(archive)
        if not is_utf8(archive):
            self._fail(archive, NOT_UTF8)
            return part
        try:
            held, mtime_ns = archives.contents(archive), Path(archive).stat().st_mtime_ns
        except OSError as error:
            self._fail(archive, why_not(archive, error))
            return part
        for failure in held.failures:
            self._note(failure)
        self.found.ignored += held.ignored
        part.files = [
            (f"{archive}/{name}", member.size, mtime_ns, member.offset)
            for name, member in held.members.items()
            if not self.patterns or self.patterns.takes(name)
        ]
        return part

    def _one(self, path: str, said: dict[str, str] | None, part: Part) -> None:
        if self.patterns and not self.patterns.takes(_relative(path)):
            return
        if not is_utf8(path):
            self._fail(path, NOT_UTF8)
            return
        if "\0" in path:
            self._fail(path.replace("\0", "\\0"), "no file's name holds a NUL byte")
            return
        try:
            facts = facts_of(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            part.missing.append(path)
            self._fail(path, _no_such_file(path, error))
            return
        except OSError as error:
            self._fail(path, why_not(path, error))
            return
        if facts is None:
            self._fail(path, "it is a folder")
            return
        part.files.append(facts)
        if said is not None:
            part.metadata = part.metadata or []
            part.metadata.append(said)

    def _fail(self, path: str, reason: str) -> None:
        failures = Found()
        failures.fail(path, reason)
        self._note(failures.failures[0])

    def _note(self, failure: Failure) -> None:
        if failure.path not in self._failed:
            self._failed.add(failure.path)
            self.found.failures.append(failure)


def walk(sources: Sequence[Path | str], skip: Sequence[Path] = (), patterns: Patterns | None = None) -> Found:
    """Files of all sources, each once: sorted by path within a source, the sources in their order. Raises NoSuchPath.

    Everything in one list: for what needs all of them. A job that may meet millions takes `Sources.parts`.
    """
    opened = Sources(sources, skip, patterns)
    files: list[FileFacts] = []
    for part in opened.parts():
        files += map(FileFacts._make, part.files if part.tree is None else sorted(part.files))
    return Found(files, list(dict.fromkeys(opened.found.failures)), opened.found.ignored)


def check_sources(sources: Sequence[Path]) -> None:
    """Raises NoSuchPath for the first source that does not exist. A list on stdin and patterns are looked at later."""
    for source in sources:
        path = _absolute(source)
        there = is_stdin(source) or os.path.lexists(path) or is_pattern(source)
        if not there and not archives.is_there(path):
            raise NoSuchPath(source)


def check_file(path: Path) -> None:
    """Raises NoSuchPath where there is no such file, in a folder or in an archive."""
    if not os.path.lexists(path) and not archives.is_there(str(path)):
        raise NoSuchPath(path)


def is_gone(path: str) -> bool:
    """Whether nothing has this path any more; what can't be looked at, behind a closed folder, may still be there."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return True
    except NotADirectoryError:  # below a file, which may be an archive
        return archives.is_gone(path)
    except OSError:
        return False
    return False


def reading_order(files: Sequence[FileFacts]) -> list[int]:
    """Places of the files in the order in which they are read best: members of an archive by where they lie in it."""
    first: dict[str, int] = {}

    def key(place: int) -> tuple[int, int]:
        inside = archives.split(files[place].path)
        return (place, 0) if inside is None else (first.setdefault(inside[0], place), files[place].position)

    return sorted(range(len(files)), key=key)


def facts_of(path: str) -> FileFacts | None:
    """What is known of one file, in a folder or in an archive; None for a folder. Raises OSError."""
    try:
        facts = Path(path).stat()
    except NotADirectoryError:
        inside = archives.split(path)
        member = archives.contents(inside[0]).members.get(inside[1]) if inside else None
        if inside is None or member is None:
            raise
        return FileFacts(path, member.size, Path(inside[0]).stat().st_mtime_ns, member.offset)
    return None if stat.S_ISDIR(facts.st_mode) else FileFacts(path, facts.st_size, facts.st_mtime_ns)


def read_list(file: BinaryIO) -> Iterator[str]:
    """Paths, absolute, one in each line; or ended by NUL bytes, if the first block holds one (`find -print0`)."""
    rest, end = b"", b""
    while block := file.read1(1 << 16) if hasattr(file, "read1") else file.read(1 << 16):
        end = end or (b"\0" if b"\0" in block else b"\n" if b"\n" in block else b"")
        *whole, rest = (rest + block).split(end) if end else [rest + block]
        yield from (_absolute(os.fsdecode(path.rstrip(b"\r"))) for path in whole if path.strip())
    if rest.strip():
        yield _absolute(os.fsdecode(rest.rstrip(b"\r")))


def _holds_files(path: str) -> bool:
    """Whether it is a source for what is in it: the folder around it must not take it for a picture."""
    return archives.is_archive(path) or is_manifest(path)


def _is_special(source: Path | str) -> bool:
    return is_stdin(source) or is_pattern(source)


def _absolute(path: Path | str) -> str:
    return os.path.abspath(path)  # noqa: PTH100  # Path.absolute() would keep "..", resolve() would follow links


def _is_folder(path: str) -> bool:
    """False too for what can't be looked at: for a name that is too long, for a link in a circle."""
    return os.path.isdir(path)  # noqa: PTH112  # Path.is_dir() raises there


def _is_file(path: str) -> bool:
    return os.path.isfile(path)  # noqa: PTH113  # as above


def _relative(path: str) -> str:
    """What patterns are held against, of a file that was listed: its path from here, or from the root."""
    here = os.path.join(os.getcwd(), "")  # noqa: PTH109, PTH118  # for every file
    return path[len(here) :] if path.startswith(here) else path.lstrip(os.sep)


def _fixed_part(pattern: str) -> tuple[str, re.Pattern[str]]:
    """The folder that everything a pattern matches lies in, and the pattern for absolute paths."""
    parts, here = Path(_absolute(pattern)).parts, () if os.path.isabs(pattern) else Path.cwd().parts  # noqa: PTH117
    # The folder that a relative pattern starts from means itself, whatever it is called.
    literal = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(parts, here, strict=False)))
    fixed = next((number for number in range(literal, len(parts)) if glob.has_magic(parts[number])), len(parts) - 1)
    folder = str(Path(*parts[:fixed]))
    below = re.escape(os.path.join(folder, "")) + expression(os.sep.join(parts[fixed:]))  # noqa: PTH118
    return folder, re.compile(f"{below}(?:/|$)", re.DOTALL)


def _no_such_file(path: str, error: OSError) -> str:
    return why_not(path, error) if os.path.islink(path) else "there is no such file"  # noqa: PTH114


def _drop(part: Part, seen: set[str]) -> None:
    """Takes out the files that have come before, and notes the others."""
    kept = []
    for number, (path, *_) in enumerate(part.files):
        if path not in seen:
            seen.add(path)
            kept.append(number)
    if len(kept) < len(part.files):
        part.files = [part.files[number] for number in kept]
        part.metadata = None if part.metadata is None else [part.metadata[number] for number in kept]
