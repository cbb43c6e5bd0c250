"""Copies across folders and within one: matches are restricted before groups are made, so none is hidden by another."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from simile.dedup.cleanup.plan import plan_of
from simile.dedup.grouping.findings import Findings
from simile.dedup.grouping.groups import make_groups
from simile.dedup.grouping.scope import Scope
from simile.dedup.records import ImageFile
from tests.support.dedup_records import make_file, make_findings, make_pair


def list_groups(findings: Findings, scope: Scope | None) -> list[tuple[str, list[str]]]:
    """Return tier and paths of each group, the kept file first."""
    return [(group.tier, [file.path for file in group.files]) for group in make_groups(findings, scope=scope)]


def make_files(*paths: str) -> tuple[ImageFile, ...]:
    """Make a file of each path: the image is the number in its name."""
    return tuple(make_file(int(Path(path).name[0]), path) for path in paths)


def test_equal_files_are_split_by_folder() -> None:
    findings = make_findings(files=make_files("/a/1.jpg", "/a/1x.jpg", "/b/1.jpg", "/b/1x.jpg", "/c/1.jpg"))
    assert list_groups(findings, None) == [("bytes", ["/a/1.jpg", "/b/1.jpg", "/c/1.jpg", "/a/1x.jpg", "/b/1x.jpg"])]
    assert list_groups(findings, "across") == [("bytes", ["/a/1.jpg", "/b/1.jpg", "/c/1.jpg", "/b/1x.jpg"])]
    assert list_groups(findings, "within") == [
        ("bytes", ["/a/1.jpg", "/a/1x.jpg"]),
        ("bytes", ["/b/1.jpg", "/b/1x.jpg"]),
    ]


def test_a_folder_below_another_is_a_different_folder() -> None:
    findings = make_findings(files=make_files("/a/1.jpg", "/a/b/1.jpg"))
    assert list_groups(findings, "within") == []
    assert list_groups(findings, "across") == [("bytes", ["/a/1.jpg", "/a/b/1.jpg"])]


def test_a_representative_in_another_folder_hides_no_copy() -> None:
    findings = make_findings(make_pair(1, 2), files=make_files("/a/1.jpg", "/b/1.jpg", "/b/2.jpg"))
    assert ("near", ["/b/1.jpg", "/b/2.jpg"]) in list_groups(findings, "within")
    findings = make_findings(make_pair(1, 2), files=make_files("/a/1.jpg", "/b/2.jpg", "/b/2x.jpg"))
    assert list_groups(findings, "across") == [
        ("near", ["/a/1.jpg", "/b/2.jpg", "/b/2x.jpg"]),
    ]


def test_equal_pixels_in_different_folders_are_found_through_an_image_in_one() -> None:
    pairs = make_pair(1, 2, 0, "pixels"), make_pair(2, 3, 0, "pixels")
    findings = make_findings(*pairs, files=make_files("/a/1.jpg", "/a/2.jpg", "/b/3.jpg"))
    assert list_groups(findings, "across") == [("pixels", ["/a/1.jpg", "/b/3.jpg"])]
    assert list_groups(findings, "within") == [("pixels", ["/a/1.jpg", "/a/2.jpg"])]


def test_a_decision_holds_for_every_file_of_the_two_images() -> None:
    files = make_files("/a/1.jpg", "/b/1.jpg", "/a/2.jpg", "/b/2.jpg")
    different = make_findings(make_pair(1, 2), files=files, decided={(1, 2): (False, None)})
    assert list_groups(different, "within") == []
    preferred = make_findings(make_pair(1, 2), files=files, decided={(1, 2): (True, 2)})
    assert list_groups(preferred, "within") == [("near", ["/a/2.jpg", "/a/1.jpg"]), ("near", ["/b/2.jpg", "/b/1.jpg"])]


@pytest.mark.parametrize("scope", ["across", "within"])
def test_every_group_and_plan_is_in_scope_and_removes_each_file_once(scope: Scope) -> None:
    paths = [f"/{folder}/{number}{copy}.jpg" for number, folder, copy in product(range(1, 7), "abc", ("", "x"))]
    pairs = [make_pair(1, 2, 0, "pixels"), *(make_pair(first, first + 1) for first in range(2, 6))]
    findings = make_findings(*pairs, files=make_files(*paths))
    groups = make_groups(findings, scope=scope)
    for first, *others in ([Path(file.path).parent for file in group.files] for group in groups):
        assert set(others) == {first} if scope == "within" else first not in others
    removed = [line.path for line in plan_of(findings, groups).removals]
    assert removed and len(set(removed)) == len(removed)
