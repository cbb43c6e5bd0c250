"""Limits of issues: robust statistics of the collection, between absolute bounds."""

from __future__ import annotations

import numpy as np
import pytest

from simile.store.quality.issues import ISSUES, MIN_IMAGES, UNUSABLE_PROFILE, Bounds, Issue

RANDOM = np.random.default_rng(0)


def test_a_limit_is_three_robust_deviations_from_the_median() -> None:
    issue = Issue(measure="x", description="", low=Bounds(-100, 100), high=Bounds(100, -100))
    values = np.append(RANDOM.normal(10, 2, 100_000), np.full(20_000, 1e6))  # outliers do not move it much
    low, high = issue.compute_limits(values)
    assert low == pytest.approx(10.6 - 3 * 2.5, abs=0.3)
    assert high == pytest.approx(10.6 + 3 * 2.5, abs=0.3)


def test_a_limit_stays_between_its_bounds() -> None:
    blurred = ISSUES["blurred"]
    assert blurred.low is not None
    for median, expected in ((0.2, blurred.low.always), (2.0, blurred.low.never)):
        assert blurred.compute_limits(RANDOM.normal(median, 0.001, 1000)).low == expected


def test_few_images_have_only_the_absolute_limits() -> None:
    for count in (0, MIN_IMAGES - 1):
        values = np.full(count, 0.9)
        assert ISSUES["blurred"].compute_limits(values) == (0.3, None)
        assert ISSUES["odd-size"].compute_limits(values) == (0.0, None)


def test_values_that_were_not_measured_do_not_count() -> None:
    values = RANDOM.normal(0.7, 0.05, 100)
    with_unknown = np.append(values, np.full(1000, np.nan))
    assert ISSUES["blurred"].compute_limits(with_unknown) == ISSUES["blurred"].compute_limits(values)


def test_equal_sizes_leave_room_up_to_a_factor() -> None:
    low, high = ISSUES["odd-size"].compute_limits(np.full(100, 1000.0))
    assert (low, high) == (pytest.approx(250), pytest.approx(4000))


def test_an_issue_has_limits_or_a_text() -> None:
    for issue in ISSUES.values():
        assert (issue.text is None) == bool(issue.low or issue.high)
    assert ISSUES["wrong-profile"].text == UNUSABLE_PROFILE
