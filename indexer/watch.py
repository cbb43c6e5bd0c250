"""Index folders, then again after their files have changed (`simile index --watch`).

A run compares the whole folders with the catalogue, as every run of indexing does. So nothing but the time of the last
change is kept: bursts, renames, deleted folders and lost events need no rules of their own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from simile.core.errors import BadSetting, SimileError
from simile.core.records import IndexSummary
from simile.core.settings import Settings
from simile.indexer.pipeline.job import IndexRequest, index
from simile.store.home import Home

log = logging.getLogger(__name__)

SETTLE_SECONDS = 2.0  # without a change, before a run; a file modified later is left to the next run
MAX_DELAY_SECONDS = 30.0  # between the first change and a run, while changes go on
RETRY_SECONDS = 30.0  # after a run that failed: the home is busy, or a disk is not mounted
TICK_SECONDS = 0.5
LOCK_SECONDS = 60.0  # to wait for a home that another command uses

Changes = Iterator[set[str]]  # the changed paths, empty if nothing has changed for a tick


@dataclass
class Schedule:
    """When the next run is due, by the times of the changes."""

    first_change: float | None = None
    last_change: float = 0.0
    not_before: float = 0.0

    def add_change(self, now: float) -> None:
        """Count a change."""
        self.first_change = now if self.first_change is None else self.first_change
        self.last_change = now

    def take_due(self, now: float) -> bool:
        """Return whether a run is due; if so, its changes are counted as done."""
        if self.first_change is None or now < self.not_before:
            return False
        is_settled = now - self.last_change >= SETTLE_SECONDS
        if not is_settled and now - self.first_change < MAX_DELAY_SECONDS:
            return False
        # Files that are still being written are left to one more run.
        self.first_change = None if is_settled else now
        return True

    def repeat(self, now: float) -> None:
        """Make the next run due after a while, because the last one failed."""
        self.add_change(now)
        self.not_before = now + RETRY_SECONDS


def watch_folders(folders: Sequence[Path]) -> Changes:
    """Yield the changes of files below folders, without end.

    A folder that is missing, such as that of an unmounted disk, is watched again when it is back; it has changed then.

    Raises:
        BadSetting: The package watchfiles is missing.
    """
    try:
        from watchfiles import watch  # an optional package  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise BadSetting(
            f"--watch needs {error.name}, which is not installed. Run `pip install 'simile[watch]'`, or leave out "
            "--watch."
        ) from error
    identities: dict[Path, tuple[int, int]] = {}
    while True:
        current = _get_identities(folders)
        yield {str(folder) for folder, identity in current.items() if identities.get(folder) != identity}
        identities = current
        if not identities:
            time.sleep(TICK_SECONDS)
            continue
        milliseconds = int(TICK_SECONDS * 1000)
        for changes in watch(
            *identities,
            watch_filter=None,
            rust_timeout=milliseconds,
            yield_on_timeout=True,
            ignore_permission_denied=True,
        ):
            yield {path for _, path in changes}
            if _get_identities(folders) != identities:
                break


def index_and_watch(
    settings: Settings,
    sources: Sequence[Path],
    request: IndexRequest,
    on_run: Callable[[IndexSummary], None],
    changes: Changes | None = None,
) -> None:
    """Index folders, then again after each change, until Ctrl-C.

    A run that fails is logged and repeated; only the first one raises its error, also KeyboardInterrupt. With
    `prune` in the request, missing files are forgotten, but never all of a folder: its disk may not be mounted.

    Args:
        sources: Folders.
        on_run: Called with the summary of the first run, and of each run that changes something.
        changes: What changes, for tests; None: watch the folders.

    Raises:
        BadSetting: A source is not a folder, or the package watchfiles is missing. And the errors of `index`.
    """
    for source in sources:
        if not source.is_dir():
            raise BadSetting(f"--watch watches folders, and {source} is not one. Name its folder.")
    folders = [source.resolve() for source in sources]
    changes = watch_folders(folders) if changes is None else changes
    for _ in range(2):  # before the first run, so that no change is lost: the folders themselves, then the first tick
        next(changes, None)
    on_run(index(settings, sources, request))
    log.info("watching %s; Ctrl-C ends it", ", ".join(map(str, sources)))
    later = replace(request, wait=max(request.wait, LOCK_SECONDS), train=False, encoder=None, min_age=SETTLE_SECONDS)
    home, schedule, last_error = Home.from_settings(settings), Schedule(), ""
    with suppress(KeyboardInterrupt):
        for paths in changes:
            if any(not _is_of_home(Path(path), home) for path in paths):
                schedule.add_change(time.monotonic())
            if not schedule.take_due(time.monotonic()):
                continue
            try:
                summary, last_error = index(settings, sources, later), ""
                if summary.has_changes:
                    on_run(summary)
            except SimileError as error:
                if str(error) != last_error:
                    log.warning("%s Trying again every %g s.", error, RETRY_SECONDS)
                last_error = str(error)
                schedule.repeat(time.monotonic())


def _is_of_home(path: Path, home: Home) -> bool:
    """Return whether a changed file is one of the home's own, which each run writes."""
    root = home.root.resolve()
    return path.parent == root or any(path.is_relative_to(root / folder.name) for folder in home.own_folders)


def _get_identities(folders: Sequence[Path]) -> dict[Path, tuple[int, int]]:
    """Return device and inode of each folder that exists."""
    identities = {}
    for folder in folders:
        try:
            stat = folder.stat()
        except OSError:
            continue
        identities[folder] = (stat.st_dev, stat.st_ino)
    return identities
