"""Records of deduplication with plausible defaults."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from simile.core.records import FileStat
from simile.dedup.cleanup.file_ops import identify_file
from simile.dedup.grouping.findings import Findings, calibration_to_json
from simile.dedup.grouping.pair_changes import PairChanges, load_changes, store_changes
from simile.dedup.grouping.quality import load_measurements, store_measurements
from simile.dedup.records import (
    CurvePoint,
    Decision,
    ImageFile,
    ImagePair,
    Removal,
    ThresholdCalibration,
    Tier,
)
from simile.dedup.usable_files import UsableFiles
from simile.images.formats import Limits
from simile.images.matching.changes import NO_CHANGES, ImageChanges
from simile.images.measurement import ImageMeasurement, measure_image
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import DuplicateRecord, NewImage
from tests.support.catalogue import make_new_image

CURVE = (CurvePoint(0.1, 1.0, 0.6), CurvePoint(0.5, 0.992, 0.95))


def sha(number: int) -> str:
    """Return a SHA-256 that sorts like the number."""
    return f"{number:064x}"


def make_file(number: int, path: str = "", **fields: Any) -> ImageFile:
    """Make a JPEG file of image `number`: the smaller the number, the larger the image."""
    defaults = {"size": 1000, "mtime_ns": 10**18, "width": 10_000 - number, "height": 10, "format": "jpeg"}
    fields = defaults | fields
    if "measurement" not in fields:
        fields["measurement"] = make_measurement(fields["format"], size=(fields["width"], fields["height"]))
    path = path or f"/photos/{number:04}.jpg"
    return ImageFile(path=path, image_id=number, sha256=sha(number), **fields)


def make_measurement(format: str = "jpeg", **fields: Any) -> ImageMeasurement:
    """Make the measurement of an ordinary photo."""
    codec = format if format in ("jpeg", "webp", "heif") else "lossless"
    step = 3.0 if codec == "jpeg" else 0.0
    measurement: dict[str, Any] = {"codec": codec, "chroma": (90.0, 30.0), "colours": 20_000, "depth": 8, "frames": 1}
    measurement |= {"has_alpha": False, "profile": "", "step": step, "table_step": step, "clipped": 0.0}
    return ImageMeasurement(**(measurement | {"detail": (0.1,), "size": (40, 30)} | fields))


def make_stored_image(number: int, path: str, mu: Any = (0, 0), **fields: Any) -> NewImage:
    """Make image `number` to store: a JPEG of 40 x 30 in a file of 100 bytes."""
    defaults = {"sha256": sha(number), "size": 100, "format": "jpeg", "width": 40, "height": 30}
    return make_new_image(number, mu, **(defaults | {"file": FileStat(path, 100, 10**18)} | fields))


def index_file(catalogue: Catalogue, path: Path, encoder: str) -> int:
    """Store a PNG of 9 x 9 with its bytes as they are and a vector of [0]; return its id."""
    found = path.stat()
    file = FileStat(str(path), found.st_size, found.st_mtime_ns)
    fields = {"sha256": identify_file(path).sha256, "size": file.size, "format": "png", "width": 9, "height": 9}
    return catalogue.images.add_batch([make_new_image(0, [0], file=file, **fields)], encoder, "eager")[0]


def make_pair(first: int, second: int, distance: float = 0.1, tier: Tier = "near") -> ImagePair:
    """Make a pair with an agreement of 0.9."""
    first, second = min(first, second), max(first, second)
    reason = f"{tier} {first} {second}"
    return ImagePair(first=first, second=second, tier=tier, distance=distance, agreement=0.9, reason=reason)


class NothingChanged(dict[tuple[str, str], ImageChanges]):
    """The changes of all pairs: none."""

    def get(self, _: object, _default: Any = None) -> ImageChanges:
        """Return no changes."""
        return NO_CHANGES


Decided = Mapping[tuple[int, int], tuple[bool, int | None]]


def make_findings(*pairs: ImagePair, files: tuple[ImageFile, ...] = (), decided: Decided | None = None) -> Findings:
    """Make findings of these pairs.

    Args:
        files: They replace the default file of their image.
        decided: By the numbers of two images: whether they are the same, and the image to keep.
    """
    decided = decided or {}
    numbers = {number for pair in pairs for number in (pair.first, pair.second)} | {n for ids in decided for n in ids}
    known = {number: (make_file(number),) for number in numbers}
    known |= {n: tuple(file for file in files if file.image_id == n) for n in (file.image_id or 0 for file in files)}
    decisions = {
        (sha(one), sha(two)): Decision(sha(one), sha(two), same, None if keep is None else sha(keep))
        for (one, two), (same, keep) in decided.items()
    }
    run = {"run_id": 7, "found_at": datetime(2026, 1, 1, tzinfo=UTC), "encoder": "a" * 64}
    places = {"home": "/home", "uploads_folder": "/home/uploads"}
    changes = PairChanges(NothingChanged())
    facts = {"pairs": pairs, "files": known, "decisions": decisions, "changes": changes}
    return Findings(**run, calibration=make_calibration(), **facts, **places)


def make_removal(path: str, sha256: str, keep_path: str, keep_sha256: str, tier: Tier = "bytes") -> Removal:
    """Make a line of a plan."""
    kept = {"keep_path": keep_path, "keep_sha256": keep_sha256}
    return Removal(path=path, sha256=sha256, **kept, tier=tier, group="group", reason="a copy")


def make_calibration(curve: tuple[CurvePoint, ...] = CURVE) -> ThresholdCalibration:
    """Make a calibration with a threshold of 0.5."""
    reached = {"reached_precision": 0.992, "reached_recall": 0.95}
    return ThresholdCalibration(threshold=0.5, precision=0.99, **reached, copies=800, decisions=3, curve=curve)


def record_dedup_run(catalogue: Catalogue, rows: list[DuplicateRecord], calibration: ThresholdCalibration) -> None:
    """Store a finished run of the active encoder that found these pairs."""
    run = catalogue.runs.start("dedup", {})
    catalogue.duplicates.replace(run, rows)
    encoder = catalogue.get_state().active_encoder
    measure_all(catalogue, {image_id for row in rows for image_id in (row.first, row.second)})
    catalogue.runs.finish(run, "finished", {"encoder": encoder, "calibration": calibration_to_json(calibration)})


def assume_files_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let rows without files on the disk count as files that have not changed."""
    monkeypatch.setattr(UsableFiles, "select", lambda _, locations: iter(locations))


def measure_all(catalogue: Catalogue, image_ids: set[int]) -> None:
    """Store the measurements of images, as a run does, and that no pair of them is changed.

    Files that do not exist get the measurements of an ordinary photo.
    """
    measurement = load_measurements(catalogue.home)
    for location in catalogue.duplicates.iterate_files(image_ids):
        path = Path(location.path)
        measurement[location.sha256] = (
            measure_image(path.read_bytes(), path, Limits())
            if path.exists()
            else make_measurement(location.format, size=(location.width, location.height))
        )
    store_measurements(catalogue.home, measurement)
    changes = dict(load_changes(catalogue.home).by_hashes)
    hashes = sorted({location.sha256 for location in catalogue.duplicates.iterate_files(image_ids)})
    store_changes(catalogue.home, changes | dict.fromkeys(combinations(hashes, 2), NO_CHANGES))
