"""The thin public Python API of simile; re-exports only.

>>> from pathlib import Path
>>> import simile
>>> settings = simile.load_settings(home=Path("simile-home"))
>>> simile.index(settings, [Path("photos")], simile.IndexRequest())
>>> with simile.open_home(settings) as home:
...     answer = home.by_file(Path("query.jpg"), name="query.jpg", limit=10)
...     shirts = home.by_id(1, only=simile.make_filter(where=["class=shirt"], since="2026-01-01"))
"""

from core.conditions import make_filter
from core.errors import SimileError
from core.records import Filter, Hit, IndexSummary
from core.settings import Settings, load_settings
from indexer.job import IndexRequest, index
from search.searcher import Answer, Query, Searcher
from search.searcher import Searcher as open_home  # noqa: N813  # reads as the verb it is

__all__ = [
    "Answer",
    "Filter",
    "Hit",
    "IndexRequest",
    "IndexSummary",
    "Query",
    "Searcher",
    "Settings",
    "SimileError",
    "index",
    "load_settings",
    "make_filter",
    "open_home",
]
