"""Embeddings: the encoders' latent vectors of images. SQL stores them, and every index is built from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Select, bindparam, delete, func, select

from simile.core.errors import EncoderMismatch, NoSuchImage, NotFinite
from simile.core.records import FloatArray
from simile.store.catalogue.records import Embedding, EncoderRecord, NewImage
from simile.store.database.tables import EmbeddingRow, ImageRow
from simile.store.database.transactions import NumberChange, Repository, insert_rows, split_chunks

EMBEDDING_CHUNK_ROWS = 8192  # rows decoded together: 4 MB of 128 floats


class EmbeddingRepository(Repository):
    """Queries of embeddings."""

    def get(self, image_id: int, encoder: str) -> Embedding:
        """Return an image's embedding. Raises NoSuchImage, or EncoderMismatch if the encoder has none of it."""
        with self.database.begin_read() as connection:
            row = connection.execute(_EMBEDDING_QUERY, {"image": image_id, "fingerprint": encoder}).one_or_none()
        if row is None:
            raise NoSuchImage(image_id)
        if row.mu is None:
            raise EncoderMismatch(f"Image {image_id} has no vector by encoder {encoder}. Run `simile index FILE`.")
        return _make_embedding(row.mu, row.log_variance)

    def get_many(self, image_ids: Iterable[int], encoder: str) -> dict[int, Embedding]:
        """Return the embeddings of these images by id; images without one are left out."""
        rows = self.read_in_chunks(_make_latents_query(encoder), EmbeddingRow.image_id, image_ids)
        return {image_id: _make_embedding(mu, log_variance) for image_id, mu, log_variance in rows}

    def iterate_chunks(self, encoder: str) -> Iterator[tuple[NDArray[np.int64], FloatArray, FloatArray | None]]:
        """Yield (ids (n,), mu (n, d), log_variance (n, d) or None) in chunks of ascending ids, from one transaction."""
        query = _make_latents_query(encoder).order_by(EmbeddingRow.image_id)
        query = query.execution_options(yield_per=EMBEDDING_CHUNK_ROWS)
        with self.database.begin_read() as connection, connection.execute(query) as result:
            for rows in result.partitions():
                ids, mu, log_variance = zip(*rows, strict=True)
                log_variances = None if log_variance[0] is None else unpack_vectors(log_variance)
                yield np.array(ids, np.int64), unpack_vectors(mu), log_variances

    def count(self, encoder: str) -> int:
        """Return how many images have an embedding by this encoder."""
        return self.read_value(select(func.count()).select_from(EmbeddingRow).where(EmbeddingRow.encoder == encoder))


def _make_latents_query(encoder: str) -> Select[int, bytes, bytes | None]:
    columns = select(EmbeddingRow.image_id, EmbeddingRow.mu, EmbeddingRow.log_variance)
    return columns.where(EmbeddingRow.encoder == encoder)


_EMBEDDING_QUERY = (  # built once, as in images.py
    select(ImageRow.id, EmbeddingRow.mu, EmbeddingRow.log_variance)
    .outerjoin(
        EmbeddingRow, (EmbeddingRow.image_id == ImageRow.id) & (EmbeddingRow.encoder == bindparam("fingerprint"))
    )
    .where(ImageRow.id == bindparam("image"))
)


def iterate_vectors_since(
    connection: Connection, encoder: EncoderRecord, after_change: int
) -> Iterator[tuple[Any, FloatArray]]:
    """Yield (ids (n,) int64, mu (n, d)) of the rows written after a change, in chunks of ascending ids.

    Raises EncoderMismatch if a vector does not have the encoder's length.
    """
    query = make_vectors_query(encoder.fingerprint, after_change).execution_options(yield_per=EMBEDDING_CHUNK_ROWS)
    with connection.execute(query) as result:
        for rows in result.partitions():
            ids, mus = zip(*rows, strict=True)
            if set(map(len, mus)) != {4 * encoder.dimensions}:
                wrong = next(row for row in rows if len(row.mu) != 4 * encoder.dimensions)
                raise _make_wrong_length_error(f"The vector of image {wrong.image_id}", len(wrong.mu) // 4, encoder)
            yield np.array(ids, np.int64), unpack_vectors(mus)


def make_vectors_query(fingerprint: str, after_change: int) -> Select[int, bytes]:
    """Return a query of (image_id, mu) written after a change (0: all), by ascending id."""
    query = select(EmbeddingRow.image_id, EmbeddingRow.mu).where(EmbeddingRow.encoder == fingerprint)
    if not after_change:
        return query.order_by(EmbeddingRow.image_id)
    # + 0: otherwise SQLite scans all rows in the order of an index, to avoid sorting the few newest ones.
    return query.where(EmbeddingRow.change > after_change).order_by(EmbeddingRow.image_id + 0)


def write_embeddings(
    connection: Connection,
    number_change: NumberChange,
    encoder: EncoderRecord,
    runtime: str,
    images: Sequence[tuple[int, NewImage]],
) -> None:
    """Store the vectors of (image id, image) pairs; they replace older vectors by the same encoder."""
    rows: list[dict[str, Any]] = [
        {
            "image_id": image_id,
            "encoder": encoder.fingerprint,
            "mu": pack_vector(image.mu),
            "log_variance": None if image.log_variance is None else pack_vector(image.log_variance),
            "reconstruction_error": image.reconstruction_error,
            "runtime": runtime,
        }
        for image_id, image in dict(images).items()
    ]
    for chunk in split_chunks(row["image_id"] for row in rows):
        old = EmbeddingRow.image_id.in_(chunk) & (EmbeddingRow.encoder == encoder.fingerprint)
        connection.execute(delete(EmbeddingRow).where(old))
    change = number_change()
    for row in rows:
        row["change"] = change
    insert_rows(connection, EmbeddingRow, rows)


def check_new_vectors(images: Sequence[NewImage], encoder: EncoderRecord) -> None:
    """Check vectors before they are stored. Raises EncoderMismatch or NotFinite, with the file's path."""
    for image in images:
        for vector in (image.mu, image.log_variance):
            if vector is None:
                continue
            if vector.shape != (encoder.dimensions,):
                raise _make_wrong_length_error(f"The vector of {image.file.path}", vector.size, encoder)
            if not np.isfinite(vector).all():
                raise NotFinite(f"The vector of {image.file.path} is not finite. Leave the file out, or train again.")


def _make_wrong_length_error(subject: str, length: int, encoder: EncoderRecord) -> EncoderMismatch:
    return EncoderMismatch(
        f"{subject} has {length} numbers, but encoder {encoder.fingerprint} makes {encoder.dimensions}. "
        "Run `simile verify` to see what else is wrong, or `simile index` with the right encoder."
    )


def _make_embedding(mu: bytes, log_variance: bytes | None) -> Embedding:
    return Embedding(unpack_vector(mu), None if log_variance is None else unpack_vector(log_variance))


def pack_vector(vector: FloatArray) -> bytes:
    """Return a vector (d,) as stored: float32, little-endian."""
    return vector.astype("<f4").tobytes()


def unpack_vector(data: bytes) -> FloatArray:
    """Return the vector (d,) of stored bytes."""
    return np.frombuffer(data, "<f4").astype(np.float32)


def unpack_vectors(blobs: Sequence[bytes]) -> FloatArray:
    """Return the vectors (n, d) of n stored vectors of the same length."""
    return unpack_vector(b"".join(blobs)).reshape(len(blobs), -1)
