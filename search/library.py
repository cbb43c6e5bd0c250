"""The pictures of a home: what is known of them, their files, and what the network makes of them."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

from simile.core.errors import NoSuchImage, NothingIndexed, UnreadableImage
from simile.core.records import FloatArray
from simile.core.settings import Settings
from simile.images.decoding import DecodedImage, decode_image
from simile.images.encoding import encode_png
from simile.images.formats import Limits, Pixels, get_media_type
from simile.images.loading.loader import prepare_image
from simile.images.rendering import sheets
from simile.images.sources.archives import is_regular_file
from simile.images.sources.reader import read_bytes
from simile.models.inference.encoder import TrainedEncoder
from simile.search.encoder_registry import load_encoder
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import ImageRecord
from simile.store.database import schema
from simile.store.home import Home

MAX_LOADED_ENCODERS = 2  # the one in use, and the one before it for whoever still answers with it


class ImageLibrary:
    """One home, open for looking. Safe to share between threads; the network loads with the first picture."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.home = Home(settings.home, settings.database_url)
        schema.check_schema(self.home)
        self.catalogue = Catalogue(self.home)
        self.limits = Limits.from_settings(settings)
        self._encoders: dict[str, TrainedEncoder] = {}
        self._loading_lock = threading.Lock()

    def reconstruct_latent(self, mu: FloatArray, width: int, height: int, fingerprint: str | None = None) -> bytes:
        """A PNG of the decoder's mean at mu (d,), in the aspect of a width x height picture. Raises NoDecoder.

        fingerprint: of the encoder that mu is of, where another may have come into use since.
        """
        encoder = self.get_encoder() if fingerprint is None else self._get_encoder_by_fingerprint(fingerprint)
        return encode_png(encoder.reconstruct(mu, width, height))

    def reconstruct_image(self, image_id: int) -> bytes:
        """A PNG decoded from the row of an indexed image; its file is not needed. Raises NoSuchImage, NoDecoder."""
        return encode_png(self.get_reconstruction_pixels(image_id))

    def get_reconstruction_pixels(self, image_id: int) -> Pixels:
        """As `reconstruct_id`, (h, w, 3) uint8."""
        record, encoder = self.catalogue.images.get(image_id), self.get_encoder()
        mu = self.catalogue.embeddings.get(image_id, encoder.fingerprint).mu
        return encoder.reconstruct(mu, record.width, record.height)

    def get_image(self, image_id: int) -> ImageRecord:
        """What the catalogue knows of an image. Raises NoSuchImage."""
        return self.catalogue.images.get(image_id)

    def get_image_with_error(self, image_id: int) -> ImageRecord:
        """As `image`, its reconstruction error measured now where the job left it out and a file is there."""
        record = self.catalogue.images.get(image_id)
        if record.reconstruction_error is not None:  # no need of a network
            return record
        encoder = self.get_encoder()
        if not encoder.has_decoder:
            return record
        try:
            path = self.get_file(image_id)[0]
            prepared = prepare_image(read_bytes(path, self.limits), str(path), encoder.preprocessing, self.limits)
        except (UnreadableImage, NoSuchImage):
            return record
        errors = encoder.encode_with_errors(prepared.array[None])[1]
        return record if errors is None else replace(record, reconstruction_error=float(errors[0]))

    def list_images(self, *, limit: int, offset: int = 0) -> list[ImageRecord]:
        """A page of all images, by id."""
        return self.catalogue.images.get_page(limit, offset)

    def count_images(self) -> int:
        """How many images the home holds."""
        return self.catalogue.images.count()

    def get_file(self, image_id: int) -> tuple[Path, str]:
        """The first of the image's files that is still there, and its media type. Raises NoSuchImage."""
        record = self.catalogue.images.get(image_id)
        for path in map(Path, record.paths):
            if is_regular_file(str(path)):
                return path, get_media_type(record.format)
        raise ImageFileMissing(record)

    def get_thumbnail(self, image_id: int, side: int = 256) -> tuple[bytes, str]:
        """The image's file, at most side x side pixels, and its media type. Raises NoSuchImage, UnreadableImage."""
        data = sheets.encode_thumbnail(self._decode_file(self.get_file(image_id)[0], side), side)
        return data, "image/png" if data.startswith(b"\x89PNG") else "image/jpeg"

    def get_pixels(self, image_id: int, side: int = 256) -> Pixels:
        """The image's file, decoded to at least `side` pixels a side where it has them, (h, w, 3) uint8."""
        return self._decode_file(self.get_file(image_id)[0], side).pixels

    def get_query_pixels(self, query: Path | int | None, side: int = 256) -> Pixels:
        """The picture behind a query by file or by id, (h, w, 3) uint8: where an id's file is gone, what is known."""
        if isinstance(query, Path):
            return self._decode_file(query, side).pixels
        assert query is not None
        try:
            return self.get_pixels(query, side)
        except (UnreadableImage, ImageFileMissing):
            return self.get_reconstruction_pixels(query)

    def get_encoder(self) -> TrainedEncoder:
        """The active encoder, loaded once. Raises NothingIndexed, NoSuchEncoder, CheckpointDamaged."""
        fingerprint = self.catalogue.get_state().active_encoder
        if fingerprint is None:
            raise NothingIndexed(f"{self.home.root} has no encoder yet. Run `simile index PHOTOS` first.")
        return self._get_encoder_by_fingerprint(fingerprint)

    def _get_encoder_by_fingerprint(self, fingerprint: str) -> TrainedEncoder:
        """The encoder with this fingerprint, loaded once while it is one of the last that were asked for."""
        found = self._encoders.get(fingerprint)
        if found is None:
            with self._loading_lock:
                found = self._encoders.get(fingerprint) or load_encoder(
                    self.home, fingerprint, self.settings.device, self.settings.runtime
                )
                kept = list(self._encoders.items())[-(MAX_LOADED_ENCODERS - 1) :]
                self._encoders = dict([*kept, (fingerprint, found)])  # a new one: other threads may be reading
        return found

    def _decode_file(self, path: Path, side: int) -> DecodedImage:
        return decode_image(read_bytes(path, self.limits), name=path, limits=self.limits, min_side=side)


class ImageFileMissing(NoSuchImage):
    """The image is indexed, but none of its files is there any more."""

    def __init__(self, record: ImageRecord) -> None:
        super().__init__(record.id)
        self.args = (
            f"Image {record.id} is indexed, but its file is gone: {', '.join(record.paths)}. "
            "Put it back, or forget it with `simile index --prune`.",
        )
