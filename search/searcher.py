"""Search and reconstruction for every door: command line, service, Python."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import BadSetting, EncoderMismatch, NoSuchImage, NotFinite, NothingIndexed, UnreadableImage
from core.records import Filter, FloatArray, Hit
from core.settings import Settings
from models import drawing
from models.archives import is_there
from models.collection import prepare_bytes
from models.encoder import TrainedEncoder
from models.images import Limits, Picture, decode, encode_png, media_type, read_bytes
from models.preprocessing import Pixels
from search.encoders import load_encoder
from store import schema
from store.catalogue import Catalogue
from store.distances import to_indexed
from store.home import Home
from store.index import Index
from store.records import EncoderRecord, ImageRecord
from store.snapshot import Snapshot


@dataclass(frozen=True)
class Query:
    """What was asked. mu: (d,) float32. A vector has no name, id or size."""

    mu: FloatArray
    name: str | None = None
    image_id: int | None = None
    width: int | None = None
    height: int | None = None
    format: str | None = None
    reconstruction_error: float | None = None


@dataclass(frozen=True)
class Asked:
    """How much of an answer is wanted: see Searcher.by_file. `without`: an image that is left out."""

    limit: int | None
    offset: int
    only: Filter | None
    within: float | None
    without: int | None = None


@dataclass(frozen=True)
class Answer:
    """A query and its hits, the nearest first."""

    query: Query
    hits: list[Hit]


class Searcher:
    """One home, open for questions. Safe to share between threads; the network loads with the first picture."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.home = Home(settings.home, settings.database_url)
        schema.check(self.home)
        self.catalogue = Catalogue(self.home)
        self.index = Index(self.catalogue)
        self.limits = Limits(settings.max_pixels, settings.max_bytes)
        self._records: dict[str, EncoderRecord] = {}
        self._encoder: TrainedEncoder | None = None
        self._loading = threading.Lock()

    def __enter__(self) -> Searcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.index.close()
        self.catalogue.close()

    def by_file(
        self,
        source: Path | bytes,
        *,
        name: str,
        limit: int | None = 10,
        offset: int = 0,
        only: Filter | None = None,
        within: float | None = None,
    ) -> Answer:
        """Neighbours of a picture that need not be indexed, among those that the filter lets through.

        `within`: none that is farther. `limit` None: all, which only makes sense with it.
        Raises UnreadableImage, NothingIndexed.
        """
        query, snapshot = self._looked_at(self._bytes(source), name)
        return Answer(query, self._nearest(query.mu, snapshot, Asked(limit, offset, only, within)))

    def by_id(
        self,
        image_id: int,
        *,
        limit: int | None = 10,
        offset: int = 0,
        only: Filter | None = None,
        within: float | None = None,
    ) -> Answer:
        """Neighbours of an indexed image, itself left out; see by_file. Needs no network. Raises NoSuchImage."""
        record, snapshot = self.catalogue.image(image_id), self.index.current()
        query = Query(
            mu=self.catalogue.embedding(image_id, snapshot.encoder.fingerprint).mu,
            name=Path(record.paths[0]).name if record.paths else None,
            image_id=image_id,
            width=record.width,
            height=record.height,
            format=record.format,
            reconstruction_error=record.reconstruction_error,
        )
        asked = Asked(limit, offset, only, within, without=image_id)
        return Answer(query, self._nearest(query.mu, snapshot, asked))

    def by_vector(
        self,
        vector: Sequence[float] | FloatArray,
        *,
        limit: int | None = 10,
        offset: int = 0,
        only: Filter | None = None,
        within: float | None = None,
    ) -> Answer:
        """Neighbours of a mu (d,) of the active encoder; see by_file. Raises EncoderMismatch (another d), NotFinite."""
        snapshot = self.index.current()
        active, mu = snapshot.encoder, np.asarray(vector, dtype=np.float32)
        if mu.shape != (active.dimensions,):
            raise EncoderMismatch(
                f"A vector of {mu.size} numbers can't be compared: "
                f"encoder {active.fingerprint} has {active.dimensions}."
            )
        if not np.isfinite(mu).all():
            raise NotFinite("The vector holds NaN or infinity, or a number beyond float32. Send finite numbers.")
        return Answer(Query(mu), self._nearest(mu, snapshot, Asked(limit, offset, only, within)))

    def reconstruct_file(self, source: Path | bytes, *, name: str) -> tuple[Pixels, Pixels, Query]:
        """The picture as it is and as the decoder sees it, each (h, w, 3) uint8, and what was measured."""
        data, encoder = self._bytes(source), self.encoder()
        query = self._look_at(data, name, encoder)
        original = decode(data, name=name, limits=self.limits, min_side=256)
        return original.pixels, encoder.reconstruct(query.mu, original.width, original.height), query

    def reconstruct_mu(self, mu: FloatArray, width: int, height: int) -> bytes:
        """A PNG of the decoder's mean at mu (d,), in the aspect of a width x height picture. Raises NoDecoder."""
        return encode_png(self.encoder().reconstruct(mu, width, height))

    def reconstruct_id(self, image_id: int) -> bytes:
        """A PNG decoded from the row of an indexed image; its file is not needed. Raises NoSuchImage, NoDecoder."""
        return encode_png(self.reconstruction_pixels(image_id))

    def reconstruction_pixels(self, image_id: int) -> Pixels:
        """As `reconstruct_id`, (h, w, 3) uint8."""
        record, encoder = self.catalogue.image(image_id), self.encoder()
        mu = self.catalogue.embedding(image_id, encoder.fingerprint).mu
        return encoder.reconstruct(mu, record.width, record.height)

    def image(self, image_id: int) -> ImageRecord:
        """What the catalogue knows of an image. Raises NoSuchImage."""
        return self.catalogue.image(image_id)

    def measured(self, image_id: int) -> ImageRecord:
        """As `image`, its reconstruction error measured now where the job left it out and a file is there."""
        record = self.catalogue.image(image_id)
        if record.reconstruction_error is not None:  # no need of a network
            return record
        encoder = self.encoder()
        if not encoder.has_decoder:
            return record
        try:
            path = self.file(image_id)[0]
            prepared = prepare_bytes(read_bytes(path, self.limits), str(path), encoder.preprocessing, self.limits)
        except (UnreadableImage, NoSuchImage):
            return record
        errors = encoder.embed(prepared.array[None])[1]
        return record if errors is None else replace(record, reconstruction_error=float(errors[0]))

    def images(self, *, limit: int, offset: int = 0) -> list[ImageRecord]:
        """A page of all images, by id."""
        return self.catalogue.list_images(limit, offset)

    def count(self) -> int:
        """How many images the home holds."""
        return self.catalogue.count_images()

    def file(self, image_id: int) -> tuple[Path, str]:
        """The first of the image's files that is still there, and its media type. Raises NoSuchImage."""
        record = self.catalogue.image(image_id)
        for path in map(Path, record.paths):
            if is_there(str(path)):
                return path, media_type(record.format)
        raise MissingFile(record)

    def thumbnail(self, image_id: int, side: int = 256) -> tuple[bytes, str]:
        """The image's file, at most side x side pixels, and its media type. Raises NoSuchImage, UnreadableImage."""
        data = drawing.thumbnail(self._decoded(self.file(image_id)[0], side), side)
        return data, "image/png" if data.startswith(b"\x89PNG") else "image/jpeg"

    def pixels(self, image_id: int, side: int = 256) -> Pixels:
        """The image's file, decoded to at least `side` pixels a side where it has them, (h, w, 3) uint8."""
        return self._decoded(self.file(image_id)[0], side).pixels

    def picture_of(self, query: Path | int | None, side: int = 256) -> Pixels:
        """The picture behind a query by file or by id, (h, w, 3) uint8: where an id's file is gone, what is known."""
        if isinstance(query, Path):
            return self._decoded(query, side).pixels
        assert query is not None
        try:
            return self.pixels(query, side)
        except (UnreadableImage, MissingFile):
            return self.reconstruction_pixels(query)

    def ready(self) -> dict[str, Any]:
        """What a search needs: the encoder's fingerprint and the counts. Raises NothingIndexed."""
        encoder = self.encoder()
        return {"encoder": encoder.fingerprint, "images": self.count(), "recipe": encoder.description["recipe"]["name"]}

    def encoder(self) -> TrainedEncoder:
        """The active encoder, loaded once. Raises NothingIndexed, NoSuchEncoder, CheckpointDamaged."""
        fingerprint = self._active().fingerprint
        with self._loading:
            if self._encoder is None or self._encoder.fingerprint != fingerprint:
                self._encoder = load_encoder(self.home, fingerprint, self.settings.device, self.settings.runtime)
            return self._encoder

    def _active(self) -> EncoderRecord:
        fingerprint = self.catalogue.state().active_encoder
        if fingerprint is None:
            raise NothingIndexed(f"{self.home.root} has no encoder yet. Run `simile index PHOTOS` first.")
        return self._known(fingerprint)

    def _bytes(self, source: Path | bytes) -> bytes:
        return read_bytes(source, self.limits) if isinstance(source, Path) else source

    def _looked_at(self, data: bytes, name: str) -> tuple[Query, Snapshot]:
        """The picture as the encoder in use sees it, and what that encoder's vectors are now."""
        encoder = self.encoder()
        query = self._look_at(data, name, encoder)
        try:
            return query, self.index.current(encoder.fingerprint)
        except EncoderMismatch:  # another one was put in use while this one looked
            encoder = self.encoder()
            return self._look_at(data, name, encoder), self.index.current(encoder.fingerprint)

    def _look_at(self, data: bytes, name: str, encoder: TrainedEncoder) -> Query:
        prepared = prepare_bytes(data, name, encoder.preprocessing, self.limits)
        latent, errors = encoder.embed(prepared.array[None])
        return Query(
            mu=latent.mu[0],
            name=name,
            width=prepared.width,
            height=prepared.height,
            format=prepared.format,
            reconstruction_error=None if errors is None else float(errors[0]),
        )

    def _decoded(self, path: Path, side: int) -> Picture:
        return decode(read_bytes(path, self.limits), name=path, limits=self.limits, min_side=side)

    def _nearest(self, mu: FloatArray, snapshot: Snapshot, asked: Asked) -> list[Hit]:
        """The one way from a vector to hits."""
        vector = to_indexed(mu[None], snapshot.encoder.index_dims, snapshot.encoder.metric)
        among, more = self.index.matching(asked.only), asked.without is not None
        if asked.within is not None:
            if not 0 <= asked.within < np.inf:
                raise BadSetting(f"within can't be {asked.within}. Give a distance: a number from 0 on.")
            ids, distances = snapshot.range(vector, asked.within, among)[0]
        else:
            count = len(snapshot) if asked.limit is None else asked.limit + asked.offset + more
            ids, distances = snapshot.search(vector, count, among)[0]
        found = zip(ids.tolist(), distances.tolist(), strict=True)
        others = [(image_id, distance) for image_id, distance in found if image_id != asked.without]
        wanted = others[asked.offset :][: asked.limit]
        records = self.catalogue.images([image_id for image_id, _ in wanted])
        under = asked.only.under if asked.only else None
        return [_hit(records[image_id], distance, under) for image_id, distance in wanted if image_id in records]

    def _known(self, fingerprint: str) -> EncoderRecord:
        """An encoder's row, which never changes: read once."""
        record = self._records.get(fingerprint)
        if record is None:
            record = self._records[fingerprint] = self.catalogue.encoder(fingerprint)
        return record


class MissingFile(NoSuchImage):
    """The image is indexed, but none of its files is there any more."""

    def __init__(self, record: ImageRecord) -> None:
        super().__init__(record.id)
        self.args = (
            f"Image {record.id} is indexed, but its file is gone: {', '.join(record.paths)}. "
            "Put it back, or forget it with `simile index --prune`.",
        )


def _hit(record: ImageRecord, distance: float, under: str | None) -> Hit:
    """`path` is the first of its files, of those in the folder that was asked for."""
    asked_for = (path for path in record.paths if under and f"{path}/".startswith(f"{under.rstrip('/')}/"))
    path = next(asked_for, record.paths[0] if record.paths else "")
    return Hit(record.id, distance, path, record.width, record.height, record.format, record.paths)
