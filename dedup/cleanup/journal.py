"""Journals record what each `simile dedup apply` does, so that it can be undone, and recovered after a kill.

`HOME/dedup/journals/<time>-<number>.jsonl` contains one JSON object per line; each is synced before the next step:

    {"simile_journal": 2, "started_at", "action", "target", "plan"}
    {"event": "intent", "number", "action", "path", …}      before a file is touched: all that undo needs
    {"event": "done" | "cancelled" | "unclear", "number"}    afterwards: executed, as before, or unknown
    {"event": "undoing" | "undone", "number"}                the same for undo
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import MISSING, asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from simile.core.atomic_write import fsync_path
from simile.core.errors import BadSetting, HomeError
from simile.store.home import Home, translate_write_errors

CleanupAction = Literal["move", "hardlink", "symlink", "trash"]
OperationState = Literal["intent", "done", "cancelled", "unclear", "undoing", "undone"]

OperationRole = Literal["image", "companion", "sidecar"]

JOURNAL_VERSION = 2  # 1: before companions and sidecars
# Not undone: the files that these operations rely on must stay.
ACTIVE_STATES: tuple[OperationState, ...] = ("intent", "done", "unclear", "undoing")
UNDOABLE_STATES: tuple[OperationState, ...] = ("done", "undoing")
_JOURNAL_NAME_PATTERN = re.compile(r"\d{8}T\d{6}Z-(\d+)\.jsonl")


@dataclass(frozen=True, kw_only=True)
class FileOperation:
    """The removal of one file, or the write of a kept file's sidecar. All paths but `named` contain no links."""

    number: int  # the line of the plan; of what goes along with a line, a number after all lines
    action: CleanupAction
    named: str  # the file's path in the plan
    path: str
    sha256: str
    size: int
    mode: int  # this and the fields up to `attributes` describe the file before the operation
    mtime_ns: int
    atime_ns: int
    uid: int
    gid: int
    device: int
    inode: int
    attributes: dict[str, str]  # extended attributes, base64
    keep_path: str
    keep_sha256: str
    keep_device: int
    keep_inode: int
    tier: str
    aside: str  # a temporary name beside the file, used only by this operation
    temporary: str  # a temporary name beside the target, or beside the file for links
    target: str = ""  # the new path (move, trash)
    info: str = ""  # the .trashinfo of the target
    base: str = ""  # the folder that all files of the plan are moved to
    role: OperationRole = "image"
    content: str | None = None  # of a sidecar that is written: its bytes before, base64; None: there was no file


_ASIDE_NAME = re.compile(r"(\.simile-\w+-\d+)\.old")
_OPERATION_FIELDS = frozenset(one_field.name for one_field in fields(FileOperation))
_REQUIRED_FIELDS = frozenset(one_field.name for one_field in fields(FileOperation) if one_field.default is MISSING)


@dataclass
class JournalEntry:
    """An operation and its state."""

    operation: FileOperation
    state: OperationState = "intent"
    reason: str = ""


@dataclass
class OperationJournal:
    """An open or finished journal."""

    path: Path
    header: dict[str, Any]  # the first line
    entries: dict[int, JournalEntry] = field(default_factory=dict)  # by operation number

    @property
    def name(self) -> str:
        """Return the file's name without suffix."""
        return self.path.stem

    def write_intent(self, operation: FileOperation) -> None:
        """Record what is about to be done. Raises HomeNotWritable."""
        self._append_line({"event": "intent", **asdict(operation)})
        self.entries[operation.number] = JournalEntry(operation)

    def write_state(self, number: int, state: OperationState, reason: str = "") -> None:
        """Record the state of an operation. Raises HomeNotWritable."""
        self._append_line({"event": state, "number": number} | ({"reason": reason} if reason else {}))
        self.entries[number].state, self.entries[number].reason = state, reason

    def count_states(self, *states: OperationState) -> int:
        """Count the operations in these states."""
        return sum(entry.state in states for entry in self.entries.values())

    def _append_line(self, line: dict[str, Any]) -> None:
        with translate_write_errors(self.path):
            _write_line(self.path, line, os.O_APPEND)


def create_journal(home: Home, header: dict[str, Any]) -> OperationJournal:
    """Create a journal and sync its first line. The caller holds the home's lock. Raises HomeNotWritable."""
    folder = get_journals_folder(home)
    with translate_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # The number orders the journals even if the clock is set back.
        number = max(map(_get_journal_number, _list_journal_paths(home)), default=0) + 1
        now = datetime.now(UTC)
        path = folder / f"{now:%Y%m%dT%H%M%SZ}-{number}.jsonl"
        line = {"simile_journal": JOURNAL_VERSION, "started_at": now.isoformat(timespec="seconds"), **header}
        _write_line(path, line, os.O_CREAT | os.O_EXCL)
        for changed_folder in (folder, folder.parent, home.root):
            fsync_path(changed_folder)
    return OperationJournal(path, line)


def read_journals(home: Home) -> list[OperationJournal]:
    """Read all journals, the oldest first. Raises HomeError for a damaged one."""
    return [read_journal(path, repair=home.holds_lock) for path in _list_journal_paths(home)]


def find_journal(home: Home, name: str | None) -> OperationJournal:
    """Read a journal by name, number or path; None: the newest with something to undo. Raises BadSetting."""
    if name is not None:
        stem = Path(name).name.removesuffix(".jsonl")
        for path in _list_journal_paths(home):
            if stem in (path.stem, str(_get_journal_number(path))):
                return read_journal(path, repair=home.holds_lock)
        raise BadSetting(f"There is no journal {name} in {get_journals_folder(home)}. See `simile dedup journals`.")
    for journal in reversed(read_journals(home)):
        if journal.count_states("intent", *UNDOABLE_STATES):
            return journal
    raise BadSetting(f"There is nothing to undo in {home.root}: no plan was applied, or everything is undone.")


def read_journal(path: Path, *, repair: bool = False) -> OperationJournal:
    """Read a journal and ignore an incomplete last line, which a kill may leave. Raises HomeError if it is damaged.

    Args:
        repair: Cut off the incomplete line, which is needed before writing. Only under the home's lock: otherwise
            another process may be writing that line.
    """
    data = path.read_bytes()
    complete = data[: data.rfind(b"\n") + 1]
    if repair and len(complete) < len(data):
        with translate_write_errors(path):
            os.truncate(path, len(complete))
    lines = complete.splitlines()
    if not lines:  # killed while writing the first line: nothing was done yet
        return OperationJournal(path, {})
    number = 1
    try:
        header = json.loads(lines[0])
        if not 1 <= header["simile_journal"] <= JOURNAL_VERSION:
            raise HomeError(f"{path} was written by a newer version of simile. Use that version to undo it.")
        journal = OperationJournal(path, header)
        for number, line in enumerate(lines[1:], 2):  # noqa: B007  # used in the error message
            _apply_line(journal, json.loads(line))
    except (ValueError, KeyError, TypeError) as error:
        raise HomeError(
            f"{path} is damaged in line {number} ({error}). Restore it from a backup; or move it out of that folder, "
            "then its operations can no longer be undone."
        ) from None
    return journal


def get_journals_folder(home: Home) -> Path:
    """Return the folder with the home's journals."""
    return home.root / "dedup" / "journals"


def list_journals(home: Home) -> list[dict[str, Any]]:
    """Summarise all journals, the newest first: name, action, time, and the number of files in each state."""
    return [
        {
            "journal": journal.name,
            **{name: journal.header.get(name) for name in ("started_at", "action", "plan", "target")},
            "done": journal.count_states(*UNDOABLE_STATES),
            "undone": journal.count_states("undone"),
            "unfinished": journal.count_states("intent", "undoing"),
            "unclear": journal.count_states("unclear"),
        }
        for journal in reversed(read_journals(home))
    ]


def _apply_line(journal: OperationJournal, line: dict[str, Any]) -> None:
    """Apply a line after the first one. Raises KeyError, TypeError, ValueError."""
    state = line.pop("event")
    if state == "intent":
        if wrong := (line.keys() - _OPERATION_FIELDS) | (_REQUIRED_FIELDS - line.keys()):
            raise KeyError(*wrong)
        _check_names({"target": "", "info": "", "role": "image", **line})
        operation = FileOperation(**line)
        journal.entries[operation.number] = JournalEntry(operation)
    elif state in (*ACTIVE_STATES, "cancelled", "undone"):
        entry = journal.entries[line["number"]]
        entry.state, entry.reason = state, line.get("reason", "")
    else:
        raise ValueError(f"unknown event {state!r}")


def _write_line(path: Path, line: dict[str, Any], flags: int) -> None:
    """Append a JSON line and sync it; on an error remove the part that was written."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags, 0o644)
    size_before = os.fstat(descriptor).st_size
    try:
        data = (json.dumps(line) + "\n").encode()
        while data:  # on a full disk a part is written first, and the next call raises
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size_before)
        raise
    finally:
        os.close(descriptor)


def _list_journal_paths(home: Home) -> list[Path]:
    folder = get_journals_folder(home)
    paths = [path for path in folder.iterdir() if _JOURNAL_NAME_PATTERN.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(paths, key=_get_journal_number)


def _get_journal_number(path: Path) -> int:
    match = _JOURNAL_NAME_PATTERN.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def _check_names(line: dict[str, Any]) -> None:
    """Check the names that a recovery deletes or replaces: only those that simile gives. Raises ValueError.

    A journal may come with a home from elsewhere.
    """
    path, aside, temporary, info = (Path(line[name]) for name in ("path", "aside", "temporary", "info"))
    end = Path(line["target"]) if line["target"] else path
    match = _ASIDE_NAME.fullmatch(aside.name)
    if match is None or aside.parent != path.parent or temporary != end.with_name(f"{match[1]}.new"):
        raise ValueError("its temporary names are not those that simile gives")
    if line["role"] == "sidecar" and path.suffix.lower() != ".xmp":
        raise ValueError("it writes a file that is no sidecar")
    if line["info"] and (info.suffix != ".trashinfo" or info.parent != end.parent.with_name("info")):
        raise ValueError("its .trashinfo is not that of a trash")
