"""Journals: what each `simile dedup apply` did, so that it can be undone, and made sense of after it was killed.

`HOME/dedup/journals/<moment>-<number>.jsonl` holds one JSON object in a line, each on the disk before the next step:

    {"simile_journal": 1, "started_at", "action", "target", "plan"}
    {"event": "intent", "number", "action", "path", …}      before a file is touched: all that undoing needs
    {"event": "done" | "cancelled" | "unclear", "number"}    after it: carried out, or as before, or nobody can tell
    {"event": "undoing" | "undone", "number"}                 likewise
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from simile.core.atomic_write import sync
from simile.core.errors import BadSetting, HomeError
from simile.store.home import Home, writing

Action = Literal["move", "hardlink", "symlink", "trash"]
State = Literal["intent", "done", "cancelled", "unclear", "undoing", "undone"]

VERSION = 1
STANDING: tuple[State, ...] = (
    "intent",
    "done",
    "unclear",
    "undoing",
)  # what the file of such an operation was kept for still counts
TO_UNDO: tuple[State, ...] = ("done", "undoing")
_NAME = re.compile(r"\d{8}T\d{6}Z-(\d+)\.jsonl")


@dataclass(frozen=True)
class Operation:
    """One file that goes. Paths are without links on the way; `named`: its path as the plan has it.

    mode, mtime_ns, …: what the file was like; attributes: extended ones, base64. target: where it goes (move, trash),
    info: its .trashinfo, base: the folder that was named for all. aside, temporary: names beside it, and beside the
    target, that only this operation uses.
    """

    number: int
    action: Action
    named: str
    path: str
    sha256: str
    size: int
    mode: int
    mtime_ns: int
    atime_ns: int
    uid: int
    gid: int
    device: int
    inode: int
    attributes: dict[str, str]
    keep_path: str
    keep_sha256: str
    keep_device: int
    keep_inode: int
    tier: str
    aside: str
    temporary: str
    target: str = ""
    info: str = ""
    base: str = ""


@dataclass
class Entry:
    """An operation and how far it is."""

    operation: Operation
    state: State = "intent"
    reason: str = ""


@dataclass
class Journal:
    """An open or finished journal. `header`: its first line."""

    path: Path
    header: dict[str, Any]
    entries: dict[int, Entry] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path.stem

    def intend(self, operation: Operation) -> None:
        """Notes what is about to be done. Raises HomeNotWritable."""
        self._append({"event": "intent", **asdict(operation)})
        self.entries[operation.number] = Entry(operation)

    def note(self, number: int, state: State, reason: str = "") -> None:
        """Notes how far an operation is. Raises HomeNotWritable."""
        self._append({"event": state, "number": number} | ({"reason": reason} if reason else {}))
        self.entries[number].state, self.entries[number].reason = state, reason

    def count(self, *states: State) -> int:
        return sum(entry.state in states for entry in self.entries.values())

    def _append(self, line: dict[str, Any]) -> None:
        with writing(self.path):
            _write(self.path, line, os.O_APPEND)


def start_journal(home: Home, header: dict[str, Any]) -> Journal:
    """A new journal, on the disk with its first line. The caller holds the home's lock. Raises HomeNotWritable."""
    folder = journals_folder(home)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        number = max(map(_number, _paths(home)), default=0) + 1  # counts on, whatever the clock does
        path = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{number}.jsonl"
        line = {"simile_journal": VERSION, "started_at": datetime.now(UTC).isoformat(timespec="seconds"), **header}
        _write(path, line, os.O_CREAT | os.O_EXCL)
        for made in (folder, folder.parent, home.root):
            sync(made)
    return Journal(path, line)


def all_journals(home: Home) -> list[Journal]:
    """Every journal, the oldest first. Raises HomeError for one that is damaged."""
    return [read_journal(path, repair=home.holds_lock) for path in _paths(home)]


def find_journal(home: Home, name: str | None) -> Journal:
    """The journal with this name, number or path; without one, the newest that has something to undo.

    Raises BadSetting where there is none.
    """
    if name is not None:
        wanted = Path(name).name.removesuffix(".jsonl")
        for path in _paths(home):
            if wanted in (path.stem, str(_number(path))):
                return read_journal(path, repair=home.holds_lock)
        raise BadSetting(f"There is no journal {name} in {journals_folder(home)}. See `simile dedup journals`.")
    for path in reversed(_paths(home)):
        journal = read_journal(path, repair=home.holds_lock)
        if journal.count("intent", *TO_UNDO):
            return journal
    raise BadSetting(f"There is nothing to undo in {home.root}: no plan was applied, or all is undone.")


def read_journal(path: Path, *, repair: bool = False) -> Journal:
    """Reads a journal, without what a killed writer left of a last line. Raises HomeError where it is damaged.

    repair: cuts that off in the file too, as whoever goes on writing must; only under the home's lock, for without it
    the writer may be at work.
    """
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if repair and len(whole) < len(data):
        with writing(path):
            os.truncate(path, len(whole))
    lines = whole.splitlines()
    if not lines:  # killed before its first line was whole: nothing was done yet
        return Journal(path, {})
    place = 0
    try:
        header = json.loads(lines[0])
        if header["simile_journal"] != VERSION:
            raise HomeError(f"{path} was written by a newer simile. Install that one to undo it.")
        journal = Journal(path, header)
        for place, line in enumerate(lines[1:], 1):  # noqa: B007  # named in the error
            _take(journal, json.loads(line))
    except (ValueError, KeyError, TypeError) as error:
        raise HomeError(
            f"{path} is damaged in line {place + 1} ({error}). Restore it from a copy; or move it out of that folder, "
            "and what it did can no longer be undone."
        ) from None
    return journal


def journals_folder(home: Home) -> Path:
    return home.root / "dedup" / "journals"


def list_journals(home: Home) -> list[dict[str, Any]]:
    """All journals, the newest first: name, action, when, and how many files are in which state."""
    return [_summary(journal) for journal in reversed(all_journals(home))]


def standing(journals: Iterable[Journal]) -> Iterator[Entry]:
    """Every operation that was begun and not undone."""
    for journal in journals:
        yield from (entry for entry in journal.entries.values() if entry.state in STANDING)


def _summary(journal: Journal) -> dict[str, Any]:
    return {
        "journal": journal.name,
        "started_at": journal.header.get("started_at"),
        "action": journal.header.get("action"),
        "plan": journal.header.get("plan"),
        "target": journal.header.get("target"),
        "done": journal.count(*TO_UNDO),
        "undone": journal.count("undone"),
        "unfinished": journal.count("intent", "undoing"),
        "unclear": journal.count("unclear"),
    }


_FIELDS = frozenset(one.name for one in fields(Operation))


def _take(journal: Journal, line: dict[str, Any]) -> None:
    """One line after the first."""
    state = line.pop("event")
    if state == "intent":
        if line.keys() != _FIELDS:
            raise KeyError(*(line.keys() ^ _FIELDS))
        operation = Operation(**line)
        journal.entries[operation.number] = Entry(operation)
    elif state in (*STANDING, "cancelled", "undone"):
        entry = journal.entries[line["number"]]
        entry.state, entry.reason = state, line.get("reason", "")
    else:
        raise ValueError(f"unknown event {state!r}")


def _write(path: Path, line: dict[str, Any], flags: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags, 0o644)
    before = os.fstat(descriptor).st_size
    try:
        data = (json.dumps(line) + "\n").encode()
        while data:  # on a full disk a part is written first, and the next call says so
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, before)
        raise
    finally:
        os.close(descriptor)


def _paths(home: Home) -> list[Path]:
    folder = journals_folder(home)
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=_number)


def _number(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])
