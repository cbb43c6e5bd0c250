"""Images: the pictures by their content."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, select

from simile.core.errors import NoSuchImage
from simile.store.catalogue.embeddings import check_vectors, write_embeddings
from simile.store.catalogue.encoders import get_encoder
from simile.store.catalogue.files import drop_images, location_rows, point, remove_uploads
from simile.store.catalogue.metadata import say
from simile.store.catalogue.records import HitFacts, ImageRecord, KnownImage, NewPicture
from simile.store.database.tables import DeletionRow, EmbeddingRow, ImageRow, LocationRow, SegmentRow, StateRow, now
from simile.store.database.transactions import Transactions, chunks


class Images(Transactions):
    """Verbs on images."""

    def images_by_sha(self, shas: Iterable[str], encoder: str | None = None) -> dict[str, KnownImage]:
        """The images with these SHA-256 sums, by sum; unknown sums are left out.

        `embedded` speaks of the encoder with this fingerprint; it is False without one.
        """
        found: dict[str, KnownImage] = {}
        columns = select(ImageRow.sha256, ImageRow.id, EmbeddingRow.image_id.is_not(None)).outerjoin(
            EmbeddingRow, (EmbeddingRow.image_id == ImageRow.id) & (EmbeddingRow.encoder == encoder)
        )
        with self.reading() as connection:
            for chunk in chunks(shas):
                for sha, image_id, embedded in connection.execute(columns.where(ImageRow.sha256.in_(chunk))):
                    found[sha] = KnownImage(image_id, embedded)
        return found

    def store_batch(
        self,
        pictures: Sequence[NewPicture],
        encoder: str,
        runtime: str,
        said: Mapping[str, Mapping[str, str]] | None = None,
    ) -> list[int]:
        """Stores pictures with their vectors, and what is `said` of their paths, in one transaction; gives their ids.

        Safe to repeat: a content that is known keeps its id and gains the location and the embedding. A path
        that held another image is re-pointed, and an image left without a file is deleted. When this returns,
        the rows survive a crash and the next query finds them.
        Raises NoSuchEncoder, EncoderMismatch, NotFinite; nothing is stored then.
        """
        if not pictures:
            return []
        with self.writing() as (connection, change):
            made_by = get_encoder(connection, encoder)
            check_vectors(pictures, made_by)
            by_sha = _ensure_images(connection, pictures)
            ids = [by_sha[picture.sha256] for picture in pictures]
            pairs = list(zip(ids, pictures, strict=True))
            write_embeddings(connection, change, made_by, runtime, pairs)
            drop_images(connection, change, point(connection, [(image_id, new.facts) for image_id, new in pairs]))
            if said:
                say(connection, said)
        return ids

    def delete_image(self, image_id: int) -> None:
        """Deletes an image with its locations and vectors, and its upload if it was one. Raises NoSuchImage."""
        with self.writing() as (connection, change):
            gone = delete(LocationRow).where(LocationRow.image_id == image_id).returning(LocationRow.path)
            paths = list(connection.scalars(gone))
            if connection.scalar(select(ImageRow.id).where(ImageRow.id == image_id)) is None:
                raise NoSuchImage(image_id)
            drop_images(connection, change, [image_id])
        remove_uploads(self.home, paths)

    def image(self, image_id: int) -> ImageRecord:
        """One image. Raises NoSuchImage."""
        found = self.images([image_id])
        if image_id not in found:
            raise NoSuchImage(image_id)
        return found[image_id]

    def images(self, image_ids: Sequence[int]) -> dict[int, ImageRecord]:
        """These images by id, in the order asked for; ids that don't exist are left out."""
        with self.reading() as connection:
            return _read_images(connection, image_ids)

    def hit_facts(self, image_ids: Sequence[int]) -> dict[int, HitFacts]:
        """What answers say of these images, by id, in no order; ids that don't exist are left out."""
        with self.reading() as connection:
            return _read_facts(connection, image_ids)

    def list_images(self, limit: int, offset: int = 0) -> list[ImageRecord]:
        """A page of all images, by ascending id."""
        with self.reading() as connection:
            page = select(ImageRow.id).order_by(ImageRow.id).limit(limit).offset(offset)
            return list(_read_images(connection, list(connection.scalars(page))).values())

    def image_ids(self, limit: int, offset: int = 0, *, after: int | None = None, newest: bool = False) -> list[int]:
        """Ids of images, ascending, or the newest first; from behind the id `after` on."""
        page = select(ImageRow.id).order_by(ImageRow.id.desc() if newest else ImageRow.id)
        if after is not None:
            page = page.where(ImageRow.id < after if newest else ImageRow.id > after)
        with self.reading() as connection:
            return list(connection.scalars(page.limit(limit).offset(offset)))

    def is_published(self, encoder: str) -> bool:
        """Whether the current segment holds everything that the encoder said: nothing is newer, nothing deleted."""
        with self.reading() as connection:
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

    def count_images(self) -> int:
        """How many images the catalogue holds."""
        with self.reading() as connection:
            return connection.execute(select(func.count()).select_from(ImageRow)).scalar_one()


def _ensure_images(connection: Connection, pictures: Sequence[NewPicture]) -> dict[str, int]:
    """The id of each content, by its SHA-256; what is unknown gets a row."""
    by_sha: dict[str, int] = {}
    for chunk in chunks({picture.sha256 for picture in pictures}):
        known = select(ImageRow.sha256, ImageRow.id).where(ImageRow.sha256.in_(chunk))
        by_sha.update((sha, image_id) for sha, image_id in connection.execute(known))
    new = {picture.sha256: _row(picture) for picture in pictures if picture.sha256 not in by_sha}
    if new:
        made = connection.execute(insert(ImageRow).returning(ImageRow.sha256, ImageRow.id), list(new.values()))
        by_sha.update((sha, image_id) for sha, image_id in made)
    return by_sha


def _row(picture: NewPicture) -> dict[str, Any]:
    return {
        "sha256": picture.sha256,
        "size": picture.size,
        "format": picture.format,
        "width": picture.width,
        "height": picture.height,
        "created_at": now(),
    }


# Put together once: every search asks it, and composing it takes as long as running it.
_BY_IDS = (
    select(ImageRow.__table__, EmbeddingRow.reconstruction_error)
    .outerjoin(
        EmbeddingRow,
        (EmbeddingRow.image_id == ImageRow.id)
        & (EmbeddingRow.encoder == select(StateRow.active_encoder).scalar_subquery()),
    )
    .where(ImageRow.id.in_(bindparam("ids", expanding=True)))
)


# One row for each file; plain tuples, because naming the columns of each row would take longer than finding it.
_FACTS_BY_IDS = (
    select(ImageRow.id, ImageRow.width, ImageRow.height, ImageRow.format, LocationRow.path)
    .outerjoin(LocationRow, LocationRow.image_id == ImageRow.id)
    .where(ImageRow.id.in_(bindparam("ids", expanding=True)))
    .order_by(LocationRow.path)
)


def _read_facts(connection: Connection, image_ids: Sequence[int]) -> dict[int, HitFacts]:
    found: dict[int, HitFacts] = {}
    for chunk in chunks(image_ids):
        cursor: Any = connection.execute(_FACTS_BY_IDS, {"ids": chunk}).cursor
        for image_id, width, height, format, path in cursor:
            known = found.get(image_id)
            if known is None:
                found[image_id] = HitFacts(width, height, format, () if path is None else (path,))
            else:
                found[image_id] = known._replace(paths=(*known.paths, path))
    return found


def _read_images(connection: Connection, image_ids: Sequence[int]) -> dict[int, ImageRecord]:
    paths: dict[int, list[str]] = {}
    for location in location_rows(connection, image_ids):
        paths.setdefault(location.image_id, []).append(location.path)
    found = {
        row.id: ImageRecord(paths=tuple(paths.get(row.id, ())), **row._mapping)
        for chunk in chunks(image_ids)
        for row in connection.execute(_BY_IDS, {"ids": chunk})
    }
    return {image_id: found[image_id] for image_id in image_ids if image_id in found}  # IN (…) keeps no order
