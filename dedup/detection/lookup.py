"""Is this picture in the home already? One file or upload, against everything that is indexed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import inf
from pathlib import Path

from simile.core.errors import NoSuchImage, NothingIndexed, UnreadableImage
from simile.core.records import FloatArray
from simile.dedup.grouping.findings import DEDUP_RUN_KIND, calibration_from_json
from simile.dedup.records import Tier
from simile.images.formats import Limits
from simile.images.loading.loader import prepare_image
from simile.images.matching.tasks import ComparableImage, compute_pixel_digest, make_comparable_image
from simile.images.sources.reader import read_bytes
from simile.search.searcher import Searcher
from simile.store.catalogue.records import ImageRecord
from simile.store.index.metric import make_index_vectors

BYTES_MATCH_REASON, PIXELS_MATCH_REASON = "the same bytes", "the same pixels"
LOOKUP_NEIGHBOURS = 20  # neighbours that are compared: a copy is among the nearest, or is not found


@dataclass(frozen=True)
class ImageMatch:
    """A picture of the home that a file is a copy of. agreement and reason as in records.Pair."""

    image_id: int
    path: str
    tier: Tier
    distance: float
    agreement: float | None
    reason: str


def find_existing_copies(searcher: Searcher, data: bytes, name: str) -> list[ImageMatch]:
    """The copies of a picture among what is indexed, the surest first; none if it is new.

    Near copies are sought up to the threshold of the home's last `simile dedup`, among the NEAREST pictures where
    there was none, and are confirmed by their pixels. Raises UnreadableImage, NothingIndexed (no encoder yet).
    """
    encoder = searcher.get_encoder()
    prepared = prepare_image(data, name, encoder.preprocessing, searcher.limits)
    known = searcher.catalogue.images.find_by_sha256([prepared.sha256], encoder.fingerprint).get(prepared.sha256)
    found = (
        []
        if known is None
        else [_make_match(searcher.get_image(known.image_id), "bytes", 0.0, None, BYTES_MATCH_REASON)]
    )
    asked = _LookupImage(data, name, (prepared.width, prepared.height), searcher.limits)
    near = _find_near_matches(
        searcher, asked, encoder.encode(prepared.array[None]).mu, known.image_id if known else None
    )
    return found + sorted(near, key=lambda match: (match.tier != "pixels", match.distance, match.image_id))


def verify_copy(first: Path, second: Path, limits: Limits) -> bool:
    """Whether one of two files shows a copy of the other. Raises UnreadableImage."""
    ours, theirs = (make_comparable_image(read_bytes(path, limits), str(path), limits) for path in (first, second))
    return ours.compare(theirs).is_copy


class _LookupImage:
    """The picture that is asked for, and what is compared of it, made when it is first needed."""

    def __init__(self, data: bytes, name: str, size: tuple[int, int], limits: Limits) -> None:
        self.data, self.name, self.size, self.limits = data, name, size, limits

    @cached_property
    def digest(self) -> str:
        return compute_pixel_digest(self.data, self.name, self.limits)

    @cached_property
    def comparison_image(self) -> ComparableImage:
        return make_comparable_image(self.data, self.name, self.limits)

    def compare(self, record: ImageRecord, data: bytes, distance: float) -> ImageMatch | None:
        """The match with an indexed picture, whose file holds `data`; None where it is another picture."""
        if (
            self.size == (record.width, record.height)
            and compute_pixel_digest(data, record.paths[0], self.limits) == self.digest
        ):
            return _make_match(record, "pixels", distance, None, PIXELS_MATCH_REASON)
        agreement = make_comparable_image(data, record.paths[0], self.limits).compare(self.comparison_image)
        return (
            _make_match(record, "near", distance, agreement.similarity, agreement.reason) if agreement.is_copy else None
        )


def _find_near_matches(
    searcher: Searcher, lookup_image: _LookupImage, mu: FloatArray, own_image_id: int | None
) -> Iterator[ImageMatch]:
    try:
        snapshot = searcher.index.get_snapshot(searcher.get_encoder().fingerprint)
    except NothingIndexed:  # an encoder, but no picture yet
        return
    vector = make_index_vectors(mu, snapshot.encoder.index_dims, snapshot.encoder.metric)
    ids, distances = snapshot.search(vector, LOOKUP_NEIGHBOURS)[0]
    threshold, records = _get_threshold(searcher), searcher.catalogue.images.get_many(ids.tolist())
    for image, distance in zip(ids.tolist(), distances.tolist(), strict=True):
        if image == own_image_id or image not in records or distance > threshold:
            continue
        try:
            theirs = read_bytes(searcher.get_file(image)[0], searcher.limits)
            match = lookup_image.compare(records[image], theirs, distance)
        except (UnreadableImage, NoSuchImage):  # its file is gone or damaged: nothing can be said
            continue
        if match is not None:
            yield match


def _get_threshold(searcher: Searcher) -> float:
    """Of the last `simile dedup` with the encoder in use; infinity where there was none."""
    run = searcher.catalogue.runs.find_last_finished(DEDUP_RUN_KIND)
    if (
        run is None
        or not run.counts.get("calibration")
        or run.counts.get("encoder") != searcher.get_encoder().fingerprint
    ):
        return inf
    return calibration_from_json(run.counts["calibration"]).threshold


def _make_match(record: ImageRecord, tier: Tier, distance: float, agreement: float | None, reason: str) -> ImageMatch:
    path = record.paths[0] if record.paths else ""
    return ImageMatch(record.id, path, tier, distance, agreement, reason)
