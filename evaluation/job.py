"""`simile evaluate`: find the pictures and the encoders, read everything once, measure row after row, give advice."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from simile.core.errors import BadSetting, CheckpointDamaged
from simile.core.records import Failure
from simile.core.settings import Settings
from simile.evaluation import copy_retrieval
from simile.evaluation.baselines import Encoded, Method, PerceptualHash, Posteriors, PrincipalComponents, RawPixels
from simile.evaluation.benchmark import Material, Row, measure
from simile.evaluation.dataset import Collection, OnProgress, Reading, Split, check_count, read, sampled, split
from simile.evaluation.neighbours import Rows
from simile.evaluation.recommendation import advise
from simile.evaluation.reconstruction import LIKELIHOOD_PICTURES
from simile.images.distortions import KINDS
from simile.images.formats import Limits
from simile.images.loading.loader import pool_of, sample_pictures
from simile.images.sources.labels import Classes, read_labels
from simile.images.sources.sources import check_sources, walk
from simile.images.transforms import Preprocessing, choose
from simile.models.checkpoints.checkpoint import DESCRIPTION
from simile.models.inference.encoder import TrainedEncoder
from simile.search.encoder_registry import find_encoder, load_encoder
from simile.store.home import Home

log = logging.getLogger(__name__)

SAMPLED = 256  # pictures that decide on size and colour of the common preprocessing
DEFAULT_DIMENSION = 64  # of PCA, where there is no encoder to be as long as
EXAMPLES = 4  # queries whose neighbours the report shows
MEMORY = 2_000_000_000  # bytes of prepared pictures


@dataclass(frozen=True)
class EvaluationRequest:
    """What a person may say about an evaluation. `encoders`: references; empty for all of the home.

    posterior: also by the distance between whole posteriors, a row for each encoder.
    """

    labels: str | None = None
    folds: int = 5
    test: Path | None = None
    encoders: tuple[str, ...] = ()
    copies: int = 100
    samples: int = 64
    seed: int = 0
    limit: int = 5000
    posterior: bool = False


@dataclass(frozen=True)
class Evaluation:
    """Everything that was found. `labels` (n): of `material.collection`'s pictures."""

    request: EvaluationRequest
    rows: list[Row]
    methods: list[Method]
    advice: str
    notes: list[str]
    material: Material
    labels: list[str | None]
    failures: list[Failure] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "pictures": len(self.material.collection),
            "queries": len(self.material.asked),
            "labelled": sum(label is not None for label in self.labels),
            "classes": len({label for label in self.labels if label is not None}),
            "copies": 0 if self.material.planted is None else len(self.material.planted.kinds),
            "samples": self.request.samples,
            "rows": [row.to_dict() for row in self.rows],
            "advice": self.advice,
            "notes": self.notes,
            "failures": [vars(failure) for failure in self.failures],
        }


def evaluate(
    settings: Settings, photos: Sequence[Path], request: EvaluationRequest, on_progress: OnProgress
) -> Evaluation:
    """Measures every method on the pictures in `photos`.

    Raises BadSetting, NoSuchPath, NoSuchEncoder and TooFewPictures.
    """
    check_sources(photos if request.test is None else [*photos, request.test])
    home = Home(settings.home, settings.database_url)
    encoders, damaged = find_encoders(home, request.encoders, settings)
    files, failures = find_files(photos, home)
    asked, asked_failures = find_files([request.test], home) if request.test is not None else ([], [])
    if overlap := set(files) & set(asked):
        raise BadSetting(f"{min(overlap)} is among the pictures and in --test {request.test}. Keep them apart.")
    common = common_preprocessing(files, settings, request.seed)
    methods = _methods(encoders, common, request)
    specs = tuple(dict.fromkeys(method.preprocessing for method in methods))
    limits = Limits.from_settings(settings)
    limit = min(request.limit, MEMORY // Reading(limits, settings.workers, specs).bytes_per_picture)
    chosen, chosen_asked = sampled(files, limit, request.seed), sampled(asked, limit, request.seed)
    notes = (
        [] if len(chosen) == len(files) else [f"measured on a seeded sample of {limit:,} of {len(files):,} pictures"]
    )
    with pool_of(settings.workers, limits) as workers:
        reading = Reading(limits, workers, specs)
        collection = read([*chosen, *chosen_asked], reading, on_progress)
        labels = _labels(request, collection, photos)
        material = _material(request, collection, labels, set(chosen_asked), reading, on_progress)
    for note in notes:
        log.info(note)
    rows = [measure(method, material, on_progress) for method in methods]
    seen = [row for row, encoder in _encoded(rows, encoders) if _has_seen(encoder, len(files))]
    for row, encoder in _encoded(rows, encoders):
        row.knows_labels = row in seen and request.test is None and encoder.network.architecture.classes > 0
    notes += _notes(rows, seen, damaged, settings)
    failures = [*failures, *asked_failures, *collection.failures]
    return Evaluation(request, rows, methods, advise(rows), notes, material, labels, failures)


def find_encoders(home: Home, references: Sequence[str], settings: Settings) -> tuple[list[TrainedEncoder], list[str]]:
    """The encoders that were named, or all of the home, sorted; and what is wrong with those that can't be loaded."""
    if references:
        return [find_encoder(home, name, settings.device, settings.runtime) for name in dict.fromkeys(references)], []
    found, damaged = [], []
    for folder in sorted(home.encoders.glob("[0-9a-f]*")):
        if not (folder / DESCRIPTION).is_file():
            continue
        try:
            found.append(load_encoder(home, folder.name, settings.device, settings.runtime))
        except CheckpointDamaged as error:
            damaged.append(str(error))
    return sorted(found, key=lambda encoder: (encoder.description["recipe"]["name"], encoder.fingerprint)), damaged


def find_files(sources: Sequence[Path], home: Home) -> tuple[list[str], list[Failure]]:
    found = walk(sources, skip=[home.encoders, home.segments, home.uploads])
    return [file.path for file in found.files], found.failures


def common_preprocessing(files: Sequence[str], settings: Settings, seed: int) -> Preprocessing:
    """What pixels and PCA are given."""
    sample = sample_pictures(files, Limits.from_settings(settings), settings.workers, SAMPLED, seed)
    check_count(len(sample))
    return choose(sample, image_size=None, background=settings.background)


def _methods(encoders: Sequence[TrainedEncoder], common: Preprocessing, request: EvaluationRequest) -> list[Method]:
    """The rows in their order: what needs no training, then the encoders; a PCA as long as each of them."""
    dimensions = sorted({encoder.latent_dim for encoder in encoders}) or [DEFAULT_DIMENSION]
    methods: list[Method] = [RawPixels(common)]
    methods += [PrincipalComponents(common, dimension, request.seed) for dimension in dimensions]
    methods += [PerceptualHash()]
    methods += [Encoded(encoder) for encoder in encoders]
    return methods + [Posteriors(encoder) for encoder in encoders if request.posterior]


def _labels(request: EvaluationRequest, collection: Collection, photos: Sequence[Path]) -> list[str | None]:
    if request.labels is None:
        return [None] * len(collection)
    roots = [*photos, *([request.test] if request.test is not None else [])]
    labels = read_labels(request.labels, collection.paths, roots)
    Classes.of(labels)  # raises where there is nothing to tell apart
    return labels


def _material(
    request: EvaluationRequest,
    collection: Collection,
    labels: list[str | None],
    asked: set[str],
    reading: Reading,
    on_progress: OnProgress,
) -> Material:
    rows = np.arange(len(collection))
    is_query = np.array([path in asked for path in collection.paths], bool)
    if request.test is None:
        splits, searched = split(len(collection), labels, request.folds, request.seed), rows
    else:
        check_count(int((~is_query).sum()))
        if not is_query.any():
            raise BadSetting(f"--test {request.test} holds no picture that can be read. Name another folder.")
        splits, searched = [Split(rows[is_query], rows[~is_query])], rows[~is_query]
    return Material(
        collection,
        splits,
        Classes.of(labels).numbers(labels) if any(labels) else np.full(len(rows), -1),
        _planted(request, collection, searched, reading, on_progress),
        searched,
        _queries(request, splits, labels),
        request.samples,
        request.seed,
    )


def _planted(
    request: EvaluationRequest, collection: Collection, searched: Rows, reading: Reading, on_progress: OnProgress
) -> copy_retrieval.Planted | None:
    if not request.copies:
        return None
    most = MEMORY // (reading.bytes_per_picture * len(KINDS))
    count = min(request.copies, len(searched), most)
    rows = np.sort(np.random.default_rng(request.seed).choice(searched, count, replace=False))
    planted = copy_retrieval.plant(collection.paths, rows, reading, request.seed, on_progress)
    return planted if planted.kinds else None


def _queries(request: EvaluationRequest, splits: Sequence[Split], labels: Sequence[str | None]) -> Rows:
    """Example queries, of as many classes as there are."""
    asked = np.concatenate([part.queries for part in splits])
    order = np.random.default_rng(request.seed).permutation(asked)
    seen: dict[str | None, int] = {}
    place = [seen.update({labels[row]: seen.get(labels[row], 0) + 1}) or seen[labels[row]] for row in order]
    return np.sort(order[np.argsort(place, kind="stable")][:EXAMPLES])


def _encoded(rows: Sequence[Row], encoders: Sequence[TrainedEncoder]) -> list[tuple[Row, TrainedEncoder]]:
    """The rows of encoders, which come last, with their encoders."""
    return list(zip(rows[len(rows) - len(encoders) :], encoders, strict=True))


def _has_seen(encoder: TrainedEncoder, found: int) -> bool:
    """Whether it was trained on these pictures, as far as encoder.json tells: on exactly as many files."""
    data = encoder.description.get("data", {})
    return bool(data.get("pictures", 0) + data.get("set_aside", 0) == found)


def _notes(rows: Sequence[Row], seen: Sequence[Row], damaged: Sequence[str], settings: Settings) -> list[str]:
    """What a reader of the table must know."""
    notes = [f"left out: {reason}" for reason in damaged]
    if all(row.encoder is None for row in rows):
        notes.append(
            f"{settings.home} has no encoder, so there are only rows that need no training. "
            "Train one with `simile train PHOTOS`, then evaluate again."
        )
    if seen:
        notes.append(
            f"trained on as many pictures as these, so probably on these very ones: {', '.join(r.name for r in seen)}. "
            "What an encoder has seen it reconstructs and finds better than new pictures; for those, use --test DIR."
        )
    if any(row.figures["log_likelihood"] is not None for row in rows):
        notes.append(f"log p(x) is measured on at most {LIKELIHOOD_PICTURES} pictures, drawn with the seed.")
    if len({row.figures["input"] for row in rows if row.figures["mse"] is not None}) > 1:
        notes.append("Inputs differ in size: MSE, PSNR and SSIM compare only rows with the same input.")
    return notes
