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

from simile.core.atomic_write import fsync_path
from simile.core.errors import BadSetting, HomeError
from simile.store.home import Home, translate_write_errors

CleanupAction = Literal["move", "hardlink", "symlink", "trash"]
OperationState = Literal["intent", "done", "cancelled", "unclear", "undoing", "undone"]

JOURNAL_VERSION = 1
ACTIVE_STATES: tuple[OperationState, ...] = (
    "intent",
    "done",
    "unclear",
    "undoing",
)  # what the file of such an operation was kept for still counts
UNDOABLE_STATES: tuple[OperationState, ...] = ("done", "undoing")
_JOURNAL_NAME_PATTERN = re.compile(r"\d{8}T\d{6}Z-(\d+)\.jsonl")


@dataclass(frozen=True)
class FileOperation:
    """One file that goes. Paths are without links on the way; `named`: its path as the plan has it.

    mode, mtime_ns, …: what the file was like; attributes: extended ones, base64. target: where it goes (move, trash),
    info: its .trashinfo, base: the folder that was named for all. aside, temporary: names beside it, and beside the
    target, that only this operation uses.
    """

    number: int
    action: CleanupAction
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
class JournalEntry:
    """An operation and how far it is."""

    operation: FileOperation
    state: OperationState = "intent"
    reason: str = ""


@dataclass
class OperationJournal:
    """An open or finished journal. `header`: its first line."""

    path: Path
    header: dict[str, Any]
    entries: dict[int, JournalEntry] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path.stem

    def write_intent(self, operation: FileOperation) -> None:
        """Notes what is about to be done. Raises HomeNotWritable."""
        self._append_line({"event": "intent", **asdict(operation)})
        self.entries[operation.number] = JournalEntry(operation)

    def write_state(self, number: int, state: OperationState, reason: str = "") -> None:
        """Notes how far an operation is. Raises HomeNotWritable."""
        self._append_line({"event": state, "number": number} | ({"reason": reason} if reason else {}))
        self.entries[number].state, self.entries[number].reason = state, reason

    def count_states(self, *states: OperationState) -> int:
        return sum(entry.state in states for entry in self.entries.values())

    def _append_line(self, line: dict[str, Any]) -> None:
        with translate_write_errors(self.path):
            _write_line(self.path, line, os.O_APPEND)


def create_journal(home: Home, header: dict[str, Any]) -> OperationJournal:
    """A new journal, on the disk with its first line. The caller holds the home's lock. Raises HomeNotWritable."""
    folder = get_journals_folder(home)
    with translate_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        number = (
            max(map(_get_journal_number, _list_journal_paths(home)), default=0) + 1
        )  # counts on, whatever the clock does
        path = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{number}.jsonl"
        line = {
            "simile_journal": JOURNAL_VERSION,
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
            **header,
        }
        _write_line(path, line, os.O_CREAT | os.O_EXCL)
        for made in (folder, folder.parent, home.root):
            fsync_path(made)
    return OperationJournal(path, line)


def read_journals(home: Home) -> list[OperationJournal]:
    """Every journal, the oldest first. Raises HomeError for one that is damaged."""
    return [read_journal(path, repair=home.holds_lock) for path in _list_journal_paths(home)]


def find_journal(home: Home, name: str | None) -> OperationJournal:
    """The journal with this name, number or path; without one, the newest that has something to undo.

    Raises BadSetting where there is none.
    """
    if name is not None:
        wanted = Path(name).name.removesuffix(".jsonl")
        for path in _list_journal_paths(home):
            if wanted in (path.stem, str(_get_journal_number(path))):
                return read_journal(path, repair=home.holds_lock)
        raise BadSetting(f"There is no journal {name} in {get_journals_folder(home)}. See `simile dedup journals`.")
    for path in reversed(_list_journal_paths(home)):
        journal = read_journal(path, repair=home.holds_lock)
        if journal.count_states("intent", *UNDOABLE_STATES):
            return journal
    raise BadSetting(f"There is nothing to undo in {home.root}: no plan was applied, or all is undone.")


def read_journal(path: Path, *, repair: bool = False) -> OperationJournal:
    """Reads a journal, without what a killed writer left of a last line. Raises HomeError where it is damaged.

    repair: cuts that off in the file too, as whoever goes on writing must; only under the home's lock, for without it
    the writer may be at work.
    """
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if repair and len(whole) < len(data):
        with translate_write_errors(path):
            os.truncate(path, len(whole))
    lines = whole.splitlines()
    if not lines:  # killed before its first line was whole: nothing was done yet
        return OperationJournal(path, {})
    place = 0
    try:
        header = json.loads(lines[0])
        if header["simile_journal"] != JOURNAL_VERSION:
            raise HomeError(f"{path} was written by a newer simile. Install that one to undo it.")
        journal = OperationJournal(path, header)
        for place, line in enumerate(lines[1:], 1):  # noqa: B007  # named in the error
            _apply_line(journal, json.loads(line))
    except (ValueError, KeyError, TypeError) as error:
        raise HomeError(
            f"{path} is damaged in line {place + 1} ({error}). Restore it from a copy; or move it out of that folder, "
            "and what it did can no longer be undone."
        ) from None
    return journal


def get_journals_folder(home: Home) -> Path:
    return home.root / "dedup" / "journals"


def list_journals(home: Home) -> list[dict[str, Any]]:
    """All journals, the newest first: name, action, when, and how many files are in which state."""
    return [_summarise_journal(journal) for journal in reversed(read_journals(home))]


def iterate_active_entries(journals: Iterable[OperationJournal]) -> Iterator[JournalEntry]:
    """Every operation that was begun and not undone."""
    for journal in journals:
        yield from (entry for entry in journal.entries.values() if entry.state in ACTIVE_STATES)


def _summarise_journal(journal: OperationJournal) -> dict[str, Any]:
    return {
        "journal": journal.name,
        "started_at": journal.header.get("started_at"),
        "action": journal.header.get("action"),
        "plan": journal.header.get("plan"),
        "target": journal.header.get("target"),
        "done": journal.count_states(*UNDOABLE_STATES),
        "undone": journal.count_states("undone"),
        "unfinished": journal.count_states("intent", "undoing"),
        "unclear": journal.count_states("unclear"),
    }


_OPERATION_FIELDS = frozenset(one.name for one in fields(FileOperation))


def _apply_line(journal: OperationJournal, line: dict[str, Any]) -> None:
    """One line after the first."""
    state = line.pop("event")
    if state == "intent":
        if line.keys() != _OPERATION_FIELDS:
            raise KeyError(*(line.keys() ^ _OPERATION_FIELDS))
        operation = FileOperation(**line)
        journal.entries[operation.number] = JournalEntry(operation)
    elif state in (*ACTIVE_STATES, "cancelled", "undone"):
        entry = journal.entries[line["number"]]
        entry.state, entry.reason = state, line.get("reason", "")
    else:
        raise ValueError(f"unknown event {state!r}")


def _write_line(path: Path, line: dict[str, Any], flags: int) -> None:
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


def _list_journal_paths(home: Home) -> list[Path]:
    folder = get_journals_folder(home)
    found = [path for path in folder.iterdir() if _JOURNAL_NAME_PATTERN.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=_get_journal_number)


def _get_journal_number(path: Path) -> int:
    match = _JOURNAL_NAME_PATTERN.fullmatch(path.name)
    assert match is not None
    return int(match[1])
