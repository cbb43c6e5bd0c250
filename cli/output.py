"""Write results to stdout: text for people, JSON for programs. Messages go to stderr."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from simile.core.records import Hit, IndexSummary
from simile.search.queries import SearchResult, serialize_hit, serialize_query, serialize_result


def write(text: str) -> None:
    """Write a line to stdout."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """Write a message for the user, which is not data, to stderr."""
    sys.stderr.write(text + "\n")


def note_written(path: Path | None) -> None:
    """Tell the user that a file was written, if there is one."""
    if path is not None:
        note(f"written: {path}")


def write_json(body: Any) -> None:
    """Write a value as one line of JSON; in ASCII if the terminal has no Unicode encoding."""
    is_unicode = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    write(json.dumps(body, ensure_ascii=not is_unicode, default=str))


def to_text(path: Path | None) -> str | None:
    """Convert an optional path for JSON."""
    return None if path is None else str(path)


def make_search_result_json(result: SearchResult) -> dict[str, Any]:
    """Make the JSON of a search: the fields of the API, and those of earlier versions."""
    # `reason` and `among` are the names of version 0.1. They are removed in the next version.
    confidence = result.confidence
    query = {**serialize_query(result), "reason": confidence.unlike_reason, "among": confidence.false_alarm_among}
    return {**serialize_result(result), "query": query, "hits": [make_hit_json(hit) for hit in result.hits]}


def make_hit_json(hit: Hit) -> dict[str, Any]:
    """Make the JSON of a hit: the fields of the API and all its paths."""
    return {**serialize_hit(hit), "paths": hit.paths}


def make_optional_hit_json(hit: Hit | None) -> dict[str, Any] | None:
    """Make the JSON of a hit, if there is one."""
    return None if hit is None else make_hit_json(hit)


def make_summary_json(summary: IndexSummary) -> dict[str, Any]:
    """Make the JSON of an index run."""
    return {**asdict(summary), "images_per_second": summary.images_per_second}


def format_summary(summary: IndexSummary, *, dry_run: bool) -> str:
    """Format an index run: a line of counts, a line for each special case, then the skipped files with the reason."""
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
        lines.append(f"{summary.duplicates:,} of these files are exact copies of images in the index")
    if summary.lacking:
        lines.append(f"{summary.lacking:,} images could not be embedded: the active encoder is not changed")
    if summary.missing:
        lines.append(f"{summary.missing:,} indexed files no longer exist; remove them from the index with --prune")
    if summary.ignored:
        lines.append(f"{summary.ignored:,} files of other types were skipped")
    lines += [format_failure(failure) for failure in summary.failures]
    if dry_run:
        lines.append("dry run: nothing was stored (judged by size and time; no file was opened)")
    elif summary.embedded:
        lines.append(f"embedded {summary.embedded:,} images at {summary.images_per_second:,.0f} images/s")
    return "\n".join(lines)


def format_failure(failure: Any) -> str:
    """Format a file that was skipped and the reason."""
    return f"skipped: {failure.path}: {failure.reason}"


def format_size(count: float) -> str:
    """Format a number of bytes: 940 kB, 1.2 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
