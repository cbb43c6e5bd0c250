"""Compare the nearest hits of a query image with it by their pixels, as `simile dedup` compares candidates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial

from simile.core.errors import BadSetting, NoSuchImage, UnreadableImage
from simile.core.records import Hit
from simile.images.formats import Limits
from simile.images.loading.sandbox import Decode, DecodeFunction, DecodeIndexed, raise_if_cancelled
from simile.images.matching.tasks import ComparableImage, compare_features, extract_features
from simile.search.queries import QueryImage, SearchQuery, SearchResult
from simile.store.catalogue.records import ImageRecord

MAX_VERIFIED_HITS = 20  # nearest hits of a query that are compared
CACHED_IMAGES = 128  # indexed images with features in memory, at most 450 kB each

GetImage = Callable[[int], ImageRecord]
DecodeFile = Callable[[int, DecodeFunction[ComparableImage]], ComparableImage]  # of an indexed image, by its id


def widen_query(query: SearchQuery) -> SearchQuery:
    """Return the query for all hits that `HitVerifier.verify` orders: the first ones may change their places."""
    params = query.params
    if not params.verify or params.offset >= MAX_VERIFIED_HITS:
        return query
    limit = None if params.limit is None else max(params.offset + params.limit, MAX_VERIFIED_HITS)
    return replace(query, params=replace(params, offset=0, limit=limit))


class HitVerifier:
    """Compares query images with their hits. Safe to share between threads."""

    def __init__(
        self,
        get_image: GetImage,
        decode_file: DecodeFile,
        decode_upload: Decode,
        decode_indexed: DecodeIndexed,
        limits: Limits,
    ) -> None:
        """Set where files are decoded and compared.

        Args:
            get_image: As ImageLibrary.get_image.
            decode_file: As ImageLibrary.decode_file.
            decode_upload: See ImageLibrary.
            decode_indexed: See ImageLibrary. Images are compared there, too.
        """
        self._get_image, self._decode_upload, self._decode_indexed = get_image, decode_upload, decode_indexed
        self._extract = partial(extract_features, limits=limits)
        # The arguments are the id and the SHA-256 of an image: its features stay what they are.
        self._load_features = lru_cache(CACHED_IMAGES)(lambda image_id, _: decode_file(image_id, self._extract))

    def verify(self, query: SearchQuery, result: SearchResult) -> SearchResult:
        """Return the result of a widened query with verified hits first, cut to the offset and limit of the query.

        Raises:
            BadSetting: The query is not a single image.
            UnreadableImage, NoSuchImage: The query image cannot be read.
        """
        term = query.positives[0] if query.is_single_term and not query.attributes else None
        params = query.params
        if not isinstance(term, QueryImage | int):
            raise BadSetting(
                "verify compares the hits with one image or indexed image. Leave it out for a vector, for several "
                "images, and with a text, plus and minus."
            )
        if isinstance(term, QueryImage) and term.box is not None:
            raise BadSetting("verify compares whole images. Leave it out with a box.")
        if params.offset >= MAX_VERIFIED_HITS:
            return result
        if isinstance(term, QueryImage):
            query_image = self._decode_upload(self._extract, term.data, term.name)
            sha256 = term.prepared_image.sha256
        else:
            sha256 = self._get_image(term).sha256
            query_image = self._load_features(term, sha256)
        nearest = [self._compare(hit, query_image, sha256) for hit in result.hits[:MAX_VERIFIED_HITS]]
        hits = sorted(nearest, key=lambda hit: not hit.verified) + result.hits[MAX_VERIFIED_HITS:]
        end = None if params.limit is None else params.offset + params.limit
        return replace(result, hits=hits[params.offset : end])

    def _compare(self, hit: Hit, query_image: ComparableImage, query_sha256: str) -> Hit:
        """Return the hit with the result of the comparison; as it is if its file can't be read."""
        raise_if_cancelled()
        try:
            sha256 = self._get_image(hit.image_id).sha256
            if sha256 == query_sha256:
                return replace(hit, verified=True, relation="the same bytes")
            compare = partial(compare_features, first=self._load_features(hit.image_id, sha256), second=query_image)
            alignment = self._decode_indexed(compare, b"", hit.path, 0)
        except (UnreadableImage, NoSuchImage):
            return hit
        return replace(hit, verified=alignment.is_copy, relation=alignment.reason if alignment.is_copy else None)
