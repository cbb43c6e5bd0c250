"""Move the files of a home to the object store that its settings name since then."""

from __future__ import annotations

import logging
from pathlib import Path

from simile.core.records import FileStat
from simile.images.sources.buckets import UPLOAD_SCHEME, get_upload_object
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home, translate_write_errors
from simile.store.objects import ATTRIBUTE_PREFIX, ENCODER_PREFIX, SEGMENT_PREFIX, hash_file

log = logging.getLogger(__name__)


def share_files(catalogue: Catalogue) -> None:
    """Store the uploads, encoders, attributes and segments that only this home has.

    The caller must hold the home's lock.

    Does nothing if the home has no object store. Raises ObjectsUnavailable, HomeNotWritable.
    """
    home = catalogue.home
    if not home.objects.is_shared:
        return
    folders = [home.encoders / encoder.fingerprint for encoder in catalogue.encoders.get_all()]
    files = {f"{ENCODER_PREFIX}{file.parent.name}/{file.name}": file for folder in folders for file in folder.glob("*")}
    files |= {SEGMENT_PREFIX + name: home.segments / name for name in catalogue.segments.get_file_names()}
    stored = {found.name for folder in (ENCODER_PREFIX, SEGMENT_PREFIX) for found in home.objects.names(folder)}
    for name, file in files.items():
        if name not in stored and file.is_file():
            home.objects.put(name, file)
    for encoder in catalogue.encoders.get_all():
        for file in (home.attributes / encoder.fingerprint).glob("*.npz"):
            if "." not in file.stem:  # otherwise it is a copy of an object
                share_attribute(home, file)
    uploads = catalogue.files.find_under([str(home.uploads)])
    known = catalogue.files.get_many(UPLOAD_SCHEME + Path(path).name for path in uploads)
    for path, upload in uploads.items():
        location = UPLOAD_SCHEME + Path(path).name
        if Path(path).is_file():
            home.objects.put(get_upload_object(location), Path(path))
            if location not in known:
                catalogue.files.move(path, FileStat(location, upload.size, upload.mtime_ns))
                Path(path).unlink()
            else:
                catalogue.files.delete([path])
    if uploads:
        log.info("moved %d uploads to the object store", len(uploads))


def share_attribute(home: Home, path: Path) -> Path:
    """Move an attribute to the object store, under a name with its hash; return its path in the home.

    Raises ObjectsUnavailable, HomeNotWritable.
    """
    name = f"{ATTRIBUTE_PREFIX}{path.parent.name}/{path.stem}.{hash_file(path)}.npz"
    home.objects.put(name, path)
    with translate_write_errors(path):
        return path.replace(home.objects.get_local_path(name))
