"""Rebuild and compact the index of a home."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from simile.core.settings import Settings
from simile.store.catalogue.catalogue import Catalogue
from simile.store.database import schema
from simile.store.home import Home
from simile.store.index.index import Index
from simile.store.object_removal import mark_unnamed_objects, remove_marked_objects


def rebuild_index(settings: Settings) -> int:
    """Build a new segment from the rows and return its number of vectors."""
    with _open_locked_index(settings, "simile rebuild") as index:
        index.rebuild(**get_index_options(settings))
        return len(index)


def compact_index(settings: Settings) -> dict[str, Any]:
    """Merge the changes since the last segment into a new one; return their number and that of all rows.

    Objects that no row names are removed, too.
    """
    with _open_locked_index(settings, "simile compact") as index:
        changes = index.count_pending()
        index.publish(**get_index_options(settings))
        mark_unnamed_objects(index.catalogue)
        remove_marked_objects(index.catalogue)
        return {"folded": changes, "rows": len(index)}


def get_index_options(settings: Settings) -> dict[str, Any]:
    """Return the index settings as the arguments of `Index.publish`, `rebuild` and `switch_encoder`."""
    return {"kind": settings.index, "recall": settings.recall, "memory": settings.index_memory}


@contextmanager
def _open_locked_index(settings: Settings, purpose: str) -> Iterator[Index]:
    """Open the index of an existing home under its lock, with the schema upgraded."""
    home = Home.from_settings(settings)
    if schema.read_revision(home) is None:
        schema.check_schema(home)
    with home.lock(purpose):
        schema.upgrade_schema(home)
        with Catalogue(home) as catalogue:
            yield Index(catalogue)
