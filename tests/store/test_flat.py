"""The guarded index: exact distances, and none of what FAISS does in silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simile.core.errors import EncoderMismatch, IndexDamaged, NotFinite
from simile.store.index.delta import DeltaIndex
from simile.store.index.flat import MAX_FETCHED_EXCLUSIONS, FlatIndex, VectorIndex
from simile.store.index.metric import make_index_vectors


def points(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


Make = Callable[[Any, np.ndarray], VectorIndex]


def by_faiss(ids: Any, vectors: np.ndarray) -> FlatIndex:
    made = FlatIndex(vectors.shape[1])
    made.add(ids, vectors)
    return made


def by_numpy(ids: Any, vectors: np.ndarray) -> DeltaIndex:
    return DeltaIndex(np.asarray(ids), vectors)


both = pytest.mark.parametrize("make", [by_faiss, by_numpy])


@pytest.fixture
def index() -> FlatIndex:
    """Three points on a line, at 0, 3 and 5 under the ids 10, 20 and 30."""
    return by_faiss([10, 20, 30], points([0, 0], [3, 0], [5, 0]))


@pytest.fixture(params=[by_faiss, by_numpy])
def either(request: pytest.FixtureRequest) -> VectorIndex:
    """The same three points, in an index of either kind."""
    made: VectorIndex = request.param([10, 20, 30], points([0, 0], [3, 0], [5, 0]))
    return made


def found(answer: tuple[np.ndarray, np.ndarray]) -> list[tuple[int, float]]:
    return list(zip(answer[0].tolist(), answer[1].tolist(), strict=True))


def test_distances_are_euclidean_and_ascending(either: VectorIndex) -> None:
    assert found(either.search(points([0, 4]), 3)[0]) == [(10, 4.0), (20, 5.0), (30, np.sqrt(41))]


def test_asking_for_more_than_there_is_gives_what_there_is(either: VectorIndex) -> None:
    assert [hit[0] for hit in found(either.search(points([0, 0]), 100)[0])] == [10, 20, 30]
    for empty in (FlatIndex(2), DeltaIndex.from_chunks(2)):
        assert found(empty.search(points([0, 0]), 5)[0]) == []
        assert found(empty.range(points([0, 0]), 5)[0]) == []


@pytest.mark.parametrize("centre", [0, 1000])  # far from zero, BLAS loses the digits that matter
@both
def test_a_vector_is_at_exactly_zero_from_itself_in_a_large_batch(centre: float, make: Make) -> None:
    vectors = np.random.default_rng(0).normal(centre, 1, (3000, 16)).astype(np.float32)
    index = make(np.arange(3000), vectors)
    for number, (ids, distances) in enumerate(index.search(vectors, 2)):
        assert (ids[0], distances[0]) == (number, 0.0)
        difference = vectors[ids[1]].astype(np.float64) - vectors[number]
        assert distances[1] == pytest.approx(np.linalg.norm(difference), rel=1e-14)


@pytest.mark.parametrize("k", [3, 150])
@both
def test_ties_are_ordered_by_id_even_at_the_last_place(k: int, make: Make) -> None:
    index = make(np.arange(500)[::-1], np.zeros((500, 4), np.float32))
    assert index.search(np.zeros((2, 4), np.float32), k)[1][0].tolist() == list(range(k))


def test_a_range_includes_its_limit(either: VectorIndex) -> None:
    assert found(either.range(points([0, 0]), 3)[0]) == [(10, 0.0), (20, 3.0)]
    assert found(either.range(points([0, 0], [5, 0]), 0)[1]) == [(30, 0.0)]
    assert found(either.range(points([0, 0]), 2.9999)[0]) == [(10, 0.0)]
    assert len(either.range(points([0, 0]), 1e30)[0][0]) == 3


@both
def test_a_range_far_from_zero_is_exact_in_a_large_batch(make: Make) -> None:
    vectors = np.random.default_rng(0).normal(1000, 1, (600, 16)).astype(np.float32)
    index = make(np.arange(600), vectors)
    for query, (ids, _) in zip(vectors, index.range(vectors, 3.5), strict=True):
        distances = np.linalg.norm(vectors.astype(np.float64) - query, axis=1)
        assert set(ids) == set(np.flatnonzero(distances <= 3.5))


@pytest.mark.parametrize("count", [0, 1, MAX_FETCHED_EXCLUSIONS, MAX_FETCHED_EXCLUSIONS + 1, 900, 999, 1000])
@both
def test_exclusion_is_exact_at_any_share(count: int, make: Make) -> None:
    generator = np.random.default_rng(count)
    vectors = generator.normal(size=(1000, 8)).astype(np.float32)
    index = make(np.arange(1000), vectors)
    hidden = generator.choice(1000, count, replace=False)
    shown = np.setdiff1d(np.arange(1000), hidden)
    for query, (ids, _) in zip(vectors, index.search(vectors, 10, hidden), strict=True):
        distances = np.linalg.norm(vectors[shown].astype(np.float64) - query, axis=1)
        assert ids.tolist() == shown[np.argsort(distances)][:10].tolist()
    near = index.range(vectors[:5], 2.5, hidden)
    assert [set(ids) for ids, _ in near] == [set(ids) - set(hidden) for ids, _ in index.range(vectors[:5], 2.5)]


@pytest.mark.parametrize("count", [0, 1, 9, 10, 40, 999, 1000])
@both
def test_nothing_but_what_is_asked_for_is_found(count: int, make: Make) -> None:
    generator = np.random.default_rng(count)
    vectors = generator.normal(size=(1000, 8)).astype(np.float32)
    index, only = make(np.arange(1000), vectors), np.sort(generator.choice(1000, count, replace=False))
    for query in vectors[:20]:
        order = only[np.argsort(np.linalg.norm(vectors[only].astype(np.float64) - query, axis=1))]
        assert index.search(query[None], 10, allowed_ids=only)[0][0].tolist() == order[:10].tolist()
        shown = order[~np.isin(order, [3, 5, 7])]
        assert index.search(query[None], 10, [7, 5, 3, 2000], [*only, 5000])[0][0].tolist() == shown[:10].tolist()
        near = set(index.range(query[None], 2.5)[0][0].tolist())
        assert index.range(query[None], 2.5, [3, 5, 7], only)[0][0].tolist() == [i for i in shown if i in near]


def test_excluding_unknown_ids_changes_nothing(either: VectorIndex) -> None:
    assert len(either.search(points([0, 0]), 3, excluded_ids=[11, 12, 13])[0][0]) == 3


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


def test_newer_rows_take_no_id_twice_and_nothing_that_is_not_finite() -> None:
    with pytest.raises(IndexDamaged, match="twice"):
        by_numpy([3, 1, 3], np.zeros((3, 2), np.float32))
    with pytest.raises(NotFinite):
        by_numpy([1], points([0, np.nan]))
    rows = by_numpy([9, 4], points([1, 1], [2, 2]))
    assert (rows.ids.tolist(), rows.find_present([4, 5, 9, 10]).tolist()) == ([4, 9], [4, 9])
    assert rows.get_vectors([9, 4]).tolist() == [[1, 1], [2, 2]]


@pytest.mark.parametrize("centre", [0, 500])
@pytest.mark.parametrize("radius", [0.0, 0.5, 6.0, 12.0, 1e6])
def test_many_newer_rows_are_compared_by_a_few_numbers_first_and_none_is_missed(radius: float, centre: float) -> None:
    generator = np.random.default_rng(0)
    spread = np.linspace(0, 3, 24)
    vectors = (centre + generator.normal(size=(5000, 24)) * spread).astype(np.float32)
    rows, flat = by_numpy(np.arange(5000), vectors), by_faiss(np.arange(5000), vectors)
    queries = np.concatenate([vectors[:10], vectors[10:20] + np.float32(0.01), vectors[:1] * 3])
    for ours, truth in zip(rows.range(queries, radius), flat.range(queries, radius), strict=True):
        assert ours[0].tolist() == truth[0].tolist()
        assert ours[1].tolist() == truth[1].tolist()


@pytest.mark.parametrize("length", [1e18, 1e19, 1e30])
@both
def test_vectors_too_long_for_squares_in_float32_are_compared_all_the_same(length: float, make: Make) -> None:
    vectors = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32) * np.float32(length)
    rows = make(np.arange(200), vectors)
    order = np.argsort(np.linalg.norm(vectors.astype(np.float64) - vectors[7], axis=1))
    assert rows.search(vectors[7:8], 10)[0][0].tolist() == order[:10].tolist()
    shown = order[~np.isin(order, order[1:5])]
    assert rows.search(vectors[7:8], 10, order[1:5])[0][0].tolist() == shown[:10].tolist()
    assert len(rows.search(vectors[7:8], 10, order[10:130])[0][0]) == 10
    assert rows.search(np.zeros((1, 4), np.float32), 3)[0][1][0] > length / 10


def test_ids_and_vectors_must_be_of_one_number(index: FlatIndex) -> None:
    with pytest.raises(IndexDamaged, match="2 ids came with 1 vectors"):
        index.add([1, 2], points([1, 1]))


def test_removed_ids_are_gone_and_unknown_ones_ignored(index: FlatIndex) -> None:
    assert index.remove([20, 99]) == 1
    assert found(index.search(points([3, 0]), 3)[0]) == [(30, 2.0), (10, 3.0)]
    index.add([20], points([9, 9]))
    assert index.get_vectors([20, 10]).tolist() == [[9, 9], [0, 0]]


def test_a_saved_index_answers_the_same(index: FlatIndex, tmp_path) -> None:
    index.save(tmp_path / "index.faiss")
    loaded = FlatIndex.load(tmp_path / "index.faiss")
    assert (len(loaded), loaded.dimensions, loaded.ids.tolist()) == (3, 2, [10, 20, 30])
    assert found(loaded.search(points([1, 1]), 3, [20])[0]) == found(index.search(points([1, 1]), 3, [20])[0])
    assert loaded.get_vectors([30]).tolist() == [[5, 0]]


def test_a_file_that_is_no_index_is_damage(tmp_path) -> None:
    (tmp_path / "index.faiss").write_bytes(b"not an index at all")
    with pytest.raises(IndexDamaged, match="simile rebuild"):
        FlatIndex.load(tmp_path / "index.faiss")


def test_compared_are_the_chosen_dimensions() -> None:
    mu = points([3, 4, 12], [0, 0, 7])
    assert make_index_vectors(mu, None, "l2").tolist() == mu.tolist()
    assert make_index_vectors(mu, 2, "l2").tolist() == [[3, 4], [0, 0]]
    assert make_index_vectors(mu, [2, 0], "l2").tolist() == [[12, 3], [7, 0]]
    with pytest.raises(EncoderMismatch, match="dimension 5"):
        make_index_vectors(mu, (1, 5), "l2")


def test_cosine_scales_to_length_one_and_leaves_zero() -> None:
    assert np.allclose(make_index_vectors(points([3, 4, 12], [0, 0, 7]), 2, "cosine"), [[0.6, 0.8], [0, 0]])


def test_a_full_disk_is_no_saved_index() -> None:
    index = FlatIndex(2)
    index.add([1], np.zeros((1, 2), np.float32))
    with pytest.raises(OSError, match="No space left"):
        index.save(Path("/dev/full"))
