"""Inputs of latent-space commands: image files, indexed images, uploads and plain latent vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from simile.core.errors import NoDecoder, SimileError
from simile.core.records import FloatArray, Hit
from simile.images.formats import Pixels
from simile.images.sources.paths import make_printable
from simile.search.queries import QueryImage, SearchParams, SearchQuery, SearchResult
from simile.search.searcher import Searcher

# A file, the id of an indexed image, a prepared upload, or a latent vector mu (d,).
LatentInput = Path | int | QueryImage | FloatArray


@dataclass(frozen=True, eq=False)
class LatentPoint:
    """The latent vector of one input."""

    name: str  # the file name or id, for captions
    mu: FloatArray  # mean (d,)
    sigma: FloatArray | None  # standard deviation (d,); None without a variance
    width: int  # of the image, in pixels, like `height`
    height: int


def encode_inputs(searcher: Searcher, latent_inputs: Sequence[LatentInput]) -> list[LatentPoint]:
    """Encode all inputs, in order. A plain latent vector gets the size of the network's input images.

    Raises UnreadableImage, NoSuchImage, NothingIndexed, EncoderMismatch, NotFinite.
    """
    params = SearchParams(encode_only=True, include_error=False)
    queries = [
        SearchQuery(
            (searcher.prepare_query_image(term, make_printable(str(term))) if isinstance(term, Path) else term,),
            params=params,
        )
        for term in latent_inputs
    ]
    points = []
    for latent_input, result in zip(latent_inputs, _search_all(searcher, queries), strict=True):
        query = result.query
        width, height = (query.width, query.height) if query.width and query.height else get_content_size(searcher)
        name = query.name or (str(latent_input) if isinstance(latent_input, Path | int) else "a vector")
        points.append(LatentPoint(name, query.mu, query.sigma, width, height))
    return points


def get_content_size(searcher: Searcher) -> tuple[int, int]:
    """Return (width, height) of the network's input images, without padding."""
    _, _, height, width = searcher.get_encoder().preprocessing.content_box()
    return width, height


def find_nearest_images(searcher: Searcher, latents: FloatArray) -> list[Hit | None]:
    """Find the indexed image nearest to each of the latents (n, d) in one batch; None in an empty home."""
    queries = [SearchQuery((mu,), params=SearchParams(limit=1)) for mu in latents]
    return [result.hits[0] if result.hits else None for result in _search_all(searcher, queries)]


def check_decoder(searcher: Searcher, limitation: str) -> None:
    """Raise NoDecoder if the encoder has no decoder; `limitation` is a clause of the message: what can't be done."""
    encoder = searcher.get_encoder()
    if not encoder.has_decoder:
        raise NoDecoder(
            f"Encoder {encoder.fingerprint} has no decoder: {limitation}. Train a decoder for it with "
            f"`simile train PHOTOS --decoder-only {encoder.fingerprint[:12]}`, or use another recipe, such as vae."
        )


def decode_latents(searcher: Searcher, latents: FloatArray, width: int, height: int) -> Pixels:
    """Decode latents (n, d) to images (n, h, w, 3) with the aspect ratio width:height. Raises NoDecoder."""
    return searcher.get_encoder().reconstruct_many(latents, width, height)


def _search_all(searcher: Searcher, queries: Sequence[SearchQuery]) -> list[SearchResult]:
    """Answer all queries in one batch; raise the error of the first query that failed."""
    results = []
    for result in searcher.search_many(queries):
        if isinstance(result, SimileError):
            raise result
        results.append(result)
    return results
