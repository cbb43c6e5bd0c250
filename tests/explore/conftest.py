"""An open home with digits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from simile.core.settings import Settings
from simile.search.searcher import Searcher


@pytest.fixture
def searcher(home_with_digits: Settings) -> Iterator[Searcher]:
    """A searcher in a home of one's own with 120 digits."""
    with Searcher(home_with_digits) as searcher:
        yield searcher
