"""Search for every door: command line, service, Python. All of them ask questions, and one way answers them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simile.core.errors import NotFinite, SimileError
from simile.core.filter_parser import as_said
from simile.core.records import Filter, FloatArray
from simile.core.settings import Settings
from simile.images.decoding import decode
from simile.images.encoding import encode_png
from simile.images.loading.loader import Prepared, prepare_bytes
from simile.images.sources.reader import read_bytes
from simile.images.transforms import Pixels
from simile.models.inference.encoder import TrainedEncoder
from simile.search.background import Behind, Kind
from simile.search.calibration.calibration import Gauge
from simile.search.calibration.estimate import measure
from simile.search.engine import Answering, Observe, Seen
from simile.search.library import Gallery
from simile.search.outlier_ranking import Ranking, rank
from simile.search.posterior import mean_sigma
from simile.search.queries import Answer, Asked, AskedPicture, Part, Query, Question
from simile.store.index.index import Index
from simile.store.index.snapshot import Snapshot

BUSY = 1.0  # seconds from the last search on, in which work behind the searches leaves them half of a core
Prove = Callable[[bytes, str], None]  # (data, name)

__all__ = ["Answer", "Asked", "Query", "Question", "Searcher"]


def _nothing(_stage: str, _seconds: float) -> None:
    """What observes where nobody does."""


def _trusted(_data: bytes, _name: str) -> None:
    """What proves uploads where there are none but the person's own."""


class Searcher(Gallery):
    """One home, open for questions. Safe to share between threads; the network loads with the first picture."""

    def __init__(
        self, settings: Settings, *, observe: Observe = _nothing, background: bool = False, prove: Prove = _trusted
    ) -> None:
        """observe: told of each stage (decode, encode, search, rows) how many seconds it took.

        background: measures what is usual in the collection behind the searches, for a process that answers many.
        prove: raises UnreadableImage for bytes from elsewhere that are not safe to decode here (models/proving.py).
        """
        super().__init__(settings)
        self.index = Index(self.catalogue)
        gauge = Kind("-gauge.json", self._measure, Gauge.save, Gauge.load)
        self.gauges = Behind(self.home, gauge, always=background)
        self.rankings = Behind(self.home, Kind("-unlike.npz", self._rank, Ranking.save, Ranking.load), always=False)
        self._observe = observe
        self.prove = prove
        self._asked_at = -BUSY
        self._answering = Answering(self.catalogue, self.index, self._look, self.gauges.current, observe)

    def __enter__(self) -> Searcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.gauges.close()
        self.rankings.close()
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
        return self._ask(self.prepare(source, name), Asked(limit, offset, only, within))

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
        return self._ask(image_id, Asked(limit, offset, only, within))

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
        return self._ask(np.asarray(vector, dtype=np.float32), Asked(limit, offset, only, within))

    def prepare(self, source: Path | bytes, name: str) -> AskedPicture:
        """A picture to ask with, decoded. Raises UnreadableImage, and NothingIndexed where there is no encoder yet.

        By the encoder that was used last: should another have come into use, `answer` decodes it anew.
        """
        last = next(reversed(self._encoders.values()), None)
        if isinstance(source, bytes):
            self.prove(source, name)
        return self._prepared(self._bytes(source), name, self.encoder() if last is None else last)

    def answer(self, questions: Sequence[Question]) -> list[Answer | SimileError]:
        """One answer for each question, in order, or why there is none: a bad one costs the others nothing.

        All pictures go through the network together, and questions of one shape through the index.
        """
        self._asked_at = time.monotonic()
        return self._answering.answer(questions)

    def ask(self, question: Question) -> Answer:
        """The answer to one question. Raises what `answer` would give."""
        (found,) = self.answer([question])
        if isinstance(found, SimileError):
            raise found
        return found

    def reconstruct_file(self, source: Path | bytes, *, name: str) -> tuple[Pixels, Pixels, Query]:
        """The picture as it is and as the decoder sees it, each (h, w, 3) uint8, and what was measured."""
        data, encoder = self._bytes(source), self.encoder()
        query = _looked_at([(self._prepared(data, name, encoder), True)], encoder)[0]
        original = decode(data, name=name, limits=self.limits, min_side=256)
        return original.pixels, encoder.reconstruct(query.mu, original.width, original.height), query

    def reconstruct_picture(self, picture: AskedPicture) -> tuple[bytes, str]:
        """A PNG of what the model sees in it, in its own aspect, and a tag that names both. Raises NoDecoder."""
        encoder = self.encoder()
        fitting = self._fitting(picture, encoder)
        mu, prepared = encoder.encode(fitting.prepared.array[None]).mu[0], fitting.prepared
        seen = encode_png(encoder.reconstruct(mu, prepared.width, prepared.height))
        return seen, f"{prepared.sha256}-{encoder.fingerprint}"

    def metadata(self, image_id: int) -> dict[str, str | float]:
        """What is said of an image, {} for nothing; see simile.core.filter_parser.as_said."""
        return self.metadata_of([image_id]).get(image_id, {})

    def metadata_of(self, image_ids: Sequence[int]) -> dict[int, dict[str, str | float]]:
        """The same of several, by id; those of which nothing is said are left out."""
        return {one: as_said(said) for one, said in self.catalogue.metadata_of_images(image_ids).items()}

    def sigma_of(self, image_id: int) -> float | None:
        """The encoder's mean σ of an indexed image, over what is compared; None without one."""
        state = self.catalogue.state()
        if state.active_encoder is None:
            return None
        encoder = self.catalogue.encoder(state.active_encoder)
        found = self.catalogue.embeddings([image_id], encoder.fingerprint).get(image_id)
        if found is None or found.log_variance is None:
            return None
        return mean_sigma(np.exp(0.5 * found.log_variance), encoder)

    def ready(self) -> dict[str, Any]:
        """What a search needs: the encoder's fingerprint and the counts. Raises NothingIndexed."""
        encoder = self.encoder()
        return {"encoder": encoder.fingerprint, "images": self.count(), "recipe": encoder.description["recipe"]["name"]}

    def _ask(self, part: Part, asked: Asked) -> Answer:
        return self.ask(Question((part,), asked=asked))

    def _bytes(self, source: Path | bytes) -> bytes:
        return read_bytes(source, self.limits) if isinstance(source, Path) else source

    def _prepared(self, data: bytes, name: str, encoder: TrainedEncoder) -> AskedPicture:
        started = time.perf_counter()
        prepared = prepare_bytes(data, name, encoder.preprocessing, self.limits)
        self._observe("decode", time.perf_counter() - started)
        return AskedPicture(name, data, encoder.fingerprint, prepared)

    def _look(self, pictures: Sequence[AskedPicture], fingerprint: str, errors: Sequence[bool]) -> list[Seen]:
        """What the encoder sees in each picture: in all together, or, where that fails, in each alone."""
        encoder = self._encoder_of(fingerprint)
        found: dict[int, Seen] = {}
        fit: list[tuple[AskedPicture, bool]] = []
        for place, (picture, error) in enumerate(zip(pictures, errors, strict=True)):
            try:
                fit.append((self._fitting(picture, encoder), error))
            except SimileError as refusal:
                found[place] = refusal
        places = [place for place in range(len(pictures)) if place not in found]
        found |= dict(zip(places, _each_looked_at(fit, encoder), strict=True))
        return [found[place] for place in range(len(pictures))]

    def _fitting(self, picture: AskedPicture, encoder: TrainedEncoder) -> AskedPicture:
        if picture.encoder == encoder.fingerprint:
            return picture
        return self._prepared(picture.data, picture.name, encoder)

    def _measure(self, snapshot: Snapshot, stopping: threading.Event) -> Gauge | None:
        encoder = self._encoder_of(snapshot.encoder.fingerprint)
        error_of = self._error_of if encoder.has_decoder else None
        return measure(self.catalogue, error_of, encoder.trained_on, snapshot, stopping)

    def _rank(self, snapshot: Snapshot, stopping: threading.Event) -> Ranking | None:
        return rank(snapshot, stopping, lambda: time.monotonic() - self._asked_at < BUSY)

    def _error_of(self, image_id: int) -> float | None:
        try:
            return self.measured(image_id).reconstruction_error
        except SimileError:  # deleted meanwhile
            return None


def _each_looked_at(pictures: list[tuple[AskedPicture, bool]], encoder: TrainedEncoder) -> list[Seen]:
    try:
        return list(_looked_at(pictures, encoder))
    except NotFinite as error:
        if len(pictures) == 1:
            return [error]
    return [seen for picture in pictures for seen in _each_looked_at([picture], encoder)]


def _looked_at(pictures: list[tuple[AskedPicture, bool]], encoder: TrainedEncoder) -> list[Query]:
    """What the encoder sees in these pictures, prepared for it, in one pass; of those that ask for it, the error."""
    if not pictures:
        return []
    batch = np.stack([picture.prepared.array for picture, _ in pictures])
    latent = encoder.encode(batch)
    wanted = [place for place, (_, error) in enumerate(pictures) if error]
    errors = encoder.errors(batch[wanted], latent.mu[wanted]) if wanted else None
    measured = {} if errors is None else dict(zip(wanted, errors.tolist(), strict=True))
    return [
        _query(picture, latent.mu[place], None if latent.sigma is None else latent.sigma[place], measured.get(place))
        for place, (picture, _) in enumerate(pictures)
    ]


def _query(picture: AskedPicture, mu: FloatArray, sigma: FloatArray | None, error: float | None) -> Query:
    prepared: Prepared = picture.prepared
    return Query(
        mu=mu,
        sigma=sigma,
        name=picture.name,
        width=prepared.width,
        height=prepared.height,
        format=prepared.format,
        reconstruction_error=error,
    )
