"""Run an evaluation: find images and encoders, read each image once, measure each method, recommend an encoder."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from simile.core.errors import BadSetting, CheckpointDamaged
from simile.core.records import Failure, OnProgress
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
from simile.models.pretrained import load_shipped_encoder
from simile.search.encoder_registry import find_encoder, load_encoder
from simile.store.home import Home

log = logging.getLogger(__name__)

COMMON_PREPROCESSING_SAMPLE_SIZE = 256  # images that decide size and colour of the preprocessing of baselines
DEFAULT_PCA_DIMENSION = 64  # used if there is no encoder
EXAMPLE_QUERIES = 4  # queries in the report
MAX_EVALUATION_BYTES = 2_000_000_000  # preprocessed images in memory


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """Options of an evaluation."""

    labels: str | None = None  # `folders` or a CSV file
    folds: int = 5
    test: Path | None = None  # folder of query images, instead of folds
    encoders: tuple[str, ...] = ()  # folders or fingerprints; empty: the shipped one and all of the home
    copies: int = 100  # number of images to make distorted copies of
    samples: int = 64  # samples per image to estimate log p(x)
    seed: int = 0
    limit: int = 5000  # maximum number of images
    posterior: bool = False  # add a row per encoder that compares posteriors


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The results of an evaluation; `labels` (n) are those of the images of `benchmark_data.dataset`."""

    request: EvaluationRequest
    rows: list[BenchmarkRow]
    methods: list[EmbeddingMethod]
    advice: str
    notes: list[str]
    benchmark_data: BenchmarkData
    labels: list[str | None]
    failures: list[Failure] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        copies = self.benchmark_data.planted_copies
        return {
            "pictures": len(self.benchmark_data.dataset),
            "queries": len(self.benchmark_data.query_rows),
            "labelled": sum(label is not None for label in self.labels),
            "classes": len({label for label in self.labels if label is not None}),
            "copies": 0 if copies is None else len(copies.kinds),
            "samples": self.request.samples,
            "rows": [row.to_dict() for row in self.rows],
            "advice": self.advice,
            "notes": self.notes,
            "failures": [vars(failure) for failure in self.failures],
        }


def evaluate(
    settings: Settings, photos: Sequence[Path], request: EvaluationRequest, on_progress: OnProgress
) -> Evaluation:
    """Measure every method on the images in `photos`.

    Raises BadSetting, NoSuchPath, NoSuchEncoder, TooFewPictures.
    """
    # Find the encoders and the files.
    check_sources(photos if request.test is None else [*photos, request.test])
    home = Home.from_settings(settings)
    encoders, damaged = load_encoders(home, request.encoders, settings)
    if not request.encoders:
        _add_shipped_encoder(encoders, damaged, settings)
    files, failures = find_image_files(photos, home)
    query_files, query_failures = find_image_files([request.test], home) if request.test is not None else ([], [])
    if overlap := set(files) & set(query_files):
        raise BadSetting(f"{min(overlap)} is in PHOTOS and in --test {request.test}. Use different images.")
    # Choose the methods and as many images as fit into memory.
    common = choose_common_preprocessing(files, settings, request.seed)
    methods = _make_methods(encoders, common, request)
    specs = tuple(dict.fromkeys(method.preprocessing for method in methods))
    limits = Limits.from_settings(settings)
    limit = min(request.limit, MAX_EVALUATION_BYTES // ImageReader(limits, settings.workers, specs).bytes_per_image)
    chosen = sample_paths(files, limit, request.seed)
    chosen_queries = sample_paths(query_files, limit, request.seed)
    notes = []
    if len(chosen) < len(files):
        notes.append(f"measured on a random sample of {limit:,} of {len(files):,} images")
    # Read each image once.
    with open_worker_pool(settings.workers, limits) as workers:
        reader = ImageReader(limits, workers, specs)
        dataset = read_dataset([*chosen, *chosen_queries], reader, on_progress)
        labels: list[str | None] = [None] * len(dataset)
        if request.labels is not None:
            roots = [*photos, *([request.test] if request.test is not None else [])]
            labels = read_labels(request.labels, dataset.paths, roots)
            LabelClasses.from_labels(labels)  # raises BadSetting for fewer than two classes
        benchmark_data = _make_benchmark_data(request, dataset, labels, set(chosen_queries), reader, on_progress)
    for note in notes:
        log.info(note)
    # Measure.
    rows = [benchmark_method(method, benchmark_data, on_progress) for method in methods]
    # The last rows are those of the encoders and, with `posterior`, of their posteriors.
    row_encoders = encoders * (1 + request.posterior)
    trained_rows = []
    for row, encoder in zip(rows[len(rows) - len(row_encoders) :], row_encoders, strict=True):
        if encoder.description.training_file_count == len(files):  # probably trained on these images
            trained_rows.append(row)
            row.is_trained_on_labels = request.test is None and encoder.network.architecture.classes > 0
    notes += _make_notes(rows, trained_rows, damaged)
    return Evaluation(
        request=request,
        rows=rows,
        methods=methods,
        advice=recommend_encoder(rows),
        notes=notes,
        benchmark_data=benchmark_data,
        labels=labels,
        failures=[*failures, *query_failures, *dataset.failures],
    )


def load_encoders(home: Home, references: Sequence[str], settings: Settings) -> tuple[list[TrainedEncoder], list[str]]:
    """Load the named encoders, or all of the home, sorted; return them and the errors of damaged encoders."""
    if references:
        return [find_encoder(home, name, settings.device, settings.runtime) for name in dict.fromkeys(references)], []
    encoders, damaged = [], []
    for folder in sorted(home.encoders.glob("[0-9a-f]*")):
        if not (folder / DESCRIPTION_FILE).is_file():
            continue
        try:
            encoders.append(load_encoder(home, folder.name, settings.device, settings.runtime))
        except CheckpointDamaged as error:
            damaged.append(str(error))
    return sorted(encoders, key=lambda encoder: (encoder.description.label, encoder.fingerprint)), damaged


def _add_shipped_encoder(encoders: list[TrainedEncoder], damaged: list[str], settings: Settings) -> None:
    """Add the encoder that comes with simile, unless the home has it."""
    try:
        shipped = load_shipped_encoder(settings.device, settings.runtime)
    except CheckpointDamaged as error:
        damaged.append(str(error))
        return
    if all(encoder.fingerprint != shipped.fingerprint for encoder in encoders):
        encoders.insert(0, shipped)


def find_image_files(sources: Sequence[Path], home: Home) -> tuple[list[str], list[Failure]]:
    """Find the image files of sources, without the folders of the home."""
    result = walk_sources(sources, skip=home.own_folders)
    return [file.path for file in result.files], result.failures


def choose_common_preprocessing(files: Sequence[str], settings: Settings, seed: int) -> Preprocessing:
    """Choose the preprocessing of raw pixels and PCA. Raises TooFewPictures."""
    sample = sample_images(
        files, Limits.from_settings(settings), settings.workers, COMMON_PREPROCESSING_SAMPLE_SIZE, seed
    )
    check_image_count(len(sample))
    return choose_preprocessing(sample, image_size=None, background=settings.background)


def _make_methods(
    encoders: Sequence[TrainedEncoder], common: Preprocessing, request: EvaluationRequest
) -> list[EmbeddingMethod]:
    """Make all methods: the baselines, with a PCA for each encoder dimension, then the encoders."""
    dimensions = sorted({encoder.latent_dim for encoder in encoders}) or [DEFAULT_PCA_DIMENSION]
    methods: list[EmbeddingMethod] = [RawPixels(common)]
    methods += [PrincipalComponents(common, dimension, request.seed) for dimension in dimensions]
    methods += [PerceptualHash()]
    methods += [EncoderMethod(encoder) for encoder in encoders]
    return methods + [PosteriorMethod(encoder) for encoder in encoders if request.posterior]


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
        splits, base_rows = make_query_splits(len(dataset), labels, request.folds, request.seed), rows
    else:
        check_image_count(int((~is_query).sum()))
        if not is_query.any():
            raise BadSetting(f"--test {request.test} has no readable image. Name another folder.")
        splits, base_rows = [QuerySplit(rows[is_query], rows[~is_query])], rows[~is_query]
    planted = None
    if request.copies:
        max_count = MAX_EVALUATION_BYTES // (reader.bytes_per_image * len(DISTORTION_KINDS))
        copied_count = min(request.copies, len(base_rows), max_count)
        copied = np.sort(np.random.default_rng(request.seed).choice(base_rows, copied_count, replace=False))
        planted = copy_retrieval.plant_copies(dataset.paths, copied, reader, request.seed, on_progress)
    return BenchmarkData(
        dataset=dataset,
        splits=splits,
        classes=LabelClasses.from_labels(labels).to_numbers(labels) if any(labels) else np.full(len(rows), -1),
        planted_copies=planted if planted and planted.kinds else None,
        base_rows=base_rows,
        example_queries=_choose_example_queries(request, splits, labels),
        samples=request.samples,
        seed=request.seed,
    )


def _choose_example_queries(
    request: EvaluationRequest, splits: Sequence[QuerySplit], labels: Sequence[str | None]
) -> RowIndices:
    """Choose example queries from as many classes as possible."""
    queries = np.concatenate([split.queries for split in splits])
    order = np.random.default_rng(request.seed).permutation(queries)
    # The first of each class comes first, then the second of each class, and so on.
    counts: defaultdict[str | None, count[int]] = defaultdict(count)
    ranks = [next(counts[labels[row]]) for row in order]
    return np.sort(order[np.argsort(ranks, kind="stable")][:EXAMPLE_QUERIES])


def _make_notes(
    rows: Sequence[BenchmarkRow], trained_rows: Sequence[BenchmarkRow], damaged: Sequence[str]
) -> list[str]:
    """Make notes that explain the table."""
    notes = [f"skipped: {reason}" for reason in damaged]
    if all(row.encoder is None for row in rows):
        notes.append(
            "There is no encoder, so there are only baselines. Train one with `simile train PHOTOS --from none`, then "
            "evaluate again."
        )
    if trained_rows:
        notes.append(
            f"probably trained on these images (the same number): {', '.join(row.name for row in trained_rows)}. An "
            "encoder reconstructs and finds its training images better than new images; for new images use --test DIR."
        )
    if any(row.metrics["log_likelihood"] is not None for row in rows):
        notes.append(f"log p(x) is measured on at most {MAX_LIKELIHOOD_IMAGES} images, chosen at random.")
    if len({row.metrics["input"] for row in rows if row.metrics["mse"] is not None}) > 1:
        notes.append("Inputs differ in size: MSE, PSNR and SSIM compare only rows with the same input.")
    return notes
