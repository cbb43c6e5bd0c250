"""What `simile dedup` found, for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from simile.cli import output

if TYPE_CHECKING:
    from simile.dedup.records import ThresholdCalibration
    from simile.dedup.reporting.compare_with import SourceComparison
    from simile.dedup.reporting.results import DedupResults, DedupTierCount

MAX_LISTED_ITEMS = 10  # leaks, conflicts, classes; --json and --output have all of them
MAX_CURVE_LINES = 8


def format_results(results: DedupResults, counts: Mapping[str, DedupTierCount]) -> str:
    """Counts by tier, then how sure near copies are, then what was asked for of splits and labels."""
    lines = [*_format_tiers(counts), "", *_format_near_copies(results)]
    if results.findings.decisions:
        same = sum(said.same for said in results.findings.decisions.values())
        lines.append(f"decisions remembered: {same:,} same, {len(results.findings.decisions) - same:,} different")
    lines += [*_format_leaks(results), *_format_conflicts(results), *_format_classes(results)]
    return "\n".join(lines)


def format_comparison(comparison: SourceComparison) -> str:
    """Each file that the home has, with its match; then counts, then what could not be read."""
    lines = []
    for one in comparison.files_with_matches:
        match = one.matches[0]
        more = f", and {len(one.matches) - 1} more" if len(one.matches) > 1 else ""
        lines.append(f"{match.tier:6}  {match.distance:.4f}  {one.path}  is  {match.path} ({match.reason}{more})")
    lines += [f"set aside: {failure.path}: {failure.reason}" for failure in comparison.failures]
    missing = len(comparison.files) - len(comparison.files_with_matches)
    lines.append(
        f"{len(comparison.files_with_matches):,} of {len(comparison.files):,} pictures are in the home, {missing:,} are not"
    )
    return "\n".join(lines)


def format_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns in line: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in enumerate(cells)
        ).rstrip()
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    ]


def _format_tiers(counts: Mapping[str, DedupTierCount]) -> list[str]:
    rows = [("tier", "groups", "files", "could go", "freed")]
    rows += [
        (tier, f"{count.groups:,}", f"{count.files:,}", f"{count.removable:,}", output.format_size(count.bytes))
        for tier, count in counts.items()
        if tier != "similar"
    ]
    lines = format_table(rows) if len(rows) > 1 else []
    if "similar" in counts:
        lines.append(f"similar pairs, not copies: {counts['similar'].pairs:,}")
    return lines


def _format_near_copies(results: DedupResults) -> list[str]:
    """How the threshold came about, and the curve in a few lines."""
    calibration = results.findings.calibration
    if calibration is None:
        return [] if results.findings.run_id is not None else ["pixels and near copies were never looked for here"]
    threshold = results.findings.get_effective_threshold(results.threshold)
    words = f"near copies: up to a distance of {threshold:.4f}"
    if threshold == calibration.threshold and calibration.reached_precision is not None:
        recall = f", recall {calibration.reached_recall:.3f}" if calibration.reached_recall is not None else ""
        asked = f" ({calibration.precision:g} asked for)" if calibration.precision is not None else ""
        words += (
            f"; precision {calibration.reached_precision:.3f}{asked}{recall} on {calibration.copies:,} planted copies"
        )
        words += f" and {calibration.decisions:,} decisions" if calibration.decisions else ""
    return [words, *_format_curve(calibration)]


def _format_curve(calibration: ThresholdCalibration) -> list[str]:
    points = calibration.curve
    if not points:
        return []
    step = max(1, (len(points) - 1) / (MAX_CURVE_LINES - 1)) if len(points) > 1 else 1
    chosen = sorted({round(step * number) for number in range(MAX_CURVE_LINES) if round(step * number) < len(points)})
    rows = [("  distance", "precision", "recall")]
    rows += [(f"  {points[n].distance:.4f}", f"{points[n].precision:.3f}", f"{points[n].recall:.3f}") for n in chosen]
    return format_table(rows)


def _format_leaks(results: DedupResults) -> Iterable[str]:
    if results.leaks is None:
        return
    from simile.dedup.reporting.dataset_checks import count_leaks

    yield f"leaks between splits: {len(results.leaks):,} pairs"
    for count in count_leaks(results.leaks):
        files = ", ".join(f"{number:,} files of {split}" for split, number in count.files.items())
        yield f"  {count.first} – {count.second}, {count.tier}: {count.pairs:,} pairs, {files}"
    for leak in islice(results.leaks, MAX_LISTED_ITEMS):
        yield f"  {leak.tier}  {leak.distance:.4f}  {leak.first.path}  =  {leak.second.path}"
    yield from _format_more(len(results.leaks))


def _format_conflicts(results: DedupResults) -> Iterable[str]:
    if results.conflicts is None:
        return
    yield f"groups with conflicting labels: {len(results.conflicts):,}"
    for conflict in islice(results.conflicts, MAX_LISTED_ITEMS):
        named = ", ".join(f"{label}: {paths[0]}" for label, paths in conflict.labels.items())
        yield f"  {conflict.group.tier}  {named}"
    yield from _format_more(len(results.conflicts))


def _format_classes(results: DedupResults) -> Iterable[str]:
    if results.class_counts is None:
        return
    rows = [("  class", "files", "without copies")]
    rows += [(f"  {name}", f"{count.before:,}", f"{count.after:,}") for name, count in results.class_counts.items()]
    yield from format_table(rows)


def _format_more(count: int) -> Iterable[str]:
    if count > MAX_LISTED_ITEMS:
        yield f"  … and {count - MAX_LISTED_ITEMS:,} more: --output groups.json has them all"
