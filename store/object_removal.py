"""Remove objects from the store that several hosts share, a day after the last row that named them was deleted.

The deletion of a row marks its object (`ObjectStore.discard`). Until the day is over, a copy of the catalogue from
before the deletion still finds all its objects.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

from simile.images.sources.buckets import UPLOAD_SCHEME, get_upload_object
from simile.store.catalogue.catalogue import Catalogue
from simile.store.objects import ENCODER_PREFIX, REMOVED_PREFIX, SEGMENT_PREFIX, UPLOAD_PREFIX

REMOVAL_DELAY = timedelta(days=1)
LOOKUP_COUNT = 500  # names in one query of the catalogue


def remove_marked_objects(catalogue: Catalogue) -> int:
    """Remove the objects that were marked a day ago, and return how many. The caller must hold the home's lock.

    An object that a row names again stays. Raises ObjectsUnavailable.
    """
    objects, count = catalogue.home.objects, 0
    if not objects.is_shared:
        return 0
    for mark in objects.names(REMOVED_PREFIX):
        name = mark.name.removeprefix(REMOVED_PREFIX)
        if not _is_old(mark.modified):
            continue
        if not _find_named(catalogue, [name]):
            _remove_object(catalogue, name)
            count += 1
        objects.remove(mark.name)
    return count


def mark_unnamed_objects(catalogue: Catalogue) -> int:
    """Mark old objects that no row names, and return how many; they are left by uploads and runs that were killed.

    The caller must hold the home's lock. Raises ObjectsUnavailable.
    """
    objects, count = catalogue.home.objects, 0
    for folder in (UPLOAD_PREFIX, SEGMENT_PREFIX, ENCODER_PREFIX) if objects.is_shared else ():
        marked = {mark.name.removeprefix(REMOVED_PREFIX) for mark in objects.names(REMOVED_PREFIX + folder)}
        old = [found.name for found in objects.names(folder) if found.name not in marked and _is_old(found.modified)]
        for start in range(0, len(old), LOOKUP_COUNT):
            names = old[start : start + LOOKUP_COUNT]
            named = _find_named(catalogue, names)
            for name in names:
                if name not in named:
                    objects.discard(name)
                    count += 1
    return count


def _is_old(modified: datetime) -> bool:
    return datetime.now(UTC) - modified > REMOVAL_DELAY


def _remove_object(catalogue: Catalogue, name: str) -> None:
    """Remove an object; put it back if the same bytes were uploaded meanwhile.

    Segments and encoders are stored with the home's lock, so only an upload may come back. It looks for its object
    again after its row was committed: either it misses the object, or its row is found here.
    """
    objects = catalogue.home.objects
    data = b""
    if name.startswith(UPLOAD_PREFIX):
        with suppress(FileNotFoundError), objects.open(name) as stream:
            data = stream.read()
    objects.remove(name)
    if data and _find_named(catalogue, [name]):
        objects.put_bytes(name, data)


def _find_named(catalogue: Catalogue, names: list[str]) -> set[str]:
    """Return the objects that a row names."""
    locations = [UPLOAD_SCHEME + name.rsplit("/")[-1] for name in names if name.startswith(UPLOAD_PREFIX)]
    named = {get_upload_object(location) for location in catalogue.files.get_many(locations)}
    if any(name.startswith(SEGMENT_PREFIX) for name in names):
        named |= {SEGMENT_PREFIX + name for name in catalogue.segments.get_file_names()}
    if any(name.startswith(ENCODER_PREFIX) for name in names):
        fingerprints = {encoder.fingerprint for encoder in catalogue.encoders.get_all()}
        named |= {name for name in names if name.startswith(ENCODER_PREFIX) and name.split("/")[1] in fingerprints}
    return named & set(names)
