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
    from simile.core.errors import SimileError
    from simile.core.filter_parser import make_filter
    from simile.core.records import Filter, Hit, IndexSummary
    from simile.core.settings import Settings, load_settings
    from simile.dedup.cleanup.plan import plan_of, read_plan, write_plan
    from simile.dedup.detection.job import DedupRequest, find_duplicates
    from simile.dedup.grouping.findings import Findings, load_findings
    from simile.dedup.grouping.groups import make_groups
    from simile.dedup.records import CleanupPlan, DuplicateGroup, GroupMember
    from simile.indexer.pipeline.job import IndexRequest, index
    from simile.search.queries import EncodedQuery, SearchParams, SearchQuery, SearchResult
    from simile.search.searcher import Searcher
    from simile.search.searcher import Searcher as open_home  # noqa: N813  # reads as the verb it is

# Where each comes from: fetched when it is first asked for, so that `simile.client` starts without a network's library.
_EXPORTS = {
    "simile.core.filter_parser": ("make_filter",),
    "simile.core.errors": ("SimileError",),
    "simile.core.records": ("Filter", "Hit", "IndexSummary"),
    "simile.core.settings": ("Settings", "load_settings"),
    "simile.dedup.grouping.findings": ("Findings", "load_findings"),
    "simile.dedup.grouping.groups": ("make_groups",),
    "simile.dedup.detection.job": ("DedupRequest", "find_duplicates"),
    "simile.dedup.cleanup.plan": ("plan_of", "read_plan", "write_plan"),
    "simile.dedup.records": ("DuplicateGroup", "GroupMember", "CleanupPlan"),
    "simile.indexer.pipeline.job": ("IndexRequest", "index"),
    "simile.search.queries": ("SearchResult", "SearchParams", "EncodedQuery", "SearchQuery"),
    "simile.search.searcher": ("Searcher",),
}
_EXPORT_MODULES = {name: home for home, names in _EXPORTS.items() for name in names}

__all__ = [
    "CleanupPlan",
    "DedupRequest",
    "DuplicateGroup",
    "EncodedQuery",
    "Filter",
    "Findings",
    "GroupMember",
    "Hit",
    "IndexRequest",
    "IndexSummary",
    "SearchParams",
    "SearchQuery",
    "SearchResult",
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
    if asked not in _EXPORT_MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_EXPORT_MODULES[asked]), asked)
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
