"""Records of deduplication with plausible defaults."""

from __future__ import annotations

from typing import Any

from simile.dedup.records import CurvePoint, ImageFile, ImagePair, Removal, ThresholdCalibration, Tier

CURVE = (CurvePoint(0.1, 1.0, 0.6), CurvePoint(0.5, 0.992, 0.95))


def sha(number: int) -> str:
    """Return a SHA-256 that sorts like the number."""
    return f"{number:064x}"


def make_file(number: int, path: str = "", **fields: Any) -> ImageFile:
    """Make a JPEG file of image `number`: the smaller the number, the larger the image."""
    defaults = {"size": 1000, "mtime_ns": 10**18, "width": 10_000 - number, "height": 10, "format": "jpeg"}
    path = path or f"/photos/{number:04}.jpg"
    return ImageFile(path=path, image_id=number, sha256=sha(number), **(defaults | fields))


def make_pair(first: int, second: int, distance: float = 0.1, tier: Tier = "near") -> ImagePair:
    """Make a pair with an agreement of 0.9."""
    first, second = min(first, second), max(first, second)
    reason = f"{tier} {first} {second}"
    return ImagePair(first=first, second=second, tier=tier, distance=distance, agreement=0.9, reason=reason)


def make_removal(path: str, sha256: str, keep_path: str, keep_sha256: str, tier: Tier = "bytes") -> Removal:
    """Make a line of a plan."""
    return Removal(
        path=path,
        sha256=sha256,
        keep_path=keep_path,
        keep_sha256=keep_sha256,
        tier=tier,
        group="group",
        reason="a copy",
    )


def make_calibration(curve: tuple[CurvePoint, ...] = CURVE) -> ThresholdCalibration:
    """Make a calibration with a threshold of 0.5."""
    return ThresholdCalibration(
        threshold=0.5,
        precision=0.99,
        reached_precision=0.992,
        reached_recall=0.95,
        copies=800,
        decisions=3,
        curve=curve,
    )
