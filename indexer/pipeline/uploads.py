"""Add and delete individual images, for the HTTP API."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from simile.core.atomic_write import write_atomically
from simile.core.records import FileStat
from simile.images.loading.loader import prepare_image
from simile.indexer.pipeline.writer import make_embedding_rows
from simile.search.searcher import Searcher
from simile.store.home import translate_write_errors


def add_upload(
    searcher: Searcher, data: bytes, *, name: str, metadata: Mapping[str, str] | None = None
) -> tuple[int, bool]:
    """Store and index an image; the next search finds it.

    The file is stored in the home under its content's hash, even if a source folder holds the same image, because that
    file may disappear.

    `metadata` replaces that of a known image; None keeps it. `name` is for messages.

    Returns:
        The image's id, and whether its content was new.

    Raises:
        UnreadableImage: The data is not an image that can be read.
        NothingIndexed: The home has no encoder.
        HomeNotWritable: The file can't be stored.
    """
    encoder, catalogue = searcher.get_encoder(), searcher.catalogue
    prepare = partial(prepare_image, preprocessing=encoder.preprocessing, limits=searcher.limits)
    prepared = searcher.decode_upload(prepare, data, name)
    path = searcher.home.uploads / f"{prepared.sha256}.{prepared.format}"
    with translate_write_errors(path):
        if not path.exists():
            write_atomically(path, lambda temporary: temporary.write_bytes(data))
        stat = path.stat()
    file = FileStat(str(path), stat.st_size, stat.st_mtime_ns)
    known = catalogue.images.find_by_sha256([prepared.sha256], encoder.fingerprint).get(prepared.sha256)
    if known is not None and known.embedded:
        catalogue.files.add([(known.image_id, file)])
        if metadata is not None:
            catalogue.metadata.set_for_image(known.image_id, metadata)
        return known.image_id, False
    rows = make_embedding_rows([(file, prepared)], encoder, with_errors=True)
    metadata_by_path = None if metadata is None else {file.path: metadata}
    ids = catalogue.images.add_batch(rows, encoder.fingerprint, encoder.runtime, metadata_by_path)
    return ids[0], known is None


def delete_image(searcher: Searcher, image_id: int) -> None:
    """Delete an image, its vectors and what the cache has of it. A source file stays; an uploaded file is deleted.

    Raises NoSuchImage.
    """
    record = searcher.get_image(image_id)
    searcher.catalogue.images.delete(image_id)
    searcher.cache.remove(record.sha256)
