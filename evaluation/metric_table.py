"""The metric columns: heading, format and meaning of each, for all outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from simile.evaluation.benchmark import BenchmarkRow


@dataclass(frozen=True)
class MetricColumn:
    """One metric; `direction`: 1 if higher is better, -1 if lower is better, 0 if neither."""

    key: str
    heading: str
    number_format: str
    direction: int
    meaning: str


@dataclass(frozen=True)
class MetricGroup:
    """Columns with a common title."""

    title: str
    columns: tuple[MetricColumn, ...]


_SEARCH_COLUMNS = (
    MetricColumn("vote", "vote of 5", "{:.3f}", 1, "share of queries whose label is the majority of the 5 nearest"),
    MetricColumn("precision", "precision at 10", "{:.3f}", 1, "share of the 10 nearest with the label of the query"),
    MetricColumn("map", "mAP", "{:.3f}", 1, "mean average precision over the ranking of the whole collection"),
    MetricColumn(
        "copy_recall", "copies: recall@1", "{:.3f}", 1, "share of distorted copies whose nearest image is the original"
    ),
    MetricColumn("micro_ap", "copies: μAP", "{:.3f}", 1, "average precision over all copies with one threshold"),
    MetricColumn(
        "recall_at_precision",
        "recall at P 0.99",
        "{:.3f}",
        1,
        "share of copies found while at most 1 % of the candidates are wrong",
    ),
)
_RECONSTRUCTION_COLUMNS = (
    MetricColumn("mse", "MSE", "{:.5f}", -1, "mean squared error of the reconstruction, values in [0, 1]"),
    MetricColumn("psnr", "PSNR", "{:.2f}", 1, "peak signal to noise ratio in dB, mean over images"),
    MetricColumn("ssim", "SSIM", "{:.3f}", 1, "structural similarity of image and reconstruction, 1 for equal images"),
    MetricColumn(
        "elbo",
        "ELBO",
        "{:,.1f}",
        0,
        "evidence lower bound in nats per image (not comparable between different inputs or likelihoods)",
    ),
    MetricColumn(
        "bits", "bits/dim", "{:.3f}", 0, "- ELBO / (values · ln 2), plus 8 for a Gaussian density: 256 levels"
    ),
    MetricColumn(
        "log_likelihood", "log p(x)", "{:,.1f}", 0, "importance-weighted estimate in nats per image (arXiv 1509.00519)"
    ),
    MetricColumn("active_units", "active units", "{:.0f}", 0, "latent dimensions with a variance of μ above 0.01"),
)
_COST_COLUMNS = (
    MetricColumn("input", "input", "{}", 0, "input of the method: size, grey or colour"),
    MetricColumn("dimension", "numbers", "{:,.0f}", 0, "dimension of the compared vector"),
    MetricColumn(
        "bytes_stored", "bytes stored", "{:,.0f}", 0, "bytes per image in the catalogue: μ and log σ² as float32"
    ),
    MetricColumn("bytes_indexed", "bytes indexed", "{:,.0f}", 0, "bytes per image in the index"),
    MetricColumn(
        "speed",
        "images/s",
        "{:,.0f}",
        0,
        "images embedded per second on this machine, without reading and decoding files",
    ),
)
METRIC_GROUPS = (
    MetricGroup("Similarity search", _SEARCH_COLUMNS),
    MetricGroup("Reconstruction and likelihood", _RECONSTRUCTION_COLUMNS),
    MetricGroup("Cost", _COST_COLUMNS),
)
METRIC_COLUMNS = tuple(column for group in METRIC_GROUPS for column in group.columns)
MISSING_VALUE = "—"
METRICS_WITH_ERRORS = ("vote", "precision", "map", "copy_recall", "micro_ap", "recall_at_precision", "log_likelihood")


def get_columns_with_values(rows: Sequence[BenchmarkRow]) -> list[tuple[MetricGroup, tuple[MetricColumn, ...]]]:
    """Return the groups with the columns that have a value in some row."""
    groups = []
    for group in METRIC_GROUPS:
        columns = tuple(
            column for column in group.columns if any(row.metrics.get(column.key) is not None for row in rows)
        )
        groups += [(group, columns)] if columns else []
    return groups


def select_rows_with_values(rows: Sequence[BenchmarkRow], columns: Sequence[MetricColumn]) -> list[BenchmarkRow]:
    """Return the rows with a value in any of the columns."""
    return [row for row in rows if any(row.metrics.get(column.key) is not None for column in columns)]


def format_metric(column: MetricColumn, metrics: dict[str, Any], standard_errors: dict[str, float]) -> str:
    """Format a value with its standard error; a dash if there is no value."""
    value = metrics.get(column.key)
    if value is None:
        return MISSING_VALUE
    error = standard_errors.get(column.key) if column.key in METRICS_WITH_ERRORS else None
    return column.number_format.format(value) + ("" if error is None else f" ± {column.number_format.format(error)}")
