"""What each of two near copies has and the other lacks, and what that means for a plan.

`simile dedup` compares every near copy with the file that is kept (images/matching/changes.py), and stores the
result in the home by the SHA-256 of both files. A pair that was not searched is never removed without a decision.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import sqrt

from simile.dedup.grouping.quality import find_loss
from simile.dedup.grouping.stored_results import load_results, store_results
from simile.dedup.records import ImageFile, Tier, sort_pair
from simile.images.matching.changes import CHANGES_VERSION, ImageChanges
from simile.store.home import Home

CHANGES_NAME = "changes"
CHANGED_NOTE = "changed: each of the two has something that the other lacks"
MIN_SCALE = 0.97  # of the kept file's pixels to those of the other, where both show the same
NOT_DERIVED_REASON = "it can't be shown that it was made from the kept file, and not the other way round"
NOT_SEARCHED_REASON = "these two were not compared for changes; run `simile dedup` again with the same --keep"


@dataclass(frozen=True)
class PairChanges:
    """The changes of pairs, by the smaller and the larger SHA-256; the first image is that of the smaller one."""

    by_hashes: Mapping[tuple[str, str], ImageChanges]

    def get(self, chosen: ImageFile, other: ImageFile) -> ImageChanges | None:
        """Return the changes, with the kept file as the first image; None if the two were not searched."""
        changes = self.by_hashes.get(sort_pair(chosen.sha256, other.sha256))
        return changes if changes is None or chosen.sha256 < other.sha256 else changes.swap()


def load_changes(home: Home) -> PairChanges:
    """Return the stored changes of the home's pairs."""
    try:
        stored = load_results(home, CHANGES_NAME)
        if stored is None or stored["version"] != CHANGES_VERSION:
            return PairChanges({})
        changes = {tuple(key.split()): ImageChanges.from_json(body) for key, body in stored["pairs"].items()}
    except (ValueError, KeyError, TypeError):  # damaged: the next run searches again
        return PairChanges({})
    return PairChanges(changes)


def store_changes(home: Home, changes: Mapping[tuple[str, str], ImageChanges]) -> None:
    """Replace the stored changes. Raises HomeNotWritable."""
    body = {" ".join(key): found.to_json() for key, found in changes.items()}
    store_results(home, CHANGES_NAME, {"version": CHANGES_VERSION, "pairs": body})


def find_objection(tier: Tier, changes: PairChanges, chosen: ImageFile, other: ImageFile) -> str:
    """Return why only a user can decide that the second of two files is removed; "" if nothing would be lost.

    Args:
        tier: Of their group.
    """
    if tier != "near":
        return find_loss(chosen, other, same_pixels=tier == "pixels")
    found = changes.get(chosen, other)
    if found is None:
        return NOT_SEARCHED_REASON
    objection = explain_changes(found, chosen, other) or find_loss(chosen, other)
    return objection or (NOT_DERIVED_REASON if found.second_may_have_more else "")


def explain_changes(changes: ImageChanges, chosen: ImageFile, other: ImageFile) -> str:
    """Return what speaks against removing the second of two near copies; "" if nothing.

    Changes of a part come first: they say most.
    """
    return next(_iterate_objections(changes, chosen, other), "")


def _iterate_objections(changes: ImageChanges, chosen: ImageFile, other: ImageFile) -> Iterator[str]:
    count = len(changes.regions)
    where = f"in {count} {'region' if count == 1 else 'regions'}"
    if changes.is_mutual:
        yield f"{CHANGED_NOTE}, {where}"
    if changes.in_first:
        yield f"the kept file has something on it that this one lacks, {where}"
    if changes.in_second:
        yield f"it has something on it that the kept file lacks, {where}"
    if changes.is_mostly_different:
        yield "more than a quarter of what both show is different"
    if changes.has_small_difference:
        yield "a small part differs, such as a letter"
    if changes.is_turned:
        yield "one of the two is mirrored or turned"
    if changes.is_warped:
        yield "one of the two is turned, tilted or stretched"
    if changes.has_other_tones:
        yield "their brightness or colours differ"
    if changes.first_margin == "flat":
        yield "the kept file has a border or a plain background around the common part"
    if changes.second_margin == "content":
        yield "it shows more than the kept file"
    pixels = [max(1, file.width) * max(1, file.height) for file in (chosen, other)]
    scale = sqrt(changes.area_ratio * pixels[0] / pixels[1])
    if scale < MIN_SCALE:
        yield f"it shows what both have {1 / scale:.1f} times as large as the kept file"
