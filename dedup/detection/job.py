"""The job of `simile dedup`: find all copies in a home. Files are only read; only the catalogue's findings change.

    planted copies -> threshold -> candidates -> same pixels -> verified near copies -> series
    -> findings, in one transaction

Each stage writes its result to the home's folder dedup/unfinished, so that an interrupted run can continue. Results
about images and pairs stay in dedup/results.jsonl: a later run compares only new images.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
import threading
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from simile.core.atomic_write import write_atomically
from simile.core.errors import BadSetting, NothingIndexed, UnreadableImage
from simile.core.records import Failure, Filter, OnProgress
from simile.core.settings import Settings
from simile.core.signals import stop_on_interrupt
from simile.dedup.detection.calibration_basis import CalibrationBasis, basis_to_json, find_valid_calibration
from simile.dedup.detection.candidates import (
    MAX_NEIGHBOURS,
    PairArray,
    compute_distance,
    estimate_median_distance,
    filter_tiny_pairs,
    read_candidates,
    write_candidates,
)
from simile.dedup.detection.known_results import KnownResults
from simile.dedup.detection.series import DEFAULT_SERIES_SECONDS, find_series
from simile.dedup.detection.threshold import CalibrationExample, CopyPlanter, calibrate_threshold, find_look_alikes
from simile.dedup.detection.verification import verify_candidates
from simile.dedup.grouping.findings import DEDUP_RUN_KIND, calibration_from_json, calibration_to_json, load_findings
from simile.dedup.grouping.groups import make_groups
from simile.dedup.grouping.keep_rules import DEFAULT_KEEP_RULES, parse_keep_rules
from simile.dedup.grouping.pair_changes import load_changes, store_changes
from simile.dedup.grouping.quality import load_measurements, store_measurements
from simile.dedup.records import TIERS, ImagePair, ThresholdCalibration, Tier, sort_pair
from simile.dedup.usable_files import UsableFiles
from simile.images.formats import Limits
from simile.images.loading.fork_server import WorkerLost
from simile.images.loading.worker_pool import WorkerPool
from simile.images.matching.tasks import compute_file_digest, find_file_changes, measure_file
from simile.images.measurement import MEASUREMENT_VERSION
from simile.images.sources.reader import read_bytes
from simile.search.encoder_registry import load_encoder
from simile.store.catalogue.catalogue import Catalogue
from simile.store.database import schema
from simile.store.filter_check import resolve_filter
from simile.store.home import Home, translate_write_errors
from simile.store.index.index import Index

log = logging.getLogger(__name__)

DEFAULT_PRECISION = 0.99
# Share of the median distance of two images within which images with equal pixels are searched. The vectors of equal
# pixels differ if one file is a JPEG that was decoded at a smaller scale (by at most 0.13 for 30 photos of 1.5
# megapixels).
SAME_IMAGE_FRACTION = 0.15
CHANGES_BATCH_SIZE = 256  # pairs after which the changes are stored
PIXELS_REASON, NEIGHBOUR_REASON = "the same pixels in other bytes", "a neighbour beyond the threshold"
LOOK_ALIKE_REASON = "a neighbour; not compared, because images like these match without being copies"


@dataclass(frozen=True, kw_only=True)
class DedupRequest:
    """What to search for.

    Attributes:
        keep: The default keep rules of this run's groups, see grouping/keep_rules.py.
    """

    tiers: tuple[Tier, ...] = TIERS
    precision: float | None = None  # of near copies; the threshold is calibrated to reach it. None: DEFAULT_PRECISION
    threshold: float | None = None  # a distance that replaces the calibration
    only: Filter | None = None  # restricts the search to some images
    seed: int = 0  # of the planted copies
    wait: float = 0.0  # seconds to wait while another command uses the home
    keep: tuple[str, ...] = DEFAULT_KEEP_RULES
    series_seconds: float = DEFAULT_SERIES_SECONDS  # between a shot of a series and the one before


def find_duplicates(settings: Settings, request: DedupRequest, on_progress: OnProgress = lambda *_: None) -> int:
    """Find the copies among a home's images and replace the findings of the last run in the catalogue.

    Ctrl-C finishes the current batch; the same request continues from there. The id of the run is returned.

    Raises NothingIndexed without images, TooFewPictures if no threshold can be calibrated, BadSetting for an invalid
    value or a filter that no indexed file satisfies; HomeBusy, HomeNotWritable.
    """
    _check_request(request)
    home = Home.from_settings(settings)
    if schema.read_revision(home) is None:
        raise NothingIndexed(f"{home.root} contains no images yet. Run `simile index PHOTOS`.")
    with home.lock("simile dedup", wait=request.wait):
        schema.upgrade_schema(home)
        with Catalogue(home) as catalogue:
            request = replace(request, only=resolve_filter(catalogue, request.only))
            return _DedupJob(home, catalogue, settings, request, on_progress).run()


class _DedupJob:
    """One run, under the home's lock."""

    def __init__(
        self, home: Home, catalogue: Catalogue, settings: Settings, request: DedupRequest, on_progress: OnProgress
    ) -> None:
        self.home, self.catalogue, self.settings, self.request = home, catalogue, settings, request
        self.on_progress = on_progress
        self.limits = Limits.from_settings(settings)
        self.interrupted = threading.Event()
        self.index = Index(catalogue)
        self.snapshot = self.index.get_snapshot()
        self.allowed_ids = self.index.find_matching_ids(request.only)
        self.failures: dict[str, Failure] = {}  # indexed files that can no longer be read
        self.image_sizes: dict[int, tuple[int, int]] = {}
        self.paths: dict[int, str] = {}  # one file of each image, by image id
        self.hashes: dict[int, str] = {}  # SHA-256 of each image, by image id
        # Images outside the snapshot have no vector of this encoder, or were indexed just now.
        indexed = set(self.snapshot.get_live_ids().tolist())
        usable = UsableFiles(str(home.uploads))
        for location in usable.select(catalogue.duplicates.iterate_files(filter=request.only)):
            if location.image_id in indexed:
                self.image_sizes[location.image_id] = location.width, location.height
                self.paths.setdefault(location.image_id, location.path)
                self.hashes[location.image_id] = location.sha256
        self.left_out = len(usable.failures)  # number of files
        self.work_folder = home.root / "dedup" / "unfinished"
        self.feature_folder = self.work_folder / "features"  # of images, which several processes compare
        versions = {
            "limits": asdict(self.limits),
            "version": version("simile"),
            "measurement": MEASUREMENT_VERSION,
        }
        self.version: dict[str, Any] = json.loads(json.dumps(versions))  # as a file has it
        self.results = KnownResults(home.root / "dedup" / "results.jsonl", self.version)

    def run(self) -> int:
        """Run all stages and return the run's id."""
        run_settings = {**asdict(self.request), "only": None if self.request.only is None else str(self.request.only)}
        run_id = self.catalogue.runs.start(DEDUP_RUN_KIND, run_settings)
        status, counts = "failed", dict[str, Any]()
        try:
            self._resume_or_start(run_settings)
            with (
                stop_on_interrupt(lambda: None) as self.interrupted,
                WorkerPool(self.settings.workers, self.settings.decode_seconds, self.settings.max_pixels) as workers,
            ):
                counts = self._find_pairs(workers, run_id)
            self.results.keep_only(self.snapshot.get_live_ids().tolist())
            status = "finished"
            shutil.rmtree(self.work_folder, ignore_errors=True)
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            self.catalogue.runs.finish(run_id, status, counts)
            self.index.close()
        return run_id

    def _report_progress(self, stage: str, done: int, total: int) -> None:
        """Report a step whose result is stored. The run can be interrupted here."""
        self.on_progress(stage, done, total)
        if self.interrupted.is_set():
            raise KeyboardInterrupt

    def _resume_or_start(self, run_settings: dict[str, Any]) -> None:
        """Keep the results of an interrupted run if it had the same request and images; otherwise delete them."""
        relevant = {**run_settings, "wait": None, "keep": None}  # these two do not change the pairs
        identity = {
            "asked": {**relevant, **self.version},
            "encoder": self.snapshot.encoder.fingerprint,
            "pictures": zlib.crc32(json.dumps(sorted(self.paths.items())).encode()),  # an id identifies the content
        }
        identity = json.loads(json.dumps(identity))
        path = self.work_folder / "identity.json"
        if path.exists() and json.loads(path.read_text("utf-8")) == identity:
            log.info("continuing an interrupted run")
            self.feature_folder.mkdir(exist_ok=True)
            return
        with translate_write_errors(self.work_folder):
            shutil.rmtree(self.work_folder, ignore_errors=True)
            self.feature_folder.mkdir(parents=True)
            self._write_json(path, identity)

    def _load_or_compute(self, stage: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the result of a stage: computed now, or read if this or the interrupted run has it already."""
        path = self.work_folder / f"{stage}.json"
        if not path.exists():
            result = compute()
            with translate_write_errors(path):
                self._write_json(path, result)
        stored: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return stored

    @staticmethod
    def _write_json(path: Path, body: dict[str, Any]) -> None:
        write_atomically(path, lambda temporary: temporary.write_text(json.dumps(body), "utf-8"))

    def _find_pairs(self, workers: WorkerPool, run_id: int) -> dict[str, Any]:
        """Find the pairs of all tiers, store them and return the run's counts."""
        # The threshold, and the candidates within it.
        made = self._load_or_compute("calibration", lambda: self._calibrate(workers))
        calibration = made["calibration"]
        threshold = calibration_from_json(calibration).threshold if calibration else 0.0
        look_alikes = np.array(calibration_from_json(calibration).left_out if calibration else (), np.int64)
        radius = max(threshold, SAME_IMAGE_FRACTION * estimate_median_distance(self.snapshot))
        candidates, candidate_counts = self._find_candidates(radius)
        # Equal pixels: one image of each class represents the others in the tiers below.
        near_candidates = candidates[candidates["distance"] <= radius]
        classes = self._load_or_compute("pixels", lambda: self._find_pixel_classes(near_candidates, workers))
        pixel_classes = {int(image_id): first for image_id, first in classes["classes"].items()}
        represented = np.array(sorted(pixel_classes), np.int64)
        is_represented = np.isin(candidates["first"], represented) | np.isin(candidates["second"], represented)
        candidates = np.asarray(candidates[~is_represented])
        # Near copies. They are all verified before the database transaction begins, so that others can write meanwhile.
        is_within = candidates["distance"] <= np.float32(threshold)
        is_near = is_within & ~np.isin(candidates["first"], look_alikes) & ~np.isin(candidates["second"], look_alikes)
        near = self._verify_near(candidates[is_near], workers) if self._includes_near else []
        # Series. Two near copies that were taken at different times are two shots.
        series = self._find_series(near, pixel_classes)
        shots = {(pair.first, pair.second) for pair in series}
        near = [pair for pair in near if (pair.first, pair.second) not in shots]
        # Store the pairs of the requested tiers.
        tiers = [tier for tier in self.request.tiers if tier != "bytes"]
        pixel_pairs = (  # each image with the smallest id of its class; the other pairs follow from these
            ImagePair(first, image_id, "pixels", compute_distance(self.snapshot, first, image_id), None, PIXELS_REASON)
            for image_id, first in pixel_classes.items()
        )
        neighbours = (
            ImagePair(
                first,
                second,
                "similar",
                distance,
                None,
                LOOK_ALIKE_REASON if distance <= np.float32(threshold) else NEIGHBOUR_REASON,
            )
            for first, second, distance in candidates[~is_near].tolist()
            if (first, second) not in shots
        )
        records = (pair for pair in chain(pixel_pairs, near, series, neighbours) if pair.tier in tiers)
        copies = {
            image_id for pair in (*near, *series) if pair.tier != "similar" for image_id in (pair.first, pair.second)
        }
        self._measure_copies(copies | pixel_classes.keys() | set(pixel_classes.values()), workers)
        searched_ids = None if self.request.only is None else self.paths.keys()
        stored = self.catalogue.duplicates.replace(run_id, records, tiers, searched_ids)
        self._find_changes(workers)
        crowded = candidate_counts["crowded"]
        self._report_failures(run_id, crowded)
        return {
            "encoder": self.snapshot.encoder.fingerprint,
            "calibration": calibration or None,
            "calibration_basis": made["basis"],
            "pictures": len(self.paths),
            "candidates": len(candidates),
            "pairs": stored,
            "crowded": crowded,
            "failed": len(self.failures),
        }

    @property
    def _includes_near(self) -> bool:
        return not {"near", "similar"}.isdisjoint(self.request.tiers)

    def _calibrate(self, workers: WorkerPool) -> dict[str, Any]:
        """Return the calibration and its basis as JSON. Without near tiers: those of the last run with this encoder."""
        fingerprint = self.snapshot.encoder.fingerprint
        if not self._includes_near:
            last = self.catalogue.runs.find_last_finished(DEDUP_RUN_KIND)
            counts = last.counts if last and last.counts["encoder"] == fingerprint else {}
            return {"calibration": counts.get("calibration") or {}, "basis": counts.get("calibration_basis")}
        if self.request.threshold is not None:
            given = ThresholdCalibration(threshold=self.request.threshold)
            return {"calibration": calibration_to_json(given), "basis": None}
        # Plant copies, unless those of an earlier run are still valid.
        precision = self.request.precision or DEFAULT_PRECISION
        only = None if self.request.only is None else str(self.request.only)
        parameters = {"precision": precision, "seed": self.request.seed, "only": only, **self.version}
        if valid := find_valid_calibration(self.catalogue, fingerprint, parameters, self.paths.keys()):
            calibration, basis = calibration_from_json(valid[0]), valid[1]
            log.info("the collection has changed little: the threshold of %s is used again", basis.made_at)
        else:
            calibration, basis = self._plant_copies(workers, precision, parameters)
        look_alikes = find_look_alikes(self.snapshot, basis.left_out, calibration.threshold)
        body = calibration_to_json(replace(calibration, left_out=look_alikes))
        return {"calibration": body, "basis": basis_to_json(basis)}

    def _plant_copies(
        self, workers: WorkerPool, precision: float, parameters: dict[str, Any]
    ) -> tuple[ThresholdCalibration, CalibrationBasis]:
        """Calibrate the threshold with planted copies."""
        made_at = datetime.now(UTC).isoformat()
        encoder = load_encoder(
            self.home, self.snapshot.encoder.fingerprint, self.settings.device, self.settings.runtime
        )
        on_progress, features = self._report_progress, str(self.feature_folder)
        planter = CopyPlanter(self.snapshot, encoder, workers, self.limits, on_progress, features)
        examples = planter.measure_copies(self.paths, self.request.seed)
        calibration = calibrate_threshold(examples, precision, list(self._iterate_decision_examples()))
        return calibration, CalibrationBasis(
            made_at=made_at,
            parameters=parameters,
            images=len(self.paths),
            last_id=max(self.paths),
            decisions=len(self.catalogue.duplicates.get_decisions()),
            left_out=calibration.left_out,
        )

    def _iterate_decision_examples(self) -> Iterator[CalibrationExample]:
        """Yield the users' decisions on images that are indexed."""
        decisions = self.catalogue.duplicates.get_decisions()
        hashes = sorted({sha for decision in decisions for sha in (decision.first_sha256, decision.second_sha256)})
        known = self.catalogue.images.find_by_sha256(hashes, self.snapshot.encoder.fingerprint)
        ids = {sha: image.image_id for sha, image in known.items() if image.embedded}
        for decision in decisions:
            first, second = ids.get(decision.first_sha256), ids.get(decision.second_sha256)
            if first and second:
                distance = compute_distance(self.snapshot, first, second)
                yield CalibrationExample(distance, is_match=True, is_copy=decision.same)

    def _find_candidates(self, radius: float) -> tuple[PairArray, dict[str, Any]]:
        """Return the candidates with a file for each image, (n,) of PAIR_DTYPE, and the stage's counts."""
        path = self.work_folder / "candidates"

        def write() -> dict[str, Any]:
            on_progress = partial(self._report_progress, "looking for neighbours")
            return asdict(write_candidates(self.snapshot, radius, path, on_progress, allowed_ids=self.allowed_ids))

        counts = self._load_or_compute("candidates", write)
        pairs, known_ids = read_candidates(path), np.array(sorted(self.paths), np.int64)
        return np.asarray(pairs[np.isin(pairs["first"], known_ids) & np.isin(pairs["second"], known_ids)]), counts

    def _find_pixel_classes(self, pairs: PairArray, workers: WorkerPool) -> dict[str, Any]:
        """Find images with the same pixels among near pairs of images of equal size.

        Returns:
            {"classes": image id -> smallest id with the same pixels}, for all images but the smallest of each class.
        """
        ends = zip(pairs["first"].tolist(), pairs["second"].tolist(), strict=True)
        is_equal = np.array([self.image_sizes[first] == self.image_sizes[second] for first, second in ends], bool)
        image_ids = np.unique(np.concatenate([pairs["first"][is_equal], pairs["second"][is_equal]])).tolist()
        known = self.results.digests
        todo = [image_id for image_id in image_ids if image_id not in known]
        new = dict[int, str]()
        task = partial(compute_file_digest, limits=self.limits)
        for position, digest in enumerate(workers.map(task, [self.paths[image_id] for image_id in todo])):
            if isinstance(digest, Failure):
                self._add_failure(digest)
            elif not isinstance(digest, WorkerLost):
                new[todo[position]] = digest
            self._report_progress("comparing pixels", position + 1, len(todo))
        self.results.add(new, {})
        first_ids: dict[tuple[str, tuple[int, int]], int] = {}  # the smallest id, by pixels and size
        classes = {
            image_id: first_ids.setdefault((known[image_id], self.image_sizes[image_id]), image_id)
            for image_id in image_ids
            if image_id in known
        }
        return {"classes": {image_id: first for image_id, first in classes.items() if image_id != first}}

    def _verify_near(self, pairs: PairArray, workers: WorkerPool) -> list[ImagePair]:
        """Return the near copies among the candidates, and some others as similar."""
        longer_sides = {image_id: max(size) for image_id, size in self.image_sizes.items()}
        on_tiny = partial(self._report_progress, "comparing thumbnails")
        pairs = filter_tiny_pairs(pairs, longer_sides, self.paths, workers, self.limits, on_tiny)
        on_compared, features = partial(self._report_progress, "comparing images"), str(self.feature_folder)
        return verify_candidates(
            pairs, self.paths, workers, self.limits, self.results, on_compared, self._add_failure, features
        )

    def _find_series(self, near: Iterable[ImagePair], pixel_classes: Collection[int]) -> list[ImagePair]:
        """Return the pairs of series, without images that another one with equal pixels represents."""
        if not self._includes_near:
            near = self.catalogue.duplicates.iterate_pairs(("near",))
        copies = {(pair.first, pair.second) for pair in near if pair.tier == "near"}
        shots = {
            image_id: shot
            for image_id, shot in self.catalogue.photo_metadata.get_shots().items()
            if image_id in self.paths and image_id not in pixel_classes
        }
        return find_series(self.snapshot, shots, copies, self.request.series_seconds)

    def _measure_copies(self, image_ids: Collection[int], workers: WorkerPool) -> None:
        """Measure and store what the copies hold, so that the better file of each group is known."""
        measurement = load_measurements(self.home)
        todo = [image_id for image_id in sorted(image_ids) if self.hashes[image_id] not in measurement]
        files = [(self.paths[image_id], self.hashes[image_id]) for image_id in todo]
        for position, measured in enumerate(workers.map(partial(measure_file, limits=self.limits), files)):
            if isinstance(measured, Failure):
                self._add_failure(measured)
            elif not isinstance(measured, WorkerLost):
                measurement[self.hashes[todo[position]]] = measured
            self._report_progress("measuring copies", position + 1, len(todo))
        if todo:
            store_measurements(self.home, measurement)

    def _find_changes(self, workers: WorkerPool) -> None:
        """Compare near copies with the files that are kept, find what only one of the two has, and store it."""
        groups = make_groups(load_findings(self.catalogue, self.request.only), self.request.keep, ("near",))
        known = dict(load_changes(self.home).by_hashes)
        pairs = [(group.kept_member.file, file) for group in groups for file in group.files[1:]]
        paths = {file.sha256: file.path for pair in pairs for file in pair}
        todo = [key for first, second in pairs if (key := sort_pair(first.sha256, second.sha256)) not in known]
        files = [((paths[first], first), (paths[second], second)) for first, second in todo]
        task = partial(find_file_changes, limits=self.limits, feature_folder=str(self.feature_folder))
        for done, found in enumerate(workers.map(task, files), 1):
            if isinstance(found, Failure):
                self._add_failure(found)
            elif not isinstance(found, WorkerLost):
                known[todo[done - 1]] = found
            if done % CHANGES_BATCH_SIZE == 0 or done == len(todo):
                store_changes(self.home, known)
            self._report_progress("looking for changes", done, len(todo))

    def _add_failure(self, failure: Failure) -> None:
        self.failures[failure.path] = failure

    def _report_failures(self, run_id: int, crowded: int) -> None:
        """Store and log what could not be compared."""
        self.catalogue.runs.add_failures(run_id, list(self.failures.values()))
        known = self.catalogue.files.get_many(self.failures)
        self.catalogue.files.set_failures(
            [self.failures[path] for path, file in known.items() if not self._is_intact(path, file.image_id)]
        )
        if self.failures:
            log.warning(
                "%d files can't be read or compared in full; `simile status` lists them with the reasons",
                len(self.failures),
            )
        if self.left_out:
            log.warning(
                "%d files are missing or have changed since they were indexed, and were not compared; run "
                "`simile index` on their folders",
                self.left_out,
            )
        if crowded:
            message = "%d images have more than %d others within the distance; only the nearest were compared"
            log.warning(message, crowded, MAX_NEIGHBOURS)

    def _is_intact(self, path: str, image_id: int) -> bool:
        """Return whether a file that can't be compared has the bytes that were indexed."""
        try:
            return hashlib.sha256(read_bytes(path, self.limits)).hexdigest() == self.hashes.get(image_id)
        except UnreadableImage:
            return False


def _check_request(request: DedupRequest) -> None:
    """Raise BadSetting for an invalid value."""
    if request.precision is not None and not 0 < request.precision <= 1:
        raise BadSetting(f"precision can't be {request.precision}. Use a number above 0 and up to 1.")
    if request.threshold is not None and not 0 <= request.threshold < math.inf:
        raise BadSetting(f"threshold can't be {request.threshold}. Use a distance of 0 or more.")
    if not 0 <= request.series_seconds < math.inf:
        raise BadSetting(f"series_seconds can't be {request.series_seconds}. Use a number of seconds from 0 on.")
    parse_keep_rules(request.keep)
