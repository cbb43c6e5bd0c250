"""One sentence: which encoder to use for search, which for duplicates, and whether training was worth it at all."""

from __future__ import annotations

from collections.abc import Sequence

from simile.evaluation import bootstrap
from simile.evaluation.benchmark import Row

SEARCH, SEARCH_UNLABELLED, DUPLICATES = "precision", "micro_ap", "recall_at_precision"
NAMES = {"precision": "precision at 10", "micro_ap": "μAP of copies", "recall_at_precision": "recall at precision 0.99"}


def advise(rows: Sequence[Row]) -> str:
    """One sentence on rows that are all measured on the same queries; a lead within the noise is not called one.

    Search is judged by precision at 10. Without labels nothing says what is alike, and search is judged by how well
    altered copies are found, which the sentence says; duplicates are judged by recall at precision 0.99. Rows that
    were trained on the labels themselves are left aside where labels judge.
    """
    parts = []
    if judged := [row for row in _measured(rows, SEARCH) if not row.knows_labels]:
        learnt = [row.name for row in _measured(rows, SEARCH) if row.knows_labels]
        aside = f" ({' and '.join(learnt)}, trained on these very labels, left aside)" if learnt else ""
        parts.append(f"for search {_verdict(judged, SEARCH)}{aside}")
    elif _measured(rows, SEARCH_UNLABELLED):
        doubt = "judged by altered copies alone, for want of --labels"
        parts.append(f"for search {_verdict(rows, SEARCH_UNLABELLED)} ({doubt})")
    if _measured(rows, DUPLICATES):
        parts.append(f"for duplicates {_verdict(rows, DUPLICATES)}")
    if not parts:
        return "Nothing was measured that could tell the rows apart: give --labels, or --copies above 0."
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _measured(rows: Sequence[Row], key: str) -> list[Row]:
    return [row for row in rows if row.figures.get(key) is not None]


def _verdict(rows: Sequence[Row], key: str) -> str:
    """What to use, in words that fit after "for search"."""
    ranked = sorted(_measured(rows, key), key=lambda row: -_figure(row, key))  # stable: the simpler row first
    plain = next((row for row in ranked if row.encoder is None), None)
    best = next((row for row in ranked if row.encoder is not None), None)
    if best is None:
        assert plain is not None
        return f"{_shown(plain, key)} does best of what needs no training{_level(ranked, plain, key)}"
    if plain is None or _leads(best, plain, key):
        against = f", against {_number(plain, key)} of {plain.name}" if plain is not None else ""
        return f"use {_shown(best, key)}{against}{_level(ranked, best, key)}"
    doubt = "" if _leads(plain, best, key) else " beyond chance"
    return f"no encoder beats {_shown(plain, key)}{doubt}: the best, {best.name}, has {_number(best, key)}"


def _level(ranked: Sequence[Row], best: Row, key: str) -> str:
    """Others, trained or not as the best is, that it does not lead beyond chance."""
    alike = [row for row in ranked if row is not best and (row.encoder is None) == (best.encoder is None)]
    level = [row.name for row in alike if not _leads(best, row, key)]
    return f" ({' and '.join(level)} may be as good: within the noise)" if level else ""


def _leads(better: Row, worse: Row, key: str) -> bool:
    return bootstrap.leads(better.draws[key], worse.draws[key], _figure(better, key) - _figure(worse, key))


def _shown(row: Row, key: str) -> str:
    return f"{row.name} ({NAMES[key]} {_number(row, key)})"


def _number(row: Row, key: str) -> str:
    error = row.errors.get(key)
    return f"{_figure(row, key):.3f}" + (f" ± {error:.3f}" if error is not None else "")


def _figure(row: Row, key: str) -> float:
    return float(row.figures[key])
