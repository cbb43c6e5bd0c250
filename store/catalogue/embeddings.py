"""Embeddings: what an encoder said of each picture. SQL holds them, every index is made from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Select, bindparam, delete, func, insert, select

from simile.core.errors import EncoderMismatch, NoSuchImage, NotFinite
from simile.core.records import FloatArray
from simile.store.catalogue.records import Embedding, EncoderRecord, NewImage
from simile.store.database.tables import EmbeddingRow, ImageRow
from simile.store.database.transactions import Repository, split_chunks

EMBEDDING_CHUNK_ROWS = 8192  # rows decoded together: 4 MB of 128 floats


class EmbeddingRepository(Repository):
    """Verbs on vectors."""

    def get(self, image_id: int, encoder: str) -> Embedding:
        """What the encoder said of one picture. Raises NoSuchImage, and EncoderMismatch if it never saw it."""
        with self.database.begin_read() as connection:
            row = connection.execute(_EMBEDDING_QUERY, {"image": image_id, "fingerprint": encoder}).one_or_none()
        if row is None:
            raise NoSuchImage(image_id)
        if row.mu is None:
            raise EncoderMismatch(f"Image {image_id} has no vector by encoder {encoder}. Run `simile index` on it.")
        return Embedding(unpack_vector(row.mu), None if row.log_variance is None else unpack_vector(row.log_variance))

    def get_many(self, image_ids: Iterable[int], encoder: str) -> dict[int, Embedding]:
        """What the encoder said of these pictures, by id; those that it never saw are left out."""
        columns = select(EmbeddingRow.image_id, EmbeddingRow.mu, EmbeddingRow.log_variance)
        query = columns.where(EmbeddingRow.encoder == encoder)
        found: dict[int, Embedding] = {}
        with self.database.begin_read() as connection:
            for chunk in split_chunks(image_ids):
                for image_id, mu, log_variance in connection.execute(query.where(EmbeddingRow.image_id.in_(chunk))):
                    known = None if log_variance is None else unpack_vector(log_variance)
                    found[image_id] = Embedding(unpack_vector(mu), known)
        return found

    def iterate_chunks(self, encoder: str) -> Iterator[tuple[NDArray[np.int64], FloatArray, FloatArray | None]]:
        """(ids (n,), mu (n, d), log_variance (n, d) or None) in chunks of ascending ids, as of the first chunk."""
        columns = select(EmbeddingRow.image_id, EmbeddingRow.mu, EmbeddingRow.log_variance)
        query = columns.where(EmbeddingRow.encoder == encoder).order_by(EmbeddingRow.image_id)
        with self.database.begin_read() as connection:
            for rows in connection.execute(query.execution_options(yield_per=EMBEDDING_CHUNK_ROWS)).partitions():
                ids, mu, log_variance = zip(*rows, strict=True)
                known = None if log_variance[0] is None else unpack_vectors(log_variance)
                yield np.array(ids, np.int64), unpack_vectors(mu), known

    def count(self, encoder: str) -> int:
        """How many pictures have a vector by this encoder."""
        with self.database.begin_read() as connection:
            query = select(func.count()).select_from(EmbeddingRow).where(EmbeddingRow.encoder == encoder)
            return connection.execute(query).scalar_one()


_EMBEDDING_QUERY = (  # put together once, as in images.py
    select(ImageRow.id, EmbeddingRow.mu, EmbeddingRow.log_variance)
    .outerjoin(
        EmbeddingRow, (EmbeddingRow.image_id == ImageRow.id) & (EmbeddingRow.encoder == bindparam("fingerprint"))
    )
    .where(ImageRow.id == bindparam("image"))
)


def iterate_vectors_since(
    connection: Connection, encoder: EncoderRecord, after_change: int
) -> Iterator[tuple[Any, FloatArray]]:
    """(ids (n,) int64, mu (n, d)) of the rows written after `change`, in chunks of ascending ids.

    Raises EncoderMismatch if a row's vector does not have the encoder's length.
    """
    query = make_vectors_query(encoder.fingerprint, after_change).execution_options(yield_per=EMBEDDING_CHUNK_ROWS)
    for rows in connection.execute(query).partitions():
        ids, mus = zip(*rows, strict=True)
        if set(map(len, mus)) != {4 * encoder.dimensions}:
            wrong = next(row for row in rows if len(row.mu) != 4 * encoder.dimensions)
            raise EncoderMismatch(
                _make_wrong_length_message(f"The vector of image {wrong.image_id}", len(wrong.mu) // 4, encoder)
            )
        yield np.array(ids, np.int64), unpack_vectors(mus)


def make_vectors_query(fingerprint: str, after_change: int) -> Select[int, bytes]:
    """(image_id, mu) of an encoder's rows by ascending id. 0 asks for all."""
    query = select(EmbeddingRow.image_id, EmbeddingRow.mu).where(EmbeddingRow.encoder == fingerprint)
    if not after_change:
        return query.order_by(EmbeddingRow.image_id)
    # + 0: in the order of an index, SQLite would look at every row to spare itself the sorting of the newest few.
    return query.where(EmbeddingRow.change > after_change).order_by(EmbeddingRow.image_id + 0)


def write_embeddings(
    connection: Connection,
    change: int,
    encoder: EncoderRecord,
    runtime: str,
    images: Sequence[tuple[int, NewImage]],
) -> None:
    """Stores each picture's vectors under its image id, in place of what the same encoder said before."""
    rows = [
        {
            "image_id": image_id,
            "encoder": encoder.fingerprint,
            "mu": pack_vector(picture.mu),
            "log_variance": None if picture.log_variance is None else pack_vector(picture.log_variance),
            "reconstruction_error": picture.reconstruction_error,
            "runtime": runtime,
            "change": change,
        }
        for image_id, picture in dict(images).items()
    ]
    for chunk in split_chunks(rows):
        ids = [row["image_id"] for row in chunk]
        old = delete(EmbeddingRow).where(EmbeddingRow.encoder == encoder.fingerprint, EmbeddingRow.image_id.in_(ids))
        connection.execute(old)
        connection.execute(insert(EmbeddingRow), chunk)


def check_new_vectors(images: Sequence[NewImage], encoder: EncoderRecord) -> None:
    """Raises EncoderMismatch or NotFinite, naming the file, before anything wrong is stored."""
    for picture in images:
        for vector in (picture.mu, picture.log_variance):
            if vector is None:
                continue
            if vector.shape != (encoder.dimensions,):
                raise EncoderMismatch(
                    _make_wrong_length_message(f"The vector of {picture.file.path}", vector.size, encoder)
                )
            if not np.isfinite(vector).all():
                raise NotFinite(f"The vector of {picture.file.path} is not finite. Leave the file out, or train anew.")


def _make_wrong_length_message(subject: str, length: int, encoder: EncoderRecord) -> str:
    return (
        f"{subject} has {length} numbers, but encoder {encoder.fingerprint} makes {encoder.dimensions}. "
        "Run `simile verify` to see what else is wrong, or `simile index` with the right encoder."
    )


def pack_vector(vector: FloatArray) -> bytes:
    """(d,) as stored: float32, little-endian."""
    return vector.astype("<f4").tobytes()


def unpack_vector(data: bytes) -> FloatArray:
    """(d,) float32 of what `pack` made."""
    return np.frombuffer(data, "<f4").astype(np.float32)


def unpack_vectors(blobs: Sequence[bytes]) -> FloatArray:
    """(n, d) float32 of n vectors of one length."""
    return unpack_vector(b"".join(blobs)).reshape(len(blobs), -1)
