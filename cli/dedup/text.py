"""Format the results of `simile dedup` as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from simile.cli import output
from simile.core.logs import escape_controls

if TYPE_CHECKING:
    from simile.dedup.records import ThresholdCalibration
    from simile.dedup.reporting.compare_with import SourceComparison
    from simile.dedup.reporting.results import DedupResults, DedupTierCount

MAX_LISTED_ITEMS = 10  # leaks and conflicts; --json and --output have all of them
MAX_CURVE_LINES = 8


def format_results(results: DedupResults, counts: Mapping[str, DedupTierCount]) -> list[str]:
    """Format counts by tier, the threshold of near copies, and the results for splits and labels."""
    lines = [*_format_tiers(counts), "", *_format_scope(results), *_format_near_copies(results)]
    if results.findings.decisions:
        same = sum(decision.same for decision in results.findings.decisions.values())
        lines.append(f"decisions: {same:,} same, {len(results.findings.decisions) - same:,} different")
    lines += [
        *_format_series(results),
        *_format_left_out(results),
        *_format_undecided(results),
        *_format_leaks(results),
        *_format_conflicts(results),
        *_format_classes(results),
    ]
    return lines


def format_comparison(comparison: SourceComparison) -> list[str]:
    """Format each file that the home has with its best match, the files that could not be read, and the counts."""
    lines = []
    for file in comparison.files_with_matches:
        match = file.matches[0]
        more = f", and {len(file.matches) - 1} more" if len(file.matches) > 1 else ""
        lines.append(f"{match.tier:6}  {match.distance:.4f}  {file.path}  is  {match.path} ({match.reason}{more})")
    lines += map(output.format_failure, comparison.failures)
    found, total = len(comparison.files_with_matches), len(comparison.files)
    lines.append(f"{found:,} of {total:,} images are in the home, {total - found:,} are not")
    return lines


def format_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Format rows as aligned columns: the first one left-aligned, the others right-aligned."""
    rows = [list(map(escape_controls, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(cells)
        ).rstrip()
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    ]


def _format_tiers(counts: Mapping[str, DedupTierCount]) -> list[str]:
    rows = [("tier", "groups", "files", "removable", "size")]
    rows += [
        (tier, f"{count.groups:,}", f"{count.files:,}", f"{count.removable:,}", output.format_size(count.bytes))
        for tier, count in counts.items()
        if tier != "similar" and not (tier == "series" and not count.groups)
    ]
    lines = format_table(rows) if len(rows) > 1 else []
    if "similar" in counts:
        lines.append(f"similar pairs (not copies): {counts['similar'].pairs:,}")
    return lines


def _format_scope(results: DedupResults) -> Iterable[str]:
    if results.scope is not None:
        yield f"scope: only copies in {'different folders' if results.scope == 'across' else 'the same folder'}"


def _format_near_copies(results: DedupResults) -> list[str]:
    """Format the threshold, how it was found, and its curve."""
    calibration = results.findings.calibration
    if calibration is None:
        return [] if results.findings.run_id is not None else ["pixel and near copies were never searched in this home"]
    threshold = results.findings.get_effective_threshold(results.threshold)
    text = f"near copies: up to a distance of {threshold:.4f}"
    if threshold == calibration.threshold and calibration.reached_precision is not None:
        recall = f", recall {calibration.reached_recall:.3f}" if calibration.reached_recall is not None else ""
        target = f" (target {calibration.precision:g})" if calibration.precision is not None else ""
        text += f"; precision {calibration.reached_precision:.3f}{target}{recall}"
        text += f" on {calibration.copies:,} artificial copies"
        text += f" and {calibration.decisions:,} decisions" if calibration.decisions else ""
    lines = [text]
    if calibration.left_out:
        lines.append(
            f"left out: {len(calibration.left_out):,} images that match others without being copies of them; "
            "their pairs are only similar"
        )
    return [*lines, *_format_curve(calibration)]


def _format_curve(calibration: ThresholdCalibration) -> list[str]:
    points = calibration.curve
    if not points:
        return []
    step = max(1, (len(points) - 1) / (MAX_CURVE_LINES - 1)) if len(points) > 1 else 1
    numbers = sorted({round(step * number) for number in range(MAX_CURVE_LINES) if round(step * number) < len(points)})
    rows = [("  distance", "precision", "recall")]
    rows += [(f"  {points[n].distance:.4f}", f"{points[n].precision:.3f}", f"{points[n].recall:.3f}") for n in numbers]
    return format_table(rows)


def _format_series(results: DedupResults) -> Iterable[str]:
    if results.series:
        count = sum(len(series.members) for series in results.series)
        yield f"series of shots (no copies): {len(results.series):,} with {count:,} images; the best shot of each:"
    for series in results.series[:MAX_LISTED_ITEMS]:
        best = series.kept_member
        yield f"  {best.file.path}  of {len(series.members):,}: {best.keep_reason}"
    yield from _format_more(len(results.series))


def _format_left_out(results: DedupResults) -> Iterable[str]:
    left_out = results.findings.left_out
    if left_out:
        yield (
            f"left out: {len(left_out):,} files that are missing, have changed, or could not be read the last time. "
            "Restore them, or run `simile index` on their folders; --prune forgets missing ones"
        )
    for failure in left_out[:MAX_LISTED_ITEMS]:
        yield f"  {failure.path}: {failure.reason}"
    yield from _format_more(len(left_out))


def _format_undecided(results: DedupResults) -> Iterable[str]:
    undecided = [(group, member) for group in results.groups for member in group.members if member.undecided]
    if undecided:
        yield f"to decide: {len(undecided):,} files stay until you decide on them"
    for group, member in undecided[:MAX_LISTED_ITEMS]:
        yield f"  {member.file.path}  beside  {group.kept_member.file.path}: {member.undecided}"
    yield from _format_more(len(undecided))


def _format_leaks(results: DedupResults) -> Iterable[str]:
    if results.leaks is None:
        return
    from simile.dedup.reporting.dataset_checks import count_leaks

    yield f"leaks between splits: {len(results.leaks):,} pairs"
    for count in count_leaks(results.leaks):
        files = ", ".join(f"{number:,} files of {split}" for split, number in count.files.items())
        yield f"  {count.first} – {count.second}, {count.tier}: {count.pairs:,} pairs, {files}"
    for leak in islice(results.leaks, MAX_LISTED_ITEMS):
        yield f"  {leak.pair.tier}  {leak.pair.distance:.4f}  {leak.first.path}  =  {leak.second.path}"
    yield from _format_more(len(results.leaks))


def _format_conflicts(results: DedupResults) -> Iterable[str]:
    if results.conflicts is None:
        return
    yield f"groups with conflicting labels: {len(results.conflicts):,}"
    for conflict in islice(results.conflicts, MAX_LISTED_ITEMS):
        files = ", ".join(f"{label}: {paths[0]}" for label, paths in conflict.labels.items())
        yield f"  {conflict.group.tier}  {files}"
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
