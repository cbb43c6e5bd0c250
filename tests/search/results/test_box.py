"""A box restricts a query image to a part of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simile.core.errors import BadSetting
from simile.core.records import Box
from simile.images.encoding import encode_png
from simile.search.queries import SearchParams, SearchQuery
from simile.search.searcher import Searcher
from tests.support.synthetic_images import scene

BOX = Box(0.25, 0.5, 0.5, 0.25)


def test_a_part_is_searched_for_as_if_it_were_the_image(searcher: Searcher) -> None:
    pixels = scene(1)
    rows, columns = BOX.to_pixels(pixels.shape[1], pixels.shape[0])
    part = searcher.prepare_query_image(encode_png(pixels), "scene.png", BOX)
    cropped = searcher.prepare_query_image(encode_png(np.ascontiguousarray(pixels[rows, columns])), "part.png")
    assert np.array_equal(part.prepared_image.array, cropped.prepared_image.array)
    assert (part.prepared_image.width, part.prepared_image.height) == (
        columns.stop - columns.start,
        rows.stop - rows.start,
    )
    both = [searcher.search(SearchQuery((term,))).hits for term in (part, cropped)]
    assert both[0] == both[1]


def test_an_indexed_image_is_no_hit_of_its_part(searcher: Searcher) -> None:
    result = searcher.search(SearchQuery((searcher.prepare_indexed_part(3, BOX),), params=SearchParams(limit=None)))
    assert len(result.hits) == 119 and 3 not in [hit.image_id for hit in result.hits]
    path = Path(searcher.get_image(3).paths[0])
    same = searcher.search(SearchQuery((searcher.prepare_query_image(path, path.name, BOX),)))
    np.testing.assert_allclose(same.query.mu, result.query.mu)


def test_a_part_has_whole_pixels_and_at_least_one() -> None:
    assert Box(0, 0, 1, 1).to_pixels(5, 3) == (slice(0, 3), slice(0, 5))
    assert Box(0.99, 0.99, 0.01, 0.01).to_pixels(8, 8) == (slice(7, 8), slice(7, 8))
    assert Box(0.5, 0, 0.5, 0.5).to_pixels(400, 300) == (slice(0, 150), slice(200, 400))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "0,0,1",
        "0,0,0,1",
        "0,0,1,1,1",
        "a,0,1,1",
        "-0.1,0,1,1",
        "0.6,0,0.5,1",
        "nan,0,1,1",
        "0,0,inf,1",
        "0,0,0.001,1",
    ],
)
def test_a_box_outside_of_the_image_is_refused(text: str) -> None:
    with pytest.raises(BadSetting, match=r"0\.25,0,0.5,1 is the middle half"):
        Box.parse(text)
    assert Box.parse("0.25, 0.5,0.5,0.25") == BOX


def test_a_part_is_not_verified(searcher: Searcher) -> None:
    part = searcher.prepare_indexed_part(3, BOX)
    with pytest.raises(BadSetting, match="with a box"):
        searcher.search(SearchQuery((part,), params=SearchParams(verify=True)))
