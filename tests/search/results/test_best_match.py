"""A search by several images can find what is near to any of them, and not nearer to a negative."""

from __future__ import annotations

import numpy as np
import pytest

from simile.core.errors import BadSetting
from simile.core.records import Filter
from simile.search.queries import SearchParams, SearchQuery
from simile.search.searcher import Searcher
from simile.store.index.metric import make_index_vectors


def compute_best(searcher: Searcher, positives: list[int], negatives: list[int]) -> list[tuple[int, float]]:
    """Return (id, distance) of all hits by brute force."""
    encoder = searcher.get_encoder()
    mus = np.stack([searcher.catalogue.embeddings.get(n, encoder.fingerprint).mu for n in range(1, 121)])
    vectors = make_index_vectors(mus, encoder.index_dims, encoder.metric).astype(np.float64)
    distances = np.linalg.norm(vectors[:, None] - vectors, axis=2)
    nearest = distances[[n - 1 for n in positives]].min(axis=0)
    others = distances[[n - 1 for n in negatives]].min(axis=0) if negatives else np.full(120, np.inf)
    ids = [n for n in range(1, 121) if n not in positives + negatives and nearest[n - 1] <= others[n - 1]]
    return sorted(((n, float(nearest[n - 1])) for n in ids), key=lambda pair: pair[1])


@pytest.mark.parametrize(("positives", "negatives"), [([1, 40], []), ([1, 40, 77], [2, 3]), ([5], [9])])
def test_hits_are_the_nearest_to_any_positive_by_brute_force(
    searcher: Searcher, positives: list[int], negatives: list[int]
) -> None:
    params = SearchParams(limit=12, combine="best")
    hits = searcher.search(SearchQuery(tuple(positives), tuple(negatives), params)).hits
    expected = compute_best(searcher, positives, negatives)[:12]
    assert [hit.image_id for hit in hits] == [number for number, _ in expected]
    assert [hit.distance for hit in hits] == pytest.approx([distance for _, distance in expected], abs=1e-5)


def test_other_options_apply_to_the_best_matches(searcher: Searcher) -> None:
    every = compute_best(searcher, [1, 40], [2])
    radius = every[4][1] + 1e-6
    cases = {
        SearchParams(limit=None, radius=radius, combine="best"): [number for number, _ in every[:5]],
        SearchParams(limit=2, offset=3, combine="best"): [number for number, _ in every[3:5]],
        SearchParams(limit=None, combine="best", filter=Filter(formats=("png",))): [number for number, _ in every],
        SearchParams(limit=5, combine="best", distinct=True): [number for number, _ in every[:5]],
    }
    for params, expected in cases.items():
        assert [hit.image_id for hit in searcher.search(SearchQuery((1, 40), (2,), params)).hits] == expected


def test_a_single_image_is_not_affected_and_attributes_are_refused(searcher: Searcher) -> None:
    params = SearchParams(combine="best")
    assert searcher.search(SearchQuery((1,), params=params)).hits == searcher.by_id(1).hits
    with pytest.raises(BadSetting, match="combine=best"):
        searcher.search(SearchQuery((1, 2), params=params, attributes={"smile": 1.0}))
