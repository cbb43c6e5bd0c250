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

from simile.core.atomic_write import write_durably
from simile.core.errors import BadSetting, NothingIndexed
from simile.core.records import Failure, Filter
from simile.core.settings import Settings
from simile.core.signals import finishing
from simile.dedup.detection.candidates import (
    NEIGHBOURS,
    Pairs,
    distance_between,
    read_candidates,
    spread,
    worth_comparing,
    write_candidates,
)
from simile.dedup.detection.threshold import Planting, Seen, calibrate
from simile.dedup.detection.verification import confirmed
from simile.dedup.grouping.findings import KIND, calibration_from, calibration_json
from simile.dedup.grouping.keep_rules import DEFAULT_RULES, read_rules
from simile.dedup.records import TIERS, Calibration, Pair, Tier
from simile.images.formats import Limits
from simile.images.loading.fork_server import Lost
from simile.images.loading.worker_pool import Workers
from simile.images.matching.tasks import pixel_digest
from simile.search.encoder_registry import load_encoder
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import DuplicateRecord
from simile.store.database import schema
from simile.store.home import Home, writing
from simile.store.index.index import Index

log = logging.getLogger(__name__)

PRECISION = 0.99
# Of the median distance between two pictures: so near lie the same pixels, though one of them be a JPEG that was
# decoded at a smaller scale for the encoder (0.13 at most for 30 photos of 1.5 megapixels).
SAME_PICTURE = 0.15
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
    keep: tuple[str, ...] = DEFAULT_RULES


def find_duplicates(
    settings: Settings, request: DedupRequest, on_progress: OnProgress = lambda _stage, _done, _total: None
) -> int:
    """Finds copies among the pictures of a home, puts them into its catalogue in place of what the last run found.

    Gives the run's id. Files are only read. Raises NothingIndexed, TooFewPictures (no threshold can be learned),
    BadSetting, HomeBusy, HomeNotWritable. Ctrl-C finishes the batch in hand; the same command goes on from there.
    """
    _check(request)
    home = Home(settings.home, settings.database_url)
    if schema.revision(home) is None:
        raise NothingIndexed(f"{home.root} holds no pictures yet. Run `simile index PHOTOS`.")
    with home.lock("simile dedup", wait=request.wait):
        schema.upgrade(home)
        with Catalogue(home) as catalogue:
            return _Job(home, catalogue, settings, request, on_progress).run()


class _Job:
    """One run, under the home's lock."""

    def __init__(
        self, home: Home, catalogue: Catalogue, settings: Settings, request: DedupRequest, on_progress: OnProgress
    ) -> None:
        self.home, self.catalogue, self.settings, self.request = home, catalogue, settings, request
        self.on_progress = on_progress
        self.limits = Limits.from_settings(settings)
        self.interrupted = threading.Event()
        self.index = Index(catalogue)
        self.snapshot = self.index.current()
        self.only = self.index.matching(request.only)
        self.failures: dict[str, Failure] = {}  # files that were indexed, and can't be read any more
        self.sides: dict[int, tuple[int, int]] = {}
        self.files: dict[int, str] = {}
        living = np.concatenate([part.living() for part in self.snapshot.parts])
        seen = set(living.tolist())  # others have no vector by this encoder, or came in this very moment
        for located in catalogue.located(only=request.only):
            if located.image_id in seen:
                self.sides[located.image_id] = located.width, located.height
                self.files.setdefault(located.image_id, located.path)
        self.folder = home.root / "dedup" / "unfinished"

    def run(self) -> int:
        asked = {**asdict(self.request), "only": None if self.request.only is None else str(self.request.only)}
        run = self.catalogue.start_run(KIND, asked)
        status, counts = "failed", dict[str, Any]()
        try:
            self._go_on_or_start(asked)
            with (
                finishing(lambda: None) as self.interrupted,
                Workers(self.settings.workers, self.settings.decode_seconds, self.settings.max_pixels) as workers,
            ):
                counts = self._find(workers, run)
            status = "finished"
            shutil.rmtree(self.folder, ignore_errors=True)
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            self.catalogue.finish_run(run, status, counts)
            self.index.close()
        return run

    def _report(self, stage: str, done: int, total: int) -> None:
        """Called when what is done is written down: where a run may be stopped."""
        self.on_progress(stage, done, total)
        if self.interrupted.is_set():
            raise KeyboardInterrupt

    def _go_on_or_start(self, asked: dict[str, Any]) -> None:
        """Takes what an earlier run left if it was asked for the same of the same pictures, else clears it away."""
        pictures = zlib.crc32(json.dumps(sorted(self.files.items())).encode())  # their ids stand for their content
        asked = {**asked, "wait": None, "keep": None, "limits": asdict(self.limits), "version": version("simile")}
        identity = {"asked": asked, "encoder": self.snapshot.encoder.fingerprint, "pictures": pictures}
        identity = json.loads(json.dumps(identity))
        path = self.folder / "identity.json"
        if path.exists() and json.loads(path.read_text("utf-8")) == identity:
            log.info("going on with what an earlier run found")
            return
        with writing(self.folder):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            self._write(path, identity)

    def _kept(self, stage: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What a stage found, now or in the run before."""
        path = self.folder / f"{stage}.json"
        if not path.exists():
            found = make()
            with writing(path):
                self._write(path, found)
        kept: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return kept

    @staticmethod
    def _write(path: Path, body: dict[str, Any]) -> None:
        write_durably(path, lambda temporary: temporary.write_text(json.dumps(body), "utf-8"))

    def _find(self, workers: Workers, run: int) -> dict[str, Any]:
        calibration = self._kept("calibration", lambda: self._calibrated(workers))
        threshold = calibration_from(calibration).threshold if calibration else 0.0
        radius = max(threshold, SAME_PICTURE * spread(self.snapshot))
        pairs = self._candidates(radius)
        classes = self._kept("pixels", lambda: self._same_pixels(pairs[pairs["distance"] <= radius], workers))
        same = {int(image): number for image, number in classes["classes"].items()}
        pixels = self._pixel_pairs(same)
        pairs = self._others(pairs, same)
        is_near = pairs["distance"] <= np.float32(threshold)
        near = list(self._near(pairs[is_near], workers))  # before others must wait for what is written
        tiers = [tier for tier in self.request.tiers if tier != "bytes"]
        everything = chain(pixels, near, _neighbours(pairs[~is_near]))
        found = (DuplicateRecord(*vars(pair).values()) for pair in everything if pair.tier in tiers)
        among = None if self.request.only is None else self.files.keys()
        stored = self.catalogue.replace_duplicates(run, found, tiers, among)
        self._warn(run)
        return {
            "encoder": self.snapshot.encoder.fingerprint,
            "calibration": calibration or None,
            "pictures": len(self.files),
            "candidates": len(pairs),
            "pairs": stored,
            "crowded": self._kept("candidates", dict)["crowded"],
            "failed": len(self.failures),
        }

    def _calibrated(self, workers: Workers) -> dict[str, Any]:
        """As JSON: learned anew, or given; the one before, if any, where nothing near is asked for."""
        fingerprint = self.snapshot.encoder.fingerprint
        if not self._asks_for_near:
            before = self.catalogue.last_run(KIND)
            return (before.counts["calibration"] or {}) if before and before.counts["encoder"] == fingerprint else {}
        if self.request.threshold is not None:
            return calibration_json(Calibration(self.request.threshold, None, None, None, 0, 0, ()))
        encoder = load_encoder(self.home, fingerprint, self.settings.device, self.settings.runtime)
        planting = Planting(self.snapshot, encoder, workers, self.limits, self._report)
        seen = planting.seen(self.files, self.request.seed)
        return calibration_json(calibrate(seen, self.request.precision or PRECISION, list(self._decided())))

    @property
    def _asks_for_near(self) -> bool:
        return not {"near", "similar"}.isdisjoint(self.request.tiers)

    def _decided(self) -> Iterator[Seen]:
        """What people said of pictures that are indexed."""
        decisions, encoder = self.catalogue.decisions(), self.snapshot.encoder.fingerprint
        hashes = sorted({sha for said in decisions for sha in (said.first_sha256, said.second_sha256)})
        known = self.catalogue.images_by_sha(hashes, encoder)
        for said in decisions:
            ends = [known.get(sha) for sha in (said.first_sha256, said.second_sha256)]
            first, second = (end.image_id if end is not None and end.embedded else 0 for end in ends)
            if first and second:
                yield Seen(distance_between(self.snapshot, first, second), confirmed=True, right=said.same)

    def _candidates(self, radius: float) -> Pairs:
        path = self.folder / "candidates"

        def write() -> dict[str, Any]:
            stage = "looking for neighbours"
            return asdict(write_candidates(self.snapshot, radius, path, partial(self._report, stage), only=self.only))

        self._kept("candidates", write)
        pairs, located = read_candidates(path), np.array(sorted(self.files), np.int64)
        return np.asarray(pairs[np.isin(pairs["first"], located) & np.isin(pairs["second"], located)])

    def _same_pixels(self, pairs: Pairs, workers: Workers) -> dict[str, Any]:
        """Which pictures of equal size that lie next to each other have the same pixels: id to the least such id."""
        ends = zip(pairs["first"].tolist(), pairs["second"].tolist(), strict=True)
        equal = np.array([self.sides[first] == self.sides[second] for first, second in ends], bool)
        suspects = np.unique(np.concatenate([pairs["first"][equal], pairs["second"][equal]])).tolist()
        least: dict[tuple[str, tuple[int, int]], int] = {}
        classes = {}
        task = partial(pixel_digest, limits=self.limits)
        for at, digest in enumerate(workers.map(task, [self.files[image] for image in suspects])):
            if isinstance(digest, Failure):
                self._failed(digest)
            elif not isinstance(digest, Lost):
                image = suspects[at]
                classes[image] = least.setdefault((digest, self.sides[image]), image)
            self._report("comparing pixels", at + 1, len(suspects))
        return {"classes": {image: first for image, first in classes.items() if image != first}}

    def _pixel_pairs(self, same: dict[int, int]) -> Iterator[Pair]:
        """Each with the least of its class: the others follow."""
        for image, first in same.items():
            distance = distance_between(self.snapshot, first, image)
            yield Pair(first, image, "pixels", distance, None, "the same pixels in other bytes")

    def _others(self, pairs: Pairs, same: dict[int, int]) -> Pairs:
        """The candidates without those that have the same pixels as another: the least of each class stands for it."""
        if not same:
            return pairs
        hidden = np.array(sorted(same), np.int64)
        shown = ~(np.isin(pairs["first"], hidden) | np.isin(pairs["second"], hidden))
        return np.asarray(pairs[shown])

    def _near(self, pairs: Pairs, workers: Workers) -> Iterable[Pair]:
        if not self._asks_for_near:
            return ()
        sides = {image: max(size) for image, size in self.sides.items()}
        glance, report = (partial(self._report, f"{what} pictures") for what in ("looking at small", "comparing"))
        pairs = worth_comparing(pairs, sides, self.files, workers, self.limits, glance)
        results = self.folder / "confirmed.jsonl"
        return confirmed(pairs, self.files, workers, self.limits, results, report, self._failed)

    def _failed(self, failure: Failure) -> None:
        self.failures[failure.path] = failure

    def _warn(self, run: int) -> None:
        """Says what was not looked at."""
        self.catalogue.add_failures(run, list(self.failures.values()))
        if self.failures:
            log.warning("%d files can't be read any more: `simile status` names them", len(self.failures))
        if crowded := self._kept("candidates", dict)["crowded"]:
            log.warning(
                "%d pictures have more than %d within the distance: the nearest were compared", crowded, NEIGHBOURS
            )


def _neighbours(pairs: Pairs) -> Iterator[Pair]:
    """Pairs beyond the threshold, as they are: a list of neighbours."""
    for first, second, distance in zip(
        *(pairs[name].tolist() for name in ("first", "second", "distance")), strict=True
    ):
        yield Pair(first, second, "similar", distance, None, "a neighbour, beyond the distance of copies")


def _check(request: DedupRequest) -> None:
    if request.precision is not None and not 0 < request.precision <= 1:
        raise BadSetting(f"precision can't be {request.precision}. Give a share above 0, up to 1.")
    if request.threshold is not None and not 0 <= request.threshold < math.inf:
        raise BadSetting(f"threshold can't be {request.threshold}. Give a distance: a number from 0 on.")
    read_rules(request.keep)
