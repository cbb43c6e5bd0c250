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
from simile.evaluation.baselines import (
    EmbeddingMethod,
    EncoderMethod,
    PerceptualHash,
    PosteriorMethod,
    PrincipalComponents,
    RawPixels,
)
from simile.evaluation.benchmark import BenchmarkData, BenchmarkRow, benchmark_method
from simile.evaluation.dataset import (
    EvaluationDataset,
    ImageReader,
    OnProgress,
    QuerySplit,
    check_image_count,
    make_query_splits,
    read_dataset,
    sample_paths,
)
from simile.evaluation.neighbours import RowIndices
from simile.evaluation.recommendation import recommend_encoder
from simile.evaluation.reconstruction import MAX_LIKELIHOOD_IMAGES
from simile.images.distortions import DISTORTION_KINDS
from simile.images.formats import Limits
from simile.images.loading.loader import open_worker_pool, sample_images
from simile.images.sources.labels import LabelClasses, read_labels
from simile.images.sources.sources import check_sources, walk_sources
from simile.images.transforms import Preprocessing, choose_preprocessing
from simile.models.checkpoints.description import DESCRIPTION_FILE
from simile.models.inference.encoder import TrainedEncoder
from simile.search.encoder_registry import find_encoder, load_encoder
from simile.store.home import Home

log = logging.getLogger(__name__)

COMMON_PREPROCESSING_SAMPLE_SIZE = 256  # pictures that decide on size and colour of the common preprocessing
DEFAULT_PCA_DIMENSION = 64  # of PCA, where there is no encoder to be as long as
EXAMPLE_QUERIES = 4  # queries whose neighbours the report shows
MAX_EVALUATION_BYTES = 2_000_000_000  # bytes of prepared pictures


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
    rows: list[BenchmarkRow]
    methods: list[EmbeddingMethod]
    advice: str
    notes: list[str]
    benchmark_data: BenchmarkData
    labels: list[str | None]
    failures: list[Failure] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "pictures": len(self.benchmark_data.dataset),
            "queries": len(self.benchmark_data.query_rows),
            "labelled": sum(label is not None for label in self.labels),
            "classes": len({label for label in self.labels if label is not None}),
            "copies": 0
            if self.benchmark_data.planted_copies is None
            else len(self.benchmark_data.planted_copies.kinds),
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
    encoders, damaged = load_encoders(home, request.encoders, settings)
    files, failures = find_image_files(photos, home)
    asked, asked_failures = find_image_files([request.test], home) if request.test is not None else ([], [])
    if overlap := set(files) & set(asked):
        raise BadSetting(f"{min(overlap)} is among the pictures and in --test {request.test}. Keep them apart.")
    common = choose_common_preprocessing(files, settings, request.seed)
    methods = _make_methods(encoders, common, request)
    specs = tuple(dict.fromkeys(method.preprocessing for method in methods))
    limits = Limits.from_settings(settings)
    limit = min(request.limit, MAX_EVALUATION_BYTES // ImageReader(limits, settings.workers, specs).bytes_per_image)
    chosen, chosen_asked = sample_paths(files, limit, request.seed), sample_paths(asked, limit, request.seed)
    notes = (
        [] if len(chosen) == len(files) else [f"measured on a seeded sample of {limit:,} of {len(files):,} pictures"]
    )
    with open_worker_pool(settings.workers, limits) as workers:
        reading = ImageReader(limits, workers, specs)
        collection = read_dataset([*chosen, *chosen_asked], reading, on_progress)
        labels = _read_image_labels(request, collection, photos)
        material = _make_benchmark_data(request, collection, labels, set(chosen_asked), reading, on_progress)
    for note in notes:
        log.info(note)
    rows = [benchmark_method(method, material, on_progress) for method in methods]
    seen = [row for row, encoder in _get_encoder_rows(rows, encoders) if _is_trained_on(encoder, len(files))]
    for row, encoder in _get_encoder_rows(rows, encoders):
        row.is_trained_on_labels = row in seen and request.test is None and encoder.network.architecture.classes > 0
    notes += _make_notes(rows, seen, damaged, settings)
    failures = [*failures, *asked_failures, *collection.failures]
    return Evaluation(request, rows, methods, recommend_encoder(rows), notes, material, labels, failures)


def load_encoders(home: Home, references: Sequence[str], settings: Settings) -> tuple[list[TrainedEncoder], list[str]]:
    """The encoders that were named, or all of the home, sorted; and what is wrong with those that can't be loaded."""
    if references:
        return [find_encoder(home, name, settings.device, settings.runtime) for name in dict.fromkeys(references)], []
    found, damaged = [], []
    for folder in sorted(home.encoders.glob("[0-9a-f]*")):
        if not (folder / DESCRIPTION_FILE).is_file():
            continue
        try:
            found.append(load_encoder(home, folder.name, settings.device, settings.runtime))
        except CheckpointDamaged as error:
            damaged.append(str(error))
    return sorted(found, key=lambda encoder: (encoder.description.recipe_name, encoder.fingerprint)), damaged


def find_image_files(sources: Sequence[Path], home: Home) -> tuple[list[str], list[Failure]]:
    found = walk_sources(sources, skip=[home.encoders, home.segments, home.uploads])
    return [file.path for file in found.files], found.failures


def choose_common_preprocessing(files: Sequence[str], settings: Settings, seed: int) -> Preprocessing:
    """What pixels and PCA are given."""
    sample = sample_images(
        files, Limits.from_settings(settings), settings.workers, COMMON_PREPROCESSING_SAMPLE_SIZE, seed
    )
    check_image_count(len(sample))
    return choose_preprocessing(sample, image_size=None, background=settings.background)


def _make_methods(
    encoders: Sequence[TrainedEncoder], common: Preprocessing, request: EvaluationRequest
) -> list[EmbeddingMethod]:
    """The rows in their order: what needs no training, then the encoders; a PCA as long as each of them."""
    dimensions = sorted({encoder.latent_dim for encoder in encoders}) or [DEFAULT_PCA_DIMENSION]
    methods: list[EmbeddingMethod] = [RawPixels(common)]
    methods += [PrincipalComponents(common, dimension, request.seed) for dimension in dimensions]
    methods += [PerceptualHash()]
    methods += [EncoderMethod(encoder) for encoder in encoders]
    return methods + [PosteriorMethod(encoder) for encoder in encoders if request.posterior]


def _read_image_labels(
    request: EvaluationRequest, dataset: EvaluationDataset, photos: Sequence[Path]
) -> list[str | None]:
    if request.labels is None:
        return [None] * len(dataset)
    roots = [*photos, *([request.test] if request.test is not None else [])]
    labels = read_labels(request.labels, dataset.paths, roots)
    LabelClasses.from_labels(labels)  # raises where there is nothing to tell apart
    return labels


def _make_benchmark_data(
    request: EvaluationRequest,
    dataset: EvaluationDataset,
    labels: list[str | None],
    query_paths: set[str],
    reader: ImageReader,
    on_progress: OnProgress,
) -> BenchmarkData:
    rows = np.arange(len(dataset))
    is_query = np.array([path in query_paths for path in dataset.paths], bool)
    if request.test is None:
        splits, searched = make_query_splits(len(dataset), labels, request.folds, request.seed), rows
    else:
        check_image_count(int((~is_query).sum()))
        if not is_query.any():
            raise BadSetting(f"--test {request.test} holds no picture that can be read. Name another folder.")
        splits, searched = [QuerySplit(rows[is_query], rows[~is_query])], rows[~is_query]
    return BenchmarkData(
        dataset,
        splits,
        LabelClasses.from_labels(labels).to_numbers(labels) if any(labels) else np.full(len(rows), -1),
        _plant_copies(request, dataset, searched, reader, on_progress),
        searched,
        _choose_example_queries(request, splits, labels),
        request.samples,
        request.seed,
    )


def _plant_copies(
    request: EvaluationRequest,
    dataset: EvaluationDataset,
    base_rows: RowIndices,
    reader: ImageReader,
    on_progress: OnProgress,
) -> copy_retrieval.PlantedCopies | None:
    if not request.copies:
        return None
    most = MAX_EVALUATION_BYTES // (reader.bytes_per_image * len(DISTORTION_KINDS))
    count = min(request.copies, len(base_rows), most)
    rows = np.sort(np.random.default_rng(request.seed).choice(base_rows, count, replace=False))
    planted = copy_retrieval.plant_copies(dataset.paths, rows, reader, request.seed, on_progress)
    return planted if planted.kinds else None


def _choose_example_queries(
    request: EvaluationRequest, splits: Sequence[QuerySplit], labels: Sequence[str | None]
) -> RowIndices:
    """Example queries, of as many classes as there are."""
    asked = np.concatenate([part.queries for part in splits])
    order = np.random.default_rng(request.seed).permutation(asked)
    seen: dict[str | None, int] = {}
    place = [seen.update({labels[row]: seen.get(labels[row], 0) + 1}) or seen[labels[row]] for row in order]
    return np.sort(order[np.argsort(place, kind="stable")][:EXAMPLE_QUERIES])


def _get_encoder_rows(
    rows: Sequence[BenchmarkRow], encoders: Sequence[TrainedEncoder]
) -> list[tuple[BenchmarkRow, TrainedEncoder]]:
    """The rows of encoders, which come last, with their encoders."""
    return list(zip(rows[len(rows) - len(encoders) :], encoders, strict=True))


def _is_trained_on(encoder: TrainedEncoder, file_count: int) -> bool:
    """Whether it was trained on these pictures, as far as encoder.json tells: on exactly as many files."""
    return encoder.description.training_file_count == file_count


def _make_notes(
    rows: Sequence[BenchmarkRow], trained_rows: Sequence[BenchmarkRow], damaged: Sequence[str], settings: Settings
) -> list[str]:
    """What a reader of the table must know."""
    notes = [f"left out: {reason}" for reason in damaged]
    if all(row.encoder is None for row in rows):
        notes.append(
            f"{settings.home} has no encoder, so there are only rows that need no training. "
            "Train one with `simile train PHOTOS`, then evaluate again."
        )
    if trained_rows:
        notes.append(
            f"trained on as many pictures as these, so probably on these very ones: {', '.join(r.name for r in trained_rows)}. "
            "What an encoder has seen it reconstructs and finds better than new pictures; for those, use --test DIR."
        )
    if any(row.metrics["log_likelihood"] is not None for row in rows):
        notes.append(f"log p(x) is measured on at most {MAX_LIKELIHOOD_IMAGES} pictures, drawn with the seed.")
    if len({row.metrics["input"] for row in rows if row.metrics["mse"] is not None}) > 1:
        notes.append("Inputs differ in size: MSE, PSNR and SSIM compare only rows with the same input.")
    return notes
