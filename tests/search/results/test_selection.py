"""Diverse hits, and hits in groups."""

from __future__ import annotations

import numpy as np
import pytest

from simile.core.errors import BadSetting
from simile.core.records import Filter
from simile.search.queries import SearchParams, SearchQuery
from simile.search.results.diversity import select_diverse
from simile.search.searcher import Searcher


def label_images(searcher: Searcher, size: int = 40) -> None:
    """Give images 1 to 120 the class of their number: c0 for 1 to 40 …"""
    for number in range(120):
        searcher.catalogue.metadata.set_for_image(number + 1, {"class": f"c{number // size}", "number": str(number)})


def test_diverse_candidates_are_unlike_those_selected_before() -> None:
    vectors = np.array([[1, 0], [1.01, 0], [0, 1.1], [-1.2, 0], [1.3, 0]], np.float32)
    distances = np.linalg.norm(vectors, axis=1).astype(np.float64)
    assert select_diverse(distances, vectors, 5, 0.0).tolist() == [0, 1, 2, 3, 4]
    assert select_diverse(distances, vectors, 3, 0.6).tolist() == [0, 3, 2]
    assert select_diverse(distances, vectors, 2, 1.0).tolist() == [0, 3]
    same = np.ones((3, 2), np.float32)
    assert select_diverse(np.ones(3), same, 9, 0.5).tolist() == [0, 1, 2]
    assert select_diverse(np.empty(0), np.empty((0, 2), np.float32), 3, 0.5).tolist() == []


def test_diversity_spreads_the_hits_and_pages_fit_together(searcher: Searcher) -> None:
    def measure_spread(diversity: float) -> float:
        ids = np.sort([hit.image_id for hit in searcher.by_id(1, limit=8, diversity=diversity).hits])
        vectors = searcher.index.get_snapshot().get_vectors(ids)[1]
        return float(np.linalg.norm(vectors[:, None] - vectors, axis=2).mean())

    assert measure_spread(0) < measure_spread(0.5) < measure_spread(1)
    whole = searcher.by_id(1, limit=8, diversity=0.7).hits
    assert whole[0] == searcher.by_id(1, limit=1).hits[0]
    assert searcher.by_id(1, limit=4, diversity=0.7).hits == whole[:4]
    assert searcher.by_id(1, limit=4, offset=4, diversity=0.7).hits == whole[4:]
    assert len(searcher.by_id(1, limit=1000, diversity=0.7).hits) == 119


def test_groups_are_the_nearest_with_their_nearest_hits(searcher: Searcher) -> None:
    label_images(searcher)
    result = searcher.by_id(1, limit=2, group_by="class", group_size=4)
    assert result.groups is not None and len(result.groups) == 2
    every = searcher.by_id(1, limit=119).hits
    for group in result.groups:
        members = [hit for hit in every if (hit.image_id - 1) // 40 == int(group.value[1])]
        assert group.image_ids == [hit.image_id for hit in members[:4]]
        assert group.count == len(members)
    assert [hit.group for hit in result.hits] == [group.value for group in result.groups for _ in range(4)]
    assert result.hits[0].image_id == every[0].image_id
    rest = searcher.by_id(1, limit=2, offset=1, group_by="class", group_size=4).groups
    assert rest is not None and len(rest) == 2 and rest[0] == result.groups[1]


def test_groups_of_few_matching_images_are_found_at_any_distance(searcher: Searcher) -> None:
    label_images(searcher)
    farthest = searcher.by_id(1, limit=119).hits[-1].image_id
    searcher.catalogue.metadata.set_for_image(farthest, {"class": "alone"})
    groups = searcher.by_id(1, limit=10, group_by="class", group_size=1).groups
    assert groups is not None and [group.value for group in groups][-1] == "alone" and groups[-1].count == 1
    filtered = searcher.by_id(1, limit=10, group_by="format", filter=Filter(formats=("png",))).groups
    assert filtered is not None and [(group.value, group.count) for group in filtered] == [("png", 119)]


def test_an_image_with_several_values_is_in_each_group_and_one_without_in_none(searcher: Searcher) -> None:
    searcher.catalogue.metadata.set_for_image(2, {"class": "a"})
    result = searcher.by_id(1, limit=5, group_by="class")
    assert [(hit.image_id, hit.group) for hit in result.hits] == [(2, "a")]
    assert searcher.by_id(1, limit=5, group_by="camera").hits == []


def test_groups_leave_copies_out(searcher: Searcher) -> None:
    label_images(searcher)
    result = searcher.by_id(1, limit=3, group_by="class", distinct=True)
    assert result.groups is not None and {hit.copy_count for hit in result.hits} == {0}


def test_options_that_can_not_be_combined_are_refused(searcher: Searcher) -> None:
    for options in (
        SearchParams(verify=True, diversity=0.5),
        SearchParams(verify=True, group_by="format"),
        SearchParams(diversity=0.5, group_by="format"),
        SearchParams(limit=1000, group_by="format"),
        SearchParams(group_by="nonsense"),
    ):
        with pytest.raises(BadSetting):
            searcher.search(SearchQuery((1,), params=options))
