"""Is this picture in the home already? One file or upload, against everything that is indexed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import inf
from pathlib import Path

from simile.core.errors import NoSuchImage, NothingIndexed, UnreadableImage
from simile.core.records import FloatArray
from simile.dedup.grouping.findings import KIND, calibration_from
from simile.dedup.records import Tier
from simile.images.formats import Limits
from simile.images.loading.loader import prepare_bytes
from simile.images.matching.tasks import Look, digest_of, look_at
from simile.images.sources.reader import read_bytes
from simile.search.searcher import Searcher
from simile.store.catalogue.records import ImageRecord
from simile.store.index.metric import to_indexed

SAME_BYTES, SAME_PIXELS = "the same bytes", "the same pixels"
NEAREST = 20  # neighbours that are compared: a copy is among the nearest, or is not found


@dataclass(frozen=True)
class Match:
    """A picture of the home that a file is a copy of. agreement and reason as in records.Pair."""

    image_id: int
    path: str
    tier: Tier
    distance: float
    agreement: float | None
    reason: str


def have_already(searcher: Searcher, data: bytes, name: str) -> list[Match]:
    """The copies of a picture among what is indexed, the surest first; none if it is new.

    Near copies are sought up to the threshold of the home's last `simile dedup`, among the NEAREST pictures where
    there was none, and are confirmed by their pixels. Raises UnreadableImage, NothingIndexed (no encoder yet).
    """
    encoder = searcher.encoder()
    prepared = prepare_bytes(data, name, encoder.preprocessing, searcher.limits)
    known = searcher.catalogue.images_by_sha([prepared.sha256], encoder.fingerprint).get(prepared.sha256)
    found = [] if known is None else [_match(searcher.image(known.image_id), "bytes", 0.0, None, SAME_BYTES)]
    asked = _Asked(data, name, (prepared.width, prepared.height), searcher.limits)
    near = _near(searcher, asked, encoder.encode(prepared.array[None]).mu, known.image_id if known else None)
    return found + sorted(near, key=lambda match: (match.tier != "pixels", match.distance, match.image_id))


def confirmed(first: Path, second: Path, limits: Limits) -> bool:
    """Whether one of two files shows a copy of the other. Raises UnreadableImage."""
    ours, theirs = (look_at(read_bytes(path, limits), str(path), limits) for path in (first, second))
    return ours.compared(theirs).same


class _Asked:
    """The picture that is asked for, and what is compared of it, made when it is first needed."""

    def __init__(self, data: bytes, name: str, size: tuple[int, int], limits: Limits) -> None:
        self.data, self.name, self.size, self.limits = data, name, size, limits

    @cached_property
    def digest(self) -> str:
        return digest_of(self.data, self.name, self.limits)

    @cached_property
    def look(self) -> Look:
        return look_at(self.data, self.name, self.limits)

    def compared(self, record: ImageRecord, data: bytes, distance: float) -> Match | None:
        """The match with an indexed picture, whose file holds `data`; None where it is another picture."""
        if self.size == (record.width, record.height) and digest_of(data, record.paths[0], self.limits) == self.digest:
            return _match(record, "pixels", distance, None, SAME_PIXELS)
        agreement = look_at(data, record.paths[0], self.limits).compared(self.look)
        return _match(record, "near", distance, agreement.alike, agreement.reason) if agreement.same else None


def _near(searcher: Searcher, asked: _Asked, mu: FloatArray, itself: int | None) -> Iterator[Match]:
    try:
        snapshot = searcher.index.current(searcher.encoder().fingerprint)
    except NothingIndexed:  # an encoder, but no picture yet
        return
    vector = to_indexed(mu, snapshot.encoder.index_dims, snapshot.encoder.metric)
    ids, distances = snapshot.search(vector, NEAREST)[0]
    threshold, records = _threshold(searcher), searcher.catalogue.images(ids.tolist())
    for image, distance in zip(ids.tolist(), distances.tolist(), strict=True):
        if image == itself or image not in records or distance > threshold:
            continue
        try:
            theirs = read_bytes(searcher.file(image)[0], searcher.limits)
            match = asked.compared(records[image], theirs, distance)
        except (UnreadableImage, NoSuchImage):  # its file is gone or damaged: nothing can be said
            continue
        if match is not None:
            yield match


def _threshold(searcher: Searcher) -> float:
    """Of the last `simile dedup` with the encoder in use; infinity where there was none."""
    run = searcher.catalogue.last_run(KIND)
    if run is None or not run.counts.get("calibration") or run.counts.get("encoder") != searcher.encoder().fingerprint:
        return inf
    return calibration_from(run.counts["calibration"]).threshold


def _match(record: ImageRecord, tier: Tier, distance: float, agreement: float | None, reason: str) -> Match:
    path = record.paths[0] if record.paths else ""
    return Match(record.id, path, tier, distance, agreement, reason)
