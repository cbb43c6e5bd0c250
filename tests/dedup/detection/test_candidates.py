"""Candidate pairs of a whole home: each pair once, in bounded memory."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from simile.dedup.detection import candidates
from simile.dedup.detection.candidates import (
    PAIR_DTYPE,
    compute_distance,
    get_vectors,
    iterate_in_locality_order,
    read_candidates,
    write_candidates,
)
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home
from simile.store.index.index import Index


@pytest.fixture
def snapshot(home_with_digits):
    with Catalogue(Home(home_with_digits.home)) as catalogue:
        index = Index(catalogue)
        yield index.get_snapshot()
        index.close()


def all_pairs(snapshot, radius, only=None):
    ids = snapshot.get_live_ids() if only is None else only
    vectors = get_vectors(snapshot, ids).astype(np.float64)
    apart = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    return {
        (int(ids[a]), int(ids[b])) for a in range(len(ids)) for b in range(a + 1, len(ids)) if apart[a, b] <= radius
    }


def written(snapshot, radius, tmp_path, **options):
    found = write_candidates(snapshot, radius, tmp_path / "pairs", lambda *_: None, **options)
    pairs = read_candidates(tmp_path / "pairs")
    assert found.pairs == len(pairs)
    return found, [(int(a), int(b)) for a, b in zip(pairs["first"], pairs["second"], strict=True)]


@pytest.mark.parametrize("chunk", [7, 512])
def test_all_pairs_within_the_radius_are_written_once(snapshot, tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(candidates, "QUERY_BATCH_SIZE", chunk)
    nearest = snapshot.search(get_vectors(snapshot, snapshot.get_live_ids()), 8)
    radius = float(np.median([distance for _, distances in nearest for distance in distances]))
    _, pairs = written(snapshot, radius, tmp_path)
    assert len(pairs) == len(set(pairs)) > 50
    assert set(pairs) == all_pairs(snapshot, radius)


def test_an_image_with_many_neighbours_is_paired_with_the_nearest(snapshot, tmp_path):
    found, pairs = written(snapshot, np.inf, tmp_path, max_neighbours=5)
    ids = snapshot.get_live_ids()
    near = snapshot.search(get_vectors(snapshot, ids), 6)
    expected = {
        tuple(sorted((int(own), int(n)))) for own, (ns, _) in zip(ids, near, strict=True) for n in ns if n != own
    }
    assert set(pairs) == expected
    assert len(pairs) == len(set(pairs))
    assert found.crowded == len(ids)


def test_a_filter_restricts_the_pairs_to_its_images(snapshot, tmp_path):
    only = snapshot.get_live_ids()[10:40]
    _, pairs = written(snapshot, 2.0, tmp_path, allowed_ids=only)
    assert set(pairs) == all_pairs(snapshot, 2.0, only)


def test_no_pair_within_the_radius_gives_an_empty_file(snapshot, tmp_path):
    _, pairs = written(snapshot, 0.0, tmp_path)
    assert pairs == []
    assert list(iterate_in_locality_order(read_candidates(tmp_path / "pairs"))) == []


def test_the_locality_order_keeps_neighbours_together_and_loses_no_pair():
    random = np.random.default_rng(0)
    rows = []
    for clique in range(20):  # cliques of five, their ids strewn over the collection
        members = sorted(random.choice(10_000, 5, replace=False).tolist())
        rows += [(a, b, clique) for at, a in enumerate(members) for b in members[at + 1 :]]
    random.shuffle(rows)
    pairs = np.array(rows, PAIR_DTYPE)
    ordered = list(iterate_in_locality_order(pairs))
    assert sorted(ordered) == sorted((int(a), int(b), float(d)) for a, b, d in rows)
    changes = sum(one[2] != two[2] for one, two in pairwise(ordered))
    assert changes == 19


def test_compute_distance_agrees_with_a_search(snapshot):
    ids = snapshot.get_live_ids()
    found, distances = snapshot.search(get_vectors(snapshot, ids[:1]), 3)[0]
    assert compute_distance(snapshot, int(ids[0]), int(found[2])) == pytest.approx(distances[2], abs=1e-12)
