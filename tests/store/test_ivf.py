"""The approximate index compared with exact search: recall, exactness of distances and filters, and its files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from simile.core.errors import EncoderMismatch, IndexDamaged, NotFinite
from simile.store.index.build import IndexOptions, PreviousLists, build_exact_index, build_ivf_index
from simile.store.index.flat import FlatIndex, Neighbours
from simile.store.index.ivf import IvfIndex
from simile.store.index.vector_file import VectorFile, write_header, write_vector_file

ROWS, DIMENSIONS = 4000, 12
IDS = np.arange(ROWS, dtype=np.int64) * 3 + 7  # ids have gaps


def clustered(count: int = ROWS, seed: int = 0) -> np.ndarray:
    centres = np.random.default_rng(99).normal(0, 4, (20, DIMENSIONS))
    generator = np.random.default_rng(seed)
    return (centres[generator.integers(0, 20, count)] + generator.normal(size=(count, DIMENSIONS))).astype(np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """Files of an index of 4,000 vectors in 20 clusters, and its details."""
    folder = tmp_path_factory.mktemp("ivf")
    write_vector_file(folder / "a.vectors", DIMENSIONS, in_chunks(IDS, clustered()))
    return folder / "a.faiss", build_ivf_index(
        folder / "a.vectors", folder / "a.faiss", IndexOptions("ivf", recall=0.95)
    )


@pytest.fixture
def index(made: tuple[Path, dict[str, object]]) -> IvfIndex:
    return IvfIndex.load(made[0])


@pytest.fixture(scope="module")
def exact() -> FlatIndex:
    flat = FlatIndex(DIMENSIONS)
    flat.add(IDS, clustered())
    return flat


def in_chunks(ids: np.ndarray, vectors: np.ndarray, size: int = 700) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(ids[at : at + size], vectors[at : at + size]) for at in range(0, len(ids), size)]


def recall(found: list[Neighbours], truth: list[Neighbours]) -> float:
    return float(np.mean([len(np.intersect1d(f[0], t[0])) / len(t[0]) for f, t in zip(found, truth, strict=True)]))


def assert_same(found: list[Neighbours], truth: list[Neighbours]) -> None:
    for (ids, distances), (true_ids, true_distances) in zip(found, truth, strict=True):
        assert ids.tolist() == true_ids.tolist()
        assert distances.tolist() == true_distances.tolist()


def test_the_requested_recall_is_measured_and_reached(
    made: tuple[Path, dict[str, object]], index: IvfIndex, exact: FlatIndex
) -> None:
    notes = made[1]
    assert notes["kind"] == "ivf" and notes["recall_target"] == 0.95
    assert notes["sample"] == {"queries": 1000, "seed": 0, "neighbours": 10}
    assert isinstance(notes["recall"], float) and 0.95 <= notes["recall"] <= 1
    assert index.tuning.nprobe == notes["nprobe"] < notes["nlist"] == index.list_count
    queries = clustered(200, seed=1)
    assert recall(index.search(queries, 10), exact.search(queries, 10)) >= 0.93


def test_distances_equal_those_of_exact_search(index: IvfIndex, exact: FlatIndex) -> None:
    queries = clustered(50, seed=2)
    for query, (ids, distances) in zip(queries, index.search(queries, 5), strict=True):
        known = dict(zip(*(part.tolist() for part in exact.search(query[None], ROWS)[0]), strict=True))
        assert [known[image_id] for image_id in ids.tolist()] == distances.tolist() == sorted(distances.tolist())


def test_a_vector_is_at_exactly_zero_from_itself(index: IvfIndex) -> None:
    for number, (ids, distances) in enumerate(index.search(clustered()[:100], 1)):
        assert (ids[0], distances[0]) == (IDS[number], 0.0)


@pytest.mark.parametrize("k", [1, 11, 200, ROWS - 1, ROWS, 10 * ROWS])
def test_a_search_always_returns_k_neighbours(index: IvfIndex, k: int) -> None:
    (ids, distances), *_ = index.search(clustered(3, seed=3), k)
    assert len(ids) == len(set(ids.tolist())) == len(distances) == min(k, ROWS)


def test_more_neighbours_are_found_as_well_as_ten(index: IvfIndex, exact: FlatIndex) -> None:
    queries = clustered(50, seed=4)
    for k in (50, 500):
        assert recall(index.search(queries, k), exact.search(queries, k)) >= 0.93


@pytest.mark.parametrize("count", [1, 100, 3000, 3999, 4000])
def test_excluded_ids_are_never_found(index: IvfIndex, exact: FlatIndex, count: int) -> None:
    hidden = np.random.default_rng(count).choice(IDS, count, replace=False)
    queries = clustered(20, seed=5)
    found = index.search(queries, 10, hidden)
    assert all(len(ids) == min(10, ROWS - count) and not np.isin(ids, hidden).any() for ids, _ in found)
    if count < ROWS:
        assert recall(found, exact.search(queries, 10, hidden)) >= 0.9


@pytest.mark.parametrize("narrow", [0, 50_000])
@pytest.mark.parametrize("count", [0, 1, 5, 9, 10, 11, 500, 3500, 4000])
def test_a_filter_finds_everything_it_allows_at_any_share(
    index: IvfIndex, exact: FlatIndex, count: int, narrow: int
) -> None:
    index.max_scan_rows = narrow
    only = np.sort(np.random.default_rng(count).choice(IDS, count, replace=False))
    queries = clustered(20, seed=6)
    found, truth = index.search(queries, 10, allowed_ids=only), exact.search(queries, 10, allowed_ids=only)
    assert all(len(ids) == min(10, count) and np.isin(ids, only).all() for ids, _ in found)
    if narrow or count <= 10:
        assert_same(found, truth)
    else:
        assert recall(found, truth) >= 0.93


def test_a_filter_that_allows_only_far_rows_finds_all_of_them(index: IvfIndex, exact: FlatIndex) -> None:
    index.max_scan_rows = 0
    query = clustered(1, seed=7)
    for count in (30, 400, 2000):
        far = np.sort(exact.search(query, ROWS)[0][0][-count:])
        assert recall(index.search(query, 10, allowed_ids=far), exact.search(query, 10, allowed_ids=far)) == 1.0


def test_a_filter_that_depends_on_the_vectors_finds_everything(index: IvfIndex, exact: FlatIndex) -> None:
    """Allow the rows on one side of a plane, with queries on both sides."""
    index.max_scan_rows = 0
    side = np.sort(IDS[clustered()[:, 0] > 2])
    queries = clustered(100, seed=12)
    assert recall(index.search(queries, 10, allowed_ids=side), exact.search(queries, 10, allowed_ids=side)) >= 0.99


def test_unknown_ids_in_a_filter_change_nothing(index: IvfIndex, exact: FlatIndex) -> None:
    query = clustered(1, seed=8)
    known = IDS[100:120]
    assert_same(
        index.search(query, 30, [8], allowed_ids=[*known, 0, 8, 10**12]), exact.search(query, 30, allowed_ids=known)
    )
    assert index.find_present([7, 8, 10, 10**12]).tolist() == [7, 10]


@pytest.mark.parametrize("radius", [0.0, 1.5, 4.0, 9.0, 100.0])
@pytest.mark.parametrize("narrow", [0, 50_000])
def test_a_range_misses_nothing(index: IvfIndex, exact: FlatIndex, radius: float, narrow: int) -> None:
    index.max_scan_rows = narrow
    queries = np.concatenate([clustered()[:10], clustered(10, seed=9), clustered(2, seed=10) * 50])
    assert_same(index.range(queries, radius), exact.range(queries, radius))
    hidden, only = IDS[::2], IDS[::3]
    assert_same(index.range(queries, radius, hidden), exact.range(queries, radius, hidden))
    assert_same(index.range(queries, radius, hidden, only), exact.range(queries, radius, hidden, only))


def test_a_range_finds_a_vector_outside_the_training_sample(tmp_path: Path) -> None:
    vectors = clustered(20_000)
    vectors[7] = 1000  # a million times the spread of the rest
    write_vector_file(tmp_path / "a.vectors", DIMENSIONS, [(np.arange(20_000), vectors)])
    build_ivf_index(tmp_path / "a.vectors", tmp_path / "a.faiss", IndexOptions("ivf"))
    index = IvfIndex.load(tmp_path / "a.faiss")
    assert index.range(vectors[7:8] + 1, 10)[0][0].tolist() == [7]
    assert index.search(vectors[7:8], 1)[0][0].tolist() == [7]


def test_wrong_queries_are_rejected(index: IvfIndex) -> None:
    with pytest.raises(EncoderMismatch, match="3 numbers"):
        index.search(np.zeros((1, 3), np.float32), 1)
    with pytest.raises(NotFinite):
        index.range(np.full((1, DIMENSIONS), np.nan, np.float32), 1)


def test_vectors_are_returned_unchanged(index: IvfIndex) -> None:
    assert np.array_equal(index.get_vectors(IDS[[5, 3]]), clustered()[[5, 3]])
    assert np.array_equal(index.ids, IDS) and len(index) == ROWS and index.dimensions == DIMENSIONS


def test_the_same_vectors_make_the_same_files(made: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    write_vector_file(tmp_path / "b.vectors", DIMENSIONS, in_chunks(IDS, clustered(), 1000))
    build_ivf_index(tmp_path / "b.vectors", tmp_path / "b.faiss", IndexOptions("ivf", recall=0.95))
    assert (tmp_path / "b.faiss").read_bytes() == made[0].read_bytes()
    assert (tmp_path / "b.vectors").read_bytes() == made[0].with_suffix(".vectors").read_bytes()


def test_identical_vectors_are_found(tmp_path: Path) -> None:
    write_vector_file(tmp_path / "a.vectors", 4, [(np.arange(1000), np.ones((1000, 4), np.float32))])
    notes = build_ivf_index(tmp_path / "a.vectors", tmp_path / "a.faiss", IndexOptions("ivf"))
    index = IvfIndex.load(tmp_path / "a.faiss")
    assert notes["recall"] == 1.0
    assert len(index.search(np.ones((1, 4), np.float32), 700)[0][0]) == 700
    assert len(index.range(np.ones((1, 4), np.float32), 0)[0][0]) == 1000


@pytest.mark.parametrize(
    ("kind", "rows", "dimensions", "memory", "chosen"),
    [
        ("auto", 100_000, 64, 1 << 30, "exact"),
        ("auto", 1_000_000, 64, 1 << 30, "ivf"),  # 64 million numbers: more than 10 ms
        ("auto", 100_000, 64, 1 << 20, "ivf"),  # more than a megabyte
        ("exact", 1_000_000, 64, 1 << 30, "exact"),
        ("ivf", 1000, 64, 1 << 30, "ivf"),
        ("ivf", 10, 64, 1 << 30, "exact"),  # nothing to divide
        ("auto", 0, 64, 1 << 30, "exact"),
    ],
)
def test_the_kind_follows_count_and_memory(kind: str, rows: int, dimensions: int, memory: int, chosen: str) -> None:
    assert IndexOptions(kind, 0.98, memory).choose_kind(rows, dimensions) == chosen


def test_an_exact_index_of_the_same_file_gives_the_same_results(exact: FlatIndex, tmp_path: Path) -> None:
    write_vector_file(tmp_path / "a.vectors", DIMENSIONS, in_chunks(IDS, clustered()))
    assert build_exact_index(tmp_path / "a.vectors", tmp_path / "a.faiss")["recall"] == 1.0
    queries = clustered(5, seed=11)
    assert_same(FlatIndex.load(tmp_path / "a.faiss").search(queries, 10), exact.search(queries, 10))


def test_a_vector_file_returns_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "odd.vectors"
    assert write_vector_file(path, 3, [(np.array([2]), np.ones((1, 3))), (np.array([5, 9]), np.zeros((2, 3)))]) == 3
    file = VectorFile.open(path)
    assert file.ids.tolist() == [2, 5, 9] and file.vectors.tolist() == [[1, 1, 1], [0, 0, 0], [0, 0, 0]]
    assert write_vector_file(path, 3, []) == 0
    assert VectorFile.open(path).vectors.shape == (0, 3)
    with pytest.raises(IndexDamaged, match="do not ascend"):
        write_vector_file(path, 3, [(np.array([5]), np.ones((1, 3))), (np.array([5]), np.ones((1, 3)))])


def test_mismatched_files_are_reported_as_damaged(made: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    lists, vectors = tmp_path / "a.faiss", tmp_path / "a.vectors"
    lists.write_bytes(made[0].read_bytes())
    for content in (b"", b"no vectors", b'{"format": "simile vectors 1"}', made[0].read_bytes()):
        vectors.write_bytes(content)
        with pytest.raises(IndexDamaged, match="simile rebuild"):
            IvfIndex.load(lists)
    vectors.write_bytes(made[0].with_suffix(".vectors").read_bytes())
    os.truncate(vectors, 10_000)
    with pytest.raises(IndexDamaged, match="10,000 bytes instead of"):
        IvfIndex.load(lists)
    write_vector_file(vectors, DIMENSIONS, [(IDS[:10], clustered()[:10])])
    write_header(vectors, {"rows": 10, "dimensions": DIMENSIONS, "effort": {}})
    with pytest.raises(IndexDamaged, match="does not belong"):
        IvfIndex.load(lists)
    vectors.write_bytes(made[0].with_suffix(".vectors").read_bytes())
    write_header(vectors, {"rows": ROWS, "dimensions": DIMENSIONS, "effort": {}})
    with pytest.raises(IndexDamaged, match="another version of simile"):
        IvfIndex.load(lists)
    lists.write_bytes(b"no lists")
    with pytest.raises(IndexDamaged, match="can't be read as an index"):
        IvfIndex.load(lists)


def test_recall_is_measured_correctly_far_from_zero(tmp_path: Path) -> None:
    vectors = clustered() + np.float32(3000)
    write_vector_file(tmp_path / "a.vectors", DIMENSIONS, [(IDS, vectors)])
    notes = build_ivf_index(tmp_path / "a.vectors", tmp_path / "a.faiss", IndexOptions("ivf", recall=0.9))
    queries, flat = vectors[:200], FlatIndex(DIMENSIONS)
    flat.add(IDS, vectors)
    found = IvfIndex.load(tmp_path / "a.faiss").search(queries, 10)
    assert recall(found, flat.search(queries, 10)) == pytest.approx(notes["recall"], abs=0.03)


def test_lists_of_the_previous_segment_are_used_again(
    index: IvfIndex, made: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    """Rows that stay keep their lists, whatever is nearest; new, changed and moved ones get theirs; recall holds."""
    previous_lists = index.make_list_finder()(IDS, clustered())
    assert len(set(previous_lists.tolist())) > 20 and previous_lists.min() == 0
    # A tenth is deleted, a tenth has new vectors, and half as many rows come, between the others.
    vectors = clustered()
    vectors[::10] = clustered(ROWS // 10, seed=5)
    is_deleted = np.arange(ROWS) % 10 == 1
    new_ids = np.arange(ROWS // 2, dtype=np.int64) * 6 + 8
    ids = np.concatenate([IDS[~is_deleted], new_ids])
    order = np.argsort(ids)
    ids, vectors = ids[order], np.concatenate([vectors[~is_deleted], clustered(ROWS // 2, seed=6)])[order]
    write_vector_file(tmp_path / "b.vectors", DIMENSIONS, in_chunks(ids, vectors))
    previous = PreviousLists(index, ROWS, index.tuning.nprobe)
    details = build_ivf_index(tmp_path / "b.vectors", tmp_path / "b.faiss", IndexOptions("ivf", recall=0.95), previous)
    assert (details["trained_rows"], details["nlist"]) == (ROWS, made[1]["nlist"])
    again = IvfIndex.load(tmp_path / "b.faiss")
    assert np.array_equal(again._centroids, index._centroids)
    numbers = again.make_list_finder()(ids, vectors)
    known = index.make_list_finder()(ids, vectors)
    assert np.array_equal(numbers[known >= 0], known[known >= 0])
    assert (known < 0).sum() == ROWS // 2 + ROWS // 10
    distances = ((vectors[known < 0, None] - again._centroids) ** 2).sum(axis=2)
    assert np.array_equal(numbers[known < 0], distances.argmin(axis=1))
    exact = FlatIndex.from_chunks(DIMENSIONS, [(ids, vectors)])
    queries = clustered(200, seed=7)
    assert recall(again.search(queries, 10), exact.search(queries, 10)) >= 0.93
    assert_same(again.range(queries[:20], 3.0), exact.range(queries[:20], 3.0))


@pytest.mark.parametrize(("rows", "is_used"), [(3990, True), (3000, True), (16_000, False), (900, False)])
def test_lists_are_trained_again_when_they_became_too_long(
    index: IvfIndex, tmp_path: Path, rows: int, is_used: bool
) -> None:
    write_vector_file(tmp_path / "b.vectors", DIMENSIONS, in_chunks(np.arange(rows), clustered(rows, seed=8)))
    details = build_ivf_index(
        tmp_path / "b.vectors", tmp_path / "b.faiss", IndexOptions("ivf", recall=0.95), PreviousLists(index, ROWS, 20)
    )
    assert details["trained_rows"] == (ROWS if is_used else rows)
    assert (details["nlist"] == index.list_count) == is_used


def test_lists_are_trained_again_when_they_do_not_fit_new_rows(tmp_path: Path) -> None:
    """Tight clusters, then rows spread over everything: neighbours would lie in many of the old lists."""
    centres = np.random.default_rng(1).normal(0, 4, (40, DIMENSIONS))
    random = np.random.default_rng(2)
    tight = centres[random.integers(0, 40, 3000)] + random.normal(0, 0.001, (3000, DIMENSIONS))
    spread = random.normal(0, 4, (6000, DIMENSIONS))
    options = IndexOptions("ivf", recall=0.95)
    write_vector_file(tmp_path / "a.vectors", DIMENSIONS, in_chunks(np.arange(3000), tight.astype(np.float32)))
    first = build_ivf_index(tmp_path / "a.vectors", tmp_path / "a.faiss", options)
    vectors = np.concatenate([tight, spread]).astype(np.float32)
    index = IvfIndex.load(tmp_path / "a.faiss")
    rows = {}
    for nprobe in (first["nprobe"], 100):
        write_vector_file(tmp_path / "b.vectors", DIMENSIONS, in_chunks(np.arange(9000), vectors))
        previous = PreviousLists(index, 3000, nprobe)
        details = build_ivf_index(tmp_path / "b.vectors", tmp_path / "b.faiss", options, previous)
        rows[nprobe] = details["trained_rows"], details["trained_nprobe"] == details["nprobe"]
        assert len(IvfIndex.load(tmp_path / "b.faiss")) == 9000
    assert rows == {first["nprobe"]: (9000, True), 100: (3000, False)}
