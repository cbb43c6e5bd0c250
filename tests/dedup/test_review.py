"""What people are asked: pairs that follow their answers, and facts that are told truly."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simile.dedup.detection.threshold import CURVE_HEIGHT, CURVE_WIDTH, make_curve
from simile.dedup.grouping.findings import Findings
from simile.dedup.grouping.groups import make_groups
from simile.dedup.records import CurvePoint, Decision, ImageFile, ImagePair
from simile.dedup.reporting.cards import compare_file_properties, format_size, shorten_folder
from simile.dedup.review import DuplicateReview, iterate_different_cases, make_cases
from tests.support.dedup_records import make_calibration, make_file, make_pair, sha


def review_of(*pairs: ImagePair, files: dict[int, ImageFile] | None = None) -> DuplicateReview:
    numbers = {number for one in pairs for number in (one.first, one.second)}
    known = {number: ((files or {}).get(number) or make_file(number),) for number in numbers}
    findings = Findings(
        run_id=1,
        found_at=None,
        encoder=None,
        calibration=None,
        pairs=pairs,
        files=known,
        decisions={},
        home="/home",
        uploads_folder="/home/uploads",
    )
    return DuplicateReview(findings, make_cases(make_groups(findings)), None)


def said(review: DuplicateReview, *answers: tuple[int, int, bool, int | None]) -> DuplicateReview:
    decisions = [Decision(sha(a), sha(b), same, None if keep is None else sha(keep)) for a, b, same, keep in answers]
    return review.with_decisions({(one.first_sha256, one.second_sha256): one for one in decisions})


def pairs_of(review: DuplicateReview) -> list[tuple[int | None, int | None, bool]]:
    """(kept, other, removed) of the first case."""
    questions = review.get_questions(review.cases[0])
    return [(question.kept_file.image_id, question.other_file.image_id, question.is_removed) for question in questions]


def test_a_star_is_asked_ray_by_ray() -> None:
    review = review_of(make_pair(1, 2), make_pair(1, 3))
    assert pairs_of(review) == [(1, 2, True), (1, 3, True)]
    assert review.get_progress() == (0, 2) and review.is_open(review.cases[0])


def test_what_was_called_different_stays_beside_the_rest() -> None:
    review = said(review_of(make_pair(1, 2), make_pair(1, 3)), (1, 3, False, None))
    assert pairs_of(review) == [(1, 2, True), (1, 3, False)]
    assert review.get_progress() == (1, 1)
    assert not said(review, (1, 2, True, None), (1, 3, False, None)).is_open(review.cases[0])


def test_the_chosen_keeper_keeps_only_what_it_matches() -> None:
    """2 is kept instead of 1; 3 was never compared with 2, so it can't go because of it."""
    review = said(review_of(make_pair(1, 2), make_pair(1, 3)), (1, 2, True, 2))
    assert pairs_of(review) == [(2, 1, True), (1, 3, False)]
    later = said(review, (1, 2, True, 2), (1, 3, True, None))
    assert pairs_of(later) == [(2, 1, True), (1, 3, False)] and not later.is_open(later.cases[0])
    assert "not found to be a copy of the file that is kept" in later.get_questions(later.cases[0])[1].note


def test_equal_pixels_are_followed_through_the_one_that_a_run_notes_them_with() -> None:
    """5, 6 and 7 are equal, noted with 5; 1 is near 7 only, and is asked with the one that stands for all three."""
    review = review_of(make_pair(5, 6, tier="pixels"), make_pair(5, 7, tier="pixels"), make_pair(1, 7))
    near = next(case for case in review.cases if case.tier == "near")
    assert [(one.kept_file.image_id, one.other_file.image_id) for one in review.get_questions(near)] == [(1, 5)]
    later = said(review, (1, 5, True, None))
    assert not later.is_open(near)


def test_files_that_no_plan_touches_stay_and_say_why() -> None:
    review = review_of(make_pair(1, 2), files={2: make_file(2, "/home/uploads/2.jpg")})
    question = review.get_questions(review.cases[0])[0]
    assert not question.is_removed and "2.jpg is in an archive or was uploaded" in question.note


def test_pairs_that_were_parted_are_cases_of_their_own() -> None:
    review = review_of(make_pair(1, 2))
    findings = review.findings
    assert list(iterate_different_cases(findings, ("near",))) == []
    parted = replace(findings, decisions={(sha(1), sha(2)): Decision(sha(1), sha(2), False)})
    assert [case.id for case in iterate_different_cases(parted, ("near",))] == ["different-1-2"]
    assert list(iterate_different_cases(parted, ("pixels",))) == []


def test_the_better_facts_are_marked() -> None:
    large, small = (
        make_file(1, width=400, height=300, size=9000, mtime_ns=2),
        make_file(2, width=40, height=30, mtime_ns=1),
    )
    assert [fact.name for fact in compare_file_properties(large, small) if fact.is_better] == ["Pixels"]
    assert [fact.name for fact in compare_file_properties(small, large) if fact.is_better] == ["Modified"]
    png, jpeg = make_file(1, format="png", size=50), make_file(1, format="jpeg", size=5000)
    assert [fact.name for fact in compare_file_properties(png, jpeg) if fact.is_better] == ["Format"]
    assert not any(fact.is_better for fact in compare_file_properties(jpeg, png))
    assert [fact.text for fact in compare_file_properties(make_file(1, labels={"class": "shirt"}), jpeg)][-1] == "shirt"


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
def test_folders_are_told_by_what_tells_them_apart(path: str, beside: str, folder: str) -> None:
    assert shorten_folder(path, beside) == folder


def test_sizes_are_for_people() -> None:
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
