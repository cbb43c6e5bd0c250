"""One sentence: which encoder to use for search, which for duplicates, and whether training was worth it at all."""

from __future__ import annotations

from collections.abc import Sequence

from simile.evaluation import bootstrap
from simile.evaluation.benchmark import BenchmarkRow

SEARCH_METRIC, UNLABELLED_SEARCH_METRIC, DUPLICATES_METRIC = "precision", "micro_ap", "recall_at_precision"
METRIC_NAMES = {
    "precision": "precision at 10",
    "micro_ap": "μAP of copies",
    "recall_at_precision": "recall at precision 0.99",
}


def recommend_encoder(rows: Sequence[BenchmarkRow]) -> str:
    """One sentence on rows that are all measured on the same queries; a lead within the noise is not called one.

    Search is judged by precision at 10. Without labels nothing says what is alike, and search is judged by how well
    altered copies are found, which the sentence says; duplicates are judged by recall at precision 0.99. Rows that
    were trained on the labels themselves are left aside where labels judge.
    """
    parts = []
    if judged := [row for row in _select_rows_with(rows, SEARCH_METRIC) if not row.is_trained_on_labels]:
        learnt = [row.name for row in _select_rows_with(rows, SEARCH_METRIC) if row.is_trained_on_labels]
        aside = f" ({' and '.join(learnt)}, trained on these very labels, left aside)" if learnt else ""
        parts.append(f"for search {_recommend_for_metric(judged, SEARCH_METRIC)}{aside}")
    elif _select_rows_with(rows, UNLABELLED_SEARCH_METRIC):
        doubt = "judged by altered copies alone, for want of --labels"
        parts.append(f"for search {_recommend_for_metric(rows, UNLABELLED_SEARCH_METRIC)} ({doubt})")
    if _select_rows_with(rows, DUPLICATES_METRIC):
        parts.append(f"for duplicates {_recommend_for_metric(rows, DUPLICATES_METRIC)}")
    if not parts:
        return "Nothing was measured that could tell the rows apart: give --labels, or --copies above 0."
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _select_rows_with(rows: Sequence[BenchmarkRow], key: str) -> list[BenchmarkRow]:
    return [row for row in rows if row.metrics.get(key) is not None]


def _recommend_for_metric(rows: Sequence[BenchmarkRow], key: str) -> str:
    """What to use, in words that fit after "for search"."""
    ranked = sorted(
        _select_rows_with(rows, key), key=lambda row: -_get_row_metric(row, key)
    )  # stable: the simpler row first
    plain = next((row for row in ranked if row.encoder is None), None)
    best = next((row for row in ranked if row.encoder is not None), None)
    if best is None:
        assert plain is not None
        return f"{_format_row(plain, key)} does best of what needs no training{_describe_ties(ranked, plain, key)}"
    if plain is None or _is_better(best, plain, key):
        against = f", against {_format_row_metric(plain, key)} of {plain.name}" if plain is not None else ""
        return f"use {_format_row(best, key)}{against}{_describe_ties(ranked, best, key)}"
    doubt = "" if _is_better(plain, best, key) else " beyond chance"
    return (
        f"no encoder beats {_format_row(plain, key)}{doubt}: the best, {best.name}, has {_format_row_metric(best, key)}"
    )


def _describe_ties(ranked: Sequence[BenchmarkRow], best: BenchmarkRow, key: str) -> str:
    """Others, trained or not as the best is, that it does not lead beyond chance."""
    alike = [row for row in ranked if row is not best and (row.encoder is None) == (best.encoder is None)]
    level = [row.name for row in alike if not _is_better(best, row, key)]
    return f" ({' and '.join(level)} may be as good: within the noise)" if level else ""


def _is_better(better: BenchmarkRow, worse: BenchmarkRow, key: str) -> bool:
    return bootstrap.is_significant_lead(
        better.bootstrap_values[key],
        worse.bootstrap_values[key],
        _get_row_metric(better, key) - _get_row_metric(worse, key),
    )


def _format_row(row: BenchmarkRow, key: str) -> str:
    return f"{row.name} ({METRIC_NAMES[key]} {_format_row_metric(row, key)})"


def _format_row_metric(row: BenchmarkRow, key: str) -> str:
    error = row.standard_errors.get(key)
    return f"{_get_row_metric(row, key):.3f}" + (f" ± {error:.3f}" if error is not None else "")


def _get_row_metric(row: BenchmarkRow, key: str) -> float:
    return float(row.metrics[key])
