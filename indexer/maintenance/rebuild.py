"""What keeps a home in shape: its index made anew or brought up to date, backups, and putting one back."""

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
    """A new segment from the rows alone; gives how many vectors it holds."""
    with _open_locked_index(settings, "simile rebuild") as vectors:
        vectors.rebuild(**get_index_options(settings))
        return len(vectors)


def compact_index(settings: Settings) -> dict[str, Any]:
    """Folds what was added and deleted since the last segment into a new one; gives how many changes, and all rows."""
    with _open_locked_index(settings, "simile compact") as vectors:
        folded = vectors.count_pending()
        vectors.publish(**get_index_options(settings))
        return {"folded": folded, "rows": len(vectors)}


def get_index_options(settings: Settings) -> dict[str, Any]:
    """The settings that say how an index is made, as Index.publish, rebuild and switch take them."""
    return {"kind": settings.index, "recall": settings.recall, "memory": settings.index_memory}


@contextmanager
def _open_locked_index(settings: Settings, purpose: str) -> Iterator[Index]:
    """The index of a home that is there, under its lock, brought to today's schema."""
    home = Home(settings.home, settings.database_url)
    if schema.read_revision(home) is None:
        schema.check_schema(home)
    with home.lock(purpose):
        schema.upgrade_schema(home)
        with Catalogue(home) as catalogue:
            yield Index(catalogue)


def back_up_home(settings: Settings, target: Path) -> BackupSummary:
    """Writes the home to a tar file, whoever uses it meanwhile. Raises BadSetting where that can't be written."""
    return create_backup(Home(settings.home, settings.database_url), target)


def restore_home(settings: Settings, source: Path) -> BackupSummary:
    """Makes an empty home of a backup. Raises BadSetting, NoSuchPath, BackupDamaged, HomeTooNew, HomeNotWritable."""
    return restore_backup(source, Home(settings.home, settings.database_url))
