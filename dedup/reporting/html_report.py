"""What was found as one self-contained HTML file: pictures inside, decisions by keyboard, a plan to download.

Written as it is made: of any number of groups only a few are in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, select_autoescape

from simile.core.atomic_write import write_atomically
from simile.core.errors import BadSetting
from simile.dedup.cleanup.plan import count_freed_bytes, plan_of
from simile.dedup.detection.threshold import make_curve
from simile.dedup.grouping.findings import FilePair, Findings
from simile.dedup.grouping.groups import GROUP_TIERS
from simile.dedup.records import DuplicateGroup, Tier
from simile.dedup.reporting.cards import CardRenderer, ReportCard, format_path, format_size
from simile.dedup.review import ReviewCase, make_cases, make_similar_case
from simile.images.loading.loader import map_in_threads
from simile.search.searcher import Searcher

MAX_REPORT_GROUPS = 1000  # shown; all of them are in groups.json
MAX_REPORT_SIMILAR = 200

_TIER_ORDER: tuple[Tier, ...] = ("pixels", "near", "bytes")  # first what can be decided
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
    similar_file_pairs: Iterable[FilePair] = (),
    threshold: float | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Writes the report, whole or not at all. threshold: that the groups were made with, the run's if None.

    on_progress: stage, groups done, groups in all. Pictures that can't be read any more are shown as missing. Raises
    BadSetting where the file can't be written.
    """
    threshold = findings.get_effective_threshold(threshold)
    shown = sorted(groups, key=lambda group: _TIER_ORDER.index(group.tier))[:MAX_REPORT_GROUPS]
    alike = [make_similar_case(one) for one in islice(similar_file_pairs, MAX_REPORT_SIMILAR)]
    stream = _template_environment.get_template("report.html").stream(
        summary=_make_summary(findings, groups, len(shown), len(alike)),
        cards=_make_cards(searcher, findings, shown, alike, on_progress),
        calibration=findings.calibration,
        curve=make_curve(findings.calibration, threshold) if findings.calibration and threshold is not None else None,
        threshold=threshold,
        meta={
            "home": findings.home,
            "written": datetime.now(UTC).isoformat(timespec="microseconds"),
            "decisions": [asdict(said) for said in findings.decisions.values()],
        },
        version=version("simile"),
    )
    stream.enable_buffering(64)
    try:
        write_atomically(path, lambda at: stream.dump(str(at), encoding="utf-8", errors="replace"))
    except OSError as error:
        reason = error.strerror or error
        raise BadSetting(f"{path} can't be written: {reason}. Make space, or name another file.") from error


def _make_cards(
    searcher: Searcher,
    findings: Findings,
    groups: Sequence[DuplicateGroup],
    similar_cases: Sequence[ReviewCase],
    on_progress: Callable[[str, int, int], None] | None,
) -> Iterator[ReportCard]:
    """Card by card: threads read and compare pictures only a little ahead of the writing."""
    drawer = CardRenderer(searcher, findings, frozenset((pair.first, pair.second) for pair in findings.pairs))
    wanted = [(case, group.matched, group.possible) for case, group in zip(make_cases(groups), groups, strict=True)]
    wanted += [(case, 0, 1) for case in similar_cases]
    made = map_in_threads(lambda one: drawer.make_card(*one), wanted, searcher.settings.workers)
    for done, card in enumerate(made, 1):
        if on_progress is not None:
            on_progress("report", done, len(wanted))
        yield card


def _make_summary(
    findings: Findings, groups: Sequence[DuplicateGroup], group_count: int, similar_count: int
) -> dict[str, Any]:
    tiers = {tier: sum(group.tier == tier for group in groups) for tier in (*_TIER_ORDER, *GROUP_TIERS)}
    plan = plan_of(findings, groups)
    return {
        "tiers": tiers | {"similar": similar_count},
        "groups": len(groups),
        "shown": group_count,
        "removable": len(plan.removals),
        "bytes": sum(count_freed_bytes(plan, groups).values()),
        "made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "home": format_path(findings.home),
        "run": findings.run_id,
    }
