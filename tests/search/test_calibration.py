"""What is usual in a collection: calibrated scores, images unlike it, and the least like the rest."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import pytest

from simile.core.errors import BadSetting, BeingComputed
from simile.core.settings import Settings
from simile.images.encoding import encode_png
from simile.indexer.pipeline.uploads import add_upload, delete_image
from simile.search.calibration.calibration import (
    FALSE_ALARM_RATE,
    CalibrationSample,
    ScoreCalibration,
    compute_expectation,
)
from simile.search.outlier_ranking import OutlierRanking, compute_outlier_ranking
from simile.search.pagination import ImagePageRequest, get_image_page, get_outlier_ranking
from simile.search.searcher import BUSY_SECONDS, Searcher, SearchParams, SearchQuery
from simile.store.index.metric import make_index_vectors


def noise(seed: int) -> bytes:
    return encode_png(np.random.default_rng(seed).integers(0, 256, (32, 32, 3)).astype(np.uint8))


def gauge_of(values: np.ndarray, errors: np.ndarray | None = None) -> ScoreCalibration:
    """Of points on a line."""
    apart = np.abs(values[:, None] - values[None])
    nearest = [np.sort(np.delete(row, place)) for place, row in enumerate(apart)]
    nothing = np.full(len(values), np.nan)
    usual = CalibrationSample(nothing if errors is None else errors, np.array([row[0] for row in nearest]), nothing)
    return ScoreCalibration.from_sample("f", 1, len(values), compute_expectation(nearest, apart, len(values)), usual)


def test_expected_neighbours_are_counted_by_hand() -> None:
    gauge = gauge_of(np.array([0.0, 1.0, 3.0]))  # distances 1, 3, 2
    found = gauge.compute_expected_counts(np.array([0.0, 1.0, 2.0, 3.0, 99.0])).tolist()
    assert found == pytest.approx([0, 2 / 3, 4 / 3, 2, 2])


def test_beyond_the_known_neighbours_the_sample_stands_for_the_collection() -> None:
    generator = np.random.default_rng(0)
    points, images = generator.normal(size=(4000, 3)), 4000
    sample = points[:200]
    apart = np.linalg.norm(sample[:, None] - sample[None], axis=2)
    others = np.sort(np.linalg.norm(sample[:, None] - points[None], axis=2), axis=1)[:, 1:]
    known = compute_expectation([row[:20] for row in others], apart, images)
    gauge = ScoreCalibration("f", 1, images=images, distances=known[0], expected=known[1])
    for distance in (0.05, 0.2, 0.5, 1.0, 2.0):
        exact = (others <= distance).sum(axis=1).mean()
        assert gauge.compute_expected_counts(np.array([distance]))[0] == pytest.approx(exact, rel=0.25, abs=0.3)
    assert (np.diff(gauge.expected) >= 0).all()


def test_so_many_of_the_collections_own_images_are_called_unlike_it() -> None:
    generator = np.random.default_rng(1)
    errors = generator.gamma(2, size=512)
    gauge = gauge_of(generator.normal(size=512), errors)
    assert gauge.false_alarm_rate is not None and gauge.false_alarm_rate <= FALSE_ALARM_RATE
    fresh = generator.gamma(2, size=20_000)
    flagged = [gauge.compute_confidence(error, 0.0, None).unlike for error in fresh]
    assert np.mean(flagged) <= 2 * FALSE_ALARM_RATE
    far = gauge.compute_confidence(float(np.median(errors)), 50.0, None)
    assert far.unlike and far.false_alarm_rate == gauge.false_alarm_rate
    assert "nearest neighbour" in (far.unlike_reason or "")
    bad = gauge.compute_confidence(100.0, 0.0, None)
    assert bad.unlike and bad.error_percentile == 100 and "reconstructed worse" in (bad.unlike_reason or "")
    usual = gauge.compute_confidence(float(np.median(errors)), 0.0, 0.3)
    assert usual.unlike is False and usual.unlike_reason is None
    assert usual.error_percentile == pytest.approx(50, abs=0.5)
    assert gauge.compute_confidence(None, None, None).unlike is None
    quick = gauge.compute_confidence(None, 50.0, None)  # what is not measured has no say
    assert quick.unlike and quick.false_alarm_rate is not None and quick.error_percentile is None


def test_a_small_collection_is_told_less_or_nothing() -> None:
    generator = np.random.default_rng(2)
    assert gauge_of(generator.normal(size=12)).compute_confidence(None, 99.0, None).unlike is None
    some = gauge_of(generator.normal(size=60), generator.gamma(2, size=60))
    assert some.false_alarm_rate is not None and FALSE_ALARM_RATE < some.false_alarm_rate <= 0.1
    assert gauge_of(np.array([0.0, 1.0])).compute_expected_counts(np.array([0.5]))[0] <= 1


def test_a_gauge_reads_as_it_was_written(tmp_path: Path) -> None:
    gauge = gauge_of(np.random.default_rng(3).normal(size=100))
    gauge.save(tmp_path / "gauge.json")
    read = ScoreCalibration.load(tmp_path / "gauge.json")
    read.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "gauge.json").read_bytes()
    (tmp_path / "bad.json").write_text('{"encoder": 1}')
    with pytest.raises(KeyError):
        ScoreCalibration.load(tmp_path / "bad.json")


def test_a_service_measures_behind_its_searches_and_others_read_what_it_found(home_with_digits: Settings) -> None:
    with Searcher(home_with_digits, background=True) as searcher:
        first = searcher.by_id(1)
        assert not first.is_calibrated and first.hits[0].score == 1 / (1 + first.hits[0].distance)
        searcher.calibrations.wait()
        result = searcher.by_id(1, limit=100)
        scores = [hit.score for hit in result.hits]
        assert result.is_calibrated and scores == sorted(scores, reverse=True)
        assert 0.2 < np.median([searcher.by_id(n, limit=1).hits[0].score for n in range(1, 40)]) < 0.8
        assert scores[-1] < 0.05
    with Searcher(home_with_digits) as other:
        same = other.by_id(1, limit=100)
        assert same.is_calibrated and not other.calibrations.is_measuring
        assert [hit.score for hit in same.hits] == scores
        strange = other.by_file(noise(1), name="noise.png")
        assert strange.confidence.unlike and strange.confidence.error_percentile == 100
        assert strange.confidence.sigma is not None
        path = Path(other.read_file(5)[1].paths[0])
        own = other.by_file(path, name="own.png")
        assert own.confidence.unlike is False and own.confidence.false_alarm_rate is not None
        query = other.prepare_query_image(noise(1), "n")
        filtered = other.search(SearchQuery((query,), params=SearchParams(offset=3, radius=3.0)))
        assert filtered.confidence == strange.confidence


def test_a_search_never_waits_for_the_gauge_and_closing_stops_it(home_with_digits: Settings) -> None:
    with Searcher(home_with_digits, background=True) as searcher:
        really, begun = searcher.get_image_with_error, threading.Event()

        def measured(image_id: int) -> object:
            begun.set()
            return really(image_id)

        searcher.get_image_with_error = measured  # type: ignore[method-assign, assignment]
        searcher.by_id(1)
        assert begun.wait(30)
        assert not searcher.by_id(1).is_calibrated
    assert not list((home_with_digits.home / "gauges").glob("*.json"))


def test_a_home_that_cannot_be_written_is_measured_all_the_same(home_with_digits: Settings) -> None:
    (home_with_digits.home / "gauges").write_text("in the way")
    with Searcher(home_with_digits, background=True) as searcher:
        searcher.by_id(1)
        searcher.calibrations.wait()
        assert searcher.by_id(1).is_calibrated


def brute_force(searcher: Searcher) -> list[tuple[float, int]]:
    encoder = searcher.get_encoder()
    ids = [record.id for record in searcher.list_images(limit=1000)]
    mus = np.stack([searcher.catalogue.embeddings.get(n, encoder.fingerprint).mu for n in ids])
    vectors = make_index_vectors(mus, encoder.index_dims, encoder.metric).astype(np.float64)
    apart = np.sort(np.linalg.norm(vectors[:, None] - vectors[None], axis=2), axis=1)[:, 10]
    return sorted((-distance, image_id) for distance, image_id in zip(apart, ids, strict=True))


def test_the_least_like_the_rest_come_first_page_by_page(searcher: Searcher) -> None:
    with pytest.raises(BeingComputed):
        get_image_page(searcher, ImagePageRequest(sort="unlike"))
    searcher.outlier_rankings.wait()
    expected = brute_force(searcher)
    found: list[int] = []
    page = get_image_page(searcher, ImagePageRequest(sort="unlike", limit=50))
    assert page.total == 120 and page.distances is not None
    assert page.distances[page.images[0].id] == pytest.approx(-expected[0][0], abs=1e-5)
    while True:
        found += [record.id for record in page.images]
        if page.next_cursor is None:
            break
        page = get_image_page(searcher, ImagePageRequest(sort="unlike", limit=50, cursor=page.next_cursor))
    assert found == [image_id for _, image_id in expected]


def test_what_is_added_or_deleted_later_is_ranked_too(searcher: Searcher) -> None:
    with pytest.raises(BeingComputed):
        get_outlier_ranking(searcher)
    searcher.outlier_rankings.wait()
    added, _ = add_upload(searcher, noise(5), name="noise.png")
    delete_image(searcher, 7)
    page = get_image_page(searcher, ImagePageRequest(sort="unlike", limit=200))
    ids = [record.id for record in page.images]
    assert added in ids[:5] and 7 not in ids and len(ids) == page.total == 120


def test_pages_by_id_and_newest_first_go_through_all_once_and_skip_what_is_gone(searcher: Searcher) -> None:
    for sort in ("id", "newest"):
        found: list[int] = []
        after = None
        while True:
            page = get_image_page(searcher, ImagePageRequest(sort=sort, limit=17, cursor=after))  # type: ignore[arg-type]
            found += [record.id for record in page.images]
            if page.next_cursor is None:
                break
            after = page.next_cursor
        assert sorted(found) == list(range(1, 121))
        assert found == sorted(found, reverse=sort == "newest")
    with pytest.raises(BadSetting, match="cursor"):
        get_image_page(searcher, ImagePageRequest(sort="id", cursor=after))
    for bad in ("", "!", "AAAA", "WyJpZCIsIC0xXQ", "é", "WyJpZCIsIDFlOTk5XQ"):
        with pytest.raises(BadSetting, match="cursor"):
            get_image_page(searcher, ImagePageRequest(sort="id", cursor=bad))


def test_a_ranking_goes_on_behind_an_image_that_is_gone() -> None:
    ranking = OutlierRanking("f", 1, np.array([5, 2, 9]), np.array([3.0, 1.0, 1.0]))
    places = [ranking.find_position_after(*at) for at in ((3.0, 5), (1.0, 2), (1.0, 4), (0.5, 1))]
    assert places == [1, 2, 2, 3]


class Waits(threading.Event):
    """Never set; remembers how long it was waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout or 0.0)
        return False


def test_ranking_rests_only_while_others_search_and_keeps_to_one_core(home_with_digits: Settings) -> None:
    with Searcher(home_with_digits) as searcher, ThreadPoolExecutor(1) as behind:
        snapshot, cores = searcher.index.get_snapshot(), faiss.omp_get_max_threads()
        for is_busy in (lambda: True, lambda: False):
            waits = Waits()
            found = behind.submit(compute_outlier_ranking, snapshot, waits, is_busy).result()
            assert found is not None and (max(waits.seconds) > 0) is is_busy()
        assert behind.submit(faiss.omp_get_max_threads).result() == 1
        assert faiss.omp_get_max_threads() == cores
        before = time.monotonic()
        assert before - searcher._last_search_at >= BUSY_SECONDS
        searcher.by_id(1)
        assert before <= searcher._last_search_at <= time.monotonic()
