"""The review: pairs follow the decisions, and file properties are correct."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simile.dedup.detection.threshold import CURVE_HEIGHT, CURVE_WIDTH, make_curve
from simile.dedup.grouping.groups import make_groups
from simile.dedup.records import CurvePoint, Decision, ImageFile, ImagePair
from simile.dedup.reporting.cards import compare_file_properties, format_size, shorten_folder
from simile.dedup.review import DuplicateReview, iterate_different_cases
from tests.support.dedup_records import make_calibration, make_file, make_findings, make_pair, sha


def make_review(*pairs: ImagePair, files: dict[int, ImageFile] | None = None) -> DuplicateReview:
    findings = make_findings(*pairs, files=tuple((files or {}).values()))
    return DuplicateReview(findings, make_groups(findings), None)


def decide(review: DuplicateReview, *answers: tuple[int, int, bool, int | None]) -> DuplicateReview:
    decisions = [Decision(sha(a), sha(b), same, None if keep is None else sha(keep)) for a, b, same, keep in answers]
    return review.with_decisions({(item.first_sha256, item.second_sha256): item for item in decisions})


def list_pairs(review: DuplicateReview) -> list[tuple[int | None, int | None, bool]]:
    """Return (kept, other, removed) of the first case's pairs."""
    questions = review.get_questions(review.cases[0])
    return [(question.kept_file.image_id, question.other_file.image_id, question.is_removed) for question in questions]


def test_a_group_is_reviewed_pair_by_pair() -> None:
    review = make_review(make_pair(1, 2), make_pair(1, 3))
    assert list_pairs(review) == [(1, 2, True), (1, 3, True)]
    assert review.get_progress() == (0, 2) and review.is_open(review.cases[0])


def test_a_file_decided_as_different_stays() -> None:
    review = decide(make_review(make_pair(1, 2), make_pair(1, 3)), (1, 3, False, None))
    assert list_pairs(review) == [(1, 2, True), (1, 3, False)]
    assert review.get_progress() == (1, 1)
    assert not decide(review, (1, 2, True, None), (1, 3, False, None)).is_open(review.cases[0])


def test_a_chosen_kept_file_replaces_only_files_that_it_matches() -> None:
    """2 is kept instead of 1; 3 was never compared with 2, so it is not removed for 2."""
    review = decide(make_review(make_pair(1, 2), make_pair(1, 3)), (1, 2, True, 2))
    assert list_pairs(review) == [(2, 1, True), (1, 3, False)]
    later = decide(review, (1, 2, True, 2), (1, 3, True, None))
    assert list_pairs(later) == [(2, 1, True), (1, 3, False)] and not later.is_open(later.cases[0])
    assert "not found to be a copy of the file that is kept" in later.get_questions(later.cases[0])[1].note


def test_equal_pixels_are_represented_by_one_image_in_a_review() -> None:
    """5, 6 and 7 have equal pixels, stored with 5; 1 is near 7 only, and is shown with the representative 5."""
    review = make_review(make_pair(5, 6, tier="pixels"), make_pair(5, 7, tier="pixels"), make_pair(1, 7))
    near = next(case for case in review.cases if case.tier == "near")
    assert [(item.kept_file.image_id, item.other_file.image_id) for item in review.get_questions(near)] == [(1, 5)]
    later = decide(review, (1, 5, True, None))
    assert not later.is_open(near)


def test_protected_files_stay_with_a_note() -> None:
    review = make_review(make_pair(1, 2), files={2: make_file(2, "/home/uploads/2.jpg")})
    question = review.get_questions(review.cases[0])[0]
    assert not question.is_removed and "2.jpg is in an archive or was uploaded" in question.note


def test_pairs_decided_as_different_are_separate_cases() -> None:
    review = make_review(make_pair(1, 2))
    findings = review.findings
    assert list(iterate_different_cases(findings, ("near",))) == []
    parted = replace(findings, decisions={(sha(1), sha(2)): Decision(sha(1), sha(2), False)})
    assert [case.id for case in iterate_different_cases(parted, ("near",))] == ["different-1-2"]
    assert list(iterate_different_cases(parted, ("pixels",))) == []


def test_better_properties_are_marked() -> None:
    large = make_file(1, width=400, height=300, size=9000, mtime_ns=2)
    small = make_file(2, width=40, height=30, mtime_ns=1)
    assert [prop.name for prop in compare_file_properties(large, small) if prop.is_better] == ["Pixels"]
    assert [prop.name for prop in compare_file_properties(small, large) if prop.is_better] == ["Modified"]
    png, jpeg = make_file(1, format="png", size=50), make_file(1, format="jpeg", size=5000)
    assert [prop.name for prop in compare_file_properties(png, jpeg) if prop.is_better] == ["Format"]
    assert not any(prop.is_better for prop in compare_file_properties(jpeg, png))
    assert [prop.text for prop in compare_file_properties(make_file(1, labels={"class": "shirt"}), jpeg)][-1] == "shirt"


@pytest.mark.parametrize(
    ("path", "beside", "folder"),
    [
        ("/a/b/c/1.jpg", "/a/b/d/1.jpg", "…/c/"),
        ("/a/b/c/1.jpg", "/a/b/c/2.jpg", "…/c/"),
        ("/a/1.jpg", "/a/2.jpg", "/a/"),
        ("/a/1.jpg", "/b/2.jpg", "/a/"),
        ("1.jpg", "/b/2.jpg", "/"),
    ],
)
def test_folders_are_shortened_to_their_difference(path: str, beside: str, folder: str) -> None:
    assert shorten_folder(path, beside) == folder


def test_sizes_are_formatted_with_units() -> None:
    assert [format_size(count) for count in (0, 999, 1000, 20_949, 123_456, 5_000_000_000)] == [
        "0 bytes", "999 bytes", "1.0 kB", "20.9 kB", "123 kB", "5.0 GB",
    ]  # fmt: skip


def test_the_curve_is_drawn_within_its_frame() -> None:
    points = tuple(CurvePoint(n / 10, 1 - n / 100, n / 10) for n in range(11))
    curve = make_curve(make_calibration(curve=points), 0.5)
    assert curve is not None and curve.threshold_x == CURVE_WIDTH / 2 and curve.threshold_point == points[5]
    drawn = [tuple(map(float, point.split(","))) for point in f"{curve.precision} {curve.recall}".split()]
    assert all(0 <= x <= CURVE_WIDTH and 0 <= y <= CURVE_HEIGHT for x, y in drawn)
    assert make_curve(make_calibration(curve=points[:1]), 0.5) is None
