"""Add and delete individual images, for the HTTP API."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from functools import partial

from simile.core.atomic_write import write_atomically
from simile.core.errors import QuotaExceeded
from simile.core.records import FileStat
from simile.images.loading.loader import PreparedImage, prepare_image
from simile.images.metadata.reader import MetadataReader
from simile.images.sources.buckets import UPLOAD_SCHEME, get_upload_object
from simile.indexer.pipeline.file_embedder import make_embedding_rows
from simile.models.inference.encoder import TrainedEncoder
from simile.search.searcher import Searcher
from simile.store.catalogue.records import UploadAccount
from simile.store.home import Home, translate_write_errors


def add_upload(
    searcher: Searcher,
    data: bytes,
    *,
    name: str,
    metadata: Mapping[str, str] | None = None,
    account: UploadAccount | None = None,
) -> tuple[int, bool]:
    """Store and index an image; the next search finds it.

    The file is stored in the home, or in its object store, under its content's hash, even if a source folder holds the
    same image, because that file may disappear.

    `metadata` replaces that of a known image; None keeps it. `name` is for messages. A new file counts towards
    `account`, unless it is stored already.

    Returns:
        The image's id, and whether its content was new.

    Raises:
        UnreadableImage: The data is not an image that can be read.
        NothingIndexed: The home has no encoder.
        HomeNotWritable: The file can't be stored, or would leave too little space on the disk.
        ObjectsUnavailable: The object store, if there is one, can't be reached.
        QuotaExceeded: The account has no room for it.
    """
    encoder, catalogue = searcher.get_encoder(), searcher.catalogue
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 not in catalogue.images.find_by_sha256([sha256]):  # before the work; the catalogue checks it again
        searcher.home.check_free_space(len(data))
        if account is not None:
            catalogue.keys.check_quota(account, len(data))
    reader = MetadataReader(with_gps=searcher.settings.gps, with_sidecars=False)
    prepare = partial(
        prepare_image, preprocessing=encoder.preprocessing, limits=searcher.limits, metadata_reader=reader
    )
    prepared = searcher.decode_upload(prepare, data, name)
    name = f"{prepared.sha256}.{prepared.format}"
    file = store_upload(searcher.home, name, data)
    try:
        image_id, is_new = _add_file(searcher, encoder, prepared, file, metadata, account)
    except QuotaExceeded:
        catalogue.files.discard_upload(file.path)
        raise
    store_upload(searcher.home, name, data)  # again, if a refused upload of the same bytes has discarded it meanwhile
    return image_id, is_new


def store_upload(home: Home, name: str, data: bytes) -> FileStat:
    """Store the bytes in the home, or in the object store that several hosts share, and return their location."""
    path = home.uploads / name
    if home.objects.is_shared:
        location = UPLOAD_SCHEME + name
        home.objects.put_bytes(get_upload_object(location), data)
        return FileStat(location, len(data), time.time_ns())
    with translate_write_errors(path):
        if not path.exists():
            write_atomically(path, lambda temporary: temporary.write_bytes(data))
        stat = path.stat()
    return FileStat(str(path), stat.st_size, stat.st_mtime_ns)


def _add_file(
    searcher: Searcher,
    encoder: TrainedEncoder,
    prepared: PreparedImage,
    file: FileStat,
    metadata: Mapping[str, str] | None,
    account: UploadAccount | None,
) -> tuple[int, bool]:
    """Add a stored file to the catalogue; return the image's id, and whether its content was new."""
    catalogue = searcher.catalogue
    known = catalogue.images.find_by_sha256([prepared.sha256], encoder.fingerprint).get(prepared.sha256)
    if known is not None and known.embedded:
        catalogue.files.add([(known.image_id, file)], account, {file.path: prepared.photo})
        if metadata is not None:
            catalogue.metadata.set_for_image(known.image_id, metadata)
        return known.image_id, False
    rows = make_embedding_rows([(file, prepared)], encoder, with_errors=True)
    metadata_by_path = None if metadata is None else {file.path: metadata}
    ids = catalogue.images.add_batch(rows, encoder.fingerprint, encoder.runtime, metadata_by_path, account)
    return ids[0], known is None


def delete_image(searcher: Searcher, image_id: int) -> None:
    """Delete an image, its vectors and what the cache has of it. A source file stays; an uploaded file is deleted.

    Raises NoSuchImage.
    """
    record = searcher.get_image(image_id)
    searcher.catalogue.images.delete(image_id)
    searcher.cache.remove(record.sha256)
