"""Images: the pictures by their content."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, select

from simile.core.errors import NoSuchImage
from simile.store.catalogue.embeddings import check_new_vectors, write_embeddings
from simile.store.catalogue.encoders import get_encoder_record
from simile.store.catalogue.files import assign_paths, delete_orphaned_images, delete_uploads, read_locations
from simile.store.catalogue.metadata import write_file_metadata
from simile.store.catalogue.records import ImageRecord, ImageSummary, KnownImage, NewImage
from simile.store.database.tables import DeletionRow, EmbeddingRow, ImageRow, LocationRow, SegmentRow, StateRow, utc_now
from simile.store.database.transactions import Repository, split_chunks


class ImageRepository(Repository):
    """Verbs on images."""

    def find_by_sha256(self, sha256s: Iterable[str], encoder: str | None = None) -> dict[str, KnownImage]:
        """The images with these SHA-256 sums, by sum; unknown sums are left out.

        `embedded` speaks of the encoder with this fingerprint; it is False without one.
        """
        found: dict[str, KnownImage] = {}
        columns = select(ImageRow.sha256, ImageRow.id, EmbeddingRow.image_id.is_not(None)).outerjoin(
            EmbeddingRow, (EmbeddingRow.image_id == ImageRow.id) & (EmbeddingRow.encoder == encoder)
        )
        with self.database.begin_read() as connection:
            for chunk in split_chunks(sha256s):
                for sha, image_id, embedded in connection.execute(columns.where(ImageRow.sha256.in_(chunk))):
                    found[sha] = KnownImage(image_id, embedded)
        return found

    def add_batch(
        self,
        new_images: Sequence[NewImage],
        encoder: str,
        runtime: str,
        metadata: Mapping[str, Mapping[str, str]] | None = None,
    ) -> list[int]:
        """Stores pictures with their vectors, and what is `said` of their paths, in one transaction; gives their ids.

        Safe to repeat: a content that is known keeps its id and gains the location and the embedding. A path
        that held another image is re-pointed, and an image left without a file is deleted. When this returns,
        the rows survive a crash and the next query finds them.
        Raises NoSuchEncoder, EncoderMismatch, NotFinite; nothing is stored then.
        """
        if not new_images:
            return []
        with self.database.begin_write() as (connection, change):
            made_by = get_encoder_record(connection, encoder)
            check_new_vectors(new_images, made_by)
            by_sha = _get_or_create_images(connection, new_images)
            ids = [by_sha[picture.sha256] for picture in new_images]
            pairs = list(zip(ids, new_images, strict=True))
            write_embeddings(connection, change, made_by, runtime, pairs)
            delete_orphaned_images(
                connection, change, assign_paths(connection, [(image_id, new.file) for image_id, new in pairs])
            )
            if metadata:
                write_file_metadata(connection, metadata)
        return ids

    def delete(self, image_id: int) -> None:
        """Deletes an image with its locations and vectors, and its upload if it was one. Raises NoSuchImage."""
        with self.database.begin_write() as (connection, change):
            gone = delete(LocationRow).where(LocationRow.image_id == image_id).returning(LocationRow.path)
            paths = list(connection.scalars(gone))
            if connection.scalar(select(ImageRow.id).where(ImageRow.id == image_id)) is None:
                raise NoSuchImage(image_id)
            delete_orphaned_images(connection, change, [image_id])
        delete_uploads(self.database.home, paths)

    def get(self, image_id: int) -> ImageRecord:
        """One image. Raises NoSuchImage."""
        found = self.get_many([image_id])
        if image_id not in found:
            raise NoSuchImage(image_id)
        return found[image_id]

    def get_many(self, image_ids: Sequence[int]) -> dict[int, ImageRecord]:
        """These images by id, in the order asked for; ids that don't exist are left out."""
        with self.database.begin_read() as connection:
            return _read_image_records(connection, image_ids)

    def get_summaries(self, image_ids: Sequence[int]) -> dict[int, ImageSummary]:
        """What answers say of these images, by id, in no order; ids that don't exist are left out."""
        with self.database.begin_read() as connection:
            return _read_image_summaries(connection, image_ids)

    def get_page(self, limit: int, offset: int = 0) -> list[ImageRecord]:
        """A page of all images, by ascending id."""
        with self.database.begin_read() as connection:
            page = select(ImageRow.id).order_by(ImageRow.id).limit(limit).offset(offset)
            return list(_read_image_records(connection, list(connection.scalars(page))).values())

    def get_ids(
        self, limit: int, offset: int = 0, *, after_id: int | None = None, newest_first: bool = False
    ) -> list[int]:
        """Ids of images, ascending, or the newest first; from behind the id `after` on."""
        page = select(ImageRow.id).order_by(ImageRow.id.desc() if newest_first else ImageRow.id)
        if after_id is not None:
            page = page.where(ImageRow.id < after_id if newest_first else ImageRow.id > after_id)
        with self.database.begin_read() as connection:
            return list(connection.scalars(page.limit(limit).offset(offset)))

    def are_published(self, encoder: str) -> bool:
        """Whether the current segment holds everything that the encoder said: nothing is newer, nothing deleted."""
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

    def count(self) -> int:
        """How many images the catalogue holds."""
        with self.database.begin_read() as connection:
            return connection.execute(select(func.count()).select_from(ImageRow)).scalar_one()


def _get_or_create_images(connection: Connection, new_images: Sequence[NewImage]) -> dict[str, int]:
    """The id of each content, by its SHA-256; what is unknown gets a row."""
    by_sha: dict[str, int] = {}
    for chunk in split_chunks({picture.sha256 for picture in new_images}):
        known = select(ImageRow.sha256, ImageRow.id).where(ImageRow.sha256.in_(chunk))
        by_sha.update((sha, image_id) for sha, image_id in connection.execute(known))
    new = {picture.sha256: _make_image_row(picture) for picture in new_images if picture.sha256 not in by_sha}
    if new:
        made = connection.execute(insert(ImageRow).returning(ImageRow.sha256, ImageRow.id), list(new.values()))
        by_sha.update((sha, image_id) for sha, image_id in made)
    return by_sha


def _make_image_row(image: NewImage) -> dict[str, Any]:
    return {
        "sha256": image.sha256,
        "size": image.size,
        "format": image.format,
        "width": image.width,
        "height": image.height,
        "created_at": utc_now(),
    }


# Put together once: every search asks it, and composing it takes as long as running it.
_IMAGES_QUERY = (
    select(ImageRow.__table__, EmbeddingRow.reconstruction_error)
    .outerjoin(
        EmbeddingRow,
        (EmbeddingRow.image_id == ImageRow.id)
        & (EmbeddingRow.encoder == select(StateRow.active_encoder).scalar_subquery()),
    )
    .where(ImageRow.id.in_(bindparam("ids", expanding=True)))
)


# One row for each file; plain tuples, because naming the columns of each row would take longer than finding it.
_SUMMARIES_QUERY = (
    select(ImageRow.id, ImageRow.width, ImageRow.height, ImageRow.format, LocationRow.path)
    .outerjoin(LocationRow, LocationRow.image_id == ImageRow.id)
    .where(ImageRow.id.in_(bindparam("ids", expanding=True)))
    .order_by(LocationRow.path)
)


def _read_image_summaries(connection: Connection, image_ids: Sequence[int]) -> dict[int, ImageSummary]:
    found: dict[int, ImageSummary] = {}
    for chunk in split_chunks(image_ids):
        cursor: Any = connection.execute(_SUMMARIES_QUERY, {"ids": chunk}).cursor
        for image_id, width, height, format, path in cursor:
            known = found.get(image_id)
            if known is None:
                found[image_id] = ImageSummary(width, height, format, () if path is None else (path,))
            else:
                found[image_id] = known._replace(paths=(*known.paths, path))
    return found


def _read_image_records(connection: Connection, image_ids: Sequence[int]) -> dict[int, ImageRecord]:
    paths: dict[int, list[str]] = {}
    for location in read_locations(connection, image_ids):
        paths.setdefault(location.image_id, []).append(location.path)
    found = {
        row.id: ImageRecord(paths=tuple(paths.get(row.id, ())), **row._mapping)
        for chunk in split_chunks(image_ids)
        for row in connection.execute(_IMAGES_QUERY, {"ids": chunk})
    }
    return {image_id: found[image_id] for image_id in image_ids if image_id in found}  # IN (…) keeps no order
