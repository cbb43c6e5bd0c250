"""Recommend an encoder for search and for duplicates, or a baseline if no encoder is better."""

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
    """Return one sentence with the recommendation; only significant differences count.

    Search is judged by precision at 10, or, without labels, by how well distorted copies are found, which the sentence
    says. Duplicates are judged by recall at precision 0.99. Methods that were trained on these labels are not judged by
    them.
    """
    parts = []
    if candidates := [row for row in _select_rows_with(rows, SEARCH_METRIC) if not row.is_trained_on_labels]:
        excluded = [row.name for row in _select_rows_with(rows, SEARCH_METRIC) if row.is_trained_on_labels]
        remark = f" (excluded, trained on these labels: {' and '.join(excluded)})" if excluded else ""
        parts.append(f"for search {_recommend_for_metric(candidates, SEARCH_METRIC)}{remark}")
    elif _select_rows_with(rows, UNLABELLED_SEARCH_METRIC):
        remark = "judged by distorted copies only, because there are no --labels"
        parts.append(f"for search {_recommend_for_metric(rows, UNLABELLED_SEARCH_METRIC)} ({remark})")
    if _select_rows_with(rows, DUPLICATES_METRIC):
        parts.append(f"for duplicates {_recommend_for_metric(rows, DUPLICATES_METRIC)}")
    if not parts:
        return "No recommendation is possible: give --labels, or --copies above 0."
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _select_rows_with(rows: Sequence[BenchmarkRow], key: str) -> list[BenchmarkRow]:
    return [row for row in rows if row.metrics.get(key) is not None]


def _recommend_for_metric(rows: Sequence[BenchmarkRow], key: str) -> str:
    """Return the recommendation as the end of a sentence that starts with "for search"."""
    # The sort is stable: of equal methods the simpler one comes first.
    ranked = sorted(_select_rows_with(rows, key), key=lambda row: -row.metrics[key])
    baseline = next((row for row in ranked if row.encoder is None), None)
    best = next((row for row in ranked if row.encoder is not None), None)
    if best is None:
        assert baseline is not None
        return f"{_format_row(baseline, key)} is the best baseline{_describe_ties(ranked, baseline, key)}"
    if baseline is None or _is_better(best, baseline, key):
        comparison = f", compared with {_format_row_metric(baseline, key)} of {baseline.name}" if baseline else ""
        return f"use {_format_row(best, key)}{comparison}{_describe_ties(ranked, best, key)}"
    degree = "" if _is_better(baseline, best, key) else " significantly"
    best_metric = _format_row_metric(best, key)
    return f"no encoder is{degree} better than {_format_row(baseline, key)}: the best, {best.name}, has {best_metric}"


def _describe_ties(ranked: Sequence[BenchmarkRow], best: BenchmarkRow, key: str) -> str:
    """Name the methods of the same kind that are not significantly worse than the best one."""
    others = [row for row in ranked if row is not best and (row.encoder is None) == (best.encoder is None)]
    ties = [row.name for row in others if not _is_better(best, row, key)]
    return f" (no significant difference to {' and '.join(ties)})" if ties else ""


def _is_better(better: BenchmarkRow, worse: BenchmarkRow, key: str) -> bool:
    gap = better.metrics[key] - worse.metrics[key]
    return bootstrap.is_significant_lead(better.bootstrap_values[key], worse.bootstrap_values[key], gap)


def _format_row(row: BenchmarkRow, key: str) -> str:
    return f"{row.name} ({METRIC_NAMES[key]} {_format_row_metric(row, key)})"


def _format_row_metric(row: BenchmarkRow, key: str) -> str:
    error = row.standard_errors.get(key)
    return f"{row.metrics[key]:.3f}" + (f" ± {error:.3f}" if error is not None else "")
