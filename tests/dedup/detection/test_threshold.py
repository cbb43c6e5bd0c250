"""The threshold is calibrated on planted copies and decisions."""

from __future__ import annotations

import pytest

from simile.core.errors import TooFewPictures
from simile.dedup.detection.threshold import CalibrationExample, calibrate_threshold


def make_copies(count, apart=1.0):
    return [CalibrationExample(apart * at / count, is_match=True, is_copy=True) for at in range(count)]


def test_without_false_matches_the_threshold_includes_nearly_all_copies():
    calibration = calibrate_threshold(make_copies(1000), 0.99)
    assert calibration.threshold == pytest.approx(0.979, abs=0.002)
    assert calibration.reached_precision == 1.0
    assert calibration.reached_recall == pytest.approx(0.98, abs=0.002)
    assert (calibration.copies, calibration.decisions) == (1000, 0)


def test_false_matches_lower_the_threshold_until_the_precision_is_reached():
    wrong = [CalibrationExample(0.5 + at / 1000, is_match=True, is_copy=False) for at in range(200)]
    calibration = calibrate_threshold(make_copies(1000) + wrong, 0.99)
    assert 0.48 < calibration.threshold <= 0.52
    assert calibration.reached_precision >= 0.99
    assert calibrate_threshold(make_copies(1000) + wrong, 0.8).threshold > calibration.threshold


def test_unverified_copies_lower_only_the_recall():
    lost = [CalibrationExample(0.3, is_match=False, is_copy=True)] * 500
    calibration = calibrate_threshold(make_copies(500) + lost, 0.99)
    assert calibration.reached_recall == pytest.approx(0.49, abs=0.003)
    assert calibration.reached_precision == 1.0


def make_library(look_alikes: int, originals: int = 100) -> list[CalibrationExample]:
    """Six copies of each original; `look_alikes` of them also match other images, nearer than most copies."""
    copies = [
        CalibrationExample(number / 6 + original / 1000, is_match=True, is_copy=True, original_id=original)
        for original in range(1, originals + 1)
        for number in range(6)
    ]
    return copies + [
        CalibrationExample(0.01, is_match=True, is_copy=False, original_id=original)
        for original in range(1, look_alikes + 1)
        for _ in range(18)
    ]


def test_few_look_alikes_cost_themselves_and_not_the_collection(caplog):
    calibration = calibrate_threshold(make_library(4), 0.99)
    assert calibration.left_out == (1, 2, 3, 4)
    assert calibration.reached_recall > 0.95
    assert calibration.reached_precision == 1.0
    assert calibration.copies == 96 * 6
    assert "4 of 100 sampled images" in caplog.text
    assert "no distance" not in caplog.text


def test_look_alikes_that_cost_less_than_they_would_lose_are_not_left_out():
    one_far = [*make_library(0), CalibrationExample(0.9, is_match=True, is_copy=False, original_id=1)]
    calibration = calibrate_threshold(one_far, 0.99)
    assert calibration.left_out == ()
    assert calibration.reached_recall > 0.95


def test_a_collection_of_look_alikes_has_no_threshold(caplog):
    calibration = calibrate_threshold(make_library(40), 0.99)
    assert (calibration.threshold, calibration.left_out) == (0.0, ())
    assert "no distance reaches" in caplog.text


def test_decisions_change_the_threshold():
    different = [CalibrationExample(0.6, is_match=True, is_copy=False)] * 30
    before, after = (calibrate_threshold(make_copies(1000), 0.99, *pairs) for pairs in ((), (different,)))
    assert after.threshold < 0.61 < before.threshold
    assert after.decisions == 30


def test_the_curve_rises_and_ends_at_the_threshold_or_beyond():
    calibration = calibrate_threshold(make_copies(300), 0.99)
    assert [point.recall for point in calibration.curve] == sorted(point.recall for point in calibration.curve)
    assert calibration.curve[-1].distance == calibration.threshold


def test_the_threshold_is_zero_if_no_distance_is_precise_enough(caplog):
    wrong = [CalibrationExample(0.0, is_match=True, is_copy=False)] * 100
    calibration = calibrate_threshold(make_copies(100) + wrong, 0.99)
    assert calibration.threshold == 0.0
    assert "no distance reaches a precision of 0.99" in caplog.text


def test_few_copies_give_a_warning_and_none_an_error(caplog):
    calibrate_threshold(make_copies(12), 0.99)
    assert "calibrated on only 12 copies" in caplog.text
    with pytest.raises(TooFewPictures, match="--threshold"):
        calibrate_threshold([], 0.99)
