"""What becomes of the findings of `simile dedup`: files are written, then a table or JSON."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simile.cli import output
from simile.cli.dedup import text
from simile.cli.progress import Reporter
from simile.core.settings import Settings

if TYPE_CHECKING:
    from simile.dedup.records import Plan
    from simile.dedup.reporting.exports import Results
    from simile.dedup.reporting.results import TierCount, Wanted
    from simile.search.searcher import Searcher


@dataclass(frozen=True)
class Found:
    """What is shown. `active`: the encoder in use. `asked`: the threshold that was asked for, None where none was."""

    results: Results
    plan: Plan
    counts: dict[str, TierCount]
    active: str | None
    asked: float | None


def collect(settings: Settings, wanted: Wanted, to: list[Path], plan: Path | None, reporter: Reporter) -> Found:
    """Everything that was asked for, the files written."""
    from simile.dedup.reporting.results import collect as collect_all
    from simile.dedup.reporting.results import count_tiers
    from simile.search.searcher import Searcher

    with Searcher(settings) as searcher:
        results, planned = collect_all(searcher.catalogue, wanted)
        for path in to:
            _write(path, results, searcher, reporter)
        _write_plan(plan, planned)
        counts = count_tiers(searcher.catalogue, results, planned)
        return Found(results, planned, counts, searcher.catalogue.state().active_encoder, wanted.threshold)


def _write(path: Path, results: Results, searcher: Searcher, reporter: Reporter) -> None:
    from simile.dedup.grouping.findings import similar_pairs
    from simile.dedup.reporting.exports import write_output

    if path.suffix.lower() != ".html":
        write_output(path, results, searcher.catalogue)
        return
    from simile.dedup.reporting.html_report import write_report

    similar = similar_pairs(searcher.catalogue, results.findings, only=results.only, threshold=results.threshold)
    write_report(
        path,
        searcher,
        results.findings,
        results.groups,
        similar=similar if "similar" in results.tiers else (),
        threshold=results.threshold,
        on_progress=reporter.measured,
    )


def show(found: Found, to: list[Path], plan: Path | None, *, json: bool) -> None:
    from simile.dedup.reporting.exports import groups_json

    results = found.results
    if json:
        tiers = {name: vars(count) for name, count in found.counts.items()}
        output.write_json({**groups_json(results), "tiers": tiers, **_written(to, plan)})
        return
    output.write(text.results_text(results, found.counts))
    if results.findings.encoder not in (None, found.active):
        output.note(f"Another encoder ({results.findings.encoder}) found these: run `simile dedup` without --last.")
    _say_reach(results, found.asked)
    _say_where(to, plan, found.plan)
    if plan is None and found.plan.removals:
        output.note("Nothing was touched. Look at them with `simile serve` (/duplicates) or --output report.html.")


def compare(
    settings: Settings, against: Path, to: list[Path], plan: Path | None, reporter: Reporter, *, json: bool
) -> None:
    from simile.dedup.reporting.compare_with import compare_with, comparison_json, plan_against, write_comparison
    from simile.search.searcher import Searcher

    with Searcher(settings) as searcher, reporter:
        comparison = compare_with(searcher, against, reporter.measured)
        planned = plan_against(comparison, searcher)
        for path in to:
            write_comparison(path, comparison)
        _write_plan(plan, planned)
    if json:
        output.write_json({**comparison_json(comparison), **_written(to, plan)})
        return
    output.write(text.comparison_text(comparison))
    _say_where(to, plan, planned, root=_root(against, planned))


def _write_plan(path: Path | None, plan: Plan) -> None:
    if path is not None:
        from simile.dedup.cleanup.plan import write_plan

        write_plan(path, plan)


def _written(to: list[Path], plan: Path | None) -> dict[str, Any]:
    return {"outputs": [str(path) for path in to], "plan": None if plan is None else str(plan)}


def _say_reach(results: Results, asked: float | None) -> None:
    used = results.findings.reach(asked)
    if asked is not None and used is not None and used < asked and {"near", "similar"} & set(results.tiers):
        output.note(f"The last run looked up to a distance of {used:.4f}: run it without --last to look further.")


def _say_where(to: list[Path], plan: Path | None, planned: Plan, root: str = "") -> None:
    """root: an option that `apply` wants besides, with a space behind it."""
    for path in to:
        output.note(f"written: {path}")
    if plan is not None:
        output.note(
            f"plan: {plan}, {len(planned.removals):,} files could go; nothing was touched. "
            f"Next: `simile dedup apply {shlex.quote(str(plan))} {root}--trash` (or --move-to, --hardlink, --symlink)."
        )


def _root(against: Path, planned: Plan) -> str:
    """The option that lets `apply` touch files that are not indexed: the folder that was looked through, or theirs."""
    folders = [os.path.dirname(removal.path) for removal in planned.removals]  # noqa: PTH120  # paths as they are noted
    if not folders:
        return ""
    inside = f"{os.path.abspath(against)}{os.sep}"  # noqa: PTH100  # as walk() names files
    if all(f"{folder}{os.sep}".startswith(inside) for folder in folders):
        return f"--root {shlex.quote(str(against))} "
    common = os.path.commonpath(folders)  # of one file, or of another home's
    return f"--root {'FOLDER' if common == os.sep else shlex.quote(common)} "
