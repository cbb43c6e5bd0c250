"""`simile dedup`: what is a copy of what in a whole home. It only looks: nothing but the catalogue's findings changes.

    planted copies -> threshold -> candidates -> same pixels -> near copies, confirmed -> findings, in one transaction

Each stage leaves what it found in the home's folder dedup/unfinished, and a run that was stopped goes on from there.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from simile.core.atomic_write import write_atomically
from simile.core.errors import BadSetting, NothingIndexed
from simile.core.records import Failure, Filter
from simile.core.settings import Settings
from simile.core.signals import stop_on_interrupt
from simile.dedup.detection.candidates import (
    MAX_NEIGHBOURS,
    PairArray,
    compute_distance,
    estimate_median_distance,
    filter_tiny_pairs,
    read_candidates,
    write_candidates,
)
from simile.dedup.detection.threshold import CalibrationExample, CopyPlanter, calibrate_threshold
from simile.dedup.detection.verification import verify_candidates
from simile.dedup.grouping.findings import DEDUP_RUN_KIND, calibration_from_json, calibration_to_json
from simile.dedup.grouping.keep_rules import DEFAULT_KEEP_RULES, parse_keep_rules
from simile.dedup.records import TIERS, ImagePair, ThresholdCalibration, Tier
from simile.images.formats import Limits
from simile.images.loading.fork_server import WorkerLost
from simile.images.loading.worker_pool import WorkerPool
from simile.images.matching.tasks import compute_file_digest
from simile.search.encoder_registry import load_encoder
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import DuplicateRecord
from simile.store.database import schema
from simile.store.home import Home, translate_write_errors
from simile.store.index.index import Index

log = logging.getLogger(__name__)

DEFAULT_PRECISION = 0.99
# Of the median distance between two pictures: so near lie the same pixels, though one of them be a JPEG that was
# decoded at a smaller scale for the encoder (0.13 at most for 30 photos of 1.5 megapixels).
SAME_IMAGE_FRACTION = 0.15
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class DedupRequest:
    """What a person may say. precision: of near copies, by which the threshold is learned; or a threshold: a distance.

    only: pictures that are looked at. seed: of the planted copies. wait: seconds to wait for a home that is in use.
    keep: the rules by which groups say what to keep, until another run (dedup/keep.py).
    """

    tiers: tuple[Tier, ...] = TIERS
    precision: float | None = None
    threshold: float | None = None
    only: Filter | None = None
    seed: int = 0
    wait: float = 0.0
    keep: tuple[str, ...] = DEFAULT_KEEP_RULES


def find_duplicates(
    settings: Settings, request: DedupRequest, on_progress: OnProgress = lambda _stage, _done, _total: None
) -> int:
    """Finds copies among the pictures of a home, puts them into its catalogue in place of what the last run found.

    Gives the run's id. Files are only read. Raises NothingIndexed, TooFewPictures (no threshold can be learned),
    BadSetting, HomeBusy, HomeNotWritable. Ctrl-C finishes the batch in hand; the same command goes on from there.
    """
    _check_request(request)
    home = Home(settings.home, settings.database_url)
    if schema.read_revision(home) is None:
        raise NothingIndexed(f"{home.root} holds no pictures yet. Run `simile index PHOTOS`.")
    with home.lock("simile dedup", wait=request.wait):
        schema.upgrade_schema(home)
        with Catalogue(home) as catalogue:
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
        self.failures: dict[str, Failure] = {}  # files that were indexed, and can't be read any more
        self.image_sizes: dict[int, tuple[int, int]] = {}
        self.paths: dict[int, str] = {}
        living = np.concatenate([part.get_live_ids() for part in self.snapshot.segments])
        seen = set(living.tolist())  # others have no vector by this encoder, or came in this very moment
        for located in catalogue.duplicates.iterate_files(filter=request.only):
            if located.image_id in seen:
                self.image_sizes[located.image_id] = located.width, located.height
                self.paths.setdefault(located.image_id, located.path)
        self.work_folder = home.root / "dedup" / "unfinished"

    def run(self) -> int:
        asked = {**asdict(self.request), "only": None if self.request.only is None else str(self.request.only)}
        run = self.catalogue.runs.start(DEDUP_RUN_KIND, asked)
        status, counts = "failed", dict[str, Any]()
        try:
            self._resume_or_start(asked)
            with (
                stop_on_interrupt(lambda: None) as self.interrupted,
                WorkerPool(self.settings.workers, self.settings.decode_seconds, self.settings.max_pixels) as workers,
            ):
                counts = self._find_pairs(workers, run)
            status = "finished"
            shutil.rmtree(self.work_folder, ignore_errors=True)
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            self.catalogue.runs.finish(run, status, counts)
            self.index.close()
        return run

    def _report_progress(self, stage: str, done: int, total: int) -> None:
        """Called when what is done is written down: where a run may be stopped."""
        self.on_progress(stage, done, total)
        if self.interrupted.is_set():
            raise KeyboardInterrupt

    def _resume_or_start(self, run_settings: dict[str, Any]) -> None:
        """Takes what an earlier run left if it was asked for the same of the same pictures, else clears it away."""
        pictures = zlib.crc32(json.dumps(sorted(self.paths.items())).encode())  # their ids stand for their content
        run_settings = {
            **run_settings,
            "wait": None,
            "keep": None,
            "limits": asdict(self.limits),
            "version": version("simile"),
        }
        identity = {"asked": run_settings, "encoder": self.snapshot.encoder.fingerprint, "pictures": pictures}
        identity = json.loads(json.dumps(identity))
        path = self.work_folder / "identity.json"
        if path.exists() and json.loads(path.read_text("utf-8")) == identity:
            log.info("going on with what an earlier run found")
            return
        with translate_write_errors(self.work_folder):
            shutil.rmtree(self.work_folder, ignore_errors=True)
            self.work_folder.mkdir(parents=True)
            self._write_json(path, identity)

    def _load_or_compute(self, stage: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What a stage found, now or in the run before."""
        path = self.work_folder / f"{stage}.json"
        if not path.exists():
            found = compute()
            with translate_write_errors(path):
                self._write_json(path, found)
        kept: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return kept

    @staticmethod
    def _write_json(path: Path, body: dict[str, Any]) -> None:
        write_atomically(path, lambda temporary: temporary.write_text(json.dumps(body), "utf-8"))

    def _find_pairs(self, workers: WorkerPool, run: int) -> dict[str, Any]:
        calibration = self._load_or_compute("calibration", lambda: self._calibrate(workers))
        threshold = calibration_from_json(calibration).threshold if calibration else 0.0
        radius = max(threshold, SAME_IMAGE_FRACTION * estimate_median_distance(self.snapshot))
        pairs = self._find_candidates(radius)
        classes = self._load_or_compute(
            "pixels", lambda: self._find_pixel_classes(pairs[pairs["distance"] <= radius], workers)
        )
        same = {int(image): number for image, number in classes["classes"].items()}
        pixels = self._make_pixel_pairs(same)
        pairs = self._exclude_pixel_copies(pairs, same)
        is_near = pairs["distance"] <= np.float32(threshold)
        near = list(self._verify_near(pairs[is_near], workers))  # before others must wait for what is written
        tiers = [tier for tier in self.request.tiers if tier != "bytes"]
        everything = chain(pixels, near, _make_neighbour_pairs(pairs[~is_near]))
        found = (DuplicateRecord(*vars(pair).values()) for pair in everything if pair.tier in tiers)
        among = None if self.request.only is None else self.paths.keys()
        stored = self.catalogue.duplicates.replace(run, found, tiers, among)
        self._report_failures(run)
        return {
            "encoder": self.snapshot.encoder.fingerprint,
            "calibration": calibration or None,
            "pictures": len(self.paths),
            "candidates": len(pairs),
            "pairs": stored,
            "crowded": self._load_or_compute("candidates", dict)["crowded"],
            "failed": len(self.failures),
        }

    def _calibrate(self, workers: WorkerPool) -> dict[str, Any]:
        """As JSON: learned anew, or given; the one before, if any, where nothing near is asked for."""
        fingerprint = self.snapshot.encoder.fingerprint
        if not self._includes_near:
            before = self.catalogue.runs.find_last_finished(DEDUP_RUN_KIND)
            return (before.counts["calibration"] or {}) if before and before.counts["encoder"] == fingerprint else {}
        if self.request.threshold is not None:
            return calibration_to_json(ThresholdCalibration(self.request.threshold, None, None, None, 0, 0, ()))
        encoder = load_encoder(self.home, fingerprint, self.settings.device, self.settings.runtime)
        planting = CopyPlanter(self.snapshot, encoder, workers, self.limits, self._report_progress)
        seen = planting.measure_copies(self.paths, self.request.seed)
        return calibration_to_json(
            calibrate_threshold(
                seen, self.request.precision or DEFAULT_PRECISION, list(self._iterate_decision_examples())
            )
        )

    @property
    def _includes_near(self) -> bool:
        return not {"near", "similar"}.isdisjoint(self.request.tiers)

    def _iterate_decision_examples(self) -> Iterator[CalibrationExample]:
        """What people said of pictures that are indexed."""
        decisions, encoder = self.catalogue.duplicates.get_decisions(), self.snapshot.encoder.fingerprint
        hashes = sorted({sha for said in decisions for sha in (said.first_sha256, said.second_sha256)})
        known = self.catalogue.images.find_by_sha256(hashes, encoder)
        for said in decisions:
            ends = [known.get(sha) for sha in (said.first_sha256, said.second_sha256)]
            first, second = (end.image_id if end is not None and end.embedded else 0 for end in ends)
            if first and second:
                yield CalibrationExample(
                    compute_distance(self.snapshot, first, second), is_match=True, is_copy=said.same
                )

    def _find_candidates(self, radius: float) -> PairArray:
        path = self.work_folder / "candidates"

        def write() -> dict[str, Any]:
            stage = "looking for neighbours"
            return asdict(
                write_candidates(
                    self.snapshot, radius, path, partial(self._report_progress, stage), allowed_ids=self.allowed_ids
                )
            )

        self._load_or_compute("candidates", write)
        pairs, located = read_candidates(path), np.array(sorted(self.paths), np.int64)
        return np.asarray(pairs[np.isin(pairs["first"], located) & np.isin(pairs["second"], located)])

    def _find_pixel_classes(self, pairs: PairArray, workers: WorkerPool) -> dict[str, Any]:
        """Which pictures of equal size that lie next to each other have the same pixels: id to the least such id."""
        ends = zip(pairs["first"].tolist(), pairs["second"].tolist(), strict=True)
        equal = np.array([self.image_sizes[first] == self.image_sizes[second] for first, second in ends], bool)
        suspects = np.unique(np.concatenate([pairs["first"][equal], pairs["second"][equal]])).tolist()
        least: dict[tuple[str, tuple[int, int]], int] = {}
        classes = {}
        task = partial(compute_file_digest, limits=self.limits)
        for at, digest in enumerate(workers.map(task, [self.paths[image] for image in suspects])):
            if isinstance(digest, Failure):
                self._add_failure(digest)
            elif not isinstance(digest, WorkerLost):
                image = suspects[at]
                classes[image] = least.setdefault((digest, self.image_sizes[image]), image)
            self._report_progress("comparing pixels", at + 1, len(suspects))
        return {"classes": {image: first for image, first in classes.items() if image != first}}

    def _make_pixel_pairs(self, pixel_classes: dict[int, int]) -> Iterator[ImagePair]:
        """Each with the least of its class: the others follow."""
        for image, first in pixel_classes.items():
            distance = compute_distance(self.snapshot, first, image)
            yield ImagePair(first, image, "pixels", distance, None, "the same pixels in other bytes")

    def _exclude_pixel_copies(self, pairs: PairArray, pixel_classes: dict[int, int]) -> PairArray:
        """The candidates without those that have the same pixels as another: the least of each class stands for it."""
        if not pixel_classes:
            return pairs
        hidden = np.array(sorted(pixel_classes), np.int64)
        shown = ~(np.isin(pairs["first"], hidden) | np.isin(pairs["second"], hidden))
        return np.asarray(pairs[shown])

    def _verify_near(self, pairs: PairArray, workers: WorkerPool) -> Iterable[ImagePair]:
        if not self._includes_near:
            return ()
        sides = {image: max(size) for image, size in self.image_sizes.items()}
        glance, report = (
            partial(self._report_progress, f"{what} pictures") for what in ("looking at small", "comparing")
        )
        pairs = filter_tiny_pairs(pairs, sides, self.paths, workers, self.limits, glance)
        results = self.work_folder / "confirmed.jsonl"
        return verify_candidates(pairs, self.paths, workers, self.limits, results, report, self._add_failure)

    def _add_failure(self, failure: Failure) -> None:
        self.failures[failure.path] = failure

    def _report_failures(self, run: int) -> None:
        """Says what was not looked at."""
        self.catalogue.runs.add_failures(run, list(self.failures.values()))
        if self.failures:
            log.warning("%d files can't be read any more: `simile status` names them", len(self.failures))
        if crowded := self._load_or_compute("candidates", dict)["crowded"]:
            log.warning(
                "%d pictures have more than %d within the distance: the nearest were compared", crowded, MAX_NEIGHBOURS
            )


def _make_neighbour_pairs(pairs: PairArray) -> Iterator[ImagePair]:
    """Pairs beyond the threshold, as they are: a list of neighbours."""
    for first, second, distance in zip(
        *(pairs[name].tolist() for name in ("first", "second", "distance")), strict=True
    ):
        yield ImagePair(first, second, "similar", distance, None, "a neighbour, beyond the distance of copies")


def _check_request(request: DedupRequest) -> None:
    if request.precision is not None and not 0 < request.precision <= 1:
        raise BadSetting(f"precision can't be {request.precision}. Give a share above 0, up to 1.")
    if request.threshold is not None and not 0 <= request.threshold < math.inf:
        raise BadSetting(f"threshold can't be {request.threshold}. Give a distance: a number from 0 on.")
    parse_keep_rules(request.keep)
