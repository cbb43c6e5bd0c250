"""Write the results of `simile dedup`: files, then a table or JSON."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simile.cli import output
from simile.cli.dedup import text
from simile.cli.options import CommonOptions
from simile.cli.progress import ProgressReporter

if TYPE_CHECKING:
    from simile.dedup.records import CleanupPlan
    from simile.dedup.reporting.results import DedupResults, DedupTierCount
    from simile.search.searcher import Searcher
    from simile.store.catalogue.catalogue import Catalogue


def write_output_files(
    paths: Sequence[Path], results: DedupResults, searcher: Searcher, on_stage: Callable[[str, int, int], None]
) -> None:
    """Write the files of --output."""
    from simile.dedup.grouping.findings import find_similar_pairs
    from simile.dedup.reporting.exports import write_dedup_output
    from simile.dedup.reporting.html_report import write_html_report

    findings, threshold = results.findings, results.threshold
    for path in paths:
        if path.suffix.lower() != ".html":
            write_dedup_output(path, results, searcher.catalogue)
            continue
        similar = find_similar_pairs(searcher.catalogue, findings, filter=results.filter, threshold=threshold)
        write_html_report(
            path,
            searcher,
            findings,
            results.groups,
            series=results.series,
            similar_file_pairs=similar if "similar" in results.tiers else (),
            threshold=threshold,
            on_progress=on_stage,
        )


def write_junit_file(path: Path | None, results: DedupResults, splits: Sequence[str]) -> None:
    """Write the file of --junit, if any."""
    if path is not None:
        from simile.dedup.reporting.exports import write_output
        from simile.dedup.reporting.junit import write_junit

        write_output(path, lambda temporary: write_junit(temporary, results, splits))


def show_results(
    common: CommonOptions,
    results: DedupResults,
    counts: dict[str, DedupTierCount],
    cleanup_plan: CleanupPlan,
    output_paths: Sequence[Path],
    plan: Path | None,
    *,
    threshold: float | None,
    active_encoder: str | None,
) -> None:
    """Show the results and what to do next; `threshold` is the one on the command line."""
    from simile.dedup.reporting.exports import groups_to_json

    notes = []
    if results.findings.encoder not in (None, active_encoder):
        notes.append(f"Another encoder ({results.findings.encoder}) found these: run `simile dedup` without --last.")
    used = results.findings.get_effective_threshold(threshold)
    if threshold is not None and used is not None and used < threshold and {"near", "similar"} & set(results.tiers):
        notes.append(f"The last run searched up to a distance of {used:.4f}: run without --last to search further.")
    notes += _format_written_files(output_paths, plan, cleanup_plan)
    if plan is None and cleanup_plan.removals:
        notes.append(
            "Nothing was changed. Review the copies with `simile serve` (/duplicates) or --output report.html."
        )
    tiers = {"tiers": {name: vars(count) for name, count in counts.items()}}
    body: dict[str, Any] = {**groups_to_json(results), **tiers, "outputs": output_paths, "plan": plan}
    common.show(body, text.format_results(results, counts), *notes)


def compare_against(
    common: CommonOptions, against: Path, output_paths: Sequence[Path], plan: Path | None, reporter: ProgressReporter
) -> None:
    """Find the images of a folder or another home in this home; show the matches and write the files."""
    from simile.dedup.reporting import compare_with

    with common.open_searcher() as searcher, reporter:
        comparison = compare_with.compare_source(searcher, against, reporter.on_stage)
        cleanup_plan = compare_with.make_source_plan(comparison, searcher)
        for path in output_paths:
            compare_with.write_comparison(path, comparison)
        cleanup_plan = write_plan_file(plan, cleanup_plan, searcher.catalogue)
    body = {**compare_with.comparison_to_json(comparison), "outputs": output_paths, "plan": plan}
    notes = _format_written_files(output_paths, plan, cleanup_plan, _get_root_option(against, cleanup_plan))
    common.show(body, text.format_comparison(comparison), *notes)


def write_plan_file(path: Path | None, plan: CleanupPlan, catalogue: Catalogue) -> CleanupPlan:
    """Write the file of --plan, if any, and return the plan with what goes along with its files."""
    if path is None:
        return plan
    from simile.dedup.cleanup.companions import add_companions
    from simile.dedup.cleanup.plan import write_plan

    plan = add_companions(plan, catalogue)
    write_plan(path, plan)
    return plan


def _format_written_files(
    output_paths: Sequence[Path], plan: Path | None, cleanup_plan: CleanupPlan, root_option: str = ""
) -> list[str]:
    """Tell which files were written; `root_option` is an option that `apply` needs, with a space at its end."""
    notes = output.format_written(*output_paths)
    if plan is not None:
        files = f"{len(cleanup_plan.removals):,} files to remove{_format_additions(cleanup_plan)}"
        notes.append(
            f"plan: {plan}, {files}; nothing was changed. Next: "
            f"`simile dedup apply {shlex.quote(str(plan))} {root_option}--trash` (or --move-to, --hardlink, --symlink)."
        )
    return notes


def _format_additions(plan: CleanupPlan) -> str:
    companions = sum(len(removal.companions) for removal in plan.removals)
    written = {removal.keep_path for removal in plan.removals if removal.rating is not None or removal.keywords}
    text = f", {companions:,} sidecars and partners with them" if companions else ""
    return text + (f", {len(written):,} sidecars of kept files to write" if written else "")


def _get_root_option(against: Path, cleanup_plan: CleanupPlan) -> str:
    """Return the option that lets `apply` change files that are not indexed: their folder."""
    folders = [os.path.dirname(removal.path) for removal in cleanup_plan.removals]  # noqa: PTH120  # faster than Path
    if not folders:
        return ""
    root = f"{os.path.abspath(against)}{os.sep}"  # noqa: PTH100  # links are not followed
    if all(f"{folder}{os.sep}".startswith(root) for folder in folders):
        return f"--root {shlex.quote(str(against))} "
    common = os.path.commonpath(folders)  # the files of another home
    return f"--root {'FOLDER' if common == os.sep else shlex.quote(common)} "
