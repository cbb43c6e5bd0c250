"""Pictures that arrive one at a time, over HTTP."""

from __future__ import annotations

import hashlib

import numpy as np

from core.records import FileFacts
from models.checkpoints import write_durably
from models.collection import prepare_bytes
from search.searcher import Searcher
from store.home import writing
from store.records import NewPicture


def add_upload(searcher: Searcher, data: bytes, *, name: str) -> tuple[int, bool]:
    """Stores and indexes one picture; gives its id and whether it was new. The next search finds it.

    The file is kept in the home under its content's hash; `name` is for messages only. Raises UnreadableImage,
    NothingIndexed (no encoder yet) and HomeNotWritable.
    """
    encoder = searcher.encoder()
    sha256 = hashlib.sha256(data).hexdigest()
    known = searcher.catalogue.images_by_sha([sha256], encoder.fingerprint).get(sha256)
    if known is not None and known.embedded:
        return known.image_id, False
    prepared = prepare_bytes(data, name, encoder.preprocessing, searcher.limits)
    latent, errors = encoder.embed(prepared.array[None])
    path = searcher.home.uploads / f"{sha256}.{prepared.format}"
    with writing(path):
        write_durably(path, lambda temporary: temporary.write_bytes(data))
        facts = path.stat()
    picture = NewPicture(
        sha256=sha256,
        size=len(data),
        format=prepared.format,
        width=prepared.width,
        height=prepared.height,
        facts=FileFacts(str(path), facts.st_size, facts.st_mtime_ns),
        mu=latent.mu[0],
        log_variance=None if latent.sigma is None else 2 * np.log(latent.sigma[0]),
        reconstruction_error=float(errors[0]),
    )
    return searcher.catalogue.store_batch([picture], encoder.fingerprint, encoder.runtime)[0], True


def delete_image(searcher: Searcher, image_id: int) -> None:
    """Forgets an image and its vectors. A file in the user's own folder stays; an upload is removed. NoSuchImage."""
    searcher.catalogue.delete_image(image_id)
