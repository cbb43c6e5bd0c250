"""Decide whether the calibration of an earlier run is still valid: then no copies are planted again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from simile.dedup.grouping.findings import DEDUP_RUN_KIND
from simile.store.catalogue.catalogue import Catalogue

MAX_CHANGED_SHARE = 0.1  # of the images, since the copies were planted


@dataclass(frozen=True, kw_only=True)
class CalibrationBasis:
    """What a calibration was made from.

    Attributes:
        made_at: The time, in ISO format.
        parameters: The values that the threshold depends on.
        images: The number of images.
        last_id: The largest id of an image.
        decisions: The number of decisions on pairs.
        left_out: The sampled images that match images which are no copies of them.
    """

    made_at: str
    parameters: Mapping[str, Any]
    images: int
    last_id: int
    decisions: int
    left_out: tuple[int, ...] = ()

    def measure_change(self, image_ids: Collection[int]) -> float:
        """Return how many images are new or deleted since then, as a share of the images then."""
        remaining = sum(image_id <= self.last_id for image_id in image_ids)
        changed = (self.images - remaining) + (len(image_ids) - remaining)
        return changed / max(1, self.images)


def find_valid_calibration(
    catalogue: Catalogue, encoder: str, parameters: Mapping[str, Any], image_ids: Collection[int]
) -> tuple[dict[str, Any], CalibrationBasis] | None:
    """Return the calibration of the last run as JSON, and its basis; None if it has to be made again.

    It is made again for another encoder or request, after a decision on a pair, and after a change of more than
    MAX_CHANGED_SHARE of the images.
    """
    last = catalogue.runs.find_last_finished(DEDUP_RUN_KIND)
    if last is None or last.counts["encoder"] != encoder or not last.counts.get("calibration_basis"):
        return None
    body = last.counts["calibration_basis"]
    basis = CalibrationBasis(**{**body, "left_out": tuple(body["left_out"])})
    if basis.parameters != parameters or basis.measure_change(image_ids) > MAX_CHANGED_SHARE:
        return None
    decisions, made_at = catalogue.duplicates.get_decisions(), datetime.fromisoformat(basis.made_at)
    if len(decisions) != basis.decisions or any(decision.decided_at > made_at for decision in decisions):
        return None
    return dict(last.counts["calibration"]), basis


def basis_to_json(basis: CalibrationBasis) -> dict[str, Any]:
    """Convert to JSON, as stored in a run's counts."""
    return asdict(basis) | {"left_out": list(basis.left_out)}
