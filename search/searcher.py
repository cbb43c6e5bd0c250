"""Search in one home, for the command line, the service and Python programs."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from simile.core.errors import SimileError
from simile.core.filters.parser import parse_metadata
from simile.core.records import Box, Filter, FloatArray, PhotoMetadata
from simile.core.settings import Settings
from simile.images.encoding import encode_png
from simile.images.formats import Pixels
from simile.images.loading.loader import decode_reduced
from simile.images.loading.sandbox import Decode, DecodeIndexed, decode_here, decode_indexed_here
from simile.images.sources.reader import read_bytes
from simile.search.background import BackgroundCache
from simile.search.calibration.calibration import ScoreCalibration
from simile.search.calibration.estimate import estimate_calibration
from simile.search.engine import SearchEngine
from simile.search.library import ImageLibrary
from simile.search.outlier_ranking import OutlierRanking, compute_outlier_ranking
from simile.search.posterior import compute_mean_sigma
from simile.search.queries import (
    EncodedQuery,
    HitOptions,
    QueryImage,
    QueryTerm,
    SearchParams,
    SearchQuery,
    SearchResult,
    StageObserver,
)
from simile.search.query_encoder import QueryEncoder, encode_batch
from simile.search.ranking.verification import HitVerifier, widen_query
from simile.search.results.copy_groups import CopyGroups
from simile.search.results.facets import FacetCounts, count_facets
from simile.search.results.taken_order import TakenOrder
from simile.search.words.cache import VocabularyCache
from simile.search.words.vocabulary import Vocabulary
from simile.store.change_cache import ChangeCache
from simile.store.facets.facet_index import FacetIndex
from simile.store.index.index import Index
from simile.store.index.snapshot import Snapshot

BUSY_SECONDS = 1.0  # after a search, background work leaves searches half of a core for this long

__all__ = ["EncodedQuery", "SearchParams", "SearchQuery", "SearchResult", "Searcher"]


def _ignore_stage(_stage: str, _seconds: float) -> None:
    """No-op observer, used when no metrics are collected."""


class Searcher(ImageLibrary):
    """Searches one home. Safe to share between threads; the encoder is loaded with the first query image."""

    def __init__(
        self,
        settings: Settings,
        *,
        observe: StageObserver = _ignore_stage,
        background: bool = False,
        decode_upload: Decode = decode_here,
        decode_indexed: DecodeIndexed = decode_indexed_here,
    ) -> None:
        """Open the home of the settings.

        Args:
            observe: Called with the name and the seconds of each stage: decode, encode, search, rows, verify.
            background: Calibrate scores in the background, for a process that answers many searches.
            decode_upload: See ImageLibrary.
            decode_indexed: See ImageLibrary.
        """
        super().__init__(settings, decode_upload, decode_indexed)
        self.index = Index(self.catalogue)
        self.calibrations = BackgroundCache(
            self.home, ScoreCalibration, self._estimate_calibration, compute_on_demand=background
        )
        self.outlier_rankings = BackgroundCache(
            self.home, OutlierRanking, self._compute_ranking, compute_on_demand=False
        )
        self.vocabularies = VocabularyCache(self.catalogue, background=background)
        self.query_encoder = QueryEncoder(
            self.catalogue, self.encoder_cache, self.limits, observe, decode=decode_upload
        )
        self.facet_index = FacetIndex(self.catalogue)
        self._copy_groups = ChangeCache(lambda: CopyGroups.from_pairs(self.catalogue.duplicates.get_copy_pairs()))
        self._taken_orders = ChangeCache(self._compute_taken_order)
        self._last_search_at = -BUSY_SECONDS
        self._engine = SearchEngine(
            catalogue=self.catalogue,
            index=self.index,
            encode_queries=self.query_encoder.encode_queries,
            get_calibration=self.calibrations.get,
            get_vocabulary=self.vocabularies.get,
            facet_index=self.facet_index,
            get_copy_groups=self.get_copy_groups,
            observe=observe,
        )
        self._verifier = HitVerifier(self.get_image, self.decode_file, decode_upload, decode_indexed, self.limits)
        self._observe = observe

    def __enter__(self) -> Searcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the background work and close the home."""
        self.calibrations.close()
        self.outlier_rankings.close()
        self.vocabularies.close()
        self.index.close()
        super().close()

    def by_file(self, source: Path | bytes, *, name: str, **options: Unpack[HitOptions]) -> SearchResult:
        """Search by an image file or its bytes, which need not be indexed; the name is for display.

        Raises UnreadableImage, NothingIndexed.
        """
        return self._search_term(self.prepare_query_image(source, name), options)

    def by_id(self, image_id: int, **options: Unpack[HitOptions]) -> SearchResult:
        """Search by an indexed image, which is not a hit. Needs no encoder. Raises NoSuchImage."""
        return self._search_term(image_id, options)

    def by_vector(self, vector: Sequence[float] | FloatArray, **options: Unpack[HitOptions]) -> SearchResult:
        """Search by a mu (d,) of the active encoder. Raises EncoderMismatch (another d), NotFinite."""
        return self._search_term(np.asarray(vector, dtype=np.float32), options)

    def by_text(self, text: str, **options: Unpack[HitOptions]) -> SearchResult:
        """Search by words such as `red dress -striped`, see words/text.py. Raises BadSetting for an unknown word."""
        return self.search(SearchQuery(text=text, params=SearchParams(**options)))

    def get_vocabulary(self) -> Vocabulary:
        """Return the words that texts may have. Raises NothingIndexed, BeingComputed."""
        return self.vocabularies.get(self.index.get_snapshot())

    def prepare_query_image(self, source: Path | bytes, name: str, box: Box | None = None) -> QueryImage:
        """Decode a query image, or a part of it, for the encoder that was used last; `search` repeats it for another.

        Raises UnreadableImage, and NothingIndexed if there is no encoder yet.
        """
        encoder = self.encoder_cache.get_latest() or self.get_encoder()
        return self.query_encoder.prepare(self._read_source(source), name, encoder, box)

    def prepare_indexed_part(self, image_id: int, box: Box) -> QueryImage:
        """Decode a part of an indexed image, which is no hit of the search. Raises as `read_file`."""
        data, record = self.read_file(image_id)
        return replace(self.prepare_query_image(data, Path(record.paths[0]).name, box), image_id=image_id)

    def search_many(self, search_queries: Sequence[SearchQuery]) -> list[SearchResult | SimileError]:
        """Return the result or the error of each query, in order; see SearchEngine."""
        self._last_search_at = time.monotonic()
        results = self._engine.search_many([widen_query(query) for query in search_queries])
        return [self._verify(query, result) for query, result in zip(search_queries, results, strict=True)]

    def search(self, search_query: SearchQuery) -> SearchResult:
        """Return the result of one query. Raises its error."""
        (result,) = self.search_many([search_query])
        if isinstance(result, SimileError):
            raise result
        return result

    def reconstruct_file(self, source: Path | bytes, *, name: str) -> tuple[Pixels, Pixels, EncodedQuery]:
        """Return an image's pixels, its reconstruction's pixels, both (h, w, 3) uint8, and the encoded image.

        Raises UnreadableImage, NoDecoder.
        """
        data, encoder = self._read_source(source), self.get_encoder()
        (query,) = encode_batch([(self.query_encoder.prepare(data, name, encoder), True)], encoder)
        original = self.decode_upload(partial(decode_reduced, limits=self.limits, side=256), data, name)
        return original.pixels, encoder.reconstruct(query.mu, original.width, original.height), query

    def reconstruct_query_image(self, query_image: QueryImage) -> tuple[bytes, str]:
        """Return a PNG of the image's reconstruction in its own aspect ratio, and an ETag. Raises NoDecoder."""
        encoder = self.get_encoder()
        prepared = self.query_encoder.prepare_for(query_image, encoder).prepared_image
        mu = encoder.encode(prepared.array[None]).mu[0]
        png = encode_png(encoder.reconstruct(mu, prepared.width, prepared.height))
        return png, f"{prepared.sha256}-{encoder.fingerprint}"

    def get_metadata(self, image_id: int) -> dict[str, str | float]:
        """Return the image's metadata; empty if there is none. See simile.core.filters.parser.parse_metadata."""
        return self.get_metadata_by_id([image_id]).get(image_id, {})

    def get_metadata_by_id(self, image_ids: Sequence[int]) -> dict[int, dict[str, str | float]]:
        """Return the metadata of several images by id; images without metadata are left out."""
        metadata = self.catalogue.metadata.get_for_images(image_ids)
        return {image_id: parse_metadata(texts) for image_id, texts in metadata.items()}

    def get_photo_metadata(self, image_id: int) -> PhotoMetadata | None:
        """Return the EXIF, XMP and IPTC metadata of the photo; None if there are none."""
        return self.catalogue.photo_metadata.get_for_images([image_id]).get(image_id)

    def get_mean_sigma(self, image_id: int) -> float | None:
        """Return the mean σ of an indexed image over the indexed dimensions; None without a variance."""
        state = self.catalogue.get_state()
        if state.active_encoder is None:
            return None
        encoder = self.catalogue.encoders.get(state.active_encoder)
        embedding = self.catalogue.embeddings.get_many([image_id], encoder.fingerprint).get(image_id)
        if embedding is None or embedding.log_variance is None:
            return None
        return compute_mean_sigma(np.exp(0.5 * embedding.log_variance), encoder)

    def get_copy_groups(self, snapshot: Snapshot) -> CopyGroups:
        """Return which images are known copies of each other."""
        return self._copy_groups.get(snapshot.state.changes)

    def get_taken_order(self) -> TakenOrder:
        """Return all images by the time at which they were taken, the newest first."""
        return self._taken_orders.get(self.catalogue.count_changes())

    def count_facets(self, filter: Filter | None = None, names: Sequence[str] = (), limit: int = 20) -> FacetCounts:
        """Count the images that match a filter by the values of fields; see search/results/facets.py."""
        return count_facets(self.index, self.facet_index, filter, names, limit)

    def check_ready(self) -> dict[str, Any]:
        """Load the active encoder; return its fingerprint, its recipe and the image count. Raises NothingIndexed."""
        encoder = self.get_encoder()
        recipe = encoder.description.label
        return {"encoder": encoder.fingerprint, "images": self.count_images(), "recipe": recipe}

    def _verify(self, query: SearchQuery, result: SearchResult | SimileError) -> SearchResult | SimileError:
        """Verify the hits if the query says so; return the error if they can't be."""
        if not query.params.verify or isinstance(result, SimileError):
            return result
        started = time.perf_counter()
        try:
            return self._verifier.verify(query, result)
        except SimileError as error:
            return error
        finally:
            self._observe("verify", time.perf_counter() - started)

    def _search_term(self, term: QueryTerm, options: HitOptions) -> SearchResult:
        return self.search(SearchQuery((term,), params=SearchParams(**options)))

    def _read_source(self, source: Path | bytes) -> bytes:
        return read_bytes(source, self.limits) if isinstance(source, Path) else source

    def _estimate_calibration(self, snapshot: Snapshot, stop_event: threading.Event) -> ScoreCalibration | None:
        encoder = self.encoder_cache.get(snapshot.encoder.fingerprint)
        get_error = self._get_reconstruction_error if encoder.has_decoder else None
        return estimate_calibration(self.catalogue, get_error, encoder.training_digests, snapshot, stop_event)

    def _compute_taken_order(self) -> TakenOrder:
        ids, taken = self.catalogue.photo_metadata.get_taken()
        return TakenOrder.from_times(ids, taken)

    def _compute_ranking(self, snapshot: Snapshot, stop_event: threading.Event) -> OutlierRanking | None:
        return compute_outlier_ranking(
            snapshot, stop_event, lambda: time.monotonic() - self._last_search_at < BUSY_SECONDS
        )

    def _get_reconstruction_error(self, image_id: int) -> float | None:
        try:
            return self.get_image_with_error(image_id).reconstruction_error
        except SimileError:  # the image was deleted meanwhile
            return None
