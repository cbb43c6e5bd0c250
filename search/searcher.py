"""Search for every door: command line, service, Python. All of them ask questions, and one way answers them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simile.core.errors import NotFinite, SimileError
from simile.core.filter_parser import parse_metadata
from simile.core.records import Filter, FloatArray
from simile.core.settings import Settings
from simile.images.decoding import decode_image
from simile.images.encoding import encode_png
from simile.images.formats import Pixels
from simile.images.loading.loader import PreparedImage, prepare_image
from simile.images.sources.reader import read_bytes
from simile.models.inference.encoder import TrainedEncoder
from simile.search.background import BackgroundCache, CacheSpec
from simile.search.calibration.calibration import ScoreCalibration
from simile.search.calibration.estimate import estimate_calibration
from simile.search.engine import EncodeOutcome, SearchEngine, StageObserver
from simile.search.library import ImageLibrary
from simile.search.outlier_ranking import OutlierRanking, compute_outlier_ranking
from simile.search.posterior import compute_mean_sigma
from simile.search.queries import EncodedQuery, QueryImage, QueryTerm, SearchParams, SearchQuery, SearchResult
from simile.store.index.index import Index
from simile.store.index.snapshot import Snapshot

BUSY_SECONDS = 1.0  # seconds from the last search on, in which work behind the searches leaves them half of a core
UploadValidator = Callable[[bytes, str], None]  # (data, name)

__all__ = ["EncodedQuery", "SearchParams", "SearchQuery", "SearchResult", "Searcher"]


def _ignore_stage(_stage: str, _seconds: float) -> None:
    """What observes where nobody does."""


def _accept_upload(_data: bytes, _name: str) -> None:
    """What proves uploads where there are none but the person's own."""


class Searcher(ImageLibrary):
    """One home, open for questions. Safe to share between threads; the network loads with the first picture."""

    def __init__(
        self,
        settings: Settings,
        *,
        observe: StageObserver = _ignore_stage,
        background: bool = False,
        validate_upload: UploadValidator = _accept_upload,
    ) -> None:
        """observe: told of each stage (decode, encode, search, rows) how many seconds it took.

        background: measures what is usual in the collection behind the searches, for a process that answers many.
        prove: raises UnreadableImage for bytes from elsewhere that are not safe to decode here (models/proving.py).
        """
        super().__init__(settings)
        self.index = Index(self.catalogue)
        gauge = CacheSpec("-gauge.json", self._estimate_calibration, ScoreCalibration.save, ScoreCalibration.load)
        self.calibrations = BackgroundCache(self.home, gauge, compute_on_demand=background)
        self.outlier_rankings = BackgroundCache(
            self.home,
            CacheSpec("-unlike.npz", self._compute_ranking, OutlierRanking.save, OutlierRanking.load),
            compute_on_demand=False,
        )
        self._observe = observe
        self.validate_upload = validate_upload
        self._last_search_at = -BUSY_SECONDS
        self._engine = SearchEngine(self.catalogue, self.index, self._encode_images, self.calibrations.get, observe)

    def __enter__(self) -> Searcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.calibrations.close()
        self.outlier_rankings.close()
        self.index.close()
        self.catalogue.close()

    def by_file(
        self,
        source: Path | bytes,
        *,
        name: str,
        limit: int | None = 10,
        offset: int = 0,
        filter: Filter | None = None,
        radius: float | None = None,
    ) -> SearchResult:
        """Neighbours of a picture that need not be indexed, among those that the filter lets through.

        `within`: none that is farther. `limit` None: all, which only makes sense with it.
        Raises UnreadableImage, NothingIndexed.
        """
        return self._search_term(self.prepare_query_image(source, name), SearchParams(limit, offset, filter, radius))

    def by_id(
        self,
        image_id: int,
        *,
        limit: int | None = 10,
        offset: int = 0,
        filter: Filter | None = None,
        radius: float | None = None,
    ) -> SearchResult:
        """Neighbours of an indexed image, itself left out; see by_file. Needs no network. Raises NoSuchImage."""
        return self._search_term(image_id, SearchParams(limit, offset, filter, radius))

    def by_vector(
        self,
        vector: Sequence[float] | FloatArray,
        *,
        limit: int | None = 10,
        offset: int = 0,
        filter: Filter | None = None,
        radius: float | None = None,
    ) -> SearchResult:
        """Neighbours of a mu (d,) of the active encoder; see by_file. Raises EncoderMismatch (another d), NotFinite."""
        return self._search_term(np.asarray(vector, dtype=np.float32), SearchParams(limit, offset, filter, radius))

    def prepare_query_image(self, source: Path | bytes, name: str) -> QueryImage:
        """A picture to ask with, decoded. Raises UnreadableImage, and NothingIndexed where there is no encoder yet.

        By the encoder that was used last: should another have come into use, `answer` decodes it anew.
        """
        last = next(reversed(self._encoders.values()), None)
        if isinstance(source, bytes):
            self.validate_upload(source, name)
        return self._make_query_image(self._read_source(source), name, self.get_encoder() if last is None else last)

    def search_many(self, search_queries: Sequence[SearchQuery]) -> list[SearchResult | SimileError]:
        """One answer for each question, in order, or why there is none: a bad one costs the others nothing.

        All pictures go through the network together, and questions of one shape through the index.
        """
        self._last_search_at = time.monotonic()
        return self._engine.search_many(search_queries)

    def search(self, search_query: SearchQuery) -> SearchResult:
        """The answer to one question. Raises what `answer` would give."""
        (found,) = self.search_many([search_query])
        if isinstance(found, SimileError):
            raise found
        return found

    def reconstruct_file(self, source: Path | bytes, *, name: str) -> tuple[Pixels, Pixels, EncodedQuery]:
        """The picture as it is and as the decoder sees it, each (h, w, 3) uint8, and what was measured."""
        data, encoder = self._read_source(source), self.get_encoder()
        query = _encode_batch([(self._make_query_image(data, name, encoder), True)], encoder)[0]
        original = decode_image(data, name=name, limits=self.limits, min_side=256)
        return original.pixels, encoder.reconstruct(query.mu, original.width, original.height), query

    def reconstruct_query_image(self, query_image: QueryImage) -> tuple[bytes, str]:
        """A PNG of what the model sees in it, in its own aspect, and a tag that names both. Raises NoDecoder."""
        encoder = self.get_encoder()
        fitting = self._prepare_for_encoder(query_image, encoder)
        mu, prepared = encoder.encode(fitting.prepared_image.array[None]).mu[0], fitting.prepared_image
        seen = encode_png(encoder.reconstruct(mu, prepared.width, prepared.height))
        return seen, f"{prepared.sha256}-{encoder.fingerprint}"

    def get_metadata(self, image_id: int) -> dict[str, str | float]:
        """What is said of an image, {} for nothing; see simile.core.filter_parser.parse_metadata."""
        return self.get_metadata_by_id([image_id]).get(image_id, {})

    def get_metadata_by_id(self, image_ids: Sequence[int]) -> dict[int, dict[str, str | float]]:
        """The same of several, by id; those of which nothing is said are left out."""
        return {one: parse_metadata(said) for one, said in self.catalogue.metadata.get_for_images(image_ids).items()}

    def get_mean_sigma(self, image_id: int) -> float | None:
        """The encoder's mean σ of an indexed image, over what is compared; None without one."""
        state = self.catalogue.get_state()
        if state.active_encoder is None:
            return None
        encoder = self.catalogue.encoders.get(state.active_encoder)
        found = self.catalogue.embeddings.get_many([image_id], encoder.fingerprint).get(image_id)
        if found is None or found.log_variance is None:
            return None
        return compute_mean_sigma(np.exp(0.5 * found.log_variance), encoder)

    def check_ready(self) -> dict[str, Any]:
        """What a search needs: the encoder's fingerprint and the counts. Raises NothingIndexed."""
        encoder = self.get_encoder()
        return {
            "encoder": encoder.fingerprint,
            "images": self.count_images(),
            "recipe": encoder.description.recipe_name,
        }

    def _search_term(self, term: QueryTerm, params: SearchParams) -> SearchResult:
        return self.search(SearchQuery((term,), params=params))

    def _read_source(self, source: Path | bytes) -> bytes:
        return read_bytes(source, self.limits) if isinstance(source, Path) else source

    def _make_query_image(self, data: bytes, name: str, encoder: TrainedEncoder) -> QueryImage:
        started = time.perf_counter()
        prepared = prepare_image(data, name, encoder.preprocessing, self.limits)
        self._observe("decode", time.perf_counter() - started)
        return QueryImage(name, data, encoder.fingerprint, prepared)

    def _encode_images(
        self, query_images: Sequence[QueryImage], fingerprint: str, include_errors: Sequence[bool]
    ) -> list[EncodeOutcome]:
        """What the encoder sees in each picture: in all together, or, where that fails, in each alone."""
        encoder = self._get_encoder_by_fingerprint(fingerprint)
        found: dict[int, EncodeOutcome] = {}
        fit: list[tuple[QueryImage, bool]] = []
        for place, (picture, error) in enumerate(zip(query_images, include_errors, strict=True)):
            try:
                fit.append((self._prepare_for_encoder(picture, encoder), error))
            except SimileError as refusal:
                found[place] = refusal
        places = [place for place in range(len(query_images)) if place not in found]
        found |= dict(zip(places, _encode_batch_or_errors(fit, encoder), strict=True))
        return [found[place] for place in range(len(query_images))]

    def _prepare_for_encoder(self, query_image: QueryImage, encoder: TrainedEncoder) -> QueryImage:
        if query_image.encoder == encoder.fingerprint:
            return query_image
        return self._make_query_image(query_image.data, query_image.name, encoder)

    def _estimate_calibration(self, snapshot: Snapshot, stop_event: threading.Event) -> ScoreCalibration | None:
        encoder = self._get_encoder_by_fingerprint(snapshot.encoder.fingerprint)
        error_of = self._get_reconstruction_error if encoder.has_decoder else None
        return estimate_calibration(self.catalogue, error_of, encoder.training_digests, snapshot, stop_event)

    def _compute_ranking(self, snapshot: Snapshot, stop_event: threading.Event) -> OutlierRanking | None:
        return compute_outlier_ranking(
            snapshot, stop_event, lambda: time.monotonic() - self._last_search_at < BUSY_SECONDS
        )

    def _get_reconstruction_error(self, image_id: int) -> float | None:
        try:
            return self.get_image_with_error(image_id).reconstruction_error
        except SimileError:  # deleted meanwhile
            return None


def _encode_batch_or_errors(
    query_images: list[tuple[QueryImage, bool]], encoder: TrainedEncoder
) -> list[EncodeOutcome]:
    try:
        return list(_encode_batch(query_images, encoder))
    except NotFinite as error:
        if len(query_images) == 1:
            return [error]
    return [seen for picture in query_images for seen in _encode_batch_or_errors([picture], encoder)]


def _encode_batch(query_images: list[tuple[QueryImage, bool]], encoder: TrainedEncoder) -> list[EncodedQuery]:
    """What the encoder sees in these pictures, prepared for it, in one pass; of those that ask for it, the error."""
    if not query_images:
        return []
    batch = np.stack([picture.prepared_image.array for picture, _ in query_images])
    latent = encoder.encode(batch)
    wanted = [place for place, (_, error) in enumerate(query_images) if error]
    errors = encoder.compute_errors(batch[wanted], latent.mu[wanted]) if wanted else None
    measured = {} if errors is None else dict(zip(wanted, errors.tolist(), strict=True))
    return [
        _make_encoded_query(
            picture, latent.mu[place], None if latent.sigma is None else latent.sigma[place], measured.get(place)
        )
        for place, (picture, _) in enumerate(query_images)
    ]


def _make_encoded_query(
    query_image: QueryImage, mu: FloatArray, sigma: FloatArray | None, error: float | None
) -> EncodedQuery:
    prepared: PreparedImage = query_image.prepared_image
    return EncodedQuery(
        mu=mu,
        sigma=sigma,
        name=query_image.name,
        width=prepared.width,
        height=prepared.height,
        format=prepared.format,
        reconstruction_error=error,
    )
