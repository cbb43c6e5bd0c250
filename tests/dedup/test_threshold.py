"""The threshold that is learned from planted copies, and from what people said."""

from __future__ import annotations

import pytest

from simile.core.errors import TooFewPictures
from simile.dedup.detection.threshold import CalibrationExample, calibrate_threshold


def copies(count, apart=1.0):
    return [CalibrationExample(apart * at / count, is_match=True, is_copy=True) for at in range(count)]


def test_where_nothing_is_mistaken_the_threshold_takes_nearly_all_copies():
    found = calibrate_threshold(copies(1000), 0.99)
    assert found.threshold == pytest.approx(0.979, abs=0.002)
    assert found.reached_precision == 1.0
    assert found.reached_recall == pytest.approx(0.98, abs=0.002)
    assert (found.copies, found.decisions) == (1000, 0)


def test_mistakes_far_out_bring_it_down_to_where_the_precision_holds():
    wrong = [CalibrationExample(0.5 + at / 1000, is_match=True, is_copy=False) for at in range(200)]
    found = calibrate_threshold(copies(1000) + wrong, 0.99)
    assert 0.48 < found.threshold <= 0.52
    assert found.reached_precision >= 0.99
    assert calibrate_threshold(copies(1000) + wrong, 0.8).threshold > found.threshold


def test_copies_whose_pixels_do_not_agree_lower_the_recall_alone():
    lost = [CalibrationExample(0.3, is_match=False, is_copy=True)] * 500
    found = calibrate_threshold(copies(500) + lost, 0.99)
    assert found.reached_recall == pytest.approx(0.49, abs=0.003)
    assert found.reached_precision == 1.0


def test_what_people_said_moves_it():
    different = [CalibrationExample(0.6, is_match=True, is_copy=False)] * 30
    before, after = calibrate_threshold(copies(1000), 0.99), calibrate_threshold(copies(1000), 0.99, different)
    assert after.threshold < 0.61 < before.threshold
    assert after.decisions == 30


def test_the_curve_rises_and_ends_at_the_threshold_or_beyond():
    found = calibrate_threshold(copies(300), 0.99)
    assert [point.recall for point in found.curve] == sorted(point.recall for point in found.curve)
    assert found.curve[-1].distance == found.threshold


def test_where_no_distance_is_sure_enough_only_what_is_certain_is_a_copy(caplog):
    wrong = [CalibrationExample(0.0, is_match=True, is_copy=False)] * 100
    found = calibrate_threshold(copies(100) + wrong, 0.99)
    assert found.threshold == 0.0
    assert "no distance reaches a precision of 0.99" in caplog.text


def test_few_copies_are_said_to_be_few(caplog):
    calibrate_threshold(copies(12), 0.99)
    assert "calibrated on only 12 copies" in caplog.text
    with pytest.raises(TooFewPictures, match="--threshold"):
        calibrate_threshold([], 0.99)
