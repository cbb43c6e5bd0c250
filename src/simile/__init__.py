"""The Python API of simile; it only re-exports names.

>>> from pathlib import Path
>>> import simile
>>> settings = simile.load_settings(home=Path("simile-home"))
>>> simile.index(settings, [Path("photos")], simile.IndexRequest())
>>> with simile.open_home(settings) as home:
...     result = home.by_file(Path("query.jpg"), name="query.jpg", limit=10)
...     shirts = home.by_id(1, filter=simile.make_filter(where=["class=shirt"], since="2026-01-01"))

Arrays and Pillow images, and data frames in and out (docs/datasets.md):

>>> vectors = simile.embed([array, image, "photo.jpg"])  # float32, (3, d)
>>> simile.add_images(settings, [array, image], names=["first", "second"], metadata=[{"split": "train"}, None])
>>> with simile.open_home(settings) as home:
...     frame = home.to_pandas()

Find copies and plan which files to remove; `simile dedup apply` applies the plan:

>>> simile.find_duplicates(settings, simile.DedupRequest(precision=0.99), lambda stage, done, total: None)
>>> with simile.open_home(settings) as home:
...     findings = simile.load_findings(home.catalogue)
...     groups = simile.make_groups(findings, ["largest", "oldest"])
>>> plan = simile.add_companions(simile.plan_of(findings, groups), home.catalogue)
>>> simile.write_plan(Path("plan.json"), plan)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simile.core.errors import SimileError
    from simile.core.filters.parser import make_filter
    from simile.core.records import Filter, Hit, IndexSummary
    from simile.core.settings import Settings, load_settings
    from simile.dedup.cleanup.companions import add_companions
    from simile.dedup.cleanup.plan import plan_of, read_plan, write_plan
    from simile.dedup.detection.job import DedupRequest, find_duplicates
    from simile.dedup.grouping.findings import Findings, load_findings
    from simile.dedup.grouping.groups import make_groups
    from simile.dedup.records import CleanupPlan, DuplicateGroup, GroupMember
    from simile.home import OpenHome, embed
    from simile.home import OpenHome as open_home  # noqa: N813  # reads as a verb in `with open_home(…)`
    from simile.indexer.pipeline.add_images import AddedImages, add_images
    from simile.indexer.pipeline.job import IndexRequest, index
    from simile.search.queries import EncodedQuery, SearchParams, SearchQuery, SearchResult
    from simile.search.searcher import Searcher

# Names by module; they are imported on first use: `simile.client` must start without torch.
_NAMES = {
    "simile.core.errors": ["SimileError"],
    "simile.core.filters.parser": ["make_filter"],
    "simile.core.records": ["Filter", "Hit", "IndexSummary"],
    "simile.core.settings": ["Settings", "load_settings"],
    "simile.dedup.cleanup.companions": ["add_companions"],
    "simile.dedup.cleanup.plan": ["plan_of", "read_plan", "write_plan"],
    "simile.dedup.detection.job": ["DedupRequest", "find_duplicates"],
    "simile.dedup.grouping.findings": ["Findings", "load_findings"],
    "simile.dedup.grouping.groups": ["make_groups"],
    "simile.dedup.records": ["CleanupPlan", "DuplicateGroup", "GroupMember"],
    "simile.home": ["OpenHome", "embed", "open_home"],
    "simile.indexer.pipeline.add_images": ["AddedImages", "add_images"],
    "simile.indexer.pipeline.job": ["IndexRequest", "index"],
    "simile.search.queries": ["EncodedQuery", "SearchParams", "SearchQuery", "SearchResult"],
    "simile.search.searcher": ["Searcher"],
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "AddedImages",
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
    "OpenHome",
    "SearchParams",
    "SearchQuery",
    "SearchResult",
    "Searcher",
    "Settings",
    "SimileError",
    "add_companions",
    "add_images",
    "embed",
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
    value = globals()[name] = getattr(import_module(_MODULES[name]), "OpenHome" if name == "open_home" else name)
    return value


def __dir__() -> list[str]:
    """List the names of the API."""
    return sorted(__all__)
