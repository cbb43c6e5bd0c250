"""Find the copies of one file or upload among the indexed images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import inf
from pathlib import Path

from simile.core.errors import NoSuchImage, NothingIndexed, UnreadableImage
from simile.core.records import FloatArray
from simile.dedup.grouping.findings import DEDUP_RUN_KIND, calibration_from_json
from simile.dedup.grouping.pair_changes import CHANGED_NOTE
from simile.dedup.records import Tier
from simile.images.formats import Limits, Pixels
from simile.images.loading.loader import prepare_image
from simile.images.matching.changes import NO_CHANGES, ImageChanges
from simile.images.matching.tasks import (
    ComparableImage,
    compute_pixel_digest,
    find_copy_changes,
    make_comparable_image,
    make_fine_pixels,
)
from simile.images.sources.reader import read_bytes
from simile.search.searcher import Searcher
from simile.store.catalogue.records import ImageRecord
from simile.store.index.metric import make_index_vectors

LOOKUP_NEIGHBOURS = 20  # a copy that is not among the nearest images is not found


@dataclass(frozen=True, kw_only=True)
class ImageMatch:
    """An indexed image of which a file is a copy. `agreement` and `reason` are those of records.ImagePair.

    Attributes:
        changes: What the indexed image has and the other one lacks, and the reverse.
    """

    image_id: int
    path: str
    tier: Tier
    distance: float
    agreement: float | None
    reason: str
    changes: ImageChanges = NO_CHANGES


def find_existing_copies(searcher: Searcher, data: bytes, name: str) -> list[ImageMatch]:
    """Return the indexed copies of an image, the most certain first; empty if the image is new.

    An image counts only if one of its files still holds its bytes; that is the path of the match.

    Near copies are searched up to the threshold of the last finished `simile dedup`, or among the nearest images if
    there is none, and are verified by their pixels. Raises UnreadableImage, or NothingIndexed without an encoder.

    Args:
        data: The image file's bytes.
        name: The file's name for error messages.
    """
    encoder = searcher.get_encoder()
    prepare = partial(prepare_image, preprocessing=encoder.preprocessing, limits=searcher.limits)
    prepared = searcher.decode_upload(prepare, data, name)
    known = searcher.catalogue.images.find_by_sha256([prepared.sha256], encoder.fingerprint).get(prepared.sha256)
    matches = []
    if known is not None:
        match = _make_match(searcher, searcher.get_image(known.image_id), "bytes", 0.0, None, "the same bytes")
        matches += [] if match is None else [match]
    lookup_image = _LookupImage(searcher, data, name, (prepared.width, prepared.height))
    mu = encoder.encode(prepared.array[None]).mu
    near = _find_near_matches(searcher, lookup_image, mu, known.image_id if known else None)
    return matches + sorted(near, key=lambda match: (match.tier != "pixels", match.distance, match.image_id))


def verify_copy(first: Path, second: Path, limits: Limits) -> bool:
    """Return whether one of two files is a copy of the other, and not changed. Raises UnreadableImage."""
    pairs = [(read_bytes(path, limits), str(path), limits) for path in (first, second)]
    first_image, second_image = (make_comparable_image(*pair) for pair in pairs)
    result = first_image.compare(second_image)
    if not result.is_copy:
        return False
    fine = make_fine_pixels(*pairs[0]), make_fine_pixels(*pairs[1])
    return not find_copy_changes(result, (first_image, second_image), fine).is_mutual


class _LookupImage:
    """The query image; what is compared is computed when it is first needed."""

    def __init__(self, searcher: Searcher, data: bytes, name: str, size: tuple[int, int]) -> None:
        self.searcher, self.data, self.name, self.size = searcher, data, name, size
        self._compute_digest = partial(compute_pixel_digest, limits=searcher.limits)
        self._make_comparable = partial(make_comparable_image, limits=searcher.limits)
        self._make_fine_pixels = partial(make_fine_pixels, limits=searcher.limits)

    @cached_property
    def digest(self) -> str:
        """The hash of the decoded pixels."""
        return self.searcher.decode_upload(self._compute_digest, self.data, self.name)

    @cached_property
    def comparison_image(self) -> ComparableImage:
        """The decoded image with its features."""
        return self.searcher.decode_upload(self._make_comparable, self.data, self.name)

    @cached_property
    def fine_pixels(self) -> Pixels:
        """The decoded image at the size at which changes are searched."""
        return self.searcher.decode_upload(self._make_fine_pixels, self.data, self.name)

    def compare(self, record: ImageRecord, distance: float) -> ImageMatch | None:
        """Compare with an indexed image; None if the two are different images. Raises UnreadableImage, NoSuchImage."""
        is_same_size = self.size == (record.width, record.height)
        if is_same_size and self.searcher.decode_file(record.id, self._compute_digest) == self.digest:
            return _make_match(self.searcher, record, "pixels", distance, None, "the same pixels")
        image = self.searcher.decode_file(record.id, self._make_comparable)
        alignment = image.compare(self.comparison_image)
        if not alignment.is_copy:
            return None
        pixels = self.searcher.decode_file(record.id, self._make_fine_pixels)
        changes = find_copy_changes(alignment, (image, self.comparison_image), (pixels, self.fine_pixels))
        reason = f"{alignment.reason}; {CHANGED_NOTE}" if changes.is_mutual else alignment.reason
        match = _make_match(self.searcher, record, "near", distance, alignment.similarity, reason)
        return match and replace(match, changes=changes)


def _find_near_matches(
    searcher: Searcher, lookup_image: _LookupImage, mu: FloatArray, own_image_id: int | None
) -> Iterator[ImageMatch]:
    """Yield the pixel and near matches among the nearest images.

    Args:
        mu: The query image's latent vector, (1, d).
        own_image_id: The indexed image with the same bytes, which is left out.
    """
    try:
        snapshot = searcher.index.get_snapshot(searcher.get_encoder().fingerprint)
    except NothingIndexed:  # there is an encoder, but no image yet
        return
    vector = make_index_vectors(mu, snapshot.encoder.index_dims, snapshot.encoder.metric)
    ids, distances = snapshot.search(vector, LOOKUP_NEIGHBOURS)[0]
    threshold, records = _get_threshold(searcher), searcher.catalogue.images.get_many(ids.tolist())
    for image_id, distance in zip(ids.tolist(), distances.tolist(), strict=True):
        if image_id == own_image_id or image_id not in records or distance > threshold:
            continue
        try:
            match = lookup_image.compare(records[image_id], distance)
        except (UnreadableImage, NoSuchImage):  # the indexed file is missing or damaged: it can't be compared
            continue
        if match is not None:
            yield match


def _get_threshold(searcher: Searcher) -> float:
    """Return the threshold of the last finished `simile dedup` with the active encoder; infinity if there is none."""
    run = searcher.catalogue.runs.find_last_finished(DEDUP_RUN_KIND)
    fingerprint = searcher.get_encoder().fingerprint
    if run is None or not run.counts.get("calibration") or run.counts.get("encoder") != fingerprint:
        return inf
    return calibration_from_json(run.counts["calibration"]).threshold


def _make_match(
    searcher: Searcher, record: ImageRecord, tier: Tier, distance: float, agreement: float | None, reason: str
) -> ImageMatch | None:
    path = searcher.find_intact_path(record)
    if path is None:
        return None
    return ImageMatch(image_id=record.id, path=path, tier=tier, distance=distance, agreement=agreement, reason=reason)
