"""A query on its way through the stages of a search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from simile.core.errors import SimileError
from simile.search.queries import EncodedQuery, SearchParams, SearchQuery
from simile.search.results.copy_groups import Positions
from simile.search.words.text import TextTerm
from simile.store.index.flat import Distances, Ids


@dataclass(kw_only=True)
class SearchState:
    """A query on its way through the stages."""

    query: SearchQuery
    encoded_query: EncodedQuery | None = None  # None until it is encoded, and after an error
    error: SimileError | None = None  # why there is no result
    ids: Ids = field(default_factory=lambda: np.empty(0, np.int64))  # (n,) of the hits, like `distances`
    distances: Distances = field(default_factory=lambda: np.empty(0))
    nearest_distance: float | None = None  # distance of the nearest image, whether it is a hit or not; None if unknown
    # (n,) with `distinct`: how many images are left out as copies of each hit
    copy_counts: Positions | None = None
    groups: list[str] | None = None  # (n,) with `group_by`: the value that each hit is a hit for
    group_counts: Mapping[str, int] = field(default_factory=dict)  # number of images with each of these values
    text_terms: tuple[TextTerm, ...] = ()  # the words of the query's text; the distances are then -ln(score)

    @property
    def params(self) -> SearchParams:
        """The options of the query."""
        return self.query.params

    @property
    def needs_words(self) -> bool:
        """Whether there is a text that the encoder has not read: it has no text tower."""
        return self.query.text is not None and self.encoded_query is not None and not self.encoded_query.has_text

    def fail(self, error: SimileError) -> None:
        """End this query with an error."""
        self.error, self.encoded_query = error, None
