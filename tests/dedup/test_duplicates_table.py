"""Pairs and decisions in the catalogue are replaced as a whole, stored by content and listed with their files."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import combinations

import pytest

from simile.core.errors import BadSetting
from simile.core.filters.parser import make_filter
from simile.dedup.records import Decision
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import DuplicateRecord
from simile.store.home import Home
from tests.support.dedup_records import make_stored_image, sha

VAE = "a" * 64


@pytest.fixture
def catalogue(home: Home) -> Iterator[Catalogue]:
    """Images 1 to 4, each with one file; the first has a copy."""
    with Catalogue(home) as catalogue:
        catalogue.encoders.register(VAE, "vae", "vae", dimensions=2)
        images = [make_stored_image(number, f"/photos/{number}.jpg") for number in range(1, 5)]
        catalogue.images.add_batch([*images, make_stored_image(1, "/copies/one.jpg")], VAE, "torch")
        yield catalogue


def start_run(catalogue: Catalogue) -> int:
    return catalogue.runs.start("dedup", {})


def test_a_run_replaces_earlier_pairs_and_the_nearest_come_first(catalogue: Catalogue) -> None:
    first, second = start_run(catalogue), start_run(catalogue)
    catalogue.duplicates.replace(first, [DuplicateRecord(1, 2, "near", 0.5, 0.9, "cropped")])
    pairs = [
        DuplicateRecord(2, 3, "near", 0.4, 0.8, "mirrored"),
        DuplicateRecord(1, 4, "pixels", 0.0, None, "the same pixels"),
        DuplicateRecord(3, 4, "similar", 0.4, None, "near"),
    ]
    assert catalogue.duplicates.replace(second, iter(pairs)) == 3
    assert list(catalogue.duplicates.iterate_pairs()) == [pairs[1], pairs[0], pairs[2]]
    assert [pair.tier for pair in catalogue.duplicates.iterate_pairs(("near", "similar"), min_near_distance=0.45)] == [
        "similar"
    ]


def test_a_failed_run_changes_nothing(catalogue: Catalogue) -> None:
    pair = DuplicateRecord(1, 2, "near", 0.5, 0.9, "cropped")
    catalogue.duplicates.replace(start_run(catalogue), [pair])

    def broken() -> Iterator[DuplicateRecord]:
        yield DuplicateRecord(1, 3, "near", 0.5, 0.9, "cropped")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        catalogue.duplicates.replace(start_run(catalogue), broken())
    assert list(catalogue.duplicates.iterate_pairs()) == [pair]


def test_thousands_of_pairs_are_stored_in_one_change(catalogue: Catalogue) -> None:
    images = [make_stored_image(number, f"/many/{number}.jpg") for number in range(100, 250)]
    ids = catalogue.images.add_batch(images, VAE, "torch")
    before = catalogue.count_changes()
    pairs = [DuplicateRecord(*pair, "similar", 0.1, None, "near") for pair in combinations(ids, 2)]
    assert len(pairs) > 2 * 5000
    assert catalogue.duplicates.replace(start_run(catalogue), iter(pairs)) == len(pairs)
    assert catalogue.count_changes() == before + 1
    assert sum(1 for _ in catalogue.duplicates.iterate_pairs(("similar",))) == len(pairs)


def test_pairs_of_a_deleted_image_are_deleted_and_not_stored_again(catalogue: Catalogue) -> None:
    pairs = [DuplicateRecord(1, 2, "near", 0.5, 0.9, "cropped"), DuplicateRecord(3, 4, "near", 0.1, 0.9, "cropped")]
    catalogue.duplicates.replace(start_run(catalogue), pairs)
    catalogue.files.delete(["/photos/2.jpg"])
    assert list(catalogue.duplicates.iterate_pairs()) == [pairs[1]]
    assert catalogue.duplicates.replace(start_run(catalogue), pairs) == 1
    assert list(catalogue.duplicates.iterate_pairs()) == [pairs[1]]


def test_a_decision_is_stored_by_content_and_can_be_replaced_and_deleted(catalogue: Catalogue) -> None:
    before, changes = datetime.now(UTC), catalogue.count_changes()
    assert catalogue.duplicates.save_decisions([Decision(sha(1), sha(2), same=True, keep_sha256=sha(2))]) == 1
    assert catalogue.count_changes() == changes + 1
    catalogue.files.delete(["/photos/2.jpg"])
    (said,) = catalogue.duplicates.get_decisions()
    assert (said.first_sha256, said.second_sha256) == (sha(1), sha(2))
    assert (said.same, said.keep_sha256) == (True, sha(2))
    assert before <= said.decided_at <= datetime.now(UTC)
    catalogue.duplicates.save_decisions(
        [Decision(sha(1), sha(2), same=False, keep_sha256=sha(1)), Decision(sha(1), sha(3), same=True)]
    )
    stored = [(one.second_sha256, one.same, one.keep_sha256) for one in catalogue.duplicates.get_decisions()]
    assert stored == [(sha(2), False, None), (sha(3), True, None)]
    assert catalogue.duplicates.delete_decisions([(sha(3), sha(1)), (sha(1), sha(9))]) == 1
    assert sha(3) not in [one.second_sha256 for one in catalogue.duplicates.get_decisions()]


@pytest.mark.parametrize(
    "wrong",
    [
        Decision(sha(2), sha(1), same=True),
        Decision(sha(2), sha(2), same=True),
        Decision("2", sha(1), same=True),
        Decision(sha(1), sha(2).upper().replace("2", "G"), same=True),
        Decision(sha(1), sha(2), same=True, keep_sha256=sha(3)),
    ],
)
def test_an_invalid_decision_is_refused_and_nothing_is_stored(catalogue: Catalogue, wrong: Decision) -> None:
    with pytest.raises(BadSetting, match=wrong.first_sha256[-5:]):
        catalogue.duplicates.save_decisions([Decision(sha(3), sha(4), same=True), wrong])
    assert catalogue.duplicates.get_decisions() == []


def test_many_decisions_are_stored_at_once(catalogue: Catalogue) -> None:
    said = [Decision(sha(1), sha(number), same=True) for number in range(2, 1002)]
    assert catalogue.duplicates.save_decisions(said) == 1000
    assert catalogue.duplicates.save_decisions(said) == 1000
    assert len(catalogue.duplicates.get_decisions()) == 1000
    assert catalogue.duplicates.delete_decisions((one.first_sha256, one.second_sha256) for one in said) == 1000


@pytest.mark.sqlite
def test_the_database_refuses_a_pair_in_the_wrong_order(catalogue: Catalogue, home: Home) -> None:
    with sqlite3.connect(home.catalogue_path) as connection, pytest.raises(sqlite3.IntegrityError, match="ordered"):
        connection.execute("INSERT INTO duplicates VALUES (2, 1, 'near', 0.1, NULL, 'x', 1)")
    connection.close()


def test_candidate_files_have_copies_pairs_or_decisions(catalogue: Catalogue) -> None:
    rows = [(row.image_id, row.path) for row in catalogue.duplicates.iterate_candidate_files()]
    assert rows == [(1, "/copies/one.jpg"), (1, "/photos/1.jpg")]
    catalogue.duplicates.replace(start_run(catalogue), [DuplicateRecord(2, 4, "similar", 0.5, None, "near")])
    assert {row.image_id for row in catalogue.duplicates.iterate_candidate_files()} == {1}
    catalogue.duplicates.replace(start_run(catalogue), [DuplicateRecord(1, 2, "pixels", 0.0, None, "the same pixels")])
    catalogue.duplicates.save_decisions([Decision(sha(4), sha(9), same=False)])
    assert {row.image_id for row in catalogue.duplicates.iterate_candidate_files()} == {1, 2, 4}


def test_a_filter_applies_to_each_file(catalogue: Catalogue) -> None:
    found = list(catalogue.duplicates.iterate_candidate_files(make_filter(under="/photos")))
    assert [(row.path, row.size, row.mtime_ns, row.width) for row in found] == [("/photos/1.jpg", 100, 10**18, 40)]
    assert list(catalogue.duplicates.iterate_files(filter=make_filter(formats=["png"]))) == []
    rows = catalogue.duplicates.iterate_files([3, 99, 1], make_filter(under="/photos"))
    assert [row.path for row in rows] == ["/photos/1.jpg", "/photos/3.jpg"]


def test_labels_can_be_read_by_name_or_only_for_candidates(catalogue: Catalogue) -> None:
    labels = {"/photos/1.jpg": {"class": "cat", "split": "train"}, "/photos/3.jpg": {"class": "dog"}}
    catalogue.metadata.set_for_files(labels)
    classes = {("/photos/1.jpg", "class", "cat"), ("/photos/3.jpg", "class", "dog")}
    assert set(catalogue.duplicates.iterate_labels("class")) == classes
    assert {path for path, _, _ in catalogue.duplicates.iterate_labels(candidates_only=True)} == {"/photos/1.jpg"}


def test_the_last_run_of_a_kind_is_the_newest_finished_one(catalogue: Catalogue) -> None:
    assert catalogue.runs.find_last_finished("dedup") is None
    finished = start_run(catalogue)
    catalogue.runs.finish(finished, "finished", {"pairs": 3})
    catalogue.runs.finish(start_run(catalogue), "interrupted", {})
    catalogue.runs.finish(catalogue.runs.start("index", {}), "finished", {})
    found = catalogue.runs.find_last_finished("dedup")
    assert found is not None
    assert (found.id, found.counts) == (finished, {"pairs": 3})
