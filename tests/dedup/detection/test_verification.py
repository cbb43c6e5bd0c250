"""The verification of candidate pairs: few comparisons find all copies."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from PIL import Image

from simile.dedup.detection import verification
from simile.dedup.detection.candidates import PAIR_DTYPE
from simile.dedup.detection.known_results import KnownResults
from simile.images.distortions import distort
from simile.images.formats import Limits
from simile.images.matching.homography import compute_unit_overlap
from tests.support.synthetic_images import scene

KINDS = ("jpeg-30", "resize-50", "mirror", "grey", "border")


class InThisProcess:
    """A worker pool that runs tasks in this process."""

    map = staticmethod(map)


def save(folder, images):
    """Save images; return their paths by image id, starting with 1."""
    paths = {image_id: str(folder / f"{image_id}.png") for image_id in range(1, len(images) + 1)}
    for path, image in zip(paths.values(), images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def verify(folder, paths, pairs, on_progress=lambda *_: None, features=None):
    return verification.verify_candidates(
        np.array(pairs, PAIR_DTYPE), paths, InThisProcess(), Limits(), known_results(folder), on_progress,
        feature_folder=features,
    )  # fmt: skip


def known_results(folder):
    return KnownResults(folder / "results.jsonl", {"version": 1})


def near(found):
    return {(pair.first, pair.second) for pair in found if pair.tier == "near"}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Six scenes with five copies each; the ids of scene n are 6 n + 1 to 6 n + 6."""
    images = []
    for number in range(6):
        original = scene(number, 160, 200)
        images += [original, *(distort(original, kind, np.random.default_rng(number)) for kind in KINDS)]
    return save(tmp_path_factory.mktemp("scenes"), images)


def make_pairs(count, random):
    """Return all pairs of images; those of one scene are nearer to each other, and the original is in the middle."""
    pairs = []
    for first, second in combinations(range(1, count + 1), 2):
        is_same, is_central = (first - 1) // 6 == (second - 1) // 6, first % 6 == 1 or second % 6 == 1
        pairs.append((first, second, (0.3 if is_same else 0.8) - 0.1 * is_central + 0.1 * random.random()))
    return pairs


def test_all_copies_are_found_with_few_comparisons(tmp_path, scenes):
    pairs, decided = make_pairs(36, np.random.default_rng(0)), []
    features = tmp_path / "features"
    features.mkdir()
    found = verify(tmp_path, scenes, pairs, lambda done, _: decided.append(done), str(features))
    expected = {(a, b) for a, b in combinations(range(1, 37), 2) if (a - 1) // 6 == (b - 1) // 6}
    assert near(found) == expected
    inferred = [pair for pair in found if pair.reason == verification.INFERRED_REASON]
    assert inferred
    assert all(1 not in (pair.first % 6, pair.second % 6) for pair in inferred)  # all were compared with the original
    assert len(known_results(tmp_path).comparisons) < len(pairs) / 3
    assert decided == sorted(decided)
    assert decided[-1] == len(pairs)
    assert len(list(features.iterdir())) == 36


def test_stored_features_give_the_same_results(tmp_path, scenes):
    pairs = make_pairs(12, np.random.default_rng(0))
    features = tmp_path / "features"
    features.mkdir()
    results = [verify(tmp_path, scenes, pairs, features=str(features))]
    for path in features.iterdir():
        path.write_bytes(path.read_bytes()[:1000])  # damaged: computed again
    for folder in (None, str(features), str(features)):
        verification.compare_files.__globals__["_load_comparable_image"].cache_clear()
        (tmp_path / "results.jsonl").unlink()
        results.append(verify(tmp_path, scenes, pairs, features=folder))
    assert all(one == two for one, two in pairwise(results))


def test_two_parts_of_an_image_that_have_nothing_in_common_are_no_copies_of_each_other(tmp_path):
    original = scene(3, 300, 400)
    paths = save(tmp_path, [original, original[:, :180], original[:, 220:], original[:, 10:190]])
    found = verify(tmp_path, paths, [(1, 2, 0.2), (1, 3, 0.2), (1, 4, 0.2), (2, 3, 0.3), (2, 4, 0.3), (3, 4, 0.3)])
    assert near(found) == {(1, 2), (1, 3), (1, 4), (2, 4)}


def test_a_copy_that_only_another_copy_shows_is_found(tmp_path):
    original = scene(5, 300, 400)
    # A crop of the crop shows less than a part of the original can prove; the pair with the original is no candidate.
    paths = save(tmp_path, [original, original[60:240, 80:320], original[100:200, 120:260], scene(8, 300, 400)])
    pairs = [(1, 2, 0.2), (2, 3, 0.5), (1, 4, 0.5), (2, 4, 0.6), (3, 4, 0.6)]
    assert near(verify(tmp_path, paths, pairs)) == {(1, 2), (2, 3)}


def test_results_of_a_run_with_fewer_candidates_are_used_again(tmp_path, monkeypatch):
    monkeypatch.setattr(verification, "VERIFICATION_BATCH_SIZE", 1)
    paths = save(tmp_path, [scene(number // 3, 96, 96) for number in range(1, 5)])
    pairs = [(1, 2, 0.1), (1, 3, 0.2), (2, 3, 0.3), (3, 4, 0.4)]

    def stop(done, _total):
        if done >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify(tmp_path, paths, pairs[1:], stop)  # a file was away, and with it a pair
    stored = known_results(tmp_path).comparisons
    assert stored.keys() <= {(1, 3), (2, 3), (3, 4)}
    assert near(verify(tmp_path, paths, pairs)) == near(verify(tmp_path, paths, pairs)) == {(1, 2), (3, 4)}
    assert stored.items() < known_results(tmp_path).comparisons.items()


@pytest.mark.parametrize(
    "damage", [b"\0\0\n", b"[]\n", b'{"compared": [[1, 2, {"is_copy": true}]]}\n', b'{"digests": [1]}\n']
)
def test_damaged_results_are_computed_again(tmp_path, damage):
    paths = save(tmp_path, [scene(1, 96, 96), scene(1, 96, 96)])
    verify(tmp_path, paths, [(1, 2, 0.1)])
    path = tmp_path / "results.jsonl"
    first_line, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(first_line + b"\n" + damage + rest)
    assert known_results(tmp_path).comparisons == {}
    assert near(verify(tmp_path, paths, [(1, 2, 0.1)])) == {(1, 2)}
    assert known_results(tmp_path).comparisons.keys() == {(1, 2)}


def test_a_file_that_could_not_be_read_is_compared_when_it_can_be_read(tmp_path):
    paths = save(tmp_path, [scene(1, 96, 96), scene(1, 96, 96)])
    (tmp_path / "2.png").rename(tmp_path / "away")
    assert near(verify(tmp_path, paths, [(1, 2, 0.1)])) == set()
    (tmp_path / "away").rename(tmp_path / "2.png")
    assert near(verify(tmp_path, paths, [(1, 2, 0.1)])) == {(1, 2)}


@pytest.mark.parametrize(
    ("matrix", "share"),
    [
        (np.eye(3), 1.0),
        (np.diag([0.5, 0.5, 1.0]), 1.0),  # the second image shows a quarter of the first
        (np.array([[1, 0, 0.75], [0, 1, 0], [0, 0, 1.0]]), 0.25),
        (np.array([[1, 0, 2.0], [0, 1, 0], [0, 0, 1.0]]), 0.0),
        (np.array([[-1, 0, 1.0], [0, 1, 0], [0, 0, 1.0]]), 1.0),  # mirrored
    ],
)
def test_the_overlap_is_a_share_of_the_smaller_image(matrix, share):
    assert compute_unit_overlap(matrix) == pytest.approx(share, abs=1e-6)


def test_a_pair_of_hubs_is_listed_once(monkeypatch):
    monkeypatch.setattr(verification, "VERIFICATION_BATCH_SIZE", 1)  # each result counts before the next comparison
    # Three components of three images, the hubs 1, 4 and 7. Their other images do not match across components; of the
    # hubs, 1 and 4 do not match each other, but both match 7, which joins all.
    hubs = (1, 4, 7)
    inside = [(hub, hub + step, 0.1) for hub in hubs for step in (1, 2)]
    across = [(first + i, second + j, 0.8) for first, second in combinations(hubs, 2) for i in (1, 2) for j in (1, 2)]
    pairs = [*inside, *across, (1, 4, 0.9), (1, 7, 0.91), (4, 7, 0.92), (10, 11, 1.0)]
    copies = {*inside, (1, 7, 0.91), (4, 7, 0.92)}

    def compare(batch):
        return [
            verification.Comparison(
                is_copy=pair in copies,
                score=1.0,
                similarity=1.0,
                reason="",
                matrix=np.eye(3).tolist() if pair in copies else None,
            )
            for pair in batch
        ]

    rows = np.array(pairs, np.dtype([*PAIR_DTYPE.descr[:2], ("distance", "<f8")]))
    found = verification._PairVerifier(rows, compare, lambda *_: None).run()
    keys = [(pair.first, pair.second) for pair in found]
    assert (1, 4) in keys
    assert len(keys) == len(set(keys))
