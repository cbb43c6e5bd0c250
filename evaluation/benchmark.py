"""The ladder: every method measured on the same pictures, one row each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from simile.evaluation import bootstrap, copy_retrieval
from simile.evaluation.baselines import Method, RawPixels, chunks
from simile.evaluation.dataset import Collection, OnProgress, Split
from simile.evaluation.neighbours import Doubles, LabelScores, Rows, Vectors, label_scores, nearest
from simile.evaluation.reconstruction import Kept, measure_likelihood, measure_reconstruction
from simile.images.transforms import Pixels

TIMED = 1024  # pictures that the speed is measured on
SHOWN = 8  # neighbours of an example


@dataclass
class Row:
    """What one method is worth. `figures`: by a column's key, None where the column makes no sense for it.

    `errors`: standard errors of some figures. `draws`: those figures under shared bootstrap draws (simile.evaluation.bootstrap).
    `examples`: the nearest rows of the example queries, (e, SHOWN). `knows_labels`: it was trained on these very
    labels, so that its label figures say nothing of pictures to come.
    """

    name: str
    encoder: str | None
    figures: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    copies_by_kind: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    draws: dict[str, Doubles] = field(default_factory=dict, repr=False)
    examples: Rows | None = field(default=None, repr=False)
    knows_labels: bool = False

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        body: dict[str, Any] = {"name": self.name, "encoder": self.encoder, **self.figures}
        return body | {
            "standard_errors": {key: error for key, error in self.errors.items() if np.isfinite(error)},
            "copies_by_kind": self.copies_by_kind,
            "knows_labels": self.knows_labels,
            "notes": self.notes,
        }


@dataclass(frozen=True)
class Material:
    """What every row is measured on. `classes` (n,): class numbers, -1 where there is no label."""

    collection: Collection
    splits: Sequence[Split]
    classes: Rows
    planted: copy_retrieval.Planted | None
    searched: Rows  # rows that copies and examples are searched among
    queries: Rows  # rows of the example queries
    samples: int
    seed: int

    @property
    def asked(self) -> Rows:
        """Every query, split after split."""
        return np.concatenate([split.queries for split in self.splits])


def measure(method: Method, material: Material, on_progress: OnProgress) -> Row:
    """One row of the ladder."""
    row = Row(method.name, None if method.encoder is None else method.encoder.fingerprint)
    if method.encoder is not None:
        method.encoder.prepare()  # so that one runtime makes all vectors, and its start is not timed
    pictures = material.collection.arrays[method.preprocessing]
    steps = len(material.splits) + 2
    row.figures |= _costs(method)
    vectors = None if method.fits else _vectors(method, pictures)
    scored, kept = [], []
    for done, split in enumerate(material.splits):
        on_progress(method.name, done, steps)
        method.fit(pictures[split.base])
        scored.append(_labels_of(split, pictures, material, method, vectors))
        kept.append(measure_reconstruction(method, pictures[split.queries]))
    _note_labels(row, [scores for scores in scored if scores is not None], material.seed)
    _note_reconstruction(row, [parts for parts in kept if parts is not None], material.seed)
    on_progress(method.name, steps - 2, steps)
    _note_likelihood(row, method, pictures[material.asked], material)
    on_progress(method.name, steps - 1, steps)
    method.fit(pictures[material.searched])
    _note_speed(row, method, pictures)
    _note_search(row, method, pictures, vectors, material)
    on_progress(method.name, steps, steps)
    return row


def _costs(method: Method) -> dict[str, Any]:
    _, _, height, width = method.preprocessing.content_box()
    colour = "grey" if method.preprocessing.channels == 1 else "RGB"
    return {
        "input": f"{width}×{height} {colour}",
        "dimension": method.dimension,
        "bytes_stored": method.bytes_stored,
        "bytes_indexed": method.bytes_indexed,
    }


def _vectors(method: Method, pictures: Pixels) -> Vectors:
    return np.concatenate([method.vectors(pictures[part]) for part in chunks(len(pictures))])


def _labels_of(
    split: Split, pictures: Pixels, material: Material, method: Method, vectors: Vectors | None
) -> LabelScores | None:
    """Scores of the queries that have a label, against the pictures that have one."""
    base, queries = (rows[material.classes[rows] >= 0] for rows in (split.base, split.queries))
    if not len(base) or not len(queries):
        return None
    found = [_vectors(method, pictures[rows]) if vectors is None else vectors[rows] for rows in (base, queries)]
    return label_scores(found[0], material.classes[base], found[1], material.classes[queries])


def _note_labels(row: Row, scored: list[LabelScores], seed: int) -> None:
    for key, name in (("vote", "vote"), ("precision", "precision"), ("map", "average_precision")):
        row.figures[key] = None
        if not scored:
            continue
        values = np.concatenate([getattr(scores, name) for scores in scored])
        if not np.isfinite(values).any():
            continue
        row.figures[key] = float(np.nanmean(values))
        row.draws[key] = bootstrap.means(values, bootstrap.draws(len(values), seed))
        row.errors[key] = float(row.draws[key].std())


def _note_reconstruction(row: Row, kept: list[Kept], seed: int) -> None:
    for key, name in (("mse", "squared_error"), ("psnr", "psnr"), ("ssim", "ssim")):
        values = np.concatenate([getattr(parts, name) for parts in kept]) if kept else np.array([np.nan])
        mean = float(values.mean())
        row.figures[key] = mean if np.isfinite(mean) else None
        if row.figures[key] is not None:
            row.draws[key] = bootstrap.means(values, bootstrap.draws(len(values), seed))
            row.errors[key] = float(row.draws[key].std())


def _note_likelihood(row: Row, method: Method, pictures: Pixels, material: Material) -> None:
    row.figures |= dict.fromkeys(("elbo", "bits", "log_likelihood", "active_units"))
    if method.encoder is None:
        return
    found = measure_likelihood(method.encoder, pictures, material.samples, material.seed)
    if found is None:
        return
    row.figures |= {
        "elbo": found.elbo,
        "bits": found.bits,
        "log_likelihood": found.log_likelihood,
        "active_units": found.active_units,
    }
    row.errors["elbo"] = found.elbo_error
    if found.log_likelihood_error is not None:
        row.errors["log_likelihood"] = found.log_likelihood_error
    if found.binarised:
        row.notes.append("its likelihood is that of binarised pictures, as it was trained")


def _note_speed(row: Row, method: Method, pictures: Pixels) -> None:
    """Pixels need no embedding, so they have no speed."""
    row.figures["speed"] = None
    if isinstance(method, RawPixels):
        return
    timed = pictures[:TIMED]
    method.vectors(timed[:16])  # the first call sets things up
    started = time.perf_counter()
    for part in chunks(len(timed)):
        method.vectors(timed[part])
    speed = len(timed) / max(time.perf_counter() - started, 1e-9)
    row.figures["speed"] = float(f"{speed:.2g}")  # more digits would not come again


def _note_search(row: Row, method: Method, pictures: Pixels, vectors: Vectors | None, material: Material) -> None:
    """Copies and examples, searched among the whole collection."""
    vectors = _vectors(method, pictures) if vectors is None else vectors
    searched = material.searched
    row.examples = _examples(vectors, searched, material.queries)
    row.figures |= dict.fromkeys(("copy_recall", "micro_ap", "recall_at_precision"))
    if material.planted is None:
        return
    asked = _vectors(method, material.planted.arrays[method.preprocessing])
    found = nearest(vectors[searched], asked, copy_retrieval.CANDIDATES)
    found = type(found)(searched[found.rows], found.distances)
    identity = np.unique(material.collection.digests, return_inverse=True)[1]
    scores = copy_retrieval.score(found, material.planted, identity, material.seed)
    row.figures |= {
        "copy_recall": scores.recall,
        "micro_ap": scores.micro_ap,
        "recall_at_precision": scores.recall_at_precision,
    }
    row.copies_by_kind = scores.by_kind
    row.draws |= scores.draws
    row.errors |= {key: float(values.std()) for key, values in scores.draws.items()}


def _examples(vectors: Vectors, searched: Rows, queries: Rows) -> Rows:
    """The SHOWN nearest of each query but itself, (e, SHOWN)."""
    found = searched[nearest(vectors[searched], vectors[queries], SHOWN + 1).rows]
    others = [
        [row for row in rows if row != query][:SHOWN] for rows, query in zip(found.tolist(), queries, strict=True)
    ]
    return np.array(others, dtype=np.int64).reshape(len(queries), -1)
