"""Measure embedding methods on the same images, one row each."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from simile.core.records import Float64Array, OnProgress
from simile.evaluation import bootstrap, copy_retrieval
from simile.evaluation.baselines import EmbeddingMethod, RawPixels, make_chunks
from simile.evaluation.dataset import EvaluationDataset, QuerySplit
from simile.evaluation.neighbours import (
    LabelScores,
    RowIndices,
    VectorArray,
    compute_label_scores,
    find_nearest,
)
from simile.evaluation.reconstruction import ReconstructionScores, estimate_likelihood, score_reconstruction
from simile.images.formats import Pixels

TIMED_IMAGES = 1024  # images for the speed measurement
EXAMPLE_NEIGHBOURS = 8  # neighbours of each example query in the report
LABEL_METRICS = {"vote": "vote", "precision": "precision", "map": "average_precision"}
RECONSTRUCTION_METRICS = {"mse": "squared_error", "psnr": "psnr", "ssim": "ssim"}


@dataclass(kw_only=True)
class BenchmarkRow:
    """The results of one method.

    Attributes:
        bootstrap_values: Values of these metrics for the shared bootstrap draws, (BOOTSTRAP_DRAWS,).
        example_rows: (e, EXAMPLE_NEIGHBOURS), the nearest rows of the example queries.
        is_trained_on_labels: Whether it was trained on these labels, so that its label metrics are not meaningful.
    """

    name: str
    encoder: str | None  # fingerprint of the encoder; None for a baseline
    metrics: dict[str, Any] = field(default_factory=dict)  # value by column key; None if the metric does not apply
    standard_errors: dict[str, float] = field(default_factory=dict)  # of some of the metrics
    copies_by_kind: dict[str, float] = field(default_factory=dict)  # recall@1 by kind of distortion
    notes: list[str] = field(default_factory=list)
    bootstrap_values: dict[str, Float64Array] = field(default_factory=dict, repr=False)
    example_rows: RowIndices | None = field(default=None, repr=False)
    is_trained_on_labels: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        body: dict[str, Any] = {"name": self.name, "encoder": self.encoder, **self.metrics}
        return body | {
            "standard_errors": {key: error for key, error in self.standard_errors.items() if np.isfinite(error)},
            "copies_by_kind": self.copies_by_kind,
            "knows_labels": self.is_trained_on_labels,
            "notes": self.notes,
        }


@dataclass(frozen=True, kw_only=True)
class BenchmarkData:
    """The data that every method is measured on."""

    dataset: EvaluationDataset
    splits: Sequence[QuerySplit]
    classes: RowIndices  # (n,) class numbers, -1 without a label
    planted_copies: copy_retrieval.PlantedCopies | None
    base_rows: RowIndices  # rows that copies and example queries are searched in
    example_queries: RowIndices  # rows of the example queries
    samples: int  # samples per image to estimate log p(x)
    seed: int

    @property
    def query_rows(self) -> RowIndices:
        """The query rows of all splits."""
        return np.concatenate([split.queries for split in self.splits])


def benchmark_method(method: EmbeddingMethod, data: BenchmarkData, on_progress: OnProgress) -> BenchmarkRow:
    """Measure one method."""
    row = BenchmarkRow(name=method.name, encoder=None if method.encoder is None else method.encoder.fingerprint)
    if method.encoder is not None:
        method.encoder.start_runtimes()  # all vectors by one runtime; its start is not timed
    images = data.dataset.arrays[method.preprocessing]
    steps = len(data.splits) + 2
    _, _, height, width = method.preprocessing.content_box()
    row.metrics |= {
        "input": f"{width}×{height} {'grey' if method.preprocessing.channels == 1 else 'RGB'}",
        "dimension": method.dimension,
        "bytes_stored": method.bytes_stored,
        "bytes_indexed": method.bytes_indexed,
    }
    vectors = None if method.needs_fit else _embed_images(method, images)
    label_scores: list[LabelScores | None] = []
    reconstruction_scores: list[ReconstructionScores | None] = []
    for done, split in enumerate(data.splits):
        on_progress(method.name, done, steps)
        method.fit(images[split.base])
        label_scores.append(_score_split_labels(split, images, data, method, vectors))
        reconstruction_scores.append(score_reconstruction(method, images[split.queries]))
    _add_mean_metrics(row, label_scores, LABEL_METRICS, data.seed)
    _add_mean_metrics(row, reconstruction_scores, RECONSTRUCTION_METRICS, data.seed)
    on_progress(method.name, steps - 2, steps)
    _add_likelihood_metrics(row, method, images[data.query_rows], data)
    on_progress(method.name, steps - 1, steps)
    method.fit(images[data.base_rows])
    _add_speed_metric(row, method, images)
    _add_search_metrics(row, method, images, vectors, data)
    on_progress(method.name, steps, steps)
    return row


def _embed_images(method: EmbeddingMethod, images: Pixels) -> VectorArray:
    return np.concatenate([method.embed(images[part]) for part in make_chunks(len(images))])


def _score_split_labels(
    split: QuerySplit, images: Pixels, data: BenchmarkData, method: EmbeddingMethod, vectors: VectorArray | None
) -> LabelScores | None:
    """Score the labelled queries of a split against its labelled images; None without labels."""
    base, queries = (rows[data.classes[rows] >= 0] for rows in (split.base, split.queries))
    if not len(base) or not len(queries):
        return None
    base_vectors, query_vectors = [
        _embed_images(method, images[rows]) if vectors is None else vectors[rows] for rows in (base, queries)
    ]
    return compute_label_scores(base_vectors, data.classes[base], query_vectors, data.classes[queries])


def _add_mean_metrics(
    row: BenchmarkRow, split_scores: Sequence[object | None], names: Mapping[str, str], seed: int
) -> None:
    """Add the means over the queries of all splits; None where no split has a value.

    Args:
        names: The attribute of the scores, (n,), by metric key.
    """
    known_scores = [scores for scores in split_scores if scores is not None]
    for key, name in names.items():
        row.metrics[key] = None
        values = np.concatenate([np.empty(0), *(getattr(scores, name) for scores in known_scores)])
        if np.isfinite(values).any():
            row.metrics[key] = float(np.nanmean(values))
            weights = bootstrap.make_bootstrap_weights(len(values), seed)
            row.bootstrap_values[key] = bootstrap.compute_bootstrap_means(values, weights)
            row.standard_errors[key] = float(row.bootstrap_values[key].std())


def _add_likelihood_metrics(row: BenchmarkRow, method: EmbeddingMethod, images: Pixels, data: BenchmarkData) -> None:
    scores = None if method.encoder is None else estimate_likelihood(method.encoder, images, data.samples, data.seed)
    row.metrics |= {key: getattr(scores, key, None) for key in ("elbo", "bits", "log_likelihood", "active_units")}
    if scores is None:
        return
    row.standard_errors["elbo"] = scores.elbo_error
    if scores.log_likelihood_error is not None:
        row.standard_errors["log_likelihood"] = scores.log_likelihood_error
    if scores.binarised:
        row.notes.append("its likelihood is measured on binarised images, as in its training")


def _add_speed_metric(row: BenchmarkRow, method: EmbeddingMethod, images: Pixels) -> None:
    """Measure the embedding speed; raw pixels have none."""
    row.metrics["speed"] = None
    if isinstance(method, RawPixels):
        return
    timed = images[:TIMED_IMAGES]
    method.embed(timed[:16])  # the first call is slower
    started = time.perf_counter()
    for part in make_chunks(len(timed)):
        method.embed(timed[part])
    speed = len(timed) / max(time.perf_counter() - started, 1e-9)
    row.metrics["speed"] = float(f"{speed:.2g}")  # two digits are reproducible


def _add_search_metrics(
    row: BenchmarkRow, method: EmbeddingMethod, images: Pixels, vectors: VectorArray | None, data: BenchmarkData
) -> None:
    """Search the distorted copies and the example queries in the whole collection."""
    vectors = _embed_images(method, images) if vectors is None else vectors
    row.example_rows = _find_example_rows(vectors, data.base_rows, data.example_queries)
    row.metrics |= dict.fromkeys(("copy_recall", "micro_ap", "recall_at_precision"))
    if data.planted_copies is None:
        return
    copy_vectors = _embed_images(method, data.planted_copies.arrays[method.preprocessing])
    nearest = find_nearest(vectors[data.base_rows], copy_vectors, copy_retrieval.COPY_CANDIDATES)
    nearest = replace(nearest, rows=data.base_rows[nearest.rows])
    identity = np.unique(data.dataset.digests, return_inverse=True)[1]
    scores = copy_retrieval.score_copies(nearest, data.planted_copies, identity, data.seed)
    row.metrics |= {
        "copy_recall": scores.recall,
        "micro_ap": scores.micro_ap,
        "recall_at_precision": scores.recall_at_precision,
    }
    row.copies_by_kind = scores.by_kind
    row.bootstrap_values |= scores.bootstrap_values
    row.standard_errors |= {key: float(values.std()) for key, values in scores.bootstrap_values.items()}


def _find_example_rows(vectors: VectorArray, base_rows: RowIndices, queries: RowIndices) -> RowIndices:
    """Find the nearest other rows of each query, (e, EXAMPLE_NEIGHBOURS)."""
    nearest = base_rows[find_nearest(vectors[base_rows], vectors[queries], EXAMPLE_NEIGHBOURS + 1).rows]
    others = [
        [row for row in rows if row != query][:EXAMPLE_NEIGHBOURS]
        for rows, query in zip(nearest.tolist(), queries, strict=True)
    ]
    return np.array(others, dtype=np.int64).reshape(len(queries), -1)
