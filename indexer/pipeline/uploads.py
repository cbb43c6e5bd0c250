"""Pictures that arrive one at a time, over HTTP."""

from __future__ import annotations

from collections.abc import Mapping

from simile.core.atomic_write import write_durably
from simile.core.records import FileFacts
from simile.images.loading.loader import prepare_bytes
from simile.indexer.pipeline.writer import embedded_rows
from simile.search.searcher import Searcher
from simile.store.home import writing


def add_upload(
    searcher: Searcher, data: bytes, *, name: str, said: Mapping[str, str] | None = None
) -> tuple[int, bool]:
    """Stores and indexes one picture; gives its id and whether its content was new. The next search finds it.

    `said`: metadata of it, in place of what was said of a picture that was known; None leaves that as it is.

    The file is kept in the home under its content's hash, even where a folder holds the same picture: that one may
    vanish. `name` is for messages only. Raises UnreadableImage, NothingIndexed (no encoder yet), HomeNotWritable.
    """
    encoder, catalogue = searcher.encoder(), searcher.catalogue
    prepared = prepare_bytes(data, name, encoder.preprocessing, searcher.limits)
    path = searcher.home.uploads / f"{prepared.sha256}.{prepared.format}"
    with writing(path):
        if not path.exists():
            write_durably(path, lambda temporary: temporary.write_bytes(data))
        facts = path.stat()
    file = FileFacts(str(path), facts.st_size, facts.st_mtime_ns)
    known = catalogue.images_by_sha([prepared.sha256], encoder.fingerprint).get(prepared.sha256)
    if known is not None and known.embedded:
        catalogue.add_locations([(known.image_id, file)])
        if said is not None:
            catalogue.set_image_metadata(known.image_id, said)
        return known.image_id, False
    rows = embedded_rows([(file, prepared)], encoder, with_errors=True)
    of_path = None if said is None else {file.path: said}
    return catalogue.store_batch(rows, encoder.fingerprint, encoder.runtime, of_path)[0], known is None


def delete_image(searcher: Searcher, image_id: int) -> None:
    """Forgets an image and its vectors. A file in the user's own folder stays; an upload is removed. NoSuchImage."""
    searcher.catalogue.delete_image(image_id)
