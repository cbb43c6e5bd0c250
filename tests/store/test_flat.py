"""The exact index: exact distances, and none of FAISS's silent errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simile.core.errors import EncoderMismatch, IndexDamaged, NotFinite
from simile.store.index.flat import MAX_FETCHED_EXCLUSIONS, FlatIndex
from simile.store.index.metric import make_index_vectors


def points(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


def make_index(ids: Any, vectors: np.ndarray) -> FlatIndex:
    return FlatIndex.from_chunks(vectors.shape[1], [(np.asarray(ids), vectors)])


@pytest.fixture
def index() -> FlatIndex:
    """Three points on a line, at 0, 3 and 5 under the ids 10, 20 and 30."""
    return make_index([10, 20, 30], points([0, 0], [3, 0], [5, 0]))


def found(answer: tuple[np.ndarray, np.ndarray]) -> list[tuple[int, float]]:
    return list(zip(answer[0].tolist(), answer[1].tolist(), strict=True))


def test_distances_are_euclidean_and_ascending(index: FlatIndex) -> None:
    assert found(index.search(points([0, 4]), 3)[0]) == [(10, 4.0), (20, 5.0), (30, np.sqrt(41))]


def test_a_search_for_too_many_neighbours_returns_all(index: FlatIndex) -> None:
    assert [hit[0] for hit in found(index.search(points([0, 0]), 100)[0])] == [10, 20, 30]
    for empty in (FlatIndex(2), FlatIndex.from_chunks(2)):
        assert found(empty.search(points([0, 0]), 5)[0]) == []
        assert found(empty.range(points([0, 0]), 5)[0]) == []


@pytest.mark.parametrize("centre", [0, 1000])  # far from zero, BLAS loses precision
def test_a_vector_is_at_exactly_zero_from_itself_in_a_large_batch(centre: float) -> None:
    vectors = np.random.default_rng(0).normal(centre, 1, (3000, 16)).astype(np.float32)
    index = make_index(np.arange(3000), vectors)
    for number, (ids, distances) in enumerate(index.search(vectors, 2)):
        assert (ids[0], distances[0]) == (number, 0.0)
        difference = vectors[ids[1]].astype(np.float64) - vectors[number]
        assert distances[1] == pytest.approx(np.linalg.norm(difference), rel=1e-14)


@pytest.mark.parametrize("k", [3, 150])
def test_ties_are_ordered_by_id_even_at_the_last_place(k: int) -> None:
    index = make_index(np.arange(500)[::-1], np.zeros((500, 4), np.float32))
    assert index.search(np.zeros((2, 4), np.float32), k)[1][0].tolist() == list(range(k))


def test_a_range_includes_its_limit(index: FlatIndex) -> None:
    assert found(index.range(points([0, 0]), 3)[0]) == [(10, 0.0), (20, 3.0)]
    assert found(index.range(points([0, 0], [5, 0]), 0)[1]) == [(30, 0.0)]
    assert found(index.range(points([0, 0]), 2.9999)[0]) == [(10, 0.0)]
    assert len(index.range(points([0, 0]), 1e30)[0][0]) == 3


def test_a_range_far_from_zero_is_exact_in_a_large_batch() -> None:
    vectors = np.random.default_rng(0).normal(1000, 1, (600, 16)).astype(np.float32)
    index = make_index(np.arange(600), vectors)
    for query, (ids, _) in zip(vectors, index.range(vectors, 3.5), strict=True):
        distances = np.linalg.norm(vectors.astype(np.float64) - query, axis=1)
        assert set(ids) == set(np.flatnonzero(distances <= 3.5))


@pytest.mark.parametrize("count", [0, 1, MAX_FETCHED_EXCLUSIONS, MAX_FETCHED_EXCLUSIONS + 1, 900, 999, 1000])
def test_exclusion_is_exact_at_any_share(count: int) -> None:
    generator = np.random.default_rng(count)
    vectors = generator.normal(size=(1000, 8)).astype(np.float32)
    index = make_index(np.arange(1000), vectors)
    hidden = generator.choice(1000, count, replace=False)
    allowed = np.setdiff1d(np.arange(1000), hidden)
    for query, (ids, _) in zip(vectors, index.search(vectors, 10, hidden), strict=True):
        distances = np.linalg.norm(vectors[allowed].astype(np.float64) - query, axis=1)
        assert ids.tolist() == allowed[np.argsort(distances)][:10].tolist()
    near = index.range(vectors[:5], 2.5, hidden)
    assert [set(ids) for ids, _ in near] == [set(ids) - set(hidden) for ids, _ in index.range(vectors[:5], 2.5)]


@pytest.mark.parametrize("count", [0, 1, 9, 10, 40, 999, 1000])
def test_only_allowed_ids_are_found(count: int) -> None:
    generator = np.random.default_rng(count)
    vectors = generator.normal(size=(1000, 8)).astype(np.float32)
    index, allowed_ids = make_index(np.arange(1000), vectors), np.sort(generator.choice(1000, count, replace=False))
    for query in vectors[:20]:
        order = allowed_ids[np.argsort(np.linalg.norm(vectors[allowed_ids].astype(np.float64) - query, axis=1))]
        assert index.search(query[None], 10, allowed_ids=allowed_ids)[0][0].tolist() == order[:10].tolist()
        allowed = order[~np.isin(order, [3, 5, 7])]
        assert (
            index.search(query[None], 10, [7, 5, 3, 2000], [*allowed_ids, 5000])[0][0].tolist() == allowed[:10].tolist()
        )
        near = set(index.range(query[None], 2.5)[0][0].tolist())
        assert index.range(query[None], 2.5, [3, 5, 7], allowed_ids)[0][0].tolist() == [i for i in allowed if i in near]


def test_excluding_unknown_ids_changes_nothing(index: FlatIndex) -> None:
    assert len(index.search(points([0, 0]), 3, excluded_ids=[11, 12, 13])[0][0]) == 3


@pytest.mark.parametrize("vector", [[0.0], [0.0, 0.0, 0.0]])
def test_a_wrong_length_names_both_lengths(index: FlatIndex, vector: list[float]) -> None:
    for use in (lambda v: index.search(v, 1), lambda v: index.range(v, 1), lambda v: index.add([1], v)):
        with pytest.raises(EncoderMismatch, match=rf"{len(vector)} numbers .* of 2\."):
            use(points(vector))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_refused(index: FlatIndex, bad: float) -> None:
    with pytest.raises(NotFinite):
        index.add([1], points([0, bad]))
    with pytest.raises(NotFinite):
        index.search(points([bad, 0]), 1)
    assert len(index) == 3


@pytest.mark.parametrize("ids", [[20, 40], [40, 40]])
def test_an_id_is_never_added_twice(index: FlatIndex, ids: list[int]) -> None:
    with pytest.raises(IndexDamaged, match="twice"):
        index.add(ids, points([1, 1], [2, 2]))
    assert index.ids.tolist() == [10, 20, 30]


def test_chunks_may_come_in_any_order() -> None:
    chunks = [(np.array([9, 4]), points([1, 1], [2, 2])), (np.array([1]), points([3, 3]))]
    index = FlatIndex.from_chunks(2, chunks)
    assert (index.ids.tolist(), index.find_present([4, 5, 9, 10]).tolist()) == ([1, 4, 9], [4, 9])
    assert index.get_vectors([9, 4, 1]).tolist() == [[1, 1], [2, 2], [3, 3]]
    with pytest.raises(IndexDamaged, match="twice"):
        FlatIndex.from_chunks(2, [*chunks, (np.array([4]), points([0, 0]))])


@pytest.mark.parametrize("length", [1e18, 1e19, 1e30])
def test_vectors_too_long_for_squares_in_float32_are_compared(length: float) -> None:
    vectors = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32) * np.float32(length)
    rows = make_index(np.arange(200), vectors)
    order = np.argsort(np.linalg.norm(vectors.astype(np.float64) - vectors[7], axis=1))
    assert rows.search(vectors[7:8], 10)[0][0].tolist() == order[:10].tolist()
    allowed = order[~np.isin(order, order[1:5])]
    assert rows.search(vectors[7:8], 10, order[1:5])[0][0].tolist() == allowed[:10].tolist()
    assert len(rows.search(vectors[7:8], 10, order[10:130])[0][0]) == 10
    assert rows.search(np.zeros((1, 4), np.float32), 3)[0][1][0] > length / 10


def test_there_must_be_as_many_ids_as_vectors(index: FlatIndex) -> None:
    with pytest.raises(IndexDamaged, match="2 ids came with 1 vectors"):
        index.add([1, 2], points([1, 1]))


def test_a_saved_index_gives_the_same_results(index: FlatIndex, tmp_path) -> None:
    index.save(tmp_path / "index.faiss")
    loaded = FlatIndex.load(tmp_path / "index.faiss")
    assert (len(loaded), loaded.dimensions, loaded.ids.tolist()) == (3, 2, [10, 20, 30])
    assert found(loaded.search(points([1, 1]), 3, [20])[0]) == found(index.search(points([1, 1]), 3, [20])[0])
    assert loaded.get_vectors([30]).tolist() == [[5, 0]]


def test_a_file_that_is_no_index_is_reported_as_damaged(tmp_path) -> None:
    (tmp_path / "index.faiss").write_bytes(b"not an index at all")
    with pytest.raises(IndexDamaged, match="simile rebuild"):
        FlatIndex.load(tmp_path / "index.faiss")


def test_only_the_index_dims_are_compared() -> None:
    mu = points([3, 4, 12], [0, 0, 7])
    assert make_index_vectors(mu, None, "l2").tolist() == mu.tolist()
    assert make_index_vectors(mu, 2, "l2").tolist() == [[3, 4], [0, 0]]
    assert make_index_vectors(mu, [2, 0], "l2").tolist() == [[12, 3], [7, 0]]
    with pytest.raises(EncoderMismatch, match="dimension 5"):
        make_index_vectors(mu, (1, 5), "l2")


def test_cosine_scales_to_length_one_and_keeps_zero_vectors() -> None:
    assert np.allclose(make_index_vectors(points([3, 4, 12], [0, 0, 7]), 2, "cosine"), [[0.6, 0.8], [0, 0]])


def test_saving_to_a_full_disk_is_an_error() -> None:
    index = FlatIndex(2)
    index.add([1], np.zeros((1, 2), np.float32))
    with pytest.raises(OSError, match="No space left"):
        index.save(Path("/dev/full"))
