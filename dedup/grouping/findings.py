"""What is known of copies in a home: what the last run found, the files behind it, what people decided."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from itertools import groupby, islice
from pathlib import Path
from typing import Any, cast

import numpy as np

from simile.core.errors import EncoderMismatch, NoSuchImage
from simile.core.records import Filter
from simile.dedup.grouping.keep_rules import DEFAULT_KEEP_RULES
from simile.dedup.grouping.matches import find_connected_components
from simile.dedup.records import CurvePoint, Decision, ImageFile, ImagePair, ThresholdCalibration, Tier
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import DuplicateRecord, ImageLocation
from simile.store.database.transactions import split_chunks
from simile.store.index.metric import make_index_vectors

DEDUP_RUN_KIND = "dedup"  # of the run
DECIDED_REASON = "decided by a person"


@dataclass(frozen=True)
class Findings:
    """What is known of copies. run_id None: `simile dedup` never finished here; copies byte for byte are known anyway.

    pairs: pixels and near, the nearest first; decisions are not applied to them yet, except that pictures which people
    called the same are a near pair though none was found. files: by image id, sorted by path, of all pictures in pairs
    or with several files. decisions: by first and second SHA-256. uploads: the folder of files that simile stored.
    further_names: paths among `files` that are hard or symbolic links to another of the picture's files.
    keep: the rules that the run was given.
    """

    run_id: int | None
    found_at: datetime | None
    encoder: str | None
    calibration: ThresholdCalibration | None
    pairs: tuple[ImagePair, ...]
    files: Mapping[int, tuple[ImageFile, ...]]
    decisions: Mapping[tuple[str, str], Decision]
    home: str
    uploads_folder: str
    link_paths: frozenset[str] = frozenset()
    keep_rules: tuple[str, ...] = DEFAULT_KEEP_RULES

    @property
    def threshold(self) -> float | None:
        """The distance up to which near pairs count as copies."""
        return None if self.calibration is None else self.calibration.threshold

    def get_effective_threshold(self, threshold: float | None) -> float | None:
        """The distance that a threshold comes to: the run's if it is None, and no more than that, for the run looked no
        further.
        """
        if threshold is None or self.threshold is None:
            return self.threshold if threshold is None else threshold
        return min(threshold, self.threshold)

    def exclude_links(self, files: Sequence[ImageFile]) -> Sequence[ImageFile]:
        """The files without further names of one of them: nothing could be gained by removing those."""
        return [file for file in files if file.path not in self.link_paths] if self.link_paths else files


@dataclass(frozen=True)
class FilePair:
    """A pair with one file of each of its pictures, and what was decided."""

    pair: ImagePair
    first: ImageFile
    second: ImageFile
    decision: Decision | None = None


def load_findings(catalogue: Catalogue, filter: Filter | None = None) -> Findings:
    """What the home knows, or what it knows of the files that satisfy `only`; pairs of two such pictures."""
    run = catalogue.runs.find_last_finished(DEDUP_RUN_KIND)
    found = run.counts if run is not None else {}
    decisions = {
        (said.first_sha256, said.second_sha256): Decision(
            said.first_sha256, said.second_sha256, said.same, said.keep_sha256
        )
        for said in catalogue.duplicates.get_decisions()
    }
    files = _group_files_by_image(
        catalogue.duplicates.iterate_candidate_files(filter), catalogue.duplicates.iterate_labels(candidates_only=True)
    )
    rows = catalogue.duplicates.iterate_pairs(("pixels", "near"))
    pairs = [_make_pair(row, cast(Tier, row.tier)) for row in rows if row.first in files and row.second in files]
    pairs += _make_decided_pairs(catalogue, decisions, pairs, files)
    return Findings(
        run_id=None if run is None else run.id,
        found_at=None if run is None else run.finished_at,
        encoder=found.get("encoder"),
        calibration=calibration_from_json(found["calibration"]) if found.get("calibration") else None,
        pairs=tuple(pairs),
        files=files,
        decisions=decisions,
        home=str(catalogue.home.root),
        uploads_folder=str(catalogue.home.uploads),
        link_paths=_find_link_paths(files.values()),
        keep_rules=DEFAULT_KEEP_RULES if run is None else tuple(run.settings.get("keep", DEFAULT_KEEP_RULES)),
    )


def find_decision(findings: Findings, first_sha256: str, second_sha256: str) -> Decision | None:
    """What people said of two pictures, None where they said nothing."""
    return findings.decisions.get((min(first_sha256, second_sha256), max(first_sha256, second_sha256)))


def find_similar_pairs(
    catalogue: Catalogue,
    findings: Findings,
    *,
    filter: Filter | None = None,
    threshold: float | None = None,
    limit: int | None = None,
    offset: int = 0,
) -> Iterator[FilePair]:
    """Pairs that are near but not taken for copies, and not decided; the nearest first, streamed.

    Near pairs beyond the threshold (the run's, unless a lower one is given) are among them.
    """
    later = islice(_iterate_undecided_pairs(catalogue, findings, threshold), offset, None)
    pairs = islice(later, limit)  # offset + limit may be more than it takes
    yield from add_files(catalogue, pairs, filter)


def count_similar_pairs(
    catalogue: Catalogue, findings: Findings, threshold: float | None = None, filter: Filter | None = None
) -> int:
    """How many pairs `similar_pairs` has."""
    if filter is not None:
        return sum(1 for _ in find_similar_pairs(catalogue, findings, filter=filter, threshold=threshold))
    return sum(1 for _ in _iterate_undecided_pairs(catalogue, findings, threshold))


def add_files(catalogue: Catalogue, pairs: Iterable[ImagePair], filter: Filter | None = None) -> Iterator[FilePair]:
    """The pairs with the first file of each picture; those that lack one (that satisfies `only`) are left out."""
    for chunk in split_chunks(pairs):
        ids = {image_id for pair in chunk for image_id in (pair.first, pair.second)}
        files = _group_files_by_image(catalogue.duplicates.iterate_files(ids, filter), ())
        for pair in chunk:
            if pair.first in files and pair.second in files:
                yield FilePair(pair, files[pair.first][0], files[pair.second][0])


def iterate_files(catalogue: Catalogue, filter: Filter | None = None) -> Iterator[ImageFile]:
    """Every file of the home, without labels, by image id; streamed."""
    return (_make_image_file(row, {}) for row in catalogue.duplicates.iterate_files(None, filter))


def calibration_to_json(calibration: ThresholdCalibration) -> dict[str, Any]:
    """Fit for JSON, as a run keeps it."""
    return {**asdict(calibration), "curve": [asdict(point) for point in calibration.curve]}


def calibration_from_json(body: Mapping[str, Any]) -> ThresholdCalibration:
    """What `calibration_json` made."""
    return ThresholdCalibration(**{**body, "curve": tuple(CurvePoint(**point) for point in body["curve"])})


def _iterate_undecided_pairs(catalogue: Catalogue, findings: Findings, threshold: float | None) -> Iterator[ImagePair]:
    bound = findings.get_effective_threshold(threshold)
    decided = _get_decided_ids(catalogue, findings)
    for row in catalogue.duplicates.iterate_pairs(
        ("similar",) if bound is None else ("similar", "near"), min_near_distance=bound
    ):
        if (row.first, row.second) not in decided:
            yield _make_pair(row, "similar")


def _make_pair(row: DuplicateRecord, tier: Tier) -> ImagePair:
    return ImagePair(row.first, row.second, tier, row.distance, row.agreement, row.reason)


def _get_decided_ids(catalogue: Catalogue, findings: Findings) -> set[tuple[int, int]]:
    """The decided pairs by image id, both orders."""
    known = catalogue.images.find_by_sha256({sha for pair in findings.decisions for sha in pair})
    ids = [(known[one].image_id, known[two].image_id) for one, two in findings.decisions if {one, two} <= known.keys()]
    return {*ids, *((second, first) for first, second in ids)}


def _group_files_by_image(
    rows: Iterable[ImageLocation], labels: Iterable[tuple[str, str, str]]
) -> dict[int, tuple[ImageFile, ...]]:
    said: dict[str, dict[str, str]] = {}
    for path, name, text in labels:
        said.setdefault(path, {})[name] = text
    nothing: dict[str, str] = {}
    return {
        image_id: tuple(_make_image_file(row, said.get(row.path, nothing)) for row in held)
        for image_id, held in groupby(rows, key=lambda row: row.image_id)
    }


def _find_link_paths(files_by_image: Iterable[Sequence[ImageFile]]) -> frozenset[str]:
    """The paths at which a picture's file is met once more, by hard or symbolic links; a link's target comes first."""
    further = set()
    for files in files_by_image:
        if len(files) == 1:
            continue
        met: set[tuple[int, int]] = set()
        for path in sorted((file.path for file in files), key=os.path.islink):
            try:
                status = Path(path).stat()
            except OSError:  # gone, or in an archive
                continue
            identity = status.st_dev, status.st_ino
            if identity in met:
                further.add(path)
            met.add(identity)
    return frozenset(further)


def _make_image_file(row: ImageLocation, labels: Mapping[str, str]) -> ImageFile:
    return ImageFile(
        row.path, row.image_id, row.sha256, row.size, row.mtime_ns, row.width, row.height, row.format, labels
    )


def _make_decided_pairs(
    catalogue: Catalogue,
    decisions: Mapping[tuple[str, str], Decision],
    pairs: Sequence[ImagePair],
    files: Mapping[int, tuple[ImageFile, ...]],
) -> list[ImagePair]:
    """A pair of every two pictures that people called the same, and that are none yet.

    Where others with the same pixels are one, it is as that one.
    """
    joined = find_connected_components((pair.first, pair.second) for pair in pairs if pair.tier == "pixels")
    least = {picture: members[0] for members in joined for picture in members}
    found = {(pair.first, pair.second) for pair in pairs}
    by_class: dict[tuple[int, ...], ImagePair] = {}
    for pair in pairs:
        by_class.setdefault(tuple(sorted(least.get(end, end) for end in (pair.first, pair.second))), pair)
    by_sha = {held[0].sha256: image_id for image_id, held in files.items()}
    made = []
    for (one, two), said in decisions.items():
        if said.same and one in by_sha and two in by_sha:
            first, second = sorted((by_sha[one], by_sha[two]))
            known = by_class.get(tuple(sorted(least.get(end, end) for end in (first, second))))
            if (first, second) in found:
                continue
            if known is not None:
                made.append(replace(known, first=first, second=second))
            else:
                made.append(
                    ImagePair(first, second, "near", _compute_distance(catalogue, first, second), None, DECIDED_REASON)
                )
    return made


def _compute_distance(catalogue: Catalogue, first: int, second: int) -> float:
    """Between two pictures, by the encoder in use; NaN where it has not seen both."""
    active = catalogue.encoders.find_active()
    if active is None:
        return float("nan")
    try:
        mus = [catalogue.embeddings.get(image_id, active.fingerprint).mu for image_id in (first, second)]
    except (EncoderMismatch, NoSuchImage):
        return float("nan")
    one, two = make_index_vectors(np.stack(mus), active.index_dims, active.metric)
    return float(np.linalg.norm(one - two))
