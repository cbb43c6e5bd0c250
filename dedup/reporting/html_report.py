"""Write the HTML report: one self-contained file with images, decisions by keyboard, and a plan to download.

The file is written as a stream: only a few groups are in memory at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, select_autoescape

from simile.core.records import OnProgress
from simile.dedup.cleanup.plan import count_freed_bytes, plan_of
from simile.dedup.detection.threshold import make_curve
from simile.dedup.grouping.findings import FilePair, Findings
from simile.dedup.records import DuplicateGroup, Tier
from simile.dedup.reporting.cards import CardRenderer, ReportCard, format_path, format_size
from simile.dedup.reporting.exports import write_output
from simile.dedup.review import make_similar_case
from simile.images.loading.loader import map_in_threads
from simile.search.searcher import Searcher

MAX_REPORT_GROUPS = 1000  # groups.json has all of them
MAX_REPORT_SERIES = 200
MAX_REPORT_SIMILAR = 200

_TIER_ORDER: tuple[Tier, ...] = ("pixels", "near", "bytes")  # what can be decided comes first
_template_environment = Environment(
    loader=FileSystemLoader(Path(__file__).parents[1] / "templates"), autoescape=select_autoescape(), trim_blocks=True
)
_template_environment.filters |= {
    "distance": lambda value: "unknown" if math.isnan(value) else f"{value:.3g}",
    "human_size": format_size,
}


def write_html_report(
    path: Path,
    searcher: Searcher,
    findings: Findings,
    groups: Sequence[DuplicateGroup],
    *,
    series: Sequence[DuplicateGroup] = (),
    similar_file_pairs: Iterable[FilePair] = (),
    threshold: float | None = None,
    on_progress: OnProgress = lambda *_: None,
) -> None:
    """Write the report completely or not at all. Images that can no longer be read are shown as missing.

    `threshold` is that of the groups; None: the run's. Raises BadSetting if the file can't be written.
    """
    threshold = findings.get_effective_threshold(threshold)
    calibration = findings.calibration
    shown_groups = sorted(groups, key=lambda group: _TIER_ORDER.index(group.tier))[:MAX_REPORT_GROUPS]
    similar_cases = [make_similar_case(file_pair) for file_pair in islice(similar_file_pairs, MAX_REPORT_SIMILAR)]
    stream = _template_environment.get_template("report.html").stream(
        summary=_make_summary(
            findings, groups, len(shown_groups), {"series": len(series), "similar": len(similar_cases)}
        ),
        cards=_make_cards(
            searcher, findings, [*shown_groups, *series[:MAX_REPORT_SERIES], *similar_cases], on_progress
        ),
        calibration=calibration,
        curve=None if calibration is None or threshold is None else make_curve(calibration, threshold),
        threshold=threshold,
        meta={
            "home": findings.home,
            "written": datetime.now(UTC).isoformat(timespec="microseconds"),
            "decisions": [asdict(decision) for decision in findings.decisions.values()],
        },
        version=version("simile"),
    )
    stream.enable_buffering(64)
    write_output(path, lambda temporary: stream.dump(str(temporary), encoding="utf-8", errors="replace"))


def _make_cards(
    searcher: Searcher,
    findings: Findings,
    cases: Sequence[DuplicateGroup],
    on_progress: OnProgress,
) -> Iterator[ReportCard]:
    """Yield card by card. Threads read and compare images only a little ahead of the writer."""
    renderer = CardRenderer(
        searcher=searcher,
        findings=findings,
        matched_pairs=frozenset((pair.first, pair.second) for pair in findings.pairs),
        leaving=frozenset(Path(member.file.path) for case in cases for member in case.members[1:]),
    )
    for done, card in enumerate(map_in_threads(renderer.make_card, cases, searcher.settings.workers), 1):
        on_progress("report", done, len(cases))
        yield card


def _make_summary(
    findings: Findings, groups: Sequence[DuplicateGroup], group_count: int, other_counts: dict[str, int]
) -> dict[str, Any]:
    """Return what the report's header shows, for `group_count` shown groups; `other_counts` by tier."""
    plan = plan_of(findings, groups)
    tiers = {tier: sum(group.tier == tier for group in groups) for tier in _TIER_ORDER}
    return {
        "tiers": {**tiers, **other_counts},
        "groups": len(groups),
        "shown": group_count,
        "removable": len(plan.removals),
        "bytes": sum(count_freed_bytes(plan, groups).values()),
        "made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "home": format_path(findings.home),
        "run": findings.run_id,
    }
