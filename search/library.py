"""The images of a home: their records, files, pixels and reconstructions."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from simile.core.errors import (
    BeingComputed,
    HomeNotWritable,
    NoDecoder,
    NoSuchImage,
    NothingIndexed,
    ObjectsUnavailable,
    UnreadableImage,
)
from simile.core.records import MAX_LISTED_PATHS, FloatArray
from simile.core.settings import Settings
from simile.images.encoding import encode_png
from simile.images.formats import Limits, Pixels
from simile.images.loading.loader import decode_reduced, prepare_image
from simile.images.loading.sandbox import (
    Decode,
    DecodeFunction,
    DecodeIndexed,
    decode_here,
    decode_indexed_here,
)
from simile.images.rendering import sheets
from simile.images.sources.archives import (
    MemberReader,
    is_compressed_tar,
    is_regular_file,
    read_contents,
    split_member_path,
)
from simile.images.sources.buckets import is_remote
from simile.images.sources.paths import CHANGED_REASON
from simile.images.sources.reader import read_bytes
from simile.images.sources.sources import is_path_missing
from simile.models.inference.encoder import TrainedEncoder
from simile.search.encoder_registry import EncoderCache
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import ImageRecord
from simile.store.content_cache import ContentCache
from simile.store.database import schema
from simile.store.home import Home

THUMBNAIL_SIDES = (96, 256, 1024, 2048)  # pixels; thumbnails of these sides are stored, others made from them
THUMBNAIL_LOCKS = 16  # so many thumbnails are made at a time at most
MAX_ARCHIVE_SHARE = 1 / 4  # of the cache, for all images of a compressed archive
WAIT_SECONDS = 10  # for another thread that inflates the archive or makes the thumbnail

Result = TypeVar("Result")


class ImageLibrary:
    """The images of one home. Safe to share between threads; the encoder is loaded on first use."""

    def __init__(
        self,
        settings: Settings,
        decode_upload: Decode = decode_here,
        decode_indexed: DecodeIndexed = decode_indexed_here,
    ) -> None:
        """Open the home of the settings.

        Args:
            decode_upload: Calls a function with the bytes of an upload and its name, in a process of its choice.
            decode_indexed: Likewise, for the file of an indexed image; also gets the number of pixels.
        """
        self.settings = settings
        self.decode_upload, self._decode_indexed = decode_upload, decode_indexed
        self.home = Home.from_settings(settings)
        schema.check_schema(self.home)
        if self.home.objects.is_shared:  # the folder may be new on this host
            with suppress(HomeNotWritable):
                self.home.create()
        self.catalogue = Catalogue(self.home)
        self.limits = Limits.from_settings(settings)
        self.encoder_cache = EncoderCache(self.home, settings.device, settings.runtime)
        self.cache = ContentCache(self.home.cache, settings.cache_bytes)
        self._thumbnail_locks = [threading.Lock() for _ in range(THUMBNAIL_LOCKS)]
        self._archive_lock, self._archive_reader = threading.Lock(), MemberReader(self.limits)

    def close(self) -> None:
        """Close the home."""
        self._archive_reader.close()
        self.catalogue.close()

    def get_encoder(self) -> TrainedEncoder:
        """Return the active encoder. Raises NothingIndexed, NoSuchEncoder, CheckpointDamaged."""
        fingerprint = self.catalogue.get_state().active_encoder
        if fingerprint is None:
            raise NothingIndexed(f"{self.home.root} has no encoder yet. Run `simile index PHOTOS` first.")
        return self.encoder_cache.get(fingerprint)

    def reconstruct_latent(self, mu: FloatArray, width: int, height: int, fingerprint: str | None = None) -> bytes:
        """Decode mu (d,) of an encoder (None: the active one) to a PNG in the aspect of a width x height image.

        Raises NoDecoder.
        """
        encoder = self.get_encoder() if fingerprint is None else self.encoder_cache.get(fingerprint)
        return encode_png(encoder.reconstruct(mu, width, height))

    def reconstruct_image(self, image_id: int) -> bytes:
        """Decode the stored latent vector of an image to a PNG, without its file. Raises NoSuchImage, NoDecoder."""
        return encode_png(self.get_reconstruction_pixels(image_id))

    def get_reconstruction_pixels(self, image_id: int) -> Pixels:
        """Return the pixels of `reconstruct_image`, (h, w, 3) uint8."""
        record, encoder = self.catalogue.images.get(image_id), self.get_encoder()
        mu = self.catalogue.embeddings.get(image_id, encoder.fingerprint).mu
        return encoder.reconstruct(mu, record.width, record.height)

    def get_image(self, image_id: int) -> ImageRecord:
        """Return the record of an image. Raises NoSuchImage."""
        return self.catalogue.images.get(image_id)

    def get_image_with_error(self, image_id: int) -> ImageRecord:
        """Return the record of an image; its reconstruction error is measured now if it is not stored.

        The error stays None if there is no decoder or no readable file. Raises NoSuchImage.
        """
        record = self.catalogue.images.get(image_id)
        if record.reconstruction_error is not None:  # the encoder is not needed
            return record
        encoder = self.get_encoder()
        if not encoder.has_decoder:
            return record
        try:
            prepare = partial(prepare_image, preprocessing=encoder.preprocessing, limits=self.limits)
            prepared = self.decode_file(image_id, prepare)
        except (UnreadableImage, NoSuchImage, ObjectsUnavailable):
            return record
        errors = encoder.encode_with_errors(prepared.array[None])[1]
        return record if errors is None else replace(record, reconstruction_error=float(errors[0]))

    def list_images(self, *, limit: int, offset: int = 0) -> list[ImageRecord]:
        """Return a page of all images, sorted by id."""
        return self.catalogue.images.get_page(limit, offset)

    def count_images(self) -> int:
        """Return the number of images in the home, estimated if there are many on a database server."""
        return self.catalogue.images.estimate_count()

    def read_file(self, image_id: int) -> tuple[bytes, ImageRecord]:
        """Return the image's bytes as they were indexed, and its record, whose first path is that of the bytes.

        Raises:
            NoSuchImage: The id is unknown, or no file of the image exists.
            ObjectsUnavailable: The object store that holds the image can't be reached.
            UnreadableImage: The files are unreadable or have changed. Whatever is at the path of an image now may be
                something else, such as a link to a file that was not indexed.
        """
        return self._read_intact_file(self.catalogue.images.get(image_id))

    def find_intact_path(self, record: ImageRecord) -> str | None:
        """Return the first path of an image at which the indexed bytes still are; None if there is none.

        Raises ObjectsUnavailable if only the object store could tell.
        """
        # The bytes of a compressed archive come from the cache, also when the archive is missing.
        present = replace(record, paths=tuple(path for path in record.paths if not is_path_missing(path)))
        try:
            return self._read_intact_file(present)[1].paths[0]
        except (UnreadableImage, NoSuchImage):
            return None

    def _read_intact_file(self, record: ImageRecord) -> tuple[bytes, ImageRecord]:
        """Read an image as `read_file` does."""
        problem: UnreadableImage | ObjectsUnavailable | None = None
        # Plain files first, objects last.
        for path in sorted(record.paths, key=lambda path: (is_remote(path), split_member_path(path) is not None)):
            try:
                data = self._read_path(path, record)
                if data is None:
                    continue
                if hashlib.sha256(data).hexdigest() == record.sha256:
                    return data, replace(record, paths=(path, *(other for other in record.paths if other != path)))
                raise UnreadableImage(path, CHANGED_REASON)
            except UnreadableImage as error:
                problem = problem or error
            except ObjectsUnavailable as error:  # the object may be intact
                problem = error
        raise problem or ImageFileMissing(record)

    def _read_path(self, path: str, record: ImageRecord) -> bytes | None:
        """Return the bytes at one path of an image; None if there is no regular file. Raises UnreadableImage.

        A file of another size is not read. The images of a compressed archive, and objects, are read from the cache.
        """
        if is_remote(path):
            return self._read_object(path, record)
        archive_and_name = split_member_path(path)
        try:
            if archive_and_name is None or not is_compressed_tar(archive_and_name[0]):
                return read_bytes(path, self.limits, record.size) if is_regular_file(path) else None
        except OSError:  # the archive was removed meanwhile
            return None
        if (data := self.cache.get(record.sha256, "file")) is not None:
            return data
        if not self._archive_lock.acquire(timeout=WAIT_SECONDS):  # threads would inflate one archive each
            raise BeingComputed(f"{archive_and_name[0]} is being read. Try again in a few seconds.")
        try:
            return self.cache.get(record.sha256, "file") or self._read_compressed_member(path, *archive_and_name)
        finally:
            self._archive_lock.release()

    def _read_object(self, path: str, record: ImageRecord) -> bytes:
        """Return the bytes of an object, and store them."""
        data = self.cache.get(record.sha256, "file")
        if data is None:
            data = read_bytes(path, self.limits, record.size)
            self._keep_file(data)
        return data

    def _read_compressed_member(self, path: str, archive: str, name: str) -> bytes | None:
        """Return the bytes of a member, None if it is missing, and store them.

        All images that are inflated on the way are stored too, if those of the archive fit into a share of the cache.
        """
        try:
            members = read_contents(archive).members
        except OSError:
            return None
        if name not in members:
            return None
        fits = sum(member.size for member in members.values()) <= MAX_ARCHIVE_SHARE * self.settings.cache_bytes
        data = self._archive_reader.read(path, self._keep_file if fits else None)
        if data is not None:
            self._keep_file(data)
        return data

    def _keep_file(self, data: bytes) -> None:
        """Store the bytes of an image in the cache."""
        self.cache.put(hashlib.sha256(data).hexdigest(), "file", data)

    def decode_file(self, image_id: int, function: DecodeFunction[Result]) -> Result:
        """Call a function with the bytes and the path of an indexed image. Raises as `read_file`."""
        data, record = self.read_file(image_id)
        return self._decode_indexed(function, data, record.paths[0], record.width * record.height)

    def get_thumbnail(self, image_id: int, side: int = 256) -> tuple[bytes, str]:
        """Return a thumbnail of at most side x side pixels and its media type. Raises as `read_file`.

        It is made once from the file, and shows what was indexed, also when the file has changed or is missing.
        """
        record = self.catalogue.images.get(image_id)
        stored_side, data = self._get_stored_thumbnail(record, side)
        if stored_side != side:
            longer_side = max(record.width, record.height)
            resize = partial(sheets.resize_thumbnail, original_side=longer_side, side=side)
            data = self._decode_indexed(resize, data, f"thumbnail of image {image_id}", stored_side**2)
        return data, sheets.get_thumbnail_type(data)

    def _get_stored_thumbnail(self, record: ImageRecord, side: int) -> tuple[int, bytes]:
        """Return the stored side that is enough for `side`, and the thumbnail of that side. Raises as `read_file`."""
        stored_side = min((stored for stored in THUMBNAIL_SIDES if stored >= side), default=side)
        kind = f"thumbnail-{stored_side}"
        data = self.cache.get(record.sha256, kind)
        if data is None:
            with self._hold_turn(record.sha256):
                data = self.cache.get(record.sha256, kind)
                if data is None:
                    render = partial(sheets.render_thumbnail, limits=self.limits, side=stored_side)
                    data = self.decode_file(record.id, render)[0]
                    self.cache.put(record.sha256, kind, data)
        return stored_side, data

    @contextmanager
    def _hold_turn(self, sha256: str) -> Iterator[None]:
        """Let one thread at a time make the thumbnail of an image; the others find it made. Raises BeingComputed."""
        lock = self._thumbnail_locks[int(sha256, 16) % len(self._thumbnail_locks)]
        if not lock.acquire(timeout=WAIT_SECONDS):
            raise BeingComputed("The thumbnail is being made. Try again in a few seconds.")
        try:
            yield
        finally:
            lock.release()

    def get_pixels(self, image_id: int, side: int = 256) -> Pixels:
        """Decode the image's file to at least `side` pixels a side, if it has them, (h, w, 3) uint8."""
        return self.decode_file(image_id, partial(decode_reduced, limits=self.limits, side=side)).pixels

    def get_query_pixels(self, query: Path | int | None, side: int = 256) -> Pixels:
        """Return the pixels of a query image, a file or an id; without a readable file its reconstruction."""
        if isinstance(query, Path):
            return decode_reduced(read_bytes(query, self.limits), str(query), self.limits, side).pixels
        assert query is not None
        try:
            return self.get_pixels(query, side)
        except (UnreadableImage, ImageFileMissing, ObjectsUnavailable):
            return self.get_reconstruction_pixels(query)

    def find_pixels(self, image_id: int, side: int = 256) -> Pixels | None:
        """Return the pixels of an image's thumbnail for up to side x side pixels, without a file its reconstruction.

        None for a deleted image, or without a file and a decoder.
        """
        with suppress(NoDecoder, NoSuchImage):
            record = self.catalogue.images.get(image_id)
            try:
                _, data = self._get_stored_thumbnail(record, side)
                longer_side = max(record.width, record.height)
                return sheets.decode_thumbnail(data, f"thumbnail of image {image_id}", longer_side).pixels
            except (UnreadableImage, ImageFileMissing, ObjectsUnavailable):
                return self.get_reconstruction_pixels(image_id)
        return None


class ImageFileMissing(NoSuchImage):
    """The image is indexed, but none of its files exists."""

    def __init__(self, record: ImageRecord) -> None:
        super().__init__(record.id)
        more_count = len(record.paths) - MAX_LISTED_PATHS
        more = f", and {more_count:,} more" if more_count > 0 else ""
        self.args = (
            f"Image {record.id} is indexed, but its file is gone: {', '.join(record.paths[:MAX_LISTED_PATHS])}{more}. "
            "Put it back, or forget it: `simile index FOLDER --prune`, with the folder that was indexed.",
        )
