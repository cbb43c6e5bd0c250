"""The findings of a home: the pairs that the last run found, the files of their images, and the users' decisions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np

from simile.core.errors import EncoderMismatch, NoSuchImage
from simile.core.records import Failure, Filter
from simile.dedup.grouping.keep_rules import DEFAULT_KEEP_RULES
from simile.dedup.grouping.matches import find_component_roots
from simile.dedup.grouping.pair_changes import PairChanges, load_changes
from simile.dedup.grouping.quality import load_measurements
from simile.dedup.records import CurvePoint, Decision, ImageFile, ImagePair, ThresholdCalibration, sort_pair
from simile.dedup.usable_files import UsableFiles
from simile.images.measurement import ImageMeasurement
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import ImageLocation
from simile.store.database.transactions import split_chunks
from simile.store.index.metric import make_index_vectors

DEDUP_RUN_KIND = "dedup"  # `kind` of the catalogue's runs
DECIDED_REASON = "decided by a user"


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What is known about copies in a home.

    Attributes:
        pairs: Pixel, near and series pairs, the nearest first. Decisions are not applied yet, except that images
            which users decided to be the same are always a pair.
        files: By image id, sorted by path; for all images in `pairs` and all images with several files.
        link_paths: Paths in `files` that are hard or symbolic links to another file of the same image.
        left_out: Files that are not in `files` because they are missing, changed, or could not be read the last time.
    """

    run_id: int | None  # None if `simile dedup` never finished in this home; equal bytes are known anyway
    found_at: datetime | None
    encoder: str | None
    calibration: ThresholdCalibration | None
    pairs: tuple[ImagePair, ...]
    files: Mapping[int, tuple[ImageFile, ...]]
    decisions: Mapping[tuple[str, str], Decision]  # by first and second SHA-256
    changes: PairChanges
    home: str
    uploads_folder: str  # the folder of files that simile stored itself
    link_paths: frozenset[str] = frozenset()
    left_out: tuple[Failure, ...] = ()
    keep_rules: tuple[str, ...] = DEFAULT_KEEP_RULES  # those of the run

    @property
    def threshold(self) -> float | None:
        """Return the distance up to which near pairs count as copies."""
        return None if self.calibration is None else self.calibration.threshold

    def get_effective_threshold(self, threshold: float | None) -> float | None:
        """Return the threshold, at most that of the run because the run did not search beyond; None: the run's."""
        if threshold is None or self.threshold is None:
            return self.threshold if threshold is None else threshold
        return min(threshold, self.threshold)

    def exclude_links(self, files: Sequence[ImageFile]) -> Sequence[ImageFile]:
        """Remove links to other files of the same image: removing them would free no space."""
        return [file for file in files if file.path not in self.link_paths] if self.link_paths else files


@dataclass(frozen=True)
class FilePair:
    """A pair with one file of each image, and the decision on it."""

    pair: ImagePair
    first: ImageFile
    second: ImageFile
    decision: Decision | None = None


def load_findings(catalogue: Catalogue, filter: Filter | None = None) -> Findings:
    """Read the findings; with a filter only the matching files, and pairs of two such images."""
    run = catalogue.runs.find_last_finished(DEDUP_RUN_KIND)
    counts = run.counts if run is not None else {}
    decisions = load_decisions(catalogue)
    usable = UsableFiles(str(catalogue.home.uploads))
    files = _group_files_by_image(
        usable.select(catalogue.duplicates.iterate_candidate_files(filter)),
        catalogue.duplicates.iterate_labels(candidates_only=True),
        load_measurements(catalogue.home),
    )
    copies = catalogue.duplicates.iterate_pairs(("pixels", "near", "series"))
    pairs = [pair for pair in copies if pair.first in files and pair.second in files]
    pairs += _make_decided_pairs(catalogue, decisions, pairs, files)
    return Findings(
        run_id=None if run is None else run.id,
        found_at=None if run is None else run.finished_at,
        encoder=counts.get("encoder"),
        calibration=calibration_from_json(counts["calibration"]) if counts.get("calibration") else None,
        pairs=tuple(pairs),
        files=files,
        decisions=decisions,
        home=str(catalogue.home.root),
        uploads_folder=str(catalogue.home.uploads),
        changes=load_changes(catalogue.home),
        link_paths=_find_link_paths(files.values()),
        left_out=(*usable.failures, *catalogue.duplicates.get_failures(filter)),
        keep_rules=DEFAULT_KEEP_RULES if run is None else tuple(run.settings.get("keep", DEFAULT_KEEP_RULES)),
    )


def load_decisions(catalogue: Catalogue) -> dict[tuple[str, str], Decision]:
    """Read the users' decisions, by first and second SHA-256."""
    decisions = (
        Decision(record.first_sha256, record.second_sha256, record.same, record.keep_sha256)
        for record in catalogue.duplicates.get_decisions()
    )
    return {(decision.first_sha256, decision.second_sha256): decision for decision in decisions}


def find_decision(findings: Findings, first_sha256: str, second_sha256: str) -> Decision | None:
    """Return the users' decision on two images, in any order."""
    return findings.decisions.get(sort_pair(first_sha256, second_sha256))


def find_similar_pairs(
    catalogue: Catalogue,
    findings: Findings,
    *,
    filter: Filter | None = None,
    threshold: float | None = None,
    limit: int | None = None,
    offset: int = 0,
) -> Iterator[FilePair]:
    """Yield undecided pairs that are similar but no copies, the nearest first, without loading all of them.

    Args:
        filter: Both images must have a file that matches and has not changed; it is applied after limit and offset.
        threshold: Near pairs beyond it are included; None: the run's threshold.
    """
    pairs = islice(_iterate_undecided_pairs(catalogue, findings, threshold), offset, None)
    usable = UsableFiles(findings.uploads_folder)
    for chunk in split_chunks(islice(pairs, limit)):  # two steps: offset + limit may be too large
        ids = {image_id for pair in chunk for image_id in (pair.first, pair.second)}
        files = _group_files_by_image(usable.select(catalogue.duplicates.iterate_files(ids, filter)), (), {})
        for pair in chunk:
            if pair.first in files and pair.second in files:
                yield FilePair(pair, files[pair.first][0], files[pair.second][0])


def count_similar_pairs(
    catalogue: Catalogue, findings: Findings, threshold: float | None = None, filter: Filter | None = None
) -> int:
    """Count the pairs that `find_similar_pairs` yields."""
    if filter is not None:
        return sum(1 for _ in find_similar_pairs(catalogue, findings, filter=filter, threshold=threshold))
    return sum(1 for _ in _iterate_undecided_pairs(catalogue, findings, threshold))


def calibration_to_json(calibration: ThresholdCalibration) -> dict[str, Any]:
    """Convert to JSON, as stored in a run's counts."""
    curve = [asdict(point) for point in calibration.curve]
    return asdict(calibration) | {"curve": curve, "left_out": list(calibration.left_out)}


def calibration_from_json(body: Mapping[str, Any]) -> ThresholdCalibration:
    """Convert from the JSON of `calibration_to_json`."""
    return ThresholdCalibration(
        **{
            **body,
            "curve": tuple(CurvePoint(**point) for point in body["curve"]),
            "left_out": tuple(body.get("left_out", ())),
        }
    )


def _iterate_undecided_pairs(catalogue: Catalogue, findings: Findings, threshold: float | None) -> Iterator[ImagePair]:
    """Yield similar pairs, and near pairs beyond the threshold, that no decision covers; all as tier similar."""
    bound = findings.get_effective_threshold(threshold)
    tiers = ("similar",) if bound is None else ("similar", "near")
    hashes = {sha for pair in findings.decisions for sha in pair}
    ids = {sha: known.image_id for sha, known in catalogue.images.find_by_sha256(hashes).items()}
    decided = {
        sort_pair(ids[first], ids[second]) for first, second in findings.decisions if first in ids and second in ids
    }
    without_file = catalogue.duplicates.get_ids_without_file()
    for pair in catalogue.duplicates.iterate_pairs(tiers, min_near_distance=bound):
        if (pair.first, pair.second) not in decided and without_file.isdisjoint((pair.first, pair.second)):
            yield pair._replace(tier="similar")


def _group_files_by_image(
    locations: Iterable[ImageLocation],
    labels: Iterable[tuple[str, str, str]],
    measurements: Mapping[str, ImageMeasurement],
) -> dict[int, tuple[ImageFile, ...]]:
    """Group files by image id.

    Args:
        locations: Sorted by image id.
        labels: (path, label name, label).
        measurements: By SHA-256.
    """
    labels_by_path: dict[str, dict[str, str]] = {}
    for path, name, text in labels:
        labels_by_path.setdefault(path, {})[name] = text
    no_labels: dict[str, str] = {}  # shared: most files have none
    return {
        image_id: tuple(
            ImageFile(
                **location._asdict(),
                labels=labels_by_path.get(location.path, no_labels),
                measurement=measurements.get(location.sha256),
            )
            for location in group
        )
        for image_id, group in groupby(locations, key=lambda location: location.image_id)
    }


def _find_link_paths(files_by_image: Iterable[Sequence[ImageFile]]) -> frozenset[str]:
    """Return paths that are hard or symbolic links to another file of the same image."""
    link_paths = set()
    for files in files_by_image:
        if len(files) == 1:
            continue
        identities: set[tuple[int, int]] = set()
        for path in sorted((file.path for file in files), key=_is_link_name):  # the target before its links
            try:
                status = Path(path).stat()
            except OSError:  # missing, or in an archive
                continue
            identity = status.st_dev, status.st_ino
            if identity in identities:
                link_paths.add(path)
            identities.add(identity)
    return frozenset(link_paths)


def _is_link_name(path: str) -> bool:
    """Return whether the path is a symbolic link, or leads through one."""
    return os.path.realpath(path) != path


def _make_decided_pairs(
    catalogue: Catalogue,
    decisions: Mapping[tuple[str, str], Decision],
    pairs: Sequence[ImagePair],
    files: Mapping[int, tuple[ImageFile, ...]],
) -> list[ImagePair]:
    """Make a pair of all images that users decided to be the same and that are no pair yet.

    If images with the same pixels as these are a pair, its measurements are used.
    """
    roots, series = (
        find_component_roots((pair.first, pair.second) for pair in pairs if pair.tier == tier)
        for tier in ("pixels", "series")
    )

    def get_class_pair(first: int, second: int) -> tuple[int, int]:
        return sort_pair(roots.get(first, first), roots.get(second, second))

    known_pairs = {(pair.first, pair.second) for pair in pairs}
    pairs_by_class: dict[tuple[int, int], ImagePair] = {}
    for pair in pairs:
        pairs_by_class.setdefault(get_class_pair(pair.first, pair.second), pair)
    ids = {image_files[0].sha256: image_id for image_id, image_files in files.items()}
    decided_pairs = []
    for (first_sha256, second_sha256), decision in decisions.items():
        if not decision.same or first_sha256 not in ids or second_sha256 not in ids:
            continue
        first, second = sort_pair(ids[first_sha256], ids[second_sha256])
        if (first, second) in known_pairs:
            continue
        known = pairs_by_class.get(get_class_pair(first, second))
        if known is None:
            is_series = series.get(first, first) == series.get(second, second)
            distance = _compute_distance(catalogue, first, second)
            known = ImagePair(first, second, "series" if is_series else "near", distance, None, DECIDED_REASON)
        decided_pairs.append(known._replace(first=first, second=second))
    return decided_pairs


def _compute_distance(catalogue: Catalogue, first: int, second: int) -> float:
    """Return the distance of two images by the active encoder; NaN if it has not encoded both."""
    active = catalogue.encoders.find_active()
    if active is None:
        return float("nan")
    try:
        mu = np.stack([catalogue.embeddings.get(image_id, active.fingerprint).mu for image_id in (first, second)])
    except (EncoderMismatch, NoSuchImage):
        return float("nan")
    first_vector, second_vector = make_index_vectors(mu, active.index_dims, active.metric)
    return float(np.linalg.norm(first_vector - second_vector))
