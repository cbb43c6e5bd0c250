"""Write results to stdout: text for people, JSON for programs. Messages go to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simile.core.logs import escape_controls, escape_json_controls

if TYPE_CHECKING:
    from simile.core.records import FloatArray, Hit, IndexSummary
    from simile.dedup.detection.lookup import ImageMatch
    from simile.indexer.pipeline.metadata import MetadataSummary
    from simile.search.queries import SearchResult
    from simile.search.words.text import TextTerm
    from simile.store.catalogue.records import ImageRecord


def write(*lines: str) -> None:
    """Write lines to stdout. Control characters, which a name of a file may have, are escaped, line ends included."""
    sys.stdout.write("".join(f"{escape_controls(line)}\n" for line in lines))


def note(text: str) -> None:
    """Write a message for the user, which is not data, to stderr: one line, escaped as by `write`."""
    sys.stderr.write(escape_controls(text) + "\n")


def format_written(*paths: Path | None) -> list[str]:
    """Format a message for each file that was written."""
    return [f"written: {path}" for path in paths if path is not None]


def write_json(body: Any) -> None:
    """Write a value as one line of JSON; in ASCII if the terminal has no Unicode encoding."""
    is_unicode = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    text = json.dumps(body, ensure_ascii=not is_unicode, default=str)
    sys.stdout.write(escape_json_controls(text) + "\n")


def make_search_result_json(result: SearchResult) -> dict[str, Any]:
    """Make the JSON of a search: the fields of the API, and those of earlier versions."""
    from simile.search.queries import serialize_query, serialize_result

    # `reason` and `among` are the names of version 0.1. They are removed in the next version.
    confidence = result.confidence
    query = {**serialize_query(result), "reason": confidence.unlike_reason, "among": confidence.false_alarm_among}
    return {**serialize_result(result), "query": query, "hits": [make_hit_json(hit) for hit in result.hits]}


def make_hit_json(hit: Hit) -> dict[str, Any]:
    """Make the JSON of a hit: the fields of the API, the first of its paths and their number."""
    from simile.core.records import MAX_LISTED_PATHS
    from simile.search.queries import serialize_hit

    return {**serialize_hit(hit), "paths": hit.paths[:MAX_LISTED_PATHS], "path_count": len(hit.paths)}


def format_term(term: TextTerm) -> str:
    """Format a word of a text: dress (AUC 0.970 on 6,000 images)."""
    sign = "without " if term.is_absent else ""
    return f"{sign}{term.word.text} (held-out AUC {term.word.auc:.3f}, {_count(term.word.count, 'image')})"


def make_nearest_json(latents: FloatArray, hits: Sequence[Hit | None]) -> list[dict[str, Any]]:
    """Make the JSON of latent vectors, each with the nearest image."""
    return [
        {"mu": mu.tolist(), "nearest": None if hit is None else make_hit_json(hit)}
        for mu, hit in zip(latents, hits, strict=True)
    ]


def format_summary(summary: IndexSummary, *, dry_run: bool) -> list[str]:
    """Format an index run: a line of counts, a line for each special case, then the skipped files with the reason."""
    names = ("new", "changed", "unchanged", "moved", "copied", "removed")
    counts = {name: getattr(summary, name) for name in names} | {"unreadable": len(summary.failures)}
    run = "" if dry_run else f"run {summary.run_id}: "
    lines = [run + "  ".join(f"{name} {count:,}" for name, count in counts.items())]
    if summary.duplicates:
        lines.append(f"{summary.duplicates:,} of these files are exact copies of images in the index")
    if summary.lacking:
        lines.append(f"{summary.lacking:,} images could not be embedded: the active encoder is not changed")
    lines += _format_missing(summary.missing)
    if summary.partners:
        files = "file belongs" if summary.partners == 1 else "files belong"
        lines.append(f"{summary.partners:,} {files} to an image of the same name: raw files and films of Live Photos")
    if summary.ignored:
        lines.append(_format_ignored_kinds(summary))
    lines += [f"ignored: {file.path} ({file.kind})" for file in summary.ignored_files or ()]
    lines += [format_failure(failure) for failure in summary.failures]
    if not (any(counts.values()) or summary.ignored or summary.partners or summary.missing):
        lines.append("nothing to index: no file was named")
    if dry_run:
        lines.append("dry run: nothing was stored (judged by size and time; no file was opened)")
    elif summary.embedded:
        speed = summary.images_per_second
        rate = f" at {speed:,.{0 if speed >= 10 else 1}f} images/s" if speed else ""
        lines.append(f"embedded {_count(summary.embedded, 'image')}{rate}")
    return lines


def format_metadata_summary(summary: MetadataSummary) -> list[str]:
    """Format a run of `index --metadata`: a line of counts, special cases, then the skipped files with the reason."""
    counts = {"read": summary.read, "with metadata": summary.described, "updated": summary.updated}
    counts |= {"unreadable": len(summary.failures)}
    lines = ["metadata: " + "  ".join(f"{name} {count:,}" for name, count in counts.items())]
    if summary.outdated:
        files = _count(summary.outdated, "new or changed file")
        lines.append(f"{files} not read: run `simile index` without --metadata, which reads the metadata, too")
    lines += _format_missing(summary.missing)
    lines += [format_failure(failure) for failure in summary.failures]
    if summary.read:
        lines.append(f"read {_count(summary.read, 'file')} at {summary.files_per_second:,.0f} files/s")
    return lines


def _format_missing(count: int) -> list[str]:
    """Format the number of files that no longer exist."""
    return [f"{count:,} indexed files no longer exist; remove them from the index with --prune"] if count else []


def _format_ignored_kinds(summary: IndexSummary) -> str:
    """Format the number of files of other kinds."""
    from simile.images.sources.folders import describe_kinds

    hint = " (--list-ignored names them)" if summary.ignored_files is None else ""
    files = f"{_count(summary.ignored, 'file')} of other kinds {'was' if summary.ignored == 1 else 'were'} skipped"
    return f"{files}: {describe_kinds(summary.ignored_kinds)}{hint}"


def _count(number: int, noun: str) -> str:
    """Format a number of things: 1 image, 2 images."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_failure(failure: Any) -> str:
    """Format a file that was skipped and the reason."""
    return f"skipped: {failure.path}: {failure.reason}"


def format_copy(record: ImageRecord, copy: ImageMatch) -> str:
    """Format an image that is a copy of an earlier one, and the reason."""
    return f"copy: {record.paths[0]} is a copy of {copy.path}: {copy.reason}"


def format_size(count: float) -> str:
    """Format a number of bytes: 940 kB, 1.2 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
