"""The nearest hits are compared with the query image by their pixels, and those that show the same come first."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simile.core.errors import BadSetting, NoSuchImage, UnreadableImage
from simile.core.settings import Settings
from simile.images.encoding import encode_png
from simile.images.loading.sandbox import REQUEST_BUDGET, DecodeBudget, WorkCancelled
from simile.indexer.pipeline.job import IndexRequest, index
from simile.search.queries import SearchParams, SearchQuery
from simile.search.ranking.verification import MAX_VERIFIED_HITS
from simile.search.searcher import Searcher
from tests.support.images import noise
from tests.support.synthetic_images import scene

ORIGINAL = encode_png(scene(1))
COPIES = {"mirrored": "mirrored", "turned": "turned by 90°", "cropped": "cropped to 56%"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three copies of scene 1, and 24 other images."""
    folder, original = tmp_path_factory.mktemp("photos"), scene(1)
    copies = {"mirrored": original[:, ::-1], "turned": np.rot90(original), "cropped": original[40:280, 30:210]}
    for name, pixels in copies.items():
        (folder / f"{name}.png").write_bytes(encode_png(np.ascontiguousarray(pixels)))
    for seed in range(2, 26):
        (folder / f"scene-{seed}.png").write_bytes(encode_png(scene(seed)))
    return folder


@pytest.fixture
def photos(tmp_path: Path, folder: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "photos"))


@pytest.fixture
def searcher(trained_home: Settings, photos: Path) -> Iterator[Searcher]:
    index(trained_home, [photos], IndexRequest())
    with Searcher(trained_home) as searcher:
        yield searcher


def search_original(searcher: Searcher, **options: Any) -> list[Any]:
    return searcher.by_file(ORIGINAL, name="original.png", **options).hits


def get_id(searcher: Searcher, path: Path) -> int:
    return searcher.catalogue.files.get_many([str(path)])[str(path)].image_id


def test_images_that_show_the_same_come_first_with_how_they_differ(searcher: Searcher) -> None:
    plain, verified = search_original(searcher, limit=20), search_original(searcher, limit=20, verify=True)
    assert all(hit.verified is None and hit.relation is None for hit in plain)
    relations = {Path(hit.path).stem: hit.relation for hit in verified if hit.verified}
    nearest = [Path(hit.path).stem for hit in plain]
    assert relations == {name: words for name, words in COPIES.items() if name in nearest}
    assert len(relations) >= 2  # an encoder of digits finds most of them
    expected = sorted(plain, key=lambda hit: Path(hit.path).stem not in COPIES)
    assert [hit.image_id for hit in verified] == [hit.image_id for hit in expected]
    assert [hit.verified for hit in verified] == [True] * len(relations) + [False] * (20 - len(relations))
    assert all(hit.relation is None for hit in verified if not hit.verified)


def test_hits_beyond_the_nearest_twenty_are_not_compared(searcher: Searcher) -> None:
    hits = search_original(searcher, limit=None, verify=True)
    assert len(hits) == 27
    assert all(hit.verified is not None for hit in hits[:MAX_VERIFIED_HITS])
    assert all(hit.verified is None for hit in hits[MAX_VERIFIED_HITS:])


def test_a_copy_among_the_twenty_is_found_with_any_limit_and_pages_fit_together(searcher: Searcher) -> None:
    whole = search_original(searcher, limit=27, verify=True)
    pages = [search_original(searcher, limit=5, offset=offset, verify=True) for offset in range(0, 27, 5)]
    assert [len(page) for page in pages] == [5, 5, 5, 5, 5, 2]
    assert [hit for page in pages for hit in page] == whole
    assert search_original(searcher, limit=1, verify=True)[0].verified


def test_an_indexed_image_is_compared_with_the_others(searcher: Searcher, photos: Path) -> None:
    hits = searcher.by_id(get_id(searcher, photos / "mirrored.png"), limit=26, verify=True).hits
    relations = {"turned": "mirrored, turned by 90°", "cropped": "mirrored, cropped to 56%"}
    found = {Path(hit.path).stem: hit.relation for hit in hits if hit.verified}
    assert found and found.items() <= relations.items()


def test_a_hit_with_another_file_or_none_is_not_judged(searcher: Searcher, photos: Path) -> None:
    first, second = search_original(searcher, limit=2)
    Path(first.path).write_bytes(ORIGINAL)  # a copy now, but not the indexed image
    Path(second.path).unlink()
    hits = {hit.image_id: hit for hit in search_original(searcher, limit=None, verify=True)}
    assert [hits[hit.image_id].verified for hit in (first, second)] == [None, None]


def test_a_query_image_without_its_file_is_an_error_that_says_so(searcher: Searcher, photos: Path) -> None:
    image_id = get_id(searcher, photos / "mirrored.png")
    (photos / "mirrored.png").unlink()
    with pytest.raises(NoSuchImage, match="its file is gone"):
        searcher.by_id(image_id, verify=True)
    assert searcher.by_id(image_id).hits


def test_the_same_bytes_show_the_same_whatever_they_show(trained_home: Settings, tmp_path: Path) -> None:
    file = io.BytesIO()
    frames = [Image.fromarray(scene(seed)) for seed in (1, 2)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    (tmp_path / "moving.gif").write_bytes(file.getvalue())
    (tmp_path / "other.png").write_bytes(noise(1))
    index(trained_home, [tmp_path / "moving.gif", tmp_path / "other.png"], IndexRequest())
    with Searcher(trained_home) as searcher:
        same, other = searcher.by_file(file.getvalue(), name="a.gif", verify=True).hits
        assert (same.verified, same.relation) == (True, "the same bytes") and other.verified is False
        first_frame = encode_png(scene(1))  # of several frames
        assert not any(hit.verified for hit in searcher.by_file(first_frame, name="a.png", verify=True).hits)


@pytest.mark.parametrize("kind", ["vector", "several", "negative"])
def test_a_query_that_is_not_one_image_is_refused_and_costs_the_others_nothing(searcher: Searcher, kind: str) -> None:
    params, mu = SearchParams(verify=True), searcher.by_id(1).query.mu
    query = {
        "vector": SearchQuery((mu,), params=params),
        "several": SearchQuery((1, 2), params=params),
        "negative": SearchQuery((1,), (2,), params=params),
    }[kind]
    refused, fine = searcher.search_many([query, SearchQuery((1,))])
    assert isinstance(refused, BadSetting) and "Leave it out" in str(refused)
    assert not isinstance(fine, Exception)


def test_files_are_decoded_and_compared_where_the_service_decodes_and_once(
    trained_home: Settings, photos: Path
) -> None:
    uploads, indexed = [], []

    def decode_upload(function: Any, data: bytes, name: str) -> Any:
        uploads.append(function.func.__name__)
        return function(data, name)

    def decode_indexed(function: Any, data: bytes, name: str, pixel_count: int) -> Any:
        indexed.append(function.func.__name__)
        return function(data, name)

    index(trained_home, [photos], IndexRequest())
    with Searcher(trained_home, decode_upload=decode_upload, decode_indexed=decode_indexed) as searcher:
        search_original(searcher, verify=True)
        assert sorted(uploads) == ["extract_features", "prepare_image"]
        assert sorted(indexed) == ["compare_features"] * 20 + ["extract_features"] * 20
        indexed.clear()
        search_original(searcher, verify=True)
        assert indexed == ["compare_features"] * 20


def test_hits_whose_files_crash_the_decoder_are_not_judged(trained_home: Settings, photos: Path) -> None:
    def decode_indexed(function: Any, data: bytes, name: str, pixel_count: int) -> Any:
        if "scene-" in name:
            raise UnreadableImage(name, "its decoder crashed")
        return function(data, name)

    index(trained_home, [photos], IndexRequest())
    with Searcher(trained_home, decode_indexed=decode_indexed) as searcher:
        hits = search_original(searcher, limit=20, verify=True)
        assert {hit.verified for hit in hits if "scene-" in hit.path} == {None}
        assert {hit.verified for hit in hits if "scene-" not in hit.path} == {True}


def test_the_comparison_ends_when_its_client_has_left(searcher: Searcher) -> None:
    token = REQUEST_BUDGET.set(DecodeBudget(60, lambda: True))
    try:
        with pytest.raises(WorkCancelled):
            search_original(searcher, verify=True)
    finally:
        REQUEST_BUDGET.reset(token)


def test_the_smallest_score_leaves_out_what_is_farther(searcher: Searcher) -> None:
    def search(**options: Any) -> Any:
        return searcher.by_file(ORIGINAL, name="original.png", limit=27, **options)

    uncalibrated = search()
    bound = uncalibrated.hits[4].score
    assert not uncalibrated.is_calibrated
    assert search(min_score=bound).hits == uncalibrated.hits[:5] and search(min_score=1.0).hits == []
    searcher.calibrations.start(searcher.index.get_snapshot())
    searcher.calibrations.wait()
    calibrated = search(min_score=bound)
    assert calibrated.is_calibrated
    assert calibrated.hits == [hit for hit in search().hits if hit.score >= bound]
    pages = [search(min_score=bound, offset=offset).hits for offset in (0, 2)]
    assert pages[1] == pages[0][2:]
    assert all(hit.score >= bound for hit in search(min_score=bound, verify=True).hits)
