"""The pictures that a command starts from: files, which need not be indexed, and ids of those that are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.errors import NoDecoder, SimileError
from core.records import FloatArray, Hit
from models.names import printable
from models.preprocessing import Pixels
from search.questions import Asked, Question
from search.searcher import Searcher


@dataclass(frozen=True, eq=False)
class Place:
    """Where a picture lies: mu (d,); sigma (d,), None without a variance. width, height: of the picture, in pixels."""

    name: str
    mu: FloatArray
    sigma: FloatArray | None
    width: int
    height: int


def places_of(searcher: Searcher, parts: Sequence[Path | int]) -> list[Place]:
    """One place for each file or id, in order. Raises UnreadableImage, NoSuchImage, NothingIndexed."""
    asked = Asked(limit=1, error=False)
    questions = [
        Question((part if isinstance(part, int) else searcher.prepare(part, printable(str(part))),), asked=asked)
        for part in parts
    ]
    found = []
    for part, answer in zip(parts, searcher.answer(questions), strict=True):
        if isinstance(answer, SimileError):
            raise answer
        query = answer.query
        assert query.width is not None and query.height is not None
        found.append(Place(query.name or str(part), query.mu, query.sigma, query.width, query.height))
    return found


def nearest_to(searcher: Searcher, latents: FloatArray) -> list[Hit | None]:
    """The real picture nearest to each of the latents (n, d), all looked up together; None in an empty home."""
    questions = [Question((mu,), asked=Asked(limit=1)) for mu in latents]
    found: list[Hit | None] = []
    for answer in searcher.answer(questions):
        if isinstance(answer, SimileError):
            raise answer
        found.append(answer.hits[0] if answer.hits else None)
    return found


def check_decoder(searcher: Searcher, without: str) -> None:
    """Raises NoDecoder, which says what can't be done without one, and what to do."""
    encoder = searcher.encoder()
    if not encoder.has_decoder:
        raise NoDecoder(
            f"Encoder {encoder.fingerprint} has no decoder: {without}. Train one over it with "
            f"`simile train PHOTOS --decoder-only {encoder.fingerprint[:12]}`, or use another recipe, such as vae."
        )


def decoded(searcher: Searcher, latents: FloatArray, width: int, height: int) -> Pixels:
    """What latents (n, d) stand for, (n, h, w, 3) uint8 in the aspect of a width x height picture. Raises NoDecoder."""
    encoder = searcher.encoder()
    pictures = encoder.decode(latents)
    return np.stack([encoder.preprocessing.to_pixels(picture, width, height) for picture in pictures])
