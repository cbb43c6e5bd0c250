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
from simile.dedup.grouping.keep_rules import DEFAULT_RULES
from simile.dedup.grouping.matches import classes
from simile.dedup.records import Calibration, CurvePoint, Decision, Pair, PictureFile, Tier
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import DuplicateRecord, LocatedImage
from simile.store.database.transactions import chunks
from simile.store.index.metric import to_indexed

KIND = "dedup"  # of the run
SAID = "decided by a person"


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
    calibration: Calibration | None
    pairs: tuple[Pair, ...]
    files: Mapping[int, tuple[PictureFile, ...]]
    decisions: Mapping[tuple[str, str], Decision]
    home: str
    uploads: str
    further_names: frozenset[str] = frozenset()
    keep: tuple[str, ...] = DEFAULT_RULES

    @property
    def threshold(self) -> float | None:
        """The distance up to which near pairs count as copies."""
        return None if self.calibration is None else self.calibration.threshold

    def reach(self, threshold: float | None) -> float | None:
        """The distance that a threshold comes to: the run's if it is None, and no more than that, for the run looked no
        further.
        """
        if threshold is None or self.threshold is None:
            return self.threshold if threshold is None else threshold
        return min(threshold, self.threshold)

    def independent(self, files: Sequence[PictureFile]) -> Sequence[PictureFile]:
        """The files without further names of one of them: nothing could be gained by removing those."""
        return [file for file in files if file.path not in self.further_names] if self.further_names else files


@dataclass(frozen=True)
class FoundPair:
    """A pair with one file of each of its pictures, and what was decided."""

    pair: Pair
    first: PictureFile
    second: PictureFile
    decision: Decision | None = None


def load_findings(catalogue: Catalogue, only: Filter | None = None) -> Findings:
    """What the home knows, or what it knows of the files that satisfy `only`; pairs of two such pictures."""
    run = catalogue.last_run(KIND)
    found = run.counts if run is not None else {}
    decisions = {
        (said.first_sha256, said.second_sha256): Decision(
            said.first_sha256, said.second_sha256, said.same, said.keep_sha256
        )
        for said in catalogue.decisions()
    }
    files = _files(catalogue.suspects(only), catalogue.labels(suspects=True))
    rows = catalogue.duplicates(("pixels", "near"))
    pairs = [_pair(row, cast(Tier, row.tier)) for row in rows if row.first in files and row.second in files]
    pairs += _said_pairs(catalogue, decisions, pairs, files)
    return Findings(
        run_id=None if run is None else run.id,
        found_at=None if run is None else run.finished_at,
        encoder=found.get("encoder"),
        calibration=calibration_from(found["calibration"]) if found.get("calibration") else None,
        pairs=tuple(pairs),
        files=files,
        decisions=decisions,
        home=str(catalogue.home.root),
        uploads=str(catalogue.home.uploads),
        further_names=_further_names(files.values()),
        keep=DEFAULT_RULES if run is None else tuple(run.settings.get("keep", DEFAULT_RULES)),
    )


def find_decision(findings: Findings, one_sha256: str, other_sha256: str) -> Decision | None:
    """What people said of two pictures, None where they said nothing."""
    return findings.decisions.get((min(one_sha256, other_sha256), max(one_sha256, other_sha256)))


def similar_pairs(
    catalogue: Catalogue,
    findings: Findings,
    *,
    only: Filter | None = None,
    threshold: float | None = None,
    limit: int | None = None,
    offset: int = 0,
) -> Iterator[FoundPair]:
    """Pairs that are near but not taken for copies, and not decided; the nearest first, streamed.

    Near pairs beyond the threshold (the run's, unless a lower one is given) are among them.
    """
    later = islice(_undecided(catalogue, findings, threshold), offset, None)
    pairs = islice(later, limit)  # offset + limit may be more than it takes
    yield from with_files(catalogue, pairs, only)


def count_similar(
    catalogue: Catalogue, findings: Findings, threshold: float | None = None, only: Filter | None = None
) -> int:
    """How many pairs `similar_pairs` has."""
    if only is not None:
        return sum(1 for _ in similar_pairs(catalogue, findings, only=only, threshold=threshold))
    return sum(1 for _ in _undecided(catalogue, findings, threshold))


def with_files(catalogue: Catalogue, pairs: Iterable[Pair], only: Filter | None = None) -> Iterator[FoundPair]:
    """The pairs with the first file of each picture; those that lack one (that satisfies `only`) are left out."""
    for chunk in chunks(pairs):
        ids = {image_id for pair in chunk for image_id in (pair.first, pair.second)}
        files = _files(catalogue.located(ids, only), ())
        for pair in chunk:
            if pair.first in files and pair.second in files:
                yield FoundPair(pair, files[pair.first][0], files[pair.second][0])


def all_files(catalogue: Catalogue, only: Filter | None = None) -> Iterator[PictureFile]:
    """Every file of the home, without labels, by image id; streamed."""
    return (_picture_file(row, {}) for row in catalogue.located(None, only))


def calibration_json(calibration: Calibration) -> dict[str, Any]:
    """Fit for JSON, as a run keeps it."""
    return {**asdict(calibration), "curve": [asdict(point) for point in calibration.curve]}


def calibration_from(body: Mapping[str, Any]) -> Calibration:
    """What `calibration_json` made."""
    return Calibration(**{**body, "curve": tuple(CurvePoint(**point) for point in body["curve"])})


def _undecided(catalogue: Catalogue, findings: Findings, threshold: float | None) -> Iterator[Pair]:
    bound = findings.reach(threshold)
    decided = _decided_ids(catalogue, findings)
    for row in catalogue.duplicates(("similar",) if bound is None else ("similar", "near"), beyond=bound):
        if (row.first, row.second) not in decided:
            yield _pair(row, "similar")


def _pair(row: DuplicateRecord, tier: Tier) -> Pair:
    return Pair(row.first, row.second, tier, row.distance, row.agreement, row.reason)


def _decided_ids(catalogue: Catalogue, findings: Findings) -> set[tuple[int, int]]:
    """The decided pairs by image id, both orders."""
    known = catalogue.images_by_sha({sha for pair in findings.decisions for sha in pair})
    ids = [(known[one].image_id, known[two].image_id) for one, two in findings.decisions if {one, two} <= known.keys()]
    return {*ids, *((second, first) for first, second in ids)}


def _files(rows: Iterable[LocatedImage], labels: Iterable[tuple[str, str, str]]) -> dict[int, tuple[PictureFile, ...]]:
    said: dict[str, dict[str, str]] = {}
    for path, name, text in labels:
        said.setdefault(path, {})[name] = text
    nothing: dict[str, str] = {}
    return {
        image_id: tuple(_picture_file(row, said.get(row.path, nothing)) for row in held)
        for image_id, held in groupby(rows, key=lambda row: row.image_id)
    }


def _further_names(pictures: Iterable[Sequence[PictureFile]]) -> frozenset[str]:
    """The paths at which a picture's file is met once more, by hard or symbolic links; a link's target comes first."""
    further = set()
    for files in pictures:
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


def _picture_file(row: LocatedImage, labels: Mapping[str, str]) -> PictureFile:
    return PictureFile(
        row.path, row.image_id, row.sha256, row.size, row.mtime_ns, row.width, row.height, row.format, labels
    )


def _said_pairs(
    catalogue: Catalogue,
    decisions: Mapping[tuple[str, str], Decision],
    pairs: Sequence[Pair],
    files: Mapping[int, tuple[PictureFile, ...]],
) -> list[Pair]:
    """A pair of every two pictures that people called the same, and that are none yet.

    Where others with the same pixels are one, it is as that one.
    """
    joined = classes((pair.first, pair.second) for pair in pairs if pair.tier == "pixels")
    least = {picture: members[0] for members in joined for picture in members}
    found = {(pair.first, pair.second) for pair in pairs}
    by_class: dict[tuple[int, ...], Pair] = {}
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
                made.append(Pair(first, second, "near", _distance(catalogue, first, second), None, SAID))
    return made


def _distance(catalogue: Catalogue, first: int, second: int) -> float:
    """Between two pictures, by the encoder in use; NaN where it has not seen both."""
    active = catalogue.active_encoder()
    if active is None:
        return float("nan")
    try:
        mus = [catalogue.embedding(image_id, active.fingerprint).mu for image_id in (first, second)]
    except (EncoderMismatch, NoSuchImage):
        return float("nan")
    one, two = to_indexed(np.stack(mus), active.index_dims, active.metric)
    return float(np.linalg.norm(one - two))
