"""The ladder: every method measured on the same pictures, one row each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from simile.evaluation import bootstrap, copy_retrieval
from simile.evaluation.baselines import EmbeddingMethod, RawPixels, make_chunks
from simile.evaluation.dataset import EvaluationDataset, OnProgress, QuerySplit
from simile.evaluation.neighbours import (
    Float64Array,
    LabelScores,
    RowIndices,
    VectorArray,
    compute_label_scores,
    find_nearest,
)
from simile.evaluation.reconstruction import ReconstructionScores, estimate_likelihood, score_reconstruction
from simile.images.formats import Pixels

TIMED_IMAGES = 1024  # pictures that the speed is measured on
EXAMPLE_NEIGHBOURS = 8  # neighbours of an example


@dataclass
class BenchmarkRow:
    """What one method is worth. `figures`: by a column's key, None where the column makes no sense for it.

    `errors`: standard errors of some figures. `draws`: those figures under shared bootstrap draws (simile.evaluation.bootstrap).
    `examples`: the nearest rows of the example queries, (e, SHOWN). `knows_labels`: it was trained on these very
    labels, so that its label figures say nothing of pictures to come.
    """

    name: str
    encoder: str | None
    metrics: dict[str, Any] = field(default_factory=dict)
    standard_errors: dict[str, float] = field(default_factory=dict)
    copies_by_kind: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    bootstrap_values: dict[str, Float64Array] = field(default_factory=dict, repr=False)
    example_rows: RowIndices | None = field(default=None, repr=False)
    is_trained_on_labels: bool = False

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        body: dict[str, Any] = {"name": self.name, "encoder": self.encoder, **self.metrics}
        return body | {
            "standard_errors": {key: error for key, error in self.standard_errors.items() if np.isfinite(error)},
            "copies_by_kind": self.copies_by_kind,
            "knows_labels": self.is_trained_on_labels,
            "notes": self.notes,
        }


@dataclass(frozen=True)
class BenchmarkData:
    """What every row is measured on. `classes` (n,): class numbers, -1 where there is no label."""

    dataset: EvaluationDataset
    splits: Sequence[QuerySplit]
    classes: RowIndices
    planted_copies: copy_retrieval.PlantedCopies | None
    base_rows: RowIndices  # rows that copies and examples are searched among
    example_queries: RowIndices  # rows of the example queries
    samples: int
    seed: int

    @property
    def query_rows(self) -> RowIndices:
        """Every query, split after split."""
        return np.concatenate([split.queries for split in self.splits])


def benchmark_method(method: EmbeddingMethod, data: BenchmarkData, on_progress: OnProgress) -> BenchmarkRow:
    """One row of the ladder."""
    row = BenchmarkRow(method.name, None if method.encoder is None else method.encoder.fingerprint)
    if method.encoder is not None:
        method.encoder.start_runtimes()  # so that one runtime makes all vectors, and its start is not timed
    pictures = data.dataset.arrays[method.preprocessing]
    steps = len(data.splits) + 2
    row.metrics |= _get_cost_metrics(method)
    vectors = None if method.needs_fit else _embed_images(method, pictures)
    scored, kept = [], []
    for done, split in enumerate(data.splits):
        on_progress(method.name, done, steps)
        method.fit(pictures[split.base])
        scored.append(_score_split_labels(split, pictures, data, method, vectors))
        kept.append(score_reconstruction(method, pictures[split.queries]))
    _add_label_metrics(row, [scores for scores in scored if scores is not None], data.seed)
    _add_reconstruction_metrics(row, [parts for parts in kept if parts is not None], data.seed)
    on_progress(method.name, steps - 2, steps)
    _add_likelihood_metrics(row, method, pictures[data.query_rows], data)
    on_progress(method.name, steps - 1, steps)
    method.fit(pictures[data.base_rows])
    _add_speed_metric(row, method, pictures)
    _add_search_metrics(row, method, pictures, vectors, data)
    on_progress(method.name, steps, steps)
    return row


def _get_cost_metrics(method: EmbeddingMethod) -> dict[str, Any]:
    _, _, height, width = method.preprocessing.content_box()
    colour = "grey" if method.preprocessing.channels == 1 else "RGB"
    return {
        "input": f"{width}×{height} {colour}",
        "dimension": method.dimension,
        "bytes_stored": method.bytes_stored,
        "bytes_indexed": method.bytes_indexed,
    }


def _embed_images(method: EmbeddingMethod, images: Pixels) -> VectorArray:
    return np.concatenate([method.embed(images[part]) for part in make_chunks(len(images))])


def _score_split_labels(
    split: QuerySplit, images: Pixels, data: BenchmarkData, method: EmbeddingMethod, vectors: VectorArray | None
) -> LabelScores | None:
    """Scores of the queries that have a label, against the pictures that have one."""
    base, queries = (rows[data.classes[rows] >= 0] for rows in (split.base, split.queries))
    if not len(base) or not len(queries):
        return None
    found = [_embed_images(method, images[rows]) if vectors is None else vectors[rows] for rows in (base, queries)]
    return compute_label_scores(found[0], data.classes[base], found[1], data.classes[queries])


def _add_label_metrics(row: BenchmarkRow, split_scores: list[LabelScores], seed: int) -> None:
    for key, name in (("vote", "vote"), ("precision", "precision"), ("map", "average_precision")):
        row.metrics[key] = None
        if not split_scores:
            continue
        values = np.concatenate([getattr(scores, name) for scores in split_scores])
        if not np.isfinite(values).any():
            continue
        row.metrics[key] = float(np.nanmean(values))
        row.bootstrap_values[key] = bootstrap.compute_bootstrap_means(
            values, bootstrap.make_bootstrap_weights(len(values), seed)
        )
        row.standard_errors[key] = float(row.bootstrap_values[key].std())


def _add_reconstruction_metrics(row: BenchmarkRow, split_scores: list[ReconstructionScores], seed: int) -> None:
    for key, name in (("mse", "squared_error"), ("psnr", "psnr"), ("ssim", "ssim")):
        values = (
            np.concatenate([getattr(parts, name) for parts in split_scores]) if split_scores else np.array([np.nan])
        )
        mean = float(values.mean())
        row.metrics[key] = mean if np.isfinite(mean) else None
        if row.metrics[key] is not None:
            row.bootstrap_values[key] = bootstrap.compute_bootstrap_means(
                values, bootstrap.make_bootstrap_weights(len(values), seed)
            )
            row.standard_errors[key] = float(row.bootstrap_values[key].std())


def _add_likelihood_metrics(row: BenchmarkRow, method: EmbeddingMethod, images: Pixels, data: BenchmarkData) -> None:
    row.metrics |= dict.fromkeys(("elbo", "bits", "log_likelihood", "active_units"))
    if method.encoder is None:
        return
    found = estimate_likelihood(method.encoder, images, data.samples, data.seed)
    if found is None:
        return
    row.metrics |= {
        "elbo": found.elbo,
        "bits": found.bits,
        "log_likelihood": found.log_likelihood,
        "active_units": found.active_units,
    }
    row.standard_errors["elbo"] = found.elbo_error
    if found.log_likelihood_error is not None:
        row.standard_errors["log_likelihood"] = found.log_likelihood_error
    if found.binarised:
        row.notes.append("its likelihood is that of binarised pictures, as it was trained")


def _add_speed_metric(row: BenchmarkRow, method: EmbeddingMethod, images: Pixels) -> None:
    """Pixels need no embedding, so they have no speed."""
    row.metrics["speed"] = None
    if isinstance(method, RawPixels):
        return
    timed = images[:TIMED_IMAGES]
    method.embed(timed[:16])  # the first call sets things up
    started = time.perf_counter()
    for part in make_chunks(len(timed)):
        method.embed(timed[part])
    speed = len(timed) / max(time.perf_counter() - started, 1e-9)
    row.metrics["speed"] = float(f"{speed:.2g}")  # more digits would not come again


def _add_search_metrics(
    row: BenchmarkRow, method: EmbeddingMethod, images: Pixels, vectors: VectorArray | None, data: BenchmarkData
) -> None:
    """Copies and examples, searched among the whole collection."""
    vectors = _embed_images(method, images) if vectors is None else vectors
    searched = data.base_rows
    row.example_rows = _find_example_rows(vectors, searched, data.example_queries)
    row.metrics |= dict.fromkeys(("copy_recall", "micro_ap", "recall_at_precision"))
    if data.planted_copies is None:
        return
    asked = _embed_images(method, data.planted_copies.arrays[method.preprocessing])
    found = find_nearest(vectors[searched], asked, copy_retrieval.COPY_CANDIDATES)
    found = type(found)(searched[found.rows], found.distances)
    identity = np.unique(data.dataset.digests, return_inverse=True)[1]
    scores = copy_retrieval.score_copies(found, data.planted_copies, identity, data.seed)
    row.metrics |= {
        "copy_recall": scores.recall,
        "micro_ap": scores.micro_ap,
        "recall_at_precision": scores.recall_at_precision,
    }
    row.copies_by_kind = scores.by_kind
    row.bootstrap_values |= scores.bootstrap_values
    row.standard_errors |= {key: float(values.std()) for key, values in scores.bootstrap_values.items()}


def _find_example_rows(vectors: VectorArray, base_rows: RowIndices, queries: RowIndices) -> RowIndices:
    """The SHOWN nearest of each query but itself, (e, SHOWN)."""
    found = base_rows[find_nearest(vectors[base_rows], vectors[queries], EXAMPLE_NEIGHBOURS + 1).rows]
    others = [
        [row for row in rows if row != query][:EXAMPLE_NEIGHBOURS]
        for rows, query in zip(found.tolist(), queries, strict=True)
    ]
    return np.array(others, dtype=np.int64).reshape(len(queries), -1)
