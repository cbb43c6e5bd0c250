"""The columns of the ladder: what each is called, how it is written and what it means. One table for all outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar


@dataclass(frozen=True)
class MetricColumn:
    """`better`: 1 where more is better, -1 where less is, 0 where neither. `written`: a format of the value."""

    key: str
    heading: str
    number_format: str
    direction: int
    meaning: str


@dataclass(frozen=True)
class MetricGroup:
    """Columns that answer one question."""

    title: str
    columns: tuple[MetricColumn, ...]


METRIC_GROUPS = (
    MetricGroup(
        "Finding what is alike",
        (
            MetricColumn("vote", "vote of 5", "{:.3f}", 1, "share of queries whose label most of the 5 nearest have"),
            MetricColumn(
                "precision", "precision at 10", "{:.3f}", 1, "share of the 10 nearest that have the query's label"
            ),
            MetricColumn("map", "mAP", "{:.3f}", 1, "mean average precision over the ranking of the whole collection"),
            MetricColumn(
                "copy_recall",
                "copies: recall@1",
                "{:.3f}",
                1,
                "share of altered copies whose nearest picture is their original",
            ),
            MetricColumn(
                "micro_ap", "copies: μAP", "{:.3f}", 1, "average precision of all copies' answers under one threshold"
            ),
            MetricColumn(
                "recall_at_precision",
                "recall at P 0.99",
                "{:.3f}",
                1,
                "share of copies found before more than one answer in a hundred is wrong",
            ),
        ),
    ),
    MetricGroup(
        "Keeping what was seen",
        (
            MetricColumn("mse", "MSE", "{:.5f}", -1, "mean squared error of the reconstruction, values in [0, 1]"),
            MetricColumn("psnr", "PSNR", "{:.2f}", 1, "peak signal to noise ratio in dB, mean over pictures"),
            MetricColumn(
                "ssim", "SSIM", "{:.3f}", 1, "structural similarity of picture and reconstruction, 1 is the same"
            ),
            MetricColumn(
                "elbo",
                "ELBO",
                "{:,.1f}",
                0,
                "evidence lower bound in nats per picture (of different inputs or likelihoods: not comparable)",
            ),
            MetricColumn(
                "bits", "bits/dim", "{:.3f}", 0, "- ELBO / (values · ln 2), plus 8 for a Gaussian density: 256 levels"
            ),
            MetricColumn(
                "log_likelihood",
                "log p(x)",
                "{:,.1f}",
                0,
                "importance-weighted estimate in nats per picture (arXiv 1509.00519)",
            ),
            MetricColumn(
                "active_units",
                "active units",
                "{:.0f}",
                0,
                "latent dimensions whose μ differs between pictures: variance above 0.01",
            ),
        ),
    ),
    MetricGroup(
        "What it costs",
        (
            MetricColumn("input", "input", "{}", 0, "what the method is given: pixels, grey or colour"),
            MetricColumn("dimension", "numbers", "{:,.0f}", 0, "numbers in the vector that is compared"),
            MetricColumn(
                "bytes_stored",
                "bytes stored",
                "{:,.0f}",
                0,
                "bytes per picture in the catalogue: μ and log σ² as float32",
            ),
            MetricColumn("bytes_indexed", "bytes indexed", "{:,.0f}", 0, "bytes per picture in the index"),
            MetricColumn(
                "speed",
                "pictures/s",
                "{:,.0f}",
                0,
                "pictures embedded in a second on this machine, without reading and decoding the files",
            ),
        ),
    ),
)
METRIC_COLUMNS = tuple(column for group in METRIC_GROUPS for column in group.columns)
MISSING_VALUE = "—"
METRICS_WITH_ERRORS = ("vote", "precision", "map", "copy_recall", "micro_ap", "recall_at_precision", "log_likelihood")


class HasMetrics(Protocol):
    """A row of the ladder, as far as columns care."""

    metrics: dict[str, Any]


HasMetricsT = TypeVar("HasMetricsT", bound=HasMetrics)


def get_columns_with_values(rows: Sequence[HasMetrics]) -> list[tuple[MetricGroup, tuple[MetricColumn, ...]]]:
    """The groups with those of their columns that some row has a value in."""
    found = []
    for group in METRIC_GROUPS:
        columns = tuple(c for c in group.columns if any(row.metrics.get(c.key) is not None for row in rows))
        found += [(group, columns)] if columns else []
    return found


def select_rows_with_values(rows: Sequence[HasMetricsT], columns: Sequence[MetricColumn]) -> list[HasMetricsT]:
    """The rows that have a value in any of the columns."""
    return [row for row in rows if any(row.metrics.get(column.key) is not None for column in columns)]


def format_metric(column: MetricColumn, metrics: dict[str, Any], standard_errors: dict[str, float]) -> str:
    """The value as it is shown, with its standard error; a dash where the column makes no sense for the row."""
    value = metrics.get(column.key)
    if value is None:
        return MISSING_VALUE
    error = standard_errors.get(column.key) if column.key in METRICS_WITH_ERRORS else None
    return column.number_format.format(value) + ("" if error is None else f" ± {column.number_format.format(error)}")
