"""Data on stdout: as text for people, as JSON for programs."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from simile.core.records import Hit, IndexSummary

if TYPE_CHECKING:
    from simile.search.searcher import SearchResult


def write(text: str) -> None:
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """Something for the person at the terminal, not data."""
    sys.stderr.write(text + "\n")


def write_json(body: Any) -> None:
    speaks_all = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    write(json.dumps(body, ensure_ascii=not speaks_all, default=str))


def make_search_result_json(result: SearchResult) -> dict[str, Any]:
    """{"query": {…}, "hits": [{"image_id", "distance", "score", "path", …}]}"""
    left_out = ("mu", "sigma", "positives", "negatives")
    query = {name: value for name, value in vars(result.query).items() if name not in left_out}
    certainty = vars(result.confidence)
    query |= certainty
    # The names of the API. `reason` and `among` are the names of version 0.1, and go with the next one.
    query |= {"unlike_reason": certainty["reason"], "false_alarm_among": certainty["among"]}
    return {
        "query": query,
        "hits": [make_hit_json(hit) for hit in result.hits],
        "score_calibrated": result.is_calibrated,
    }


def make_hit_json(hit: Hit) -> dict[str, Any]:
    shown = {name: value for name, value in asdict(hit).items() if name not in ("expected", "metadata")}
    return {**shown, "score": hit.score}


def make_summary_json(summary: IndexSummary) -> dict[str, Any]:
    return {**asdict(summary), "images_per_second": summary.images_per_second}


def format_summary(summary: IndexSummary, *, dry_run: bool) -> str:
    """A few lines: what was done, then each file that was set aside, with its reason."""
    counts = {
        "new": summary.new,
        "changed": summary.changed,
        "unchanged": summary.unchanged,
        "moved": summary.moved,
        "copied": summary.copied,
        "removed": summary.removed,
        "unreadable": len(summary.failures),
    }
    run = "" if dry_run else f"run {summary.run_id}: "
    lines = [run + "  ".join(f"{name} {count:,}" for name, count in counts.items())]
    if summary.duplicates:
        lines.append(f"{summary.duplicates:,} of them repeat a picture that is indexed already, byte for byte")
    if summary.lacking:
        lines.append(f"{summary.lacking:,} pictures could not be embedded: the encoder in use stays")
    if summary.missing:
        lines.append(f"{summary.missing:,} known files are gone; forget them with --prune")
    if summary.ignored:
        lines.append(f"{summary.ignored:,} files of other kinds passed over")
    lines += [f"set aside: {failure.path}: {failure.reason}" for failure in summary.failures]
    if dry_run:
        lines.append("dry run: nothing was stored (judged by sizes and times, no file was opened)")
    elif summary.embedded:
        lines.append(f"embedded {summary.embedded:,} pictures at {summary.images_per_second:,.0f} images/s")
    return "\n".join(lines)


def format_size(count: float) -> str:
    """Bytes as a person reads them: 940 kB, 1.2 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
