"""The thin public Python API of simile; re-exports only.

>>> from pathlib import Path
>>> import simile
>>> settings = simile.load_settings(home=Path("simile-home"))
>>> simile.index(settings, [Path("photos")], simile.IndexRequest())
>>> with simile.open_home(settings) as home:
...     answer = home.by_file(Path("query.jpg"), name="query.jpg", limit=10)
...     shirts = home.by_id(1, only=simile.make_filter(where=["class=shirt"], since="2026-01-01"))

Copies, and a plan of what could go; `simile dedup apply` acts on it:

>>> simile.find_duplicates(settings, simile.DedupRequest(precision=0.99), lambda stage, done, total: None)
>>> with simile.open_home(settings) as home:
...     findings = simile.load_findings(home.catalogue)
...     groups = simile.make_groups(findings, ["largest", "oldest"])
>>> simile.write_plan(Path("plan.json"), simile.plan_of(findings, groups))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.conditions import make_filter
    from core.errors import SimileError
    from core.records import Filter, Hit, IndexSummary
    from core.settings import Settings, load_settings
    from dedup.findings import Findings, load_findings
    from dedup.groups import make_groups
    from dedup.job import DedupRequest, find_duplicates
    from dedup.plan import read_plan, write_plan
    from dedup.planning import plan_of
    from dedup.records import Group, Member, Plan
    from indexer.job import IndexRequest, index
    from search.questions import Answer, Asked, Query, Question
    from search.searcher import Searcher
    from search.searcher import Searcher as open_home  # noqa: N813  # reads as the verb it is

# Where each comes from: fetched when it is first asked for, so that `simile.client` starts without a network's library.
_HOMES = {
    "core.conditions": ("make_filter",),
    "core.errors": ("SimileError",),
    "core.records": ("Filter", "Hit", "IndexSummary"),
    "core.settings": ("Settings", "load_settings"),
    "dedup.findings": ("Findings", "load_findings"),
    "dedup.groups": ("make_groups",),
    "dedup.job": ("DedupRequest", "find_duplicates"),
    "dedup.plan": ("read_plan", "write_plan"),
    "dedup.planning": ("plan_of",),
    "dedup.records": ("Group", "Member", "Plan"),
    "indexer.job": ("IndexRequest", "index"),
    "search.questions": ("Answer", "Asked", "Query", "Question"),
    "search.searcher": ("Searcher",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Answer",
    "Asked",
    "DedupRequest",
    "Filter",
    "Findings",
    "Group",
    "Hit",
    "IndexRequest",
    "IndexSummary",
    "Member",
    "Plan",
    "Query",
    "Question",
    "Searcher",
    "Settings",
    "SimileError",
    "find_duplicates",
    "index",
    "load_findings",
    "load_settings",
    "make_filter",
    "make_groups",
    "open_home",
    "plan_of",
    "read_plan",
    "write_plan",
]


def __getattr__(name: str) -> Any:
    asked = "Searcher" if name == "open_home" else name
    if asked not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_HOME_OF[asked]), asked)
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
