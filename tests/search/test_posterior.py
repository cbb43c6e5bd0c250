"""Neighbours by the distance between whole posteriors: as brute force over [mu, sigma] has them, whatever is asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from simile.core.errors import BadSetting, NoVariance
from simile.core.filters.parser import make_filter
from simile.core.settings import Settings
from simile.evaluation.baselines import PosteriorMethod
from simile.indexer.pipeline.uploads import delete_image
from simile.search.posterior import find_nearest_posteriors, to_indexed_sigma
from simile.search.queries import SearchParams, SearchQuery
from simile.search.searcher import Searcher
from simile.service.app import create_app
from simile.store.catalogue.records import EncoderRecord
from simile.store.database.tables import utc_now
from simile.store.index.metric import make_index_vectors
from tests.support.commands import run_json


def brute_force(searcher: Searcher, image_id: int) -> tuple[list[int], Any]:
    """Ids and distances of all others, the nearest first."""
    encoder = searcher.index.get_snapshot().encoder
    rows = list(searcher.catalogue.embeddings.iterate_chunks(encoder.fingerprint))
    ids = np.concatenate([row[0] for row in rows])
    mu, variance = (np.concatenate([row[at] for row in rows]) for at in (1, 2))  # type: ignore[misc]
    sigma = np.exp(0.5 * variance)
    vectors = make_index_vectors(mu, encoder.index_dims, encoder.metric)
    both = np.concatenate([vectors, to_indexed_sigma(mu, sigma, encoder)], axis=1).astype(np.float64)
    apart = np.linalg.norm(both - both[ids == image_id], axis=1)
    order = np.lexsort((ids, apart))
    order = order[ids[order] != image_id]
    return ids[order].tolist(), apart[order]


def ask(searcher: Searcher, part: Any, **asked: Any) -> tuple[list[int], Any]:
    result = searcher.search(SearchQuery((part,), params=SearchParams(use_posterior=True, **asked)))
    assert not result.is_calibrated
    return [hit.image_id for hit in result.hits], np.array([hit.distance for hit in result.hits])


def test_it_is_the_distance_over_mu_and_sigma(searcher: Searcher) -> None:
    ids, apart = brute_force(searcher, 3)
    found, distances = ask(searcher, 3, limit=7)
    assert found == ids[:7] and distances == pytest.approx(apart[:7], abs=1e-5)
    plain = searcher.by_id(3, limit=7)
    assert (distances > [hit.distance for hit in plain.hits]).all()
    assert ask(searcher, 3, limit=5, offset=4)[0] == ids[4:9]
    assert ask(searcher, 3, limit=None, radius=float(apart[11]) + 1e-6)[0] == ids[:12]
    everything = ask(searcher, 3, limit=500)[0]
    assert everything == ids


def test_filters_files_and_changes_are_followed(searcher: Searcher) -> None:
    ids, _ = brute_force(searcher, 3)
    for image_id in range(1, 121, 2):
        searcher.catalogue.metadata.set_for_image(image_id, {"kind": "odd"})
    only = make_filter(where=["kind=odd"])
    assert ask(searcher, 3, limit=6, filter=only)[0] == [one for one in ids if one % 2][:6]
    file = Path(searcher.get_image(3).paths[0])
    assert ask(searcher, searcher.prepare_query_image(file, "three.png"), limit=4)[0] == [3, *ids[:3]]
    delete_image(searcher, ids[0])
    assert ask(searcher, 3, limit=4)[0] == ids[1:5]


def test_more_is_fetched_until_none_could_be_nearer() -> None:
    """The nearest mean of many has the farthest σ: it must not push out what lies behind the first that are fetched."""
    means = np.linspace(0, 1, 1000)
    gaps = np.where(np.arange(1000) < 500, 4.0, 0.0)
    asked: list[int] = []

    def nearest(count: int) -> tuple[Any, Any]:
        asked.append(count)
        return np.arange(min(count, 1000)), means[: min(count, 1000)]

    ids, distances = find_nearest_posteriors(3, nearest, lambda ids: gaps[ids])
    assert ids.tolist() == [500, 501, 502] and distances == pytest.approx(means[500:503])
    assert asked == [32, 128, 512]


def test_cosine_divides_both_by_the_length_of_mu() -> None:
    encoder = EncoderRecord(
        fingerprint="f", name="n", recipe="r", dimensions=3, index_dims=2, metric="cosine", created_at=utc_now()
    )
    mu, sigma = np.array([[3.0, 4.0, 9.0], [0, 0, 1]], np.float32), np.array([[1.0, 2.0, 5.0]] * 2, np.float32)
    np.testing.assert_allclose(to_indexed_sigma(mu, sigma, encoder), [[0.2, 0.4], [1, 2]], rtol=1e-6)
    assert to_indexed_sigma(mu, sigma, replace(encoder, metric="l2")).tolist() == [[1, 2], [1, 2]]


def test_what_has_no_sigma_is_refused(searcher: Searcher, monkeypatch: pytest.MonkeyPatch) -> None:
    for parts in ((np.zeros(16, np.float32),), (1, 2)):
        with pytest.raises(BadSetting, match="one image"):
            searcher.search(SearchQuery(parts, params=SearchParams(use_posterior=True)))
    get_many = searcher.catalogue.embeddings.get_many
    monkeypatch.setattr(
        searcher.catalogue.embeddings,
        "get_many",
        lambda *args: {image_id: replace(row, log_variance=None) for image_id, row in get_many(*args).items()},
    )
    with pytest.raises(NoVariance, match="--recipe vae"):
        ask(searcher, 3)


def test_the_command_the_service_and_the_ladder_have_it(home_with_digits: Settings) -> None:
    with Searcher(home_with_digits) as searcher:
        ids, apart = brute_force(searcher, 3)
        encoder = searcher.get_encoder()
        files = [Path(searcher.get_image(one).paths[0]) for one in (3, ids[0])]
        pictures = np.stack([searcher.prepare_query_image(file, "a").prepared_image.array for file in files])
        one, other = PosteriorMethod(encoder).embed(pictures)
        assert np.linalg.norm(one - other) == pytest.approx(apart[0], rel=1e-3)
    command = ("search", "--id", 3, "--posterior", "--home", home_with_digits.home)
    assert [hit["image_id"] for hit in run_json(*command, "-k", 5)["hits"]] == ids[:5]
    with pytest.raises(BadSetting):
        run_json(*command, "--plus", "x")
    with TestClient(create_app(home_with_digits)) as client:
        found = client.post("/v1/search", json={"image_id": 3, "limit": 5, "posterior": True}).json()
        assert [hit["image_id"] for hit in found["hits"]] == ids[:5] and not found["score_calibrated"]
        assert client.post("/v1/search", json={"vector": [0.0] * 16, "posterior": True}).status_code == 422
