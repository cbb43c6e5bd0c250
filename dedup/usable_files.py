"""Which indexed files still hold their image, as far as it is known without reading them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from simile.core.records import Failure
from simile.images.sources.archives import split_member_path
from simile.images.sources.buckets import is_remote
from simile.images.sources.paths import CHANGED_REASON
from simile.store.catalogue.records import ImageLocation
from simile.store.database.tables import MAX_NANOSECONDS

MISSING_REASON = "it is missing"


class UsableFiles:
    """Selects the files that have the size and the time with which they were indexed, and collects the others.

    A file that was changed or removed since then is a copy of nothing until `simile index` has read it again.
    """

    def __init__(self, uploads_folder: str) -> None:
        """`uploads_folder`: files there are named by their content, and a restored backup gives them other times."""
        self.failures: list[Failure] = []
        self._uploads_folder = Path(uploads_folder)
        self._get_archive_time = cache(_read_time)

    def select(self, locations: Iterable[ImageLocation]) -> Iterator[ImageLocation]:
        """Yield the usable files, in order."""
        for location in locations:
            reason = self._find_reason(location)
            if reason is None:
                yield location
            else:
                self.failures.append(Failure(location.path, reason))

    def _find_reason(self, location: ImageLocation) -> str | None:
        if is_remote(location.path):  # too slow to ask for each; bytes that are read are compared with their hash
            return None
        path = Path(location.path)
        try:
            status = path.stat()
        except NotADirectoryError:  # below a file, which can be an archive
            member = split_member_path(location.path)
            time = None if member is None else self._get_archive_time(member[0])
            return MISSING_REASON if time is None else None if time == location.mtime_ns else CHANGED_REASON
        except FileNotFoundError:
            return MISSING_REASON
        except OSError as error:
            return error.strerror or "it can't be opened"
        is_same = status.st_size == location.size
        if path.parent != self._uploads_folder:
            is_same &= min(status.st_mtime_ns, MAX_NANOSECONDS) == location.mtime_ns
        return None if is_same else CHANGED_REASON


def _read_time(archive: str) -> int | None:
    try:
        return min(Path(archive).stat().st_mtime_ns, MAX_NANOSECONDS)
    except OSError:
        return None
