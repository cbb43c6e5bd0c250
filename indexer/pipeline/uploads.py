"""Pictures that arrive one at a time, over HTTP."""

from __future__ import annotations

from collections.abc import Mapping

from simile.core.atomic_write import write_atomically
from simile.core.records import FileStat
from simile.images.loading.loader import prepare_image
from simile.indexer.pipeline.writer import make_embedding_rows
from simile.search.searcher import Searcher
from simile.store.home import translate_write_errors


def add_upload(
    searcher: Searcher, data: bytes, *, name: str, metadata: Mapping[str, str] | None = None
) -> tuple[int, bool]:
    """Stores and indexes one picture; gives its id and whether its content was new. The next search finds it.

    `said`: metadata of it, in place of what was said of a picture that was known; None leaves that as it is.

    The file is kept in the home under its content's hash, even where a folder holds the same picture: that one may
    vanish. `name` is for messages only. Raises UnreadableImage, NothingIndexed (no encoder yet), HomeNotWritable.
    """
    encoder, catalogue = searcher.get_encoder(), searcher.catalogue
    prepared = prepare_image(data, name, encoder.preprocessing, searcher.limits)
    path = searcher.home.uploads / f"{prepared.sha256}.{prepared.format}"
    with translate_write_errors(path):
        if not path.exists():
            write_atomically(path, lambda temporary: temporary.write_bytes(data))
        facts = path.stat()
    file = FileStat(str(path), facts.st_size, facts.st_mtime_ns)
    known = catalogue.images.find_by_sha256([prepared.sha256], encoder.fingerprint).get(prepared.sha256)
    if known is not None and known.embedded:
        catalogue.files.add([(known.image_id, file)])
        if metadata is not None:
            catalogue.metadata.set_for_image(known.image_id, metadata)
        return known.image_id, False
    rows = make_embedding_rows([(file, prepared)], encoder, with_errors=True)
    of_path = None if metadata is None else {file.path: metadata}
    return catalogue.images.add_batch(rows, encoder.fingerprint, encoder.runtime, of_path)[0], known is None


def delete_image(searcher: Searcher, image_id: int) -> None:
    """Forgets an image and its vectors. A file in the user's own folder stays; an upload is removed. NoSuchImage."""
    searcher.catalogue.images.delete(image_id)
