"""Rebuild and compact the index of a home, back it up and restore it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from simile.core.settings import Settings
from simile.store.backup.create import BackupSummary, create_backup
from simile.store.backup.restore import restore_backup
from simile.store.catalogue.catalogue import Catalogue
from simile.store.database import schema
from simile.store.home import Home
from simile.store.index.index import Index


def rebuild_index(settings: Settings) -> int:
    """Build a new segment from the rows and return its number of vectors."""
    with _open_locked_index(settings, "simile rebuild") as index:
        index.rebuild(**get_index_options(settings))
        return len(index)


def compact_index(settings: Settings) -> dict[str, Any]:
    """Merge the changes since the last segment into a new one; return their number and that of all rows."""
    with _open_locked_index(settings, "simile compact") as index:
        changes = index.count_pending()
        index.publish(**get_index_options(settings))
        return {"folded": changes, "rows": len(index)}


def get_index_options(settings: Settings) -> dict[str, Any]:
    """Return the index settings as the arguments of `Index.publish`, `rebuild` and `switch_encoder`."""
    return {"kind": settings.index, "recall": settings.recall, "memory": settings.index_memory}


@contextmanager
def _open_locked_index(settings: Settings, purpose: str) -> Iterator[Index]:
    """Open the index of an existing home under its lock, with the schema upgraded."""
    home = Home(settings.home, settings.database_url)
    if schema.read_revision(home) is None:
        schema.check_schema(home)
    with home.lock(purpose):
        schema.upgrade_schema(home)
        with Catalogue(home) as catalogue:
            yield Index(catalogue)


def back_up_home(settings: Settings, target: Path) -> BackupSummary:
    """Write the home to a tar file, also while it is in use. Raises BadSetting if the file can't be written."""
    return create_backup(Home(settings.home, settings.database_url), target)


def restore_home(settings: Settings, source: Path) -> BackupSummary:
    """Restore a backup into an empty home.

    Raises BadSetting, NoSuchPath, BackupDamaged, HomeTooNew, HomeNotWritable.
    """
    return restore_backup(source, Home(settings.home, settings.database_url))
