"""The pictures that a command starts from: files, which need not be indexed, and ids of those that are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simile.core.errors import NoDecoder, SimileError
from simile.core.records import FloatArray, Hit
from simile.images.formats import Pixels
from simile.images.sources.paths import make_printable
from simile.search.queries import QueryImage, SearchParams, SearchQuery
from simile.search.searcher import Searcher

LatentInput = (
    Path | int | QueryImage | FloatArray
)  # a file, an indexed image, an upload that was prepared, or a mu (d,)


@dataclass(frozen=True, eq=False)
class LatentPoint:
    """Where a picture lies: mu (d,); sigma (d,), None without a variance. width, height: of the picture, in pixels."""

    name: str
    mu: FloatArray
    sigma: FloatArray | None
    width: int
    height: int


def encode_inputs(searcher: Searcher, latent_inputs: Sequence[LatentInput]) -> list[LatentPoint]:
    """One place for each part, in order; a mu has the shape of the network's own pictures.

    Raises UnreadableImage, NoSuchImage, NothingIndexed, EncoderMismatch, NotFinite.
    """
    asked = SearchParams(encode_only=True, include_error=False)
    questions = [
        SearchQuery(
            (searcher.prepare_query_image(part, make_printable(str(part))) if isinstance(part, Path) else part,),
            params=asked,
        )
        for part in latent_inputs
    ]
    found = []
    for part, answer in zip(latent_inputs, searcher.search_many(questions), strict=True):
        if isinstance(answer, SimileError):
            raise answer
        query = answer.query
        width, height = (query.width, query.height) if query.width and query.height else get_content_size(searcher)
        name = query.name or (str(part) if isinstance(part, Path | int) else "a vector")
        found.append(LatentPoint(name, query.mu, query.sigma, width, height))
    return found


def get_content_size(searcher: Searcher) -> tuple[int, int]:
    """(width, height) of the pictures that the network takes, without padding."""
    _, _, height, width = searcher.get_encoder().preprocessing.content_box()
    return width, height


def find_nearest_images(searcher: Searcher, latents: FloatArray) -> list[Hit | None]:
    """The real picture nearest to each of the latents (n, d), all looked up together; None in an empty home."""
    questions = [SearchQuery((mu,), params=SearchParams(limit=1)) for mu in latents]
    found: list[Hit | None] = []
    for answer in searcher.search_many(questions):
        if isinstance(answer, SimileError):
            raise answer
        found.append(answer.hits[0] if answer.hits else None)
    return found


def check_decoder(searcher: Searcher, limitation: str) -> None:
    """Raises NoDecoder, which says what can't be done without one, and what to do."""
    encoder = searcher.get_encoder()
    if not encoder.has_decoder:
        raise NoDecoder(
            f"Encoder {encoder.fingerprint} has no decoder: {limitation}. Train one over it with "
            f"`simile train PHOTOS --decoder-only {encoder.fingerprint[:12]}`, or use another recipe, such as vae."
        )


def decode_latents(searcher: Searcher, latents: FloatArray, width: int, height: int) -> Pixels:
    """What latents (n, d) stand for, (n, h, w, 3) uint8 in the aspect of a width x height picture. Raises NoDecoder."""
    encoder = searcher.get_encoder()
    pictures = encoder.decode(latents)
    return np.stack([encoder.preprocessing.to_pixels(picture, width, height) for picture in pictures])
