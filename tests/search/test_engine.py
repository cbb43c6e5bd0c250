"""Many queries answered together: as each alone, and a bad one costs the others nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simile.core.errors import BadSetting, EncoderMismatch, NoSuchImage, NotFinite, NothingIndexed, SimileError
from simile.core.filters.expression import Condition
from simile.core.records import Filter
from simile.core.settings import Settings
from simile.images.encoding import encode_png
from simile.indexer.pipeline.uploads import add_upload
from simile.search.posterior import compute_distance_spreads, compute_mean_sigma
from simile.search.queries import SearchParams, SearchQuery, SearchResult
from simile.search.searcher import Searcher
from simile.store.catalogue.records import EncoderRecord
from simile.store.database.tables import utc_now
from simile.store.index.metric import make_index_vectors


def paths(searcher: Searcher, count: int) -> list[Path]:
    return [Path(record.paths[0]) for record in searcher.list_images(limit=count)]


def alike(one: SearchResult | SimileError, other: SearchResult | SimileError) -> None:
    assert isinstance(one, SearchResult) and isinstance(other, SearchResult)
    assert [hit.image_id for hit in one.hits] == [hit.image_id for hit in other.hits]
    np.testing.assert_allclose(one.query.mu, other.query.mu, rtol=1e-5, atol=1e-5)
    for hit, twin in zip(one.hits, other.hits, strict=True):
        assert hit.distance == pytest.approx(twin.distance, abs=1e-5)
        assert (hit.spread is None) == (twin.spread is None)
        if hit.spread is not None:
            assert hit.spread == pytest.approx(twin.spread, rel=1e-3)


def test_a_batch_gives_the_results_of_each_query_alone(searcher: Searcher) -> None:
    pictures = [searcher.prepare_query_image(path, path.name) for path in paths(searcher, 6)]
    mu = searcher.by_id(7).query.mu
    asked = SearchParams(limit=5)
    queries = [
        *(SearchQuery((picture,), params=asked) for picture in pictures),
        SearchQuery((7,), params=asked),
        SearchQuery((mu,), params=asked),
        SearchQuery((pictures[0], 9), (pictures[1], 11), asked),
        SearchQuery((3,), params=SearchParams(limit=5, filter=Filter(formats=("png",)))),
        SearchQuery((3,), params=SearchParams(limit=None, radius=0.4)),
        SearchQuery((3,), params=SearchParams(limit=3, offset=2)),
    ]
    together = searcher.search_many(queries)
    for query, result in zip(queries, together, strict=True):
        alike(result, searcher.search(query))


def test_a_bad_query_costs_the_others_nothing(searcher: Searcher) -> None:
    good = searcher.prepare_query_image(paths(searcher, 1)[0], "good.png")
    parts = (good, 424242, np.zeros(3, np.float32), np.full(16, np.nan, np.float32))
    queries = [*(SearchQuery((part,)) for part in parts), SearchQuery((1,), params=SearchParams(radius=-1.0))]
    found = searcher.search_many([*queries, SearchQuery((good, 424242)), SearchQuery((2,))])
    kinds = [type(result) for result in found]
    assert kinds == [SearchResult, NoSuchImage, EncoderMismatch, NotFinite, BadSetting, NoSuchImage, SearchResult]


def test_an_image_that_makes_the_network_fail_costs_the_others_nothing(searcher: Searcher) -> None:
    encoder = searcher.get_encoder()
    pictures = [searcher.prepare_query_image(path, path.name) for path in paths(searcher, 3)]
    really, poison = encoder.encode, pictures[1].prepared_image.array

    def encode(batch: np.ndarray) -> object:
        if any(np.array_equal(array, poison) for array in batch):
            raise NotFinite("The encoder gave NaN.")
        return really(batch)

    encoder.encode = encode  # type: ignore[method-assign, assignment]
    found = searcher.search_many([SearchQuery((picture,)) for picture in pictures])
    assert [type(result) for result in found] == [SearchResult, NotFinite, SearchResult]


def test_all_images_of_a_batch_go_through_the_network_and_the_index_together(home_with_digits: Settings) -> None:
    seen: list[str] = []
    with Searcher(home_with_digits, observe=lambda stage, _: seen.append(stage)) as searcher:
        pictures = [searcher.prepare_query_image(path, path.name) for path in paths(searcher, 4)]
        assert seen == ["decode"] * 4
        searcher.search_many([SearchQuery((picture,)) for picture in pictures])
    assert seen[4:] == ["encode", "search", "rows"]


def test_a_stage_that_fails_is_timed_too(home_with_digits: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    with Searcher(home_with_digits, observe=lambda stage, _: seen.append(stage)) as searcher:
        searcher.search(SearchQuery((1,)))
        monkeypatch.setattr(searcher.catalogue.images, "get_summaries", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            searcher.search(SearchQuery((1,)))
    assert seen == ["encode", "search", "rows"] * 2


def test_the_reconstruction_error_is_measured_where_it_is_asked_for(searcher: Searcher) -> None:
    one, other = (searcher.prepare_query_image(path, path.name) for path in paths(searcher, 2))
    first = SearchQuery((one,), params=SearchParams(include_error=False))
    quick, full, both = searcher.search_many([first, SearchQuery((other,)), SearchQuery((one, other))])
    assert isinstance(quick, SearchResult) and isinstance(full, SearchResult) and isinstance(both, SearchResult)
    assert quick.query.reconstruction_error is None and quick.confidence.sigma is not None
    assert full.query.reconstruction_error is not None and full.query.reconstruction_error > 0
    assert both.query.reconstruction_error is None


def test_several_are_asked_for_by_their_mean_less_that_of_the_negatives(searcher: Searcher) -> None:
    encoder = searcher.get_encoder()
    mu = {n: searcher.catalogue.embeddings.get(n, encoder.fingerprint).mu for n in range(1, 121)}
    wanted = (mu[1] + mu[2]) / 2 - (mu[5] + mu[6] + mu[7]) / 3
    result = searcher.search(SearchQuery((1, 2), (5, 6, 7), SearchParams(limit=115)))
    vectors = make_index_vectors(np.stack(list(mu.values())), encoder.index_dims, encoder.metric)
    distances = np.linalg.norm(vectors - make_index_vectors(wanted[None], encoder.index_dims, encoder.metric), axis=1)
    expected = [int(n) + 1 for n in np.argsort(distances) if n + 1 not in (1, 2, 5, 6, 7)]
    assert [hit.image_id for hit in result.hits] == expected
    np.testing.assert_allclose(result.query.mu, wanted, rtol=1e-5, atol=1e-6)
    assert [one.image_id for one in result.query.positives] == [1, 2]
    assert [one.image_id for one in result.query.negatives] == [5, 6, 7]
    assert result.confidence.unlike is None  # what lies between images is no image


def test_images_that_are_asked_with_are_no_hits_and_cost_no_place(searcher: Searcher) -> None:
    hits = searcher.search(SearchQuery((1, 2, 3), params=SearchParams(limit=117))).hits
    page = searcher.search(SearchQuery((1, 2, 3), params=SearchParams(limit=4, offset=4))).hits
    assert len(hits) == 117 and not {1, 2, 3} & {hit.image_id for hit in hits}
    assert page == hits[4:8]


def test_hits_say_what_was_said_of_them(searcher: Searcher) -> None:
    nearest = searcher.by_id(1).hits[0].image_id
    searcher.catalogue.metadata.set_for_image(nearest, {"class": "shirt", "price": "9.5", "code": "007"})
    assert searcher.by_id(1).hits[0].metadata is None
    hits = searcher.search(SearchQuery((1,), params=SearchParams(include_metadata=True))).hits
    assert [hit.metadata for hit in hits[:2]] == [{"class": "shirt", "price": 9.5, "code": "007"}, {}]
    assert searcher.by_id(1, filter=Filter(where=(Condition("price", "<", "10"),))).hits[0].image_id == nearest


def test_an_upload_brings_its_metadata_in_the_same_moment(searcher: Searcher) -> None:
    data = encode_png(np.random.default_rng(3).integers(0, 256, (32, 32, 3)).astype(np.uint8))
    image_id, created = add_upload(searcher, data, name="a.png", metadata={"artist": "Ada"})
    assert created and searcher.get_metadata(image_id) == {"artist": "Ada"}
    assert add_upload(searcher, data, name="a.png") == (image_id, False)
    assert searcher.get_metadata(image_id) == {"artist": "Ada"}
    add_upload(searcher, data, name="a.png", metadata={})
    assert searcher.get_metadata(image_id) == {}


def test_every_query_to_an_empty_home_is_told_so(trained_home: Settings) -> None:
    with Searcher(trained_home) as searcher:
        results = searcher.search_many([SearchQuery((1,)), SearchQuery((2,))])
        assert [type(result) for result in results] == [NothingIndexed] * 2
        assert searcher.search_many([]) == []


def test_an_image_decoded_for_another_encoder_is_decoded_anew(searcher: Searcher) -> None:
    fresh = searcher.prepare_query_image(paths(searcher, 1)[0], "a.png")
    stale = replace(fresh, encoder="0" * 16)
    decoded: list[str] = []
    searcher.query_encoder.observe = lambda stage, _: decoded.append(stage)
    one, other = searcher.search_many([SearchQuery((fresh,)), SearchQuery((stale,))])
    alike(one, other)
    assert decoded == ["decode"]


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_the_spread_of_a_distance_is_what_draws_from_the_posterior_show(metric: str) -> None:
    generator = np.random.default_rng(0)
    encoder = EncoderRecord(
        fingerprint="f", name="n", recipe="r", dimensions=12, index_dims=8, metric=metric, created_at=utc_now()
    )
    mu = generator.normal(size=12).astype(np.float32)
    sigma = generator.uniform(0.05, 0.15, 12).astype(np.float32)
    mus = np.concatenate([mu[None], mu + generator.normal(0, 0.3, (3, 12))]).astype(np.float32)
    vectors = make_index_vectors(mus, encoder.index_dims, metric)  # the first is the query itself, at a distance of 0
    draws = (mu + sigma * generator.normal(size=(40_000, 12))).astype(np.float32)
    drawn = make_index_vectors(draws, encoder.index_dims, metric)
    measured = [np.linalg.norm(drawn - vector, axis=1).std() for vector in vectors]
    np.testing.assert_allclose(
        compute_distance_spreads(np.tile(mu, (4, 1)), np.tile(sigma, (4, 1)), vectors, encoder), measured, rtol=0.12
    )
    assert compute_mean_sigma(sigma, encoder) == pytest.approx(float(sigma[:8].mean()))


def test_an_encoder_that_is_sure_of_everything_spreads_nothing() -> None:
    encoder = EncoderRecord(
        fingerprint="f", name="n", recipe="r", dimensions=3, index_dims=None, metric="cosine", created_at=utc_now()
    )
    mu = np.array([1.0, 2.0, 2.0], np.float32)
    vectors = np.stack([mu / 3, np.array([1.0, 0.0, 0.0], np.float32)])
    none, one = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    assert compute_distance_spreads(np.stack([mu, mu]), none, vectors, encoder).tolist() == [0.0, 0.0]
    assert np.isfinite(compute_distance_spreads(none, one, vectors, encoder)).all()
