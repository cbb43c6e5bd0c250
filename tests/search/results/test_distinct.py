"""`distinct` shows one image of each group of known copies, and tells how many it stands for."""

from __future__ import annotations

import numpy as np

from simile.core.records import Filter
from simile.dedup.records import Decision
from simile.search.queries import SearchParams, SearchQuery
from simile.search.results.copy_groups import CopyGroups
from simile.search.searcher import Searcher
from simile.store.catalogue.records import CopyPair, DuplicateRecord, DuplicateTier


def collapse(groups: CopyGroups, *ids: int, **options: set[int] | int) -> list[tuple[int, int]]:
    """Return (id, number of copies) of the images that stay."""
    positions, counts = groups.collapse(np.array(ids, np.int64), **options)  # type: ignore[arg-type]
    return list(zip([ids[position] for position in positions], counts.tolist(), strict=True))


def store_pairs(searcher: Searcher, *pairs: tuple[int, int, DuplicateTier]) -> None:
    run = searcher.catalogue.runs.start("dedup", {})
    rows = [DuplicateRecord(min(a, b), max(a, b), tier, 0.1, None, "equal") for a, b, tier in pairs]
    searcher.catalogue.duplicates.replace(run, rows)


def decide(searcher: Searcher, first: int, second: int, *, same: bool) -> None:
    hashes = sorted(searcher.get_image(number).sha256 for number in (first, second))
    searcher.catalogue.duplicates.save_decisions([Decision(*hashes, same, None)])


def test_equal_pixels_are_chained_and_near_copies_are_not() -> None:
    equal = CopyGroups.from_pairs([CopyPair(1, 2, is_equal=True), CopyPair(2, 3, is_equal=True)])
    assert collapse(equal, 4, 3, 1, 2) == [(4, 0), (3, 2)]
    near = CopyGroups.from_pairs([CopyPair(1, 2, is_equal=False), CopyPair(2, 3, is_equal=False)])
    assert collapse(near, 1, 2, 3) == [(1, 1), (3, 0)]
    assert collapse(near, 2, 1, 3) == [(2, 2)]


def test_near_copies_of_equal_images_belong_to_all_of_them() -> None:
    groups = CopyGroups.from_pairs([CopyPair(1, 2, is_equal=True), CopyPair(2, 9, is_equal=False)])
    assert collapse(groups, 1, 9) == collapse(groups, 1) == [(1, 2)]
    assert collapse(groups, 9, 2, 1, 7, limit=1) == [(9, 2)]
    assert collapse(groups, 1, 2, excluded_ids={9}) == [(1, 1)]
    allowed, counts = groups.collapse(np.array([2]), allowed_ids=np.array([2, 9]))
    assert allowed.tolist() == [0] and counts.tolist() == [1]


def test_copies_are_left_out_and_a_page_is_still_full(searcher: Searcher) -> None:
    plain = [hit.image_id for hit in searcher.by_id(1, limit=100).hits]
    store_pairs(searcher, *((plain[0], other, "pixels") for other in plain[1:90]), (plain[90], plain[91], "similar"))
    hits = searcher.by_id(1, limit=6, distinct=True).hits
    assert [hit.image_id for hit in hits] == [plain[0], *plain[90:95]]
    assert [hit.copy_count for hit in hits] == [89, 0, 0, 0, 0, 0]
    assert searcher.by_id(1, limit=3, offset=3, distinct=True).hits == hits[3:]
    assert {hit.copy_count for hit in searcher.by_id(1, limit=6).hits} == {None}


def test_other_searches_leave_copies_out_too(searcher: Searcher) -> None:
    second, third = (hit.image_id for hit in searcher.by_id(1, limit=3).hits[:2])
    store_pairs(searcher, (second, third, "near"))
    radius = searcher.by_id(1, limit=3).hits[2].distance
    for options in (SearchParams(limit=None, radius=radius, distinct=True), SearchParams(limit=2, distinct=True)):
        assert [hit.copy_count for hit in searcher.search(SearchQuery((1,), params=options)).hits] == [1, 0]
    posterior = searcher.search(SearchQuery((1,), params=SearchParams(use_posterior=True, distinct=True))).hits
    assert not {second, third} <= {hit.image_id for hit in posterior}
    filter_ = Filter(formats=("png",))
    filtered = searcher.by_id(1, limit=2, distinct=True, filter=filter_).hits
    assert [hit.copy_count for hit in filtered] == [1, 0]


def test_decisions_of_people_count_more_than_pairs(searcher: Searcher) -> None:
    first, second, third, fourth, *_ = (hit.image_id for hit in searcher.by_id(1, limit=6).hits)
    store_pairs(searcher, (first, second, "near"))
    assert second not in [hit.image_id for hit in searcher.by_id(1, distinct=True).hits]
    decide(searcher, first, second, same=False)
    decide(searcher, third, fourth, same=True)
    hits = searcher.by_id(1, limit=3, distinct=True).hits
    assert [(hit.image_id, hit.copy_count) for hit in hits] == [(first, 0), (second, 0), (third, 1)]
