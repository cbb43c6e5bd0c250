"""Groups of copies: tiers never mix, matches are not chained, decisions count, and the kept file has a reason."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime
from itertools import combinations
from pathlib import Path
from zipfile import ZipFile

import pytest

from simile.core.errors import BadSetting
from simile.core.filters.parser import make_filter
from simile.dedup.cleanup.plan import count_freed_bytes, plan_of
from simile.dedup.grouping.findings import (
    Findings,
    calibration_from_json,
    calibration_to_json,
    count_similar_pairs,
    find_similar_pairs,
    load_findings,
)
from simile.dedup.grouping.groups import make_groups
from simile.dedup.grouping.keep_rules import DEFAULT_KEEP_RULES, KeepRanking, parse_keep_rules
from simile.dedup.records import Decision, DuplicateGroup
from simile.dedup.reporting.cards import compare_file_properties
from simile.dedup.reporting.exports import file_to_json
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import DuplicateRecord
from simile.store.home import Home
from tests.support.dedup_records import (
    assume_files_exist,
    make_calibration,
    make_file,
    make_findings,
    make_pair,
    make_stored_image,
    sha,
)

CALIBRATION = make_calibration()


def get_ids(group: DuplicateGroup) -> list[int | None]:
    """Return the ids of the group's images, the kept one first."""
    return [member.file.image_id for member in group.members]


def list_groups(found: Findings, **how: object) -> list[tuple[str, list[int | None]]]:
    return [(group.tier, get_ids(group)) for group in make_groups(found, **how)]  # type: ignore[arg-type]


# Groups


def test_copies_that_all_match_are_one_group_and_the_rules_choose_the_kept_file() -> None:
    (group,) = make_groups(make_findings(make_pair(3, 1, 0.3), make_pair(2, 3, 0.2), make_pair(1, 2, 0.1)))
    assert get_ids(group) == [1, 2, 3]
    assert (group.matched, group.possible, group.decided) == (3, 3, False)
    assert [member.is_kept for member in group.members] == [True, False, False]
    assert [member.distance for member in group.members] == [0.0, 0.1, 0.3]
    assert group.members[2].reason == "near 1 3"
    assert group.kept_member.keep_reason == "larger: 9999×10, not 9998×10"
    assert group.members[2].keep_reason == "larger: 9999×10, not 9997×10"


def test_a_chain_is_no_group_unless_all_members_match_the_kept_file() -> None:
    chain = make_findings(make_pair(1, 2), make_pair(2, 3), make_pair(3, 4))
    assert list_groups(chain) == [("near", [2, 1, 3])]  # 4 only matches 3
    (group,) = make_groups(make_findings(make_pair(1, 2), make_pair(2, 3)))
    assert (group.matched, group.possible) == (2, 3)
    assert group.kept_member.keep_reason == "it matches all the others directly"


def test_tiers_never_mix_and_equal_pixels_are_represented_by_one_image() -> None:
    files = (make_file(1, "/a/1.jpg"), make_file(1, "/b/longer/1.jpg"), make_file(2), make_file(3))
    found = make_findings(make_pair(1, 2, 0.0, tier="pixels"), make_pair(2, 3, 0.2), files=files)
    assert list_groups(found) == [("bytes", [1, 1]), ("pixels", [1, 2]), ("near", [1, 3])]
    assert list_groups(found, tiers=("near",)) == [("near", [1, 3])]
    near_group = make_groups(found)[2]
    assert near_group.members[1].reason == "near 2 3"
    assert [member.file.path for member in near_group.members] == ["/a/1.jpg", "/photos/0003.jpg"]


def test_equal_pixels_are_transitive_so_any_of_them_can_be_kept() -> None:
    pairs = (make_pair(1, 2, 0.0, tier="pixels"), make_pair(1, 3, 0.01, tier="pixels"), make_pair(1, 9, 0.2))
    files = (make_file(3, "/best/3.jpg"),)
    (group, other) = make_groups(make_findings(*pairs, files=files), ("under:/best",))
    assert get_ids(group) == [3, 1, 2]
    assert (group.matched, group.possible) == (3, 3)
    assert [member.distance for member in group.members] == [0.0, 0.01, 0.0]
    assert (other.tier, get_ids(other), other.members[1].reason) == ("near", [3, 9], "near 1 9")
    decided = make_findings(*pairs, decided={(2, 3): (False, None), (1, 2): (True, 2)})
    assert list_groups(decided) == [("pixels", [2, 1]), ("near", [2, 9])]


def test_links_to_a_file_are_no_copies_of_it() -> None:
    files = (make_file(1, "/a/long/1.jpg"), make_file(1, "/a/link.jpg"), make_file(1, "/b/longer/1.jpg"), make_file(2))
    found = replace(make_findings(make_pair(1, 2), files=files), link_paths=frozenset({"/a/link.jpg"}))
    equal, alike = make_groups(found)
    assert [member.file.path for member in equal.members] == ["/a/long/1.jpg", "/b/longer/1.jpg"]
    assert [member.file.path for member in alike.members] == ["/a/long/1.jpg", "/photos/0002.jpg"]
    assert list_groups(replace(found, link_paths=frozenset({"/a/link.jpg", "/b/longer/1.jpg"}))) == [("near", [1, 2])]


def test_groups_of_a_tier_are_sorted_by_distance() -> None:
    found = make_findings(make_pair(1, 2, 0.4), make_pair(3, 4, 0.1))
    assert list_groups(found) == [("near", [3, 4]), ("near", [1, 2])]


def test_a_lower_threshold_replaces_the_runs() -> None:
    found = make_findings(make_pair(1, 2, 0.4), make_pair(3, 4, 0.6))
    assert list_groups(found) == [("near", [1, 2])]
    assert list_groups(found, threshold=0.6) == [("near", [1, 2])]  # the run looked no further than 0.5
    assert list_groups(found, threshold=0.1) == []
    assert [found.get_effective_threshold(asked) for asked in (None, 0.1, 100.0)] == [0.5, 0.1, 0.5]
    assert replace(found, calibration=None).get_effective_threshold(0.6) == 0.6


def test_a_group_id_depends_only_on_the_files() -> None:
    (first,) = make_groups(make_findings(make_pair(1, 2)))
    (swapped,) = make_groups(make_findings(make_pair(1, 2), decided={(1, 2): (True, 2)}))
    (other,) = make_groups(make_findings(make_pair(1, 3)))
    assert first.id == swapped.id != other.id
    assert first.kept_member != swapped.kept_member


@pytest.mark.parametrize("seed", range(8))
def test_groups_of_random_pairs_are_disjoint_stars_and_leave_no_match(seed: int) -> None:
    draw = random.Random(seed)
    chosen = draw.sample(list(combinations(range(1, 41), 2)), 90)
    decided = {pair: (draw.random() < 0.5, draw.choice([None, *pair])) for pair in draw.sample(chosen, 20)}
    found = make_findings(*(make_pair(*pair, draw.random() / 2) for pair in chosen), decided=decided)
    groups = make_groups(found)
    direct = {pair for pair in chosen if decided.get(pair, (True, None))[0]}
    seen: set[int | None] = set()
    for group in groups:
        kept, *others = get_ids(group)
        assert kept is not None and others
        assert not seen & {kept, *others}
        seen |= {kept, *others}
        for other in others:
            assert other is not None
            assert (min(kept, other), max(kept, other)) in direct
        pairs = list(combinations(sorted(number for number in (kept, *others) if number), 2))
        assert all(decided.get(pair, (True, None))[0] for pair in pairs), "called different, and together all the same"
        assert (group.possible, group.matched) == (len(pairs), len(direct & set(pairs)))
    assert not any({first, second}.isdisjoint(seen) for first, second in direct), "two that match were both left"
    shuffled = list(found.pairs)
    draw.shuffle(shuffled)
    assert make_groups(replace(found, pairs=tuple(shuffled))) == groups


def test_an_image_with_thousands_of_matches_is_grouped_fast() -> None:
    pairs = [make_pair(number, number + 1, 0.1) for number in range(1, 10_000, 2)]
    pairs += [make_pair(20_000, number) for number in range(20_001, 30_001)]
    groups = make_groups(make_findings(*pairs))
    assert len(groups) == 5_001
    assert max(len(group.members) for group in groups) == 10_001


# Decisions


def test_images_decided_as_different_are_never_in_one_group() -> None:
    assert list_groups(make_findings(make_pair(1, 2), decided={(1, 2): (False, None)})) == []
    found = make_findings(make_pair(1, 2), make_pair(1, 3, 0.2), make_pair(2, 3, 0.1), decided={(1, 2): (False, None)})
    assert list_groups(found) == [("near", [2, 3])]  # 3 can't be a copy of both: it goes with the nearer


def test_images_decided_as_the_same_are_grouped_at_any_distance() -> None:
    (group,) = make_groups(make_findings(make_pair(1, 2, 0.9), decided={(1, 2): (True, None)}))
    assert group.decided
    found = make_findings(make_pair(1, 2, 0.0, tier="pixels"), decided={(1, 2): (True, None)})
    assert list_groups(found) == [("pixels", [1, 2])]


def test_a_decision_counts_for_images_with_the_same_pixels() -> None:
    pairs = (make_pair(1, 2, 0.0, tier="pixels"), make_pair(1, 3))
    assert list_groups(make_findings(*pairs, decided={(2, 3): (False, None)})) == [("pixels", [1, 2])]


def test_a_users_choice_comes_before_the_keep_rules() -> None:
    pairs = (make_pair(1, 2), make_pair(1, 3), make_pair(2, 3))
    (group,) = make_groups(make_findings(*pairs, decided={(1, 3): (True, 3)}))
    assert get_ids(group) == [3, 1, 2]
    assert group.members[1].keep_reason == "decided by a user"
    assert group.members[2].keep_reason == "it matches all the others directly"


def test_a_users_choice_is_kept_even_if_it_does_not_match_all_others() -> None:
    found = make_findings(make_pair(1, 2), make_pair(1, 3), make_pair(1, 4), decided={(1, 4): (True, 4)})
    assert list_groups(found) == [("near", [4, 1])]


def test_circular_choices_fall_back_to_the_keep_rules() -> None:
    decided = {(1, 2): (True, 2), (2, 3): (True, 3), (1, 3): (True, 1)}
    found = make_findings(make_pair(1, 2), make_pair(1, 3), make_pair(2, 3), decided=decided)
    assert list_groups(found) == [("near", [1, 2, 3])]


def test_groups_can_be_limited_to_decided_pairs() -> None:
    files = (make_file(9, "/a/9.jpg"), make_file(9, "/b/9.jpg"))
    pairs = (make_pair(1, 2), make_pair(3, 4), make_pair(5, 6, 0.0, tier="pixels"))
    found = make_findings(*pairs, files=files, decided={(3, 4): (True, None)})
    assert list_groups(found, decided_only=True) == [("bytes", [9, 9]), ("near", [3, 4])]


# What to keep


@pytest.mark.parametrize(
    ("rules", "kept", "reason"),
    [
        (DEFAULT_KEEP_RULES, "/p/large.png", "larger: 200×100, not 100×100"),
        (("least-compressed",), "/p/large.png", "lossless: png, not jpeg"),
        (("oldest",), "/p/old.jpg", "older: 2001-09-09 01:46:40, not 2033-05-18 03:33:20"),
        (("under:/q",), "/q/label.jpg", "in /q"),
        (("under:/p/small.jpg",), "/p/small.jpg", "in /p/small.jpg"),
        (("labelled",), "/q/label.jpg", "it has labels from a manifest"),
        ((), "/p/old.jpg", "shorter path"),
    ],
)
def test_each_rule_decides_with_a_reason(rules: tuple[str, ...], kept: str, reason: str) -> None:
    usual = {"width": 100, "height": 100, "size": 2000, "mtime_ns": 2 * 10**18}
    files = [
        make_file(1, "/p/large.png", **{**usual, "width": 200}, format="png"),
        make_file(2, "/p/old.jpg", **{**usual, "mtime_ns": 10**18}),
        make_file(3, "/p/small.jpg", **usual),
        make_file(4, "/q/label.jpg", **usual, labels={"class": "cat"}),
    ]
    ranking = KeepRanking(rules)
    first, second, *_ = ranking.sort(files)
    assert first.path == kept
    assert ranking.explain(first, second) == reason


def test_least_compressed_prefers_lossless_then_more_bytes_per_pixel() -> None:
    coarse, fine = make_file(1, size=1000, width=100), make_file(2, size=3000, width=100)
    ranking = KeepRanking(("least-compressed",))
    assert ranking.sort([coarse, fine]) == [fine, coarse]
    assert ranking.explain(fine, coarse) == "less compressed: 3 bytes per pixel, not 1"


@pytest.mark.parametrize(("mtime_ns", "day"), [(10**21, "9999-12-31"), (-(10**21), "1-01-01"), (10**30, "9999-12-31")])
def test_times_outside_of_the_calendar_are_clamped(mtime_ns: int, day: str) -> None:
    usual, odd = make_file(1), make_file(1, "/photos/odd.jpg", mtime_ns=mtime_ns)
    ranking = KeepRanking(("oldest",))
    assert day in ranking.explain(*ranking.sort([usual, odd]))
    assert day in {fact.name: fact.text for fact in compare_file_properties(odd, usual)}["Modified"]
    assert day in file_to_json(odd)["mtime"]
    assert file_to_json(make_file(1, mtime_ns=-1))["mtime"] == "1969-12-31T23:59:59+00:00"


def test_files_that_no_rule_distinguishes_are_sorted_by_path() -> None:
    one, two = make_file(1, "/photos/a.jpg"), make_file(1, "/photos/b.jpg")
    assert KeepRanking().explain(one, two) == "first in alphabetical order"
    assert KeepRanking().sort([two, one]) == [one, two]


def test_rules_are_parsed_with_commas_and_relative_folders(tmp_path: Path) -> None:
    assert parse_keep_rules(["oldest, largest", "labelled", "oldest"]) == ("oldest", "largest", "labelled")
    assert parse_keep_rules(["under:best,largest"]) == (f"under:{tmp_path}/best", "largest")
    assert parse_keep_rules(["under:/my, photos,oldest"]) == ("under:/my, photos", "oldest")


@pytest.mark.parametrize("text", ["newest", "under:", "largest,,smallest", "under"])
def test_an_unknown_rule_is_refused(text: str) -> None:
    with pytest.raises(BadSetting, match=r"keep can't be .*largest.*under:FOLDER|names no folder"):
        parse_keep_rules([text])


# Plans


def test_a_plan_never_removes_a_file_that_another_line_keeps() -> None:
    files = (make_file(1), make_file(2, "/b/2.jpg"), make_file(2, "/b/again/2.jpg"), make_file(3))
    found = make_findings(make_pair(1, 2, 0.2, tier="pixels"), make_pair(2, 3, 0.2), files=files)
    plan = plan_of(found, make_groups(found))
    assert [(line.path, line.keep_path, line.tier) for line in plan.removals] == [
        ("/b/again/2.jpg", "/photos/0001.jpg", "pixels"),
        ("/b/2.jpg", "/photos/0001.jpg", "pixels"),
        ("/photos/0003.jpg", "/photos/0001.jpg", "near"),
    ]
    assert not {line.keep_path for line in plan.removals} & {line.path for line in plan.removals}
    assert plan.removals[1].reason == "pixels 1 2; larger: 9999×10, not 9998×10"
    assert (plan.removals[1].sha256, plan.removals[1].keep_sha256) == (sha(2), sha(1))
    assert plan.home == "/home"
    assert datetime.fromisoformat(plan.created_at).tzinfo is not None
    assert count_freed_bytes(plan, make_groups(found)) == {"pixels": 2000, "near": 1000}


def test_a_plan_of_decisions_contains_decided_pairs_and_equal_bytes() -> None:
    files = (make_file(9, "/a/9.jpg"), make_file(9, "/b/longer/9.jpg"))
    found = make_findings(make_pair(1, 2), make_pair(3, 4), files=files, decided={(3, 4): (True, 4)})
    plan = plan_of(found, make_groups(found), only_decided=True)
    assert [(line.path, line.keep_path) for line in plan.removals] == [
        ("/b/longer/9.jpg", "/a/9.jpg"),
        ("/photos/0003.jpg", "/photos/0004.jpg"),
    ]
    assert plan.decisions == (Decision(sha(3), sha(4), True, sha(4)),)


def test_files_in_archives_and_uploads_are_neither_removed_nor_relied_on(tmp_path: Path) -> None:
    archive = tmp_path / "photos.zip"
    with ZipFile(archive, "w") as made_now:
        made_now.writestr("1.jpg", b"")
    inside = f"{archive}/1.jpg"
    paths = (inside, "/home/uploads/1.jpg", "/photos/a longer name.jpg", "/photos/1.jpg")
    files = (*(make_file(1, path) for path in paths), make_file(2, f"{archive}/2.jpg"), make_file(3, "/a.jpg"))
    found = make_findings(make_pair(1, 2, 0.2), files=files)
    (group, second) = make_groups(found)
    assert group.kept_member.file.path == "/photos/1.jpg"
    assert group.members[3].keep_reason == "a single file, outside of archives"
    assert [line.path for line in plan_of(found, [group, second]).removals] == ["/photos/a longer name.jpg"]
    files = (make_file(1, inside), make_file(2))
    kept_inside = make_findings(make_pair(1, 2), files=files, decided={(1, 2): (True, 1)})
    (group,) = make_groups(kept_inside)
    assert group.kept_member.file.path == inside
    assert plan_of(kept_inside, [group]).removals == ()


@pytest.mark.parametrize("seed", range(4))
def test_no_plan_removes_the_last_file_of_an_image(seed: int) -> None:
    draw = random.Random(seed)
    files = [
        make_file(n, f"/{draw.choice('abc')}/{n}-{copy}.jpg")
        for n in range(1, 31)
        for copy in range(draw.randint(1, 3))
    ]
    pairs = [
        make_pair(*pair, 0.1, draw.choice(("pixels", "near")))  # type: ignore[arg-type]
        for pair in draw.sample(list(combinations(range(1, 31), 2)), 40)
    ]
    found = make_findings(*pairs, files=tuple(files))
    plan = plan_of(found, make_groups(found))
    gone = {line.path for line in plan.removals}
    assert len(gone) == len(plan.removals) > 0
    assert all(line.keep_path not in gone for line in plan.removals)


# What the catalogue knows


@pytest.fixture(autouse=True)
def _files_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    assume_files_exist(monkeypatch)


@pytest.fixture
def catalogue(home: Home) -> Catalogue:
    """Images 1 to 6 with vectors on a line at distance 1, a copy of the first, and the pairs of a run."""
    catalogue = Catalogue(home)
    catalogue.encoders.register("a" * 64, "vae", "vae", dimensions=2)
    catalogue.encoders.activate("a" * 64)
    paths = [(1, "/photos/1.jpg"), *((n, f"/photos/{n}.jpg") for n in range(2, 7)), (1, "/copies/1.jpg")]
    catalogue.images.add_batch([make_stored_image(n, path, [n, 0]) for n, path in paths], "a" * 64, "torch")
    run = catalogue.runs.start("dedup", {})
    pairs = [
        DuplicateRecord(1, 2, "pixels", 0.0, None, "the same pixels"),
        DuplicateRecord(2, 3, "near", 0.3, 0.9, "cropped"),
        DuplicateRecord(3, 4, "near", 0.7, 0.9, "mirrored"),
        DuplicateRecord(4, 5, "similar", 0.4, None, "alike"),
    ]
    catalogue.duplicates.replace(run, pairs)
    catalogue.runs.finish(run, "finished", {"encoder": "a" * 64, "calibration": calibration_to_json(CALIBRATION)})
    return catalogue


def test_findings_contain_pairs_files_and_calibration(catalogue: Catalogue) -> None:
    catalogue.metadata.set_for_files({"/photos/3.jpg": {"class": "cat"}})
    found = load_findings(catalogue)
    pairs = [(pair.first, pair.second, pair.tier) for pair in found.pairs]
    assert pairs == [(1, 2, "pixels"), (2, 3, "near"), (3, 4, "near")]
    assert (found.calibration, found.threshold, found.encoder) == (CALIBRATION, 0.5, "a" * 64)
    assert [one.path for one in found.files[1]] == ["/copies/1.jpg", "/photos/1.jpg"]
    assert found.files[3][0].labels == {"class": "cat"}
    assert found.files.keys() == {1, 2, 3, 4}
    assert list_groups(found) == [("bytes", [1, 1]), ("pixels", [1, 2]), ("near", [1, 3])]


def test_equal_bytes_are_known_without_a_run(home: Home) -> None:
    with Catalogue(home) as catalogue:
        assert make_groups(load_findings(catalogue)) == []
        catalogue.encoders.register("a" * 64, "vae", "vae", dimensions=2)
        images = [make_stored_image(1, path) for path in ("/b.png", "/a.png")]
        catalogue.images.add_batch(images, "a" * 64, "torch")
        found = load_findings(catalogue)
        assert (found.run_id, found.threshold) == (None, None)
        (group,) = make_groups(found)
        members = [(member.file.path, member.distance, member.reason) for member in group.members]
        assert members == [("/a.png", 0.0, ""), ("/b.png", 0.0, "the same bytes")]


def test_a_filter_restricts_files_and_pairs(catalogue: Catalogue) -> None:
    found = load_findings(catalogue, make_filter(under="/photos"))
    assert [one.path for one in found.files[1]] == ["/photos/1.jpg"]
    assert list_groups(found) == [("pixels", [1, 2]), ("near", [1, 3])]
    assert list_groups(load_findings(catalogue, make_filter(under="/photos/2.jpg"))) == []
    assert list(find_similar_pairs(catalogue, found, filter=make_filter(under="/copies"))) == []


def test_similar_pairs_are_unverified_or_beyond_the_threshold_and_undecided(catalogue: Catalogue) -> None:
    found = load_findings(catalogue)
    listed = list(find_similar_pairs(catalogue, found))
    pairs = [(one.pair.first, one.pair.second, one.pair.tier) for one in listed]
    assert pairs == [(4, 5, "similar"), (3, 4, "similar")]
    assert (listed[0].first.path, listed[0].second.path) == ("/photos/4.jpg", "/photos/5.jpg")
    assert count_similar_pairs(catalogue, found) == 2
    assert [one.pair.first for one in find_similar_pairs(catalogue, found, threshold=0.2)] == [2, 4, 3]
    assert [one.pair.first for one in find_similar_pairs(catalogue, found, threshold=0.8)] == [4, 3]
    assert [one.pair.first for one in find_similar_pairs(catalogue, found, limit=1, offset=1)] == [3]
    catalogue.duplicates.save_decisions([Decision(sha(4), sha(5), same=False)])
    assert [one.pair.first for one in find_similar_pairs(catalogue, load_findings(catalogue))] == [3]


def test_images_decided_as_the_same_are_near_copies_without_a_run(catalogue: Catalogue) -> None:
    catalogue.duplicates.save_decisions(
        [Decision(sha(2), sha(6), same=True, keep_sha256=sha(6)), Decision(sha(5), sha(9), same=True)]
    )
    found = load_findings(catalogue)
    pair = found.pairs[-1]
    assert (pair.first, pair.second, pair.tier, pair.distance) == (2, 6, "near", 4.0)
    groups = make_groups(found)
    assert [get_ids(group) for group in groups if group.tier == "near"] == [[6, 1]]


def test_a_decided_pair_has_the_measurements_of_a_pair_with_the_same_pixels(catalogue: Catalogue) -> None:
    catalogue.duplicates.save_decisions(
        [Decision(sha(1), sha(3), same=True)]
    )  # the run found 2 and 3, and 1 has the pixels of 2
    found = load_findings(catalogue)
    pair = found.pairs[-1]
    assert (pair.first, pair.second, pair.tier, pair.distance, pair.reason) == (1, 3, "near", 0.3, "cropped")
    assert list_groups(found)[1:] == [("pixels", [1, 2]), ("near", [1, 3])]
    assert list_groups(found, decided_only=True)[1:] == [("near", [1, 3])]


def test_a_calibration_survives_json() -> None:
    assert calibration_from_json(calibration_to_json(CALIBRATION)) == CALIBRATION
