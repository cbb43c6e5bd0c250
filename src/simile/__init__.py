"""The Python API of simile; it only re-exports names.

>>> from pathlib import Path
>>> import simile
>>> settings = simile.load_settings(home=Path("simile-home"))
>>> simile.index(settings, [Path("photos")], simile.IndexRequest())
>>> with simile.open_home(settings) as home:
...     result = home.by_file(Path("query.jpg"), name="query.jpg", limit=10)
...     shirts = home.by_id(1, filter=simile.make_filter(where=["class=shirt"], since="2026-01-01"))

Find copies and plan which files to remove; `simile dedup apply` applies the plan:

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
    from simile.search.searcher import Searcher as open_home  # noqa: N813  # reads as a verb in `with open_home(…)`

# Module of each name, imported on first use: `simile.client` must start without torch.
_MODULES = {
    "CleanupPlan": "simile.dedup.records",
    "DedupRequest": "simile.dedup.detection.job",
    "DuplicateGroup": "simile.dedup.records",
    "EncodedQuery": "simile.search.queries",
    "Filter": "simile.core.records",
    "Findings": "simile.dedup.grouping.findings",
    "GroupMember": "simile.dedup.records",
    "Hit": "simile.core.records",
    "IndexRequest": "simile.indexer.pipeline.job",
    "IndexSummary": "simile.core.records",
    "SearchParams": "simile.search.queries",
    "SearchQuery": "simile.search.queries",
    "SearchResult": "simile.search.queries",
    "Searcher": "simile.search.searcher",
    "Settings": "simile.core.settings",
    "SimileError": "simile.core.errors",
    "find_duplicates": "simile.dedup.detection.job",
    "index": "simile.indexer.pipeline.job",
    "load_findings": "simile.dedup.grouping.findings",
    "load_settings": "simile.core.settings",
    "make_filter": "simile.core.filter_parser",
    "make_groups": "simile.dedup.grouping.groups",
    "open_home": "simile.search.searcher",
    "plan_of": "simile.dedup.cleanup.plan",
    "read_plan": "simile.dedup.cleanup.plan",
    "write_plan": "simile.dedup.cleanup.plan",
}

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
    """Import a name on first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), "Searcher" if name == "open_home" else name)
    return value


def __dir__() -> list[str]:
    """List the names of the API."""
    return sorted(__all__)
