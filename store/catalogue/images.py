"""Images, identified by their content."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, select, text

from simile.core.errors import NoSuchImage
from simile.store.catalogue.embeddings import check_new_vectors, write_embeddings
from simile.store.catalogue.encoders import get_encoder_record
from simile.store.catalogue.files import assign_paths, delete_orphaned_images, delete_uploads, read_locations
from simile.store.catalogue.keys import charge_uploads
from simile.store.catalogue.metadata import write_file_metadata, write_photo_metadata
from simile.store.catalogue.records import ImageRecord, ImageSummary, KnownImage, NewImage, UploadAccount
from simile.store.database.tables import DeletionRow, EmbeddingRow, ImageRow, LocationRow, SegmentRow, StateRow, utc_now
from simile.store.database.transactions import SQL_CHUNK_SIZE, Repository, insert_new, split_chunks
from simile.store.quality.repository import write_quality

MIN_ESTIMATED_ROWS = 100_000  # fewer rows are counted
_ESTIMATE_QUERY = text("SELECT reltuples::bigint FROM pg_class WHERE oid = 'images'::regclass")


class ImageRepository(Repository):
    """Queries and updates of images."""

    def find_by_sha256(self, sha256s: Iterable[str], encoder: str | None = None) -> dict[str, KnownImage]:
        """Return the images with these SHA-256 hashes, by hash; unknown hashes are left out.

        `embedded` is for this encoder, and False without one.
        """
        columns = select(ImageRow.sha256, ImageRow.id, EmbeddingRow.image_id.is_not(None)).outerjoin(
            EmbeddingRow, (EmbeddingRow.image_id == ImageRow.id) & (EmbeddingRow.encoder == encoder)
        )
        rows = self.read_in_chunks(columns, ImageRow.sha256, sha256s)
        return {sha: KnownImage(image_id, embedded) for sha, image_id, embedded in rows}

    def add_batch(
        self,
        new_images: Sequence[NewImage],
        encoder: str,
        runtime: str,
        metadata: Mapping[str, Mapping[str, str]] | None = None,
        account: UploadAccount | None = None,
    ) -> list[int]:
        """Store images with their embeddings and metadata in one transaction.

        Safe to repeat: a known image keeps its id, and gets the file and the embedding. A path of another image now
        belongs to the new one, and an image left without a file is deleted. When this returns, the rows survive a crash
        and the next query finds them.

        Args:
            new_images: The images.
            encoder: Fingerprint of the encoder that made the embeddings.
            runtime: Name of the runtime that ran the encoder.
            metadata: Metadata of the files, by path.
            account: What new files count towards, if they are uploads.

        Returns:
            The ids of the images.

        Raises:
            NoSuchEncoder, EncoderMismatch, NotFinite, QuotaExceeded: Nothing is stored.
        """
        if not new_images:
            return []
        with self.database.begin_write() as (connection, number_change):
            encoder_record = get_encoder_record(connection, encoder)
            check_new_vectors(new_images, encoder_record)
            ids_by_sha = _get_or_create_images(connection, new_images)
            ids = [ids_by_sha[image.sha256] for image in new_images]
            pairs = list(zip(ids, new_images, strict=True))
            with charge_uploads(connection, [image.file for image in new_images], account, number_change):
                candidates = assign_paths(connection, [(image_id, image.file) for image_id, image in pairs])
            if metadata:
                write_file_metadata(connection, metadata)
            write_photo_metadata(connection, {image.file.path: image.photo for image in new_images})
            write_quality(connection, {image_id: image.quality for image_id, image in pairs if image.quality})
            # Last, because from the number on other writers wait.
            write_embeddings(connection, number_change, encoder_record, runtime, pairs)
            delete_orphaned_images(connection, number_change, candidates)
        return ids

    def delete(self, image_id: int) -> None:
        """Delete an image with its locations and embeddings, and its uploaded file if any. Raises NoSuchImage."""
        with self.database.begin_write() as (connection, number_change):
            deletion = delete(LocationRow).where(LocationRow.image_id == image_id).returning(LocationRow.path)
            paths = list(connection.scalars(deletion))
            if connection.scalar(select(ImageRow.id).where(ImageRow.id == image_id)) is None:
                raise NoSuchImage(image_id)
            delete_orphaned_images(connection, number_change, [image_id])
        delete_uploads(self.database.home, paths)

    def get(self, image_id: int) -> ImageRecord:
        """Return an image. Raises NoSuchImage."""
        images = self.get_many([image_id])
        if image_id not in images:
            raise NoSuchImage(image_id)
        return images[image_id]

    def get_many(self, image_ids: Sequence[int]) -> dict[int, ImageRecord]:
        """Return these images by id, in the given order; unknown ids are left out."""
        with self.database.begin_read() as connection:
            return _read_image_records(connection, image_ids)

    def get_summaries(self, image_ids: Sequence[int]) -> dict[int, ImageSummary]:
        """Return the summaries of these images by id, in no order; unknown ids are left out."""
        begin = self.database.begin_query if len(image_ids) <= SQL_CHUNK_SIZE else self.database.begin_read
        with begin() as connection:
            return _read_image_summaries(connection, image_ids)

    def get_page(self, limit: int, offset: int = 0) -> list[ImageRecord]:
        """Return a page of all images, by ascending id."""
        with self.database.begin_read() as connection:
            page = select(ImageRow.id).order_by(ImageRow.id).limit(limit).offset(offset)
            return list(_read_image_records(connection, list(connection.scalars(page))).values())

    def get_ids(
        self, limit: int, offset: int = 0, *, after_id: int | None = None, newest_first: bool = False
    ) -> list[int]:
        """Return ids of images, ascending or newest first, starting after the id `after_id`."""
        page = select(ImageRow.id).order_by(ImageRow.id.desc() if newest_first else ImageRow.id)
        if after_id is not None:
            page = page.where(ImageRow.id < after_id if newest_first else ImageRow.id > after_id)
        with self.database.begin_read() as connection:
            return list(connection.scalars(page.limit(limit).offset(offset)))

    def are_published(self, encoder: str) -> bool:
        """Return whether the current segment covers all embeddings of the encoder and all deletions."""
        with self.database.begin_read() as connection:
            segment = connection.execute(
                select(SegmentRow.change)
                .join(StateRow, StateRow.segment_id == SegmentRow.id)
                .where(SegmentRow.encoder == encoder, StateRow.active_encoder == encoder)
            ).one_or_none()
            if segment is None:
                return False
            newer = select(EmbeddingRow.image_id).where(
                EmbeddingRow.change > segment.change, EmbeddingRow.encoder == encoder
            )
            deleted = select(DeletionRow.image_id).where(DeletionRow.change > segment.change)
            return all(connection.execute(query.limit(1)).one_or_none() is None for query in (newer, deleted))

    def get_formats(self) -> list[str]:
        """Return the formats of the images, sorted."""
        with self.database.begin_read() as connection:
            return list(connection.scalars(select(ImageRow.format).distinct().order_by(ImageRow.format)))

    def get_spread_ids(self, count: int) -> list[int]:
        """Return at most `count` ids that are spread over the range of all ids, ascending."""
        with self.database.begin_read() as connection:
            first, last = connection.execute(select(func.min(ImageRow.id), func.max(ImageRow.id))).one()
            if first is None:
                return []
            starts = {first + position * (last - first + 1) // count for position in range(count)}
            next_id = select(func.min(ImageRow.id)).where(ImageRow.id >= bindparam("start"))
            return sorted({connection.scalars(next_id, {"start": start}).one() for start in starts})

    def count(self) -> int:
        """Return how many images the catalogue holds."""
        return self.read_value(select(func.count()).select_from(ImageRow))

    def estimate_count(self) -> int:
        """Return how many images the catalogue holds: on a server an estimate if they are many, because it is faster.

        PostgreSQL counts by reading all rows: minutes for 100 million.
        """
        if self.database.is_server:
            with self.database.begin_query() as connection:
                estimate = int(connection.scalar(_ESTIMATE_QUERY) or 0)
            if estimate >= MIN_ESTIMATED_ROWS:
                return estimate
        return self.count()


def _get_or_create_images(connection: Connection, new_images: Sequence[NewImage]) -> dict[str, int]:
    """Return the ids of images by SHA-256. Unknown images get a row."""
    hashes = list(dict.fromkeys(image.sha256 for image in new_images))
    ids_by_sha = _find_ids(connection, hashes)
    fields, now = ("sha256", "size", "format", "width", "height"), utc_now()
    images = {image.sha256: image for image in new_images}
    new_rows = [
        {name: getattr(images[sha], name) for name in fields} | {"created_at": now}
        for sha in hashes
        if sha not in ids_by_sha
    ]
    if new_rows:
        created = insert_new(connection, ImageRow, new_rows, [ImageRow.sha256, ImageRow.id])
        ids_by_sha.update((row.sha256, row.id) for row in created)
    # Images that another writer has added meanwhile.
    ids_by_sha.update(_find_ids(connection, [sha for sha in hashes if sha not in ids_by_sha]))
    return ids_by_sha


def _find_ids(connection: Connection, hashes: Iterable[str]) -> dict[str, int]:
    query = select(ImageRow.sha256, ImageRow.id)
    rows = (connection.execute(query.where(ImageRow.sha256.in_(chunk))) for chunk in split_chunks(hashes))
    return {sha: image_id for chunk in rows for sha, image_id in chunk}


# Built once: every search runs it, and building it takes as long as running it.
_IMAGES_QUERY = (
    select(ImageRow.__table__, EmbeddingRow.reconstruction_error)
    .outerjoin(
        EmbeddingRow,
        (EmbeddingRow.image_id == ImageRow.id)
        & (EmbeddingRow.encoder == select(StateRow.active_encoder).scalar_subquery()),
    )
    .where(ImageRow.id.in_(bindparam("ids", expanding=True)))
)


# One row for each file. Read as plain tuples, because naming the columns takes longer than finding the rows.
_SUMMARIES_QUERY = (
    select(ImageRow.id, ImageRow.width, ImageRow.height, ImageRow.format, LocationRow.path)
    .outerjoin(LocationRow, LocationRow.image_id == ImageRow.id)
    .where(ImageRow.id.in_(bindparam("ids", expanding=True)))
    .order_by(LocationRow.path)
)


def _read_image_summaries(connection: Connection, image_ids: Sequence[int]) -> dict[int, ImageSummary]:
    fields: dict[int, tuple[int, int, str]] = {}
    paths: dict[int, list[str]] = {}
    for chunk in split_chunks(image_ids):
        cursor: Any = connection.execute(_SUMMARIES_QUERY, {"ids": chunk}).cursor
        for image_id, width, height, format, path in cursor:
            fields[image_id] = (width, height, format)
            of_image = paths.setdefault(image_id, [])
            if path is not None:
                of_image.append(path)
    return {image_id: ImageSummary(*fields[image_id], tuple(of_image)) for image_id, of_image in paths.items()}


def _read_image_records(connection: Connection, image_ids: Sequence[int]) -> dict[int, ImageRecord]:
    paths: dict[int, list[str]] = {}
    for location in read_locations(connection, image_ids):
        paths.setdefault(location.image_id, []).append(location.path)
    records = {
        row.id: ImageRecord(paths=tuple(paths.get(row.id, ())), **row._mapping)
        for chunk in split_chunks(image_ids)
        for row in connection.execute(_IMAGES_QUERY, {"ids": chunk})
    }
    return {image_id: records[image_id] for image_id in image_ids if image_id in records}  # IN (…) keeps no order
