"""What becomes of the findings of `simile dedup`: files are written, then a table or JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli import dedup_text, output
from cli.progress import Reporter
from core.settings import Settings

if TYPE_CHECKING:
    from dedup.outputs import Results
    from dedup.records import Plan
    from dedup.results import TierCount, Wanted
    from search.searcher import Searcher


@dataclass(frozen=True)
class Found:
    """What is shown. `active`: the encoder in use."""

    results: Results
    plan: Plan
    counts: dict[str, TierCount]
    active: str | None


def collect(settings: Settings, wanted: Wanted, to: list[Path], plan: Path | None, reporter: Reporter) -> Found:
    """Everything that was asked for, the files written."""
    from dedup.results import collect as collect_all
    from dedup.results import count_tiers
    from search.searcher import Searcher

    with Searcher(settings) as searcher:
        results, planned = collect_all(searcher.catalogue, wanted)
        for path in to:
            _write(path, results, searcher, reporter)
        _write_plan(plan, planned)
        counts = count_tiers(searcher.catalogue, results, planned)
        return Found(results, planned, counts, searcher.catalogue.state().active_encoder)


def _write(path: Path, results: Results, searcher: Searcher, reporter: Reporter) -> None:
    from dedup.findings import similar_pairs
    from dedup.outputs import write_output

    if path.suffix.lower() != ".html":
        write_output(path, results, searcher.catalogue)
        return
    from dedup.report import write_report

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
    from dedup.outputs import groups_json

    results = found.results
    if json:
        tiers = {name: vars(count) for name, count in found.counts.items()}
        output.write_json({**groups_json(results), "tiers": tiers, **_written(to, plan)})
        return
    output.write(dedup_text.results_text(results, found.counts))
    if results.findings.encoder not in (None, found.active):
        output.note(f"Another encoder ({results.findings.encoder}) found these: run `simile dedup` without --last.")
    _say_where(to, plan, found.plan)
    if plan is None and found.plan.removals:
        output.note("Nothing was touched. Look at them with `simile serve` (/duplicates) or --output report.html.")


def compare(
    settings: Settings, against: Path, to: list[Path], plan: Path | None, reporter: Reporter, *, json: bool
) -> None:
    from dedup.against import compare_with, comparison_json, plan_against, write_comparison
    from search.searcher import Searcher

    with Searcher(settings) as searcher, reporter:
        comparison = compare_with(searcher, against, reporter.measured)
        planned = plan_against(comparison, searcher)
        for path in to:
            write_comparison(path, comparison)
        _write_plan(plan, planned)
    if json:
        output.write_json({**comparison_json(comparison), **_written(to, plan)})
        return
    output.write(dedup_text.comparison_text(comparison))
    _say_where(to, plan, planned)


def _write_plan(path: Path | None, plan: Plan) -> None:
    if path is not None:
        from dedup.plan import write_plan

        write_plan(path, plan)


def _written(to: list[Path], plan: Path | None) -> dict[str, Any]:
    return {"outputs": [str(path) for path in to], "plan": None if plan is None else str(plan)}


def _say_where(to: list[Path], plan: Path | None, planned: Plan) -> None:
    for path in to:
        output.note(f"written: {path}")
    if plan is not None:
        output.note(
            f"plan: {plan}, {len(planned.removals):,} files could go; nothing was touched. "
            f"Next: `simile dedup apply {plan} --trash` (or --move-to, --hardlink, --symlink)."
        )
