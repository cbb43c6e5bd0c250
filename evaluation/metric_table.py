"""The columns of the ladder: what each is called, how it is written and what it means. One table for all outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar


@dataclass(frozen=True)
class Column:
    """`better`: 1 where more is better, -1 where less is, 0 where neither. `written`: a format of the value."""

    key: str
    heading: str
    written: str
    better: int
    meaning: str


@dataclass(frozen=True)
class Group:
    """Columns that answer one question."""

    title: str
    columns: tuple[Column, ...]


GROUPS = (
    Group(
        "Finding what is alike",
        (
            Column("vote", "vote of 5", "{:.3f}", 1, "share of queries whose label most of the 5 nearest have"),
            Column("precision", "precision at 10", "{:.3f}", 1, "share of the 10 nearest that have the query's label"),
            Column("map", "mAP", "{:.3f}", 1, "mean average precision over the ranking of the whole collection"),
            Column(
                "copy_recall",
                "copies: recall@1",
                "{:.3f}",
                1,
                "share of altered copies whose nearest picture is their original",
            ),
            Column(
                "micro_ap", "copies: μAP", "{:.3f}", 1, "average precision of all copies' answers under one threshold"
            ),
            Column(
                "recall_at_precision",
                "recall at P 0.99",
                "{:.3f}",
                1,
                "share of copies found before more than one answer in a hundred is wrong",
            ),
        ),
    ),
    Group(
        "Keeping what was seen",
        (
            Column("mse", "MSE", "{:.5f}", -1, "mean squared error of the reconstruction, values in [0, 1]"),
            Column("psnr", "PSNR", "{:.2f}", 1, "peak signal to noise ratio in dB, mean over pictures"),
            Column("ssim", "SSIM", "{:.3f}", 1, "structural similarity of picture and reconstruction, 1 is the same"),
            Column(
                "elbo",
                "ELBO",
                "{:,.1f}",
                0,
                "evidence lower bound in nats per picture (of different inputs or likelihoods: not comparable)",
            ),
            Column(
                "bits", "bits/dim", "{:.3f}", 0, "- ELBO / (values · ln 2), plus 8 for a Gaussian density: 256 levels"
            ),
            Column(
                "log_likelihood",
                "log p(x)",
                "{:,.1f}",
                0,
                "importance-weighted estimate in nats per picture (arXiv 1509.00519)",
            ),
            Column(
                "active_units",
                "active units",
                "{:.0f}",
                0,
                "latent dimensions whose μ differs between pictures: variance above 0.01",
            ),
        ),
    ),
    Group(
        "What it costs",
        (
            Column("input", "input", "{}", 0, "what the method is given: pixels, grey or colour"),
            Column("dimension", "numbers", "{:,.0f}", 0, "numbers in the vector that is compared"),
            Column(
                "bytes_stored",
                "bytes stored",
                "{:,.0f}",
                0,
                "bytes per picture in the catalogue: μ and log σ² as float32",
            ),
            Column("bytes_indexed", "bytes indexed", "{:,.0f}", 0, "bytes per picture in the index"),
            Column(
                "speed",
                "pictures/s",
                "{:,.0f}",
                0,
                "pictures embedded in a second on this machine, without reading and decoding the files",
            ),
        ),
    ),
)
COLUMNS = tuple(column for group in GROUPS for column in group.columns)
MISSING = "—"
WITH_ERRORS = ("vote", "precision", "map", "copy_recall", "micro_ap", "recall_at_precision", "log_likelihood")


class Measured(Protocol):
    """A row of the ladder, as far as columns care."""

    figures: dict[str, Any]


Measurement = TypeVar("Measurement", bound=Measured)


def present(rows: Sequence[Measured]) -> list[tuple[Group, tuple[Column, ...]]]:
    """The groups with those of their columns that some row has a value in."""
    found = []
    for group in GROUPS:
        columns = tuple(c for c in group.columns if any(row.figures.get(c.key) is not None for row in rows))
        found += [(group, columns)] if columns else []
    return found


def with_figures(rows: Sequence[Measurement], columns: Sequence[Column]) -> list[Measurement]:
    """The rows that have a value in any of the columns."""
    return [row for row in rows if any(row.figures.get(column.key) is not None for column in columns)]


def written(column: Column, figures: dict[str, Any], errors: dict[str, float]) -> str:
    """The value as it is shown, with its standard error; a dash where the column makes no sense for the row."""
    value = figures.get(column.key)
    if value is None:
        return MISSING
    error = errors.get(column.key) if column.key in WITH_ERRORS else None
    return column.written.format(value) + ("" if error is None else f" ± {column.written.format(error)}")
