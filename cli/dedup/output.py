"""Write the results of `simile dedup`: files, then a table or JSON."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simile.cli import output
from simile.cli.dedup import text
from simile.cli.progress import ProgressReporter
from simile.core.settings import Settings

if TYPE_CHECKING:
    from simile.dedup.records import CleanupPlan
    from simile.dedup.reporting.results import DedupResultOptions, DedupResults, DedupTierCount
    from simile.search.searcher import Searcher


@dataclass(frozen=True, kw_only=True)
class DedupOutput:
    """The results to show; `threshold` is the one on the command line, None without one."""

    results: DedupResults
    plan: CleanupPlan
    counts: dict[str, DedupTierCount]
    active_encoder: str | None
    threshold: float | None


def collect_output(
    settings: Settings,
    result_options: DedupResultOptions,
    output_paths: list[Path],
    plan: Path | None,
    reporter: ProgressReporter,
) -> DedupOutput:
    """Collect the results of the last run and write the files."""
    from simile.dedup.reporting.results import collect_results, count_tiers
    from simile.search.searcher import Searcher

    with Searcher(settings) as searcher:
        results, cleanup_plan = collect_results(searcher.catalogue, result_options)
        for path in output_paths:
            _write_output_file(path, results, searcher, reporter)
        _write_plan_file(plan, cleanup_plan)
        return DedupOutput(
            results=results,
            plan=cleanup_plan,
            counts=count_tiers(searcher.catalogue, results, cleanup_plan),
            active_encoder=searcher.catalogue.get_state().active_encoder,
            threshold=result_options.threshold,
        )


def _write_output_file(path: Path, results: DedupResults, searcher: Searcher, reporter: ProgressReporter) -> None:
    from simile.dedup.grouping.findings import find_similar_pairs
    from simile.dedup.reporting.exports import write_dedup_output

    if path.suffix.lower() != ".html":
        write_dedup_output(path, results, searcher.catalogue)
        return
    from simile.dedup.reporting.html_report import write_html_report

    similar = find_similar_pairs(
        searcher.catalogue, results.findings, filter=results.filter, threshold=results.threshold
    )
    write_html_report(
        path,
        searcher,
        results.findings,
        results.groups,
        similar_file_pairs=similar if "similar" in results.tiers else (),
        threshold=results.threshold,
        on_progress=reporter.on_stage,
    )


def show_output(dedup_output: DedupOutput, output_paths: list[Path], plan: Path | None, *, json: bool) -> None:
    """Show the results as a table or JSON, and what to do next."""
    from simile.dedup.reporting.exports import groups_to_json

    results = dedup_output.results
    if json:
        tiers = {name: vars(count) for name, count in dedup_output.counts.items()}
        output.write_json({**groups_to_json(results), "tiers": tiers, **_make_written_json(output_paths, plan)})
        return
    output.write(text.format_results(results, dedup_output.counts))
    if results.findings.encoder not in (None, dedup_output.active_encoder):
        output.note(f"Another encoder ({results.findings.encoder}) found these: run `simile dedup` without --last.")
    _note_reach(results, dedup_output.threshold)
    _note_written_files(output_paths, plan, dedup_output.plan)
    if plan is None and dedup_output.plan.removals:
        output.note("Nothing was changed. Review the copies with `simile serve` (/duplicates) or --output report.html.")


def compare_against(
    settings: Settings,
    against: Path,
    output_paths: list[Path],
    plan: Path | None,
    reporter: ProgressReporter,
    *,
    json: bool,
) -> None:
    """Find the images of a folder or another home in this home; show the matches and write the files."""
    from simile.dedup.reporting.compare_with import (
        compare_source,
        comparison_to_json,
        make_source_plan,
        write_comparison,
    )
    from simile.search.searcher import Searcher

    with Searcher(settings) as searcher, reporter:
        comparison = compare_source(searcher, against, reporter.on_stage)
        cleanup_plan = make_source_plan(comparison, searcher)
        for path in output_paths:
            write_comparison(path, comparison)
        _write_plan_file(plan, cleanup_plan)
    if json:
        output.write_json({**comparison_to_json(comparison), **_make_written_json(output_paths, plan)})
        return
    output.write(text.format_comparison(comparison))
    _note_written_files(output_paths, plan, cleanup_plan, root_option=_get_root_option(against, cleanup_plan))


def _write_plan_file(path: Path | None, plan: CleanupPlan) -> None:
    if path is not None:
        from simile.dedup.cleanup.plan import write_plan

        write_plan(path, plan)


def _make_written_json(output_paths: list[Path], plan: Path | None) -> dict[str, Any]:
    return {"outputs": [str(path) for path in output_paths], "plan": None if plan is None else str(plan)}


def _note_reach(results: DedupResults, threshold: float | None) -> None:
    used = results.findings.get_effective_threshold(threshold)
    if threshold is not None and used is not None and used < threshold and {"near", "similar"} & set(results.tiers):
        output.note(f"The last run searched up to a distance of {used:.4f}: run without --last to search further.")


def _note_written_files(
    output_paths: list[Path], plan: Path | None, cleanup_plan: CleanupPlan, root_option: str = ""
) -> None:
    """Tell which files were written; `root_option` is an option that `apply` needs, with a space at its end."""
    for path in output_paths:
        output.note_written(path)
    if plan is not None:
        output.note(
            f"plan: {plan}, {len(cleanup_plan.removals):,} files to remove; nothing was changed. Next: "
            f"`simile dedup apply {shlex.quote(str(plan))} {root_option}--trash` (or --move-to, --hardlink, --symlink)."
        )


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
