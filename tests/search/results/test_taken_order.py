"""The collection by the time at which photos were taken."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest
from fastapi.testclient import TestClient

from simile.core.errors import BadSetting
from simile.core.filters.parser import make_filter
from simile.core.records import PhotoMetadata
from simile.search.pagination import ImagePageRequest, get_image_page
from simile.search.results.taken_order import TakenOrder
from simile.search.searcher import Searcher
from simile.store.catalogue.metadata import write_photo_metadata


def set_times(searcher: Searcher) -> None:
    """Give images 3, 5 and 9 a time: 5 is the newest photo, and 3 and 9 are of the same moment."""
    moment, newest = datetime(1969, 12, 31, 23, 59), datetime(2024, 5, 6, 7, 8, 9, 250_000)
    photos = {3: moment, 5: newest, 9: moment}
    paths = {number: searcher.get_image(number).paths[0] for number in photos}
    with searcher.catalogue.begin_write() as (connection, _):
        write_photo_metadata(connection, {paths[n]: PhotoMetadata(taken=taken) for n, taken in photos.items()})


def test_the_newest_photos_come_first_and_pages_fit_together(searcher: Searcher) -> None:
    set_times(searcher)
    expected = [5, 9, 3, *(n for n in range(120, 0, -1) if n not in (3, 5, 9))]
    assert [
        image.id for image in get_image_page(searcher, ImagePageRequest(sort="taken", limit=120)).images
    ] == expected
    cursor: str | None = None
    found: list[int] = []
    for _ in range(60):
        page = get_image_page(searcher, ImagePageRequest(sort="taken", limit=2, cursor=cursor))
        found += [image.id for image in page.images]
        cursor = page.next_cursor
    assert found == expected and cursor is None and page.total == 120
    filtered = ImagePageRequest(sort="taken", filter=make_filter(where=["exists taken"]), offset=1)
    assert [image.id for image in get_image_page(searcher, filtered).images] == [9, 3]


def test_a_cursor_of_a_deleted_image_leads_on(searcher: Searcher) -> None:
    set_times(searcher)
    cursor = get_image_page(searcher, ImagePageRequest(sort="taken", limit=2)).next_cursor
    searcher.catalogue.images.delete(9)
    page = get_image_page(searcher, ImagePageRequest(sort="taken", limit=2, cursor=cursor))
    assert [image.id for image in page.images] == [3, 120]
    with pytest.raises(BadSetting, match="cursor"):
        get_image_page(searcher, ImagePageRequest(sort="newest", cursor=cursor))


def test_an_empty_collection_has_an_order() -> None:
    assert len(TakenOrder.from_times(np.empty(0, np.int64), {}).ids) == 0


def test_photo_metadata_are_listed_and_included_over_http(searcher: Searcher, client: TestClient) -> None:
    set_times(searcher)
    assert [image["image_id"] for image in client.get("/v1/images?sort=taken&limit=3").json()["images"]] == [5, 9, 3]
    hits = client.post("/v1/search?include=photo", json={"image_id": 1, "limit": 119}).json()["hits"]
    photos = {hit["image_id"]: hit["photo"] for hit in hits}
    assert photos[5]["taken"] == "2024-05-06T07:08:09.250000" and photos[7] is None
    assert {hit["photo"] for hit in client.post("/v1/search", json={"image_id": 1}).json()["hits"]} == {None}
