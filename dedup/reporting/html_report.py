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

from simile.core.atomic_write import write_durably
from simile.core.errors import BadSetting
from simile.dedup.cleanup.plan import freed, plan_of
from simile.dedup.detection.threshold import curve_of
from simile.dedup.grouping.findings import Findings, FoundPair
from simile.dedup.grouping.groups import GROUPED
from simile.dedup.records import Group, Tier
from simile.dedup.reporting.cards import Card, Drawer, human_size, shown_path
from simile.dedup.review import Case, cases_of, similar_case
from simile.images.loading.loader import in_threads
from simile.search.searcher import Searcher

MOST_GROUPS = 1000  # shown; all of them are in groups.json
MOST_SIMILAR = 200

_ORDER: tuple[Tier, ...] = ("pixels", "near", "bytes")  # first what can be decided
_environment = Environment(
    loader=FileSystemLoader(Path(__file__).parents[1] / "templates"), autoescape=select_autoescape(), trim_blocks=True
)
_environment.filters |= {
    "distance": lambda value: "unknown" if math.isnan(value) else f"{value:.3g}",
    "human_size": human_size,
}


def write_report(
    path: Path,
    searcher: Searcher,
    findings: Findings,
    groups: Sequence[Group],
    *,
    similar: Iterable[FoundPair] = (),
    threshold: float | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Writes the report, whole or not at all. threshold: that the groups were made with, the run's if None.

    on_progress: stage, groups done, groups in all. Pictures that can't be read any more are shown as missing. Raises
    BadSetting where the file can't be written.
    """
    threshold = findings.reach(threshold)
    shown = sorted(groups, key=lambda group: _ORDER.index(group.tier))[:MOST_GROUPS]
    alike = [similar_case(one) for one in islice(similar, MOST_SIMILAR)]
    stream = _environment.get_template("report.html").stream(
        summary=_summary(findings, groups, len(shown), len(alike)),
        cards=_cards(searcher, findings, shown, alike, on_progress),
        calibration=findings.calibration,
        curve=curve_of(findings.calibration, threshold) if findings.calibration and threshold is not None else None,
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
        write_durably(path, lambda at: stream.dump(str(at), encoding="utf-8", errors="replace"))
    except OSError as error:
        reason = error.strerror or error
        raise BadSetting(f"{path} can't be written: {reason}. Make space, or name another file.") from error


def _cards(
    searcher: Searcher,
    findings: Findings,
    groups: Sequence[Group],
    alike: Sequence[Case],
    on_progress: Callable[[str, int, int], None] | None,
) -> Iterator[Card]:
    """Card by card: threads read and compare pictures only a little ahead of the writing."""
    drawer = Drawer(searcher, findings, frozenset((pair.first, pair.second) for pair in findings.pairs))
    wanted = [(case, group.matched, group.possible) for case, group in zip(cases_of(groups), groups, strict=True)]
    wanted += [(case, 0, 1) for case in alike]
    made = in_threads(lambda one: drawer.card(*one), wanted, searcher.settings.workers)
    for done, card in enumerate(made, 1):
        if on_progress is not None:
            on_progress("report", done, len(wanted))
        yield card


def _summary(findings: Findings, groups: Sequence[Group], shown: int, alike: int) -> dict[str, Any]:
    tiers = {tier: sum(group.tier == tier for group in groups) for tier in (*_ORDER, *GROUPED)}
    plan = plan_of(findings, groups)
    return {
        "tiers": tiers | {"similar": alike},
        "groups": len(groups),
        "shown": shown,
        "removable": len(plan.removals),
        "bytes": sum(freed(plan, groups).values()),
        "made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "home": shown_path(findings.home),
        "run": findings.run_id,
    }
