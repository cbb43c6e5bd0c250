"""What an encoder was trained on is known by content, and what is usual is measured on what is new to it."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import numpy as np
import pytest

from simile.core.settings import Settings
from simile.models.checkpoints.training_set import TRAINING_DIGESTS_FILE, TrainingDigests
from simile.models.training.loop import split_train_validation
from simile.search.calibration.estimate import MIN_NEW_IMAGES, estimate_calibration, sample_new_images
from simile.search.searcher import Searcher


def sums(*names: object) -> list[str]:
    return [hashlib.sha256(str(name).encode()).hexdigest() for name in names]


def rows(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def of_images(searcher: Searcher, fitted: range, held_out: range) -> TrainingDigests:
    """As if an encoder had been trained on these images of a home."""
    digests = [searcher.get_image(n).sha256 for n in (*fitted, *held_out)]
    count = len(fitted)
    return TrainingDigests.from_rows(digests, np.arange(count), np.arange(count, len(digests)))


def test_a_copy_of_what_was_fitted_to_is_not_held_out() -> None:
    known = TrainingDigests.from_rows(sums("a", "b", "a", "c"), rows(0, 1), rows(2, 3))
    assert known.held_out_hex == sums("c")
    assert known.contains(sums("a", "b", "c", "d")).tolist() == [True, True, True, False]
    joined = known.merge(TrainingDigests.from_rows(sums("c", "d"), rows(0), rows(1)))
    assert joined.held_out_hex == sums("d")
    assert joined.contains(sums("a", "c", "d", "e")).tolist() == [True, True, True, False]


def test_it_reads_as_it_was_written_and_is_unknown_where_damaged(tmp_path: Path) -> None:
    known = TrainingDigests.from_rows(sums(*range(20)), np.arange(15), np.arange(15, 20))
    known.save(tmp_path)
    read = TrainingDigests.load(tmp_path)
    assert read is not None and sorted(read.held_out_hex) == sorted(sums(*range(15, 20)))
    assert read.fitted.tolist() == known.fitted.tolist()
    for data in ((tmp_path / TRAINING_DIGESTS_FILE).read_bytes()[:100], b"", b"PK\x03\x04", b"no archive"):
        (tmp_path / TRAINING_DIGESTS_FILE).write_bytes(data)
        assert TrainingDigests.load(tmp_path) is None
    assert TrainingDigests.load(tmp_path / "elsewhere") is None


def test_training_notes_what_it_fitted_to_and_what_it_held_out(home_with_digits: Settings) -> None:
    with Searcher(home_with_digits) as searcher:
        known = searcher.get_encoder().training_digests
        assert known is not None
        digests = [searcher.get_image(n).sha256 for n in range(1, 121)]
        assert known.contains(digests).all() and set(known.held_out_hex) <= set(digests)
        fitted, held_out = split_train_validation(120, seed=0)
        assert (len(known.fitted), len(known.held_out_hex)) == (len(fitted), len(held_out))
        searcher.by_id(1)
        gauge = estimate_calibration(searcher.catalogue, None, known, searcher.index.get_snapshot(), threading.Event())
        assert gauge is not None and gauge.population == "own"  # too few are held out of so small a collection


def test_what_is_usual_is_measured_on_what_the_encoder_was_not_fitted_to(home_with_digits: Settings) -> None:
    with Searcher(home_with_digits) as searcher:
        known = of_images(searcher, range(1, 61), range(61, 121))
        snapshot = searcher.index.get_snapshot()
        gauge = estimate_calibration(
            searcher.catalogue, lambda n: 1.0 if n > 60 else 0.0, known, snapshot, threading.Event()
        )
        assert gauge is not None and gauge.population == "new"
        assert gauge.ordered["reconstruction"].tolist() == [1.0] * 60
        assert len(gauge.ordered["distance"]) == len(gauge.ordered["sigma"]) == 60
        confidence = gauge.compute_confidence(None, 99.0, None)
        assert confidence.unlike and confidence.false_alarm_among == "new"
        assert confidence.false_alarm_rate == pytest.approx(2 / 61, abs=1e-4)
        others = estimate_calibration(searcher.catalogue, None, None, snapshot, threading.Event())
        assert others is not None and others.population == "own"
        assert others.expected == pytest.approx(gauge.expected)  # distances are known from all


def test_what_came_after_the_training_keeps_its_share(home_with_digits: Settings) -> None:
    with Searcher(home_with_digits) as searcher:
        living = searcher.index.get_snapshot().get_live_ids()
        drawn = np.random.default_rng(1).permutation(living)
        known = of_images(searcher, range(1, 41), range(41, 81))  # and 40 that came later
        found = sample_new_images(searcher.catalogue, known, drawn, living)
        assert found is not None and len(np.unique(found)) == len(found) and found.min() > 40
        later = int((found > 80).sum())
        assert len(found) - later == 40 and 12 <= later <= 28  # of 60 a third, as of all 120
        few = of_images(searcher, range(1, 111), range(111, 121))
        assert sample_new_images(searcher.catalogue, few, drawn, living) is None and MIN_NEW_IMAGES > 10
        nothing = TrainingDigests.from_rows(sums("elsewhere"), rows(0), rows())
        assert sample_new_images(searcher.catalogue, nothing, drawn, living).tolist() == drawn.tolist()  # type: ignore[union-attr]
