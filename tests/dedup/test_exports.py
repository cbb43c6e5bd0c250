"""Results as data: groups.json, pairs.csv and Parquet; leaks, label conflicts, classes."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simile.core.errors import BadSetting
from simile.core.filters.parser import make_filter
from simile.core.records import FileStat
from simile.dedup.grouping.findings import calibration_to_json
from simile.dedup.records import Decision
from simile.dedup.reporting.dataset_checks import (
    DatasetSplits,
    count_leaks,
    count_splits,
    find_leaks,
    make_label_reader,
)
from simile.dedup.reporting.exports import (
    PAIR_COLUMNS,
    check_dedup_output,
    groups_to_json,
    iterate_file_pairs,
    write_dedup_output,
)
from simile.dedup.reporting.results import DedupResultOptions, collect_results, count_tiers, parse_tiers
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import DuplicateRecord
from simile.store.home import Home
from tests.support.dedup_records import (
    assume_files_exist,
    make_calibration,
    make_file,
    make_stored_image,
    measure_all,
    sha,
)

VAE = "a" * 64
FILES = {  # path -> image; the smaller the number, the larger the image
    "/set/train/cats/1.jpg": 1,
    "/set/test/cats/1 again.jpg": 1,
    "/set/train/cats/2.jpg": 2,
    "/set/train/dogs/3.jpg": 3,
    "/set/test/dogs/4.jpg": 4,
    "/set/test/dogs/5.jpg": 5,
    "/set/test/dogs/é, 6.jpg": 6,
    "/set/train/dogs/7.jpg": 7,
}
PAIRS = [
    DuplicateRecord(1, 2, "pixels", 0.0, None, "the same pixels"),
    DuplicateRecord(3, 4, "near", 0.25, 0.9, "cropped"),
    DuplicateRecord(5, 6, "near", 0.375, 0.8, 'turned, "mirrored"'),
    DuplicateRecord(6, 7, "near", 0.75, 0.8, "beyond"),
    DuplicateRecord(4, 5, "similar", 0.5, None, "alike"),
]


@pytest.fixture(autouse=True)
def _files_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    assume_files_exist(monkeypatch)


@pytest.fixture
def catalogue(home: Home) -> Iterator[Catalogue]:
    with Catalogue(home) as catalogue:
        catalogue.encoders.register(VAE, "vae", "vae", dimensions=2)
        catalogue.encoders.activate(VAE)
        images = [make_stored_image(n, path, width=100 - n, height=30) for path, n in FILES.items()]
        catalogue.images.add_batch(images, VAE, "torch")
        run = catalogue.runs.start("dedup", {})
        catalogue.duplicates.replace(run, PAIRS)
        measure_all(catalogue, set(FILES.values()))
        catalogue.runs.finish(run, "finished", {"encoder": VAE, "calibration": calibration_to_json(make_calibration())})
        yield catalogue


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8"), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


# Files


def test_groups_json_has_three_tiers_and_all_documented_fields(catalogue: Catalogue, tmp_path: Path) -> None:
    results, _ = collect_results(catalogue, DedupResultOptions())
    write_dedup_output(tmp_path / "groups.json", results, catalogue)
    body = read(tmp_path / "groups.json")
    assert body == groups_to_json(results)
    assert [group["tier"] for group in body["groups"]] == ["bytes", "pixels", "near", "near"]
    group = body["groups"][2]
    assert group["keep"] == "/set/train/dogs/3.jpg" == group["members"][0]["path"]
    assert group["keep_reason"] == "larger: 97×30, not 96×30"
    assert (group["matched"], group["possible"], group["decided"]) == (1, 1, False)
    kept, other = group["members"]
    assert (kept["keep"], kept["distance"], kept["agreement"]) == (True, 0.0, None)
    file = {"path": "/set/test/dogs/4.jpg", "image_id": 4, "sha256": sha(4), "size": 100, "width": 96, "height": 30}
    file |= {"format": "jpeg", "mtime": "2001-09-09T01:46:40+00:00", "labels": {}}
    match = {"keep": False, "keep_reason": None, "distance": 0.25, "agreement": 0.9, "reason": "cropped"}
    assert {**other, "keep_reason": None} == file | match
    assert (body["encoder"], body["threshold"], body["precision"]) == (VAE, 0.5, 0.99)
    assert body["calibration"]["curve"][1] == {"distance": 0.5, "precision": 0.992, "recall": 0.95}
    assert (body["leaks"], body["conflicts"], body["classes"]) == (None, None, None)


def test_groups_json_without_groups_is_valid_json(home: Home, tmp_path: Path) -> None:
    with Catalogue(home) as catalogue:
        results, _ = collect_results(catalogue, DedupResultOptions())
        write_dedup_output(tmp_path / "groups.json", results, catalogue)
    assert read(tmp_path / "groups.json")["groups"] == []
    assert read(tmp_path / "groups.json")["threshold"] is None


def test_an_unknown_distance_is_null(catalogue: Catalogue, tmp_path: Path) -> None:
    catalogue.duplicates.save_decisions([Decision(sha(2), sha(7), same=True)])
    catalogue.encoders.register("b" * 64, "new", "vae", dimensions=2)
    catalogue.encoders.activate("b" * 64)
    results, _ = collect_results(catalogue, DedupResultOptions())
    assert math.isnan(results.findings.pairs[-1].distance)
    write_dedup_output(tmp_path / "groups.json", results, catalogue)
    members = [member for group in read(tmp_path / "groups.json")["groups"] for member in group["members"]]
    assert [member["distance"] for member in members if member["image_id"] == 7] == [None]


def test_pairs_csv_has_every_pair_once_with_similar_ones_nearest_first(catalogue: Catalogue, tmp_path: Path) -> None:
    catalogue.duplicates.save_decisions([Decision(sha(3), sha(4), same=True)])
    results, _ = collect_results(catalogue, DedupResultOptions())
    write_dedup_output(tmp_path / "pairs.csv", results, catalogue)
    with (tmp_path / "pairs.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == PAIR_COLUMNS
    assert [(row[0], row[3], row[4]) for row in rows] == [
        ("bytes", "1", "1"),
        ("pixels", "1", "2"),
        ("near", "3", "4"),
        ("near", "5", "6"),
        ("similar", "4", "5"),
        ("similar", "6", "7"),
    ]
    assert rows[0][1:3] == ["/set/train/cats/1.jpg", "/set/test/cats/1 again.jpg"]
    assert rows[1][5:] == ["0.0", "", "the same pixels", "", ""]
    assert rows[2][8] == "same"
    assert (rows[3][2], rows[3][5:8]) == ("/set/test/dogs/é, 6.jpg", ["0.375", "0.8", 'turned, "mirrored"'])


def test_pairs_decided_as_different_are_not_exported(catalogue: Catalogue) -> None:
    different = ((1, 2), (3, 4), (4, 5), (6, 7))
    catalogue.duplicates.save_decisions([Decision(sha(one), sha(two), same=False) for one, two in different])
    results, _ = collect_results(catalogue, DedupResultOptions())
    pairs = [found.pair for found in iterate_file_pairs(catalogue, results)]
    assert [(pair.tier, pair.first) for pair in pairs] == [("bytes", 1), ("near", 5)]


def test_parquet_has_the_rows_of_the_csv_with_their_types(catalogue: Catalogue, tmp_path: Path) -> None:
    from pyarrow import parquet

    results, _ = collect_results(catalogue, DedupResultOptions())
    write_dedup_output(tmp_path / "pairs.parquet", results, catalogue)
    table = parquet.read_table(tmp_path / "pairs.parquet")
    assert tuple(table.column_names) == PAIR_COLUMNS
    assert len(table) == 6
    assert table["distance"].to_pylist() == [0.0, 0.0, 0.25, 0.375, 0.5, 0.75]
    assert table["agreement"].to_pylist() == [1.0, None, 0.9, 0.8, None, 0.8]
    assert table["decision"].null_count == 6


def test_only_requested_tiers_are_written(catalogue: Catalogue) -> None:
    results, plan = collect_results(catalogue, DedupResultOptions(tiers=("near",), threshold=0.3))
    assert [found.pair.tier for found in iterate_file_pairs(catalogue, results)] == ["near"]
    assert [removal.path for removal in plan.removals] == ["/set/test/dogs/4.jpg"]
    assert groups_to_json(results)["threshold"] == 0.3


def test_tier_counts_include_removable_files_and_bytes(catalogue: Catalogue) -> None:
    results, plan = collect_results(catalogue, DedupResultOptions())
    counts = count_tiers(catalogue, results, plan)
    assert [(tier, count.groups, count.files, count.removable, count.bytes) for tier, count in counts.items()] == [
        ("bytes", 1, 2, 1, 100),
        ("pixels", 1, 2, 1, 100),
        ("near", 2, 4, 2, 200),
        ("series", 0, 0, 0, 0),
        ("similar", 0, 0, 0, 0),
    ]
    assert counts["similar"].pairs == 2


def test_an_unwritable_output_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    for name in ("groups.txt", "folder.json", "nowhere/groups.json"):
        with pytest.raises(BadSetting, match=r"can't be written|is not a folder"):
            check_dedup_output(tmp_path / name)


def test_tiers_are_parsed_with_commas_and_sorted() -> None:
    assert parse_tiers([]) == ("bytes", "pixels", "near", "series", "similar")
    assert parse_tiers(["near,bytes", "near"]) == ("bytes", "near")
    with pytest.raises(BadSetting, match="tier can't be 'exact'"):
        parse_tiers(["exact"])


# Datasets


def test_leaks_are_copies_in_two_splits_sorted_by_tier(catalogue: Catalogue) -> None:
    results, _ = collect_results(catalogue, DedupResultOptions(split_names=("train", "test")))
    assert results.leaks is not None
    assert [(leak.pair.tier, leak.first.path, leak.second.path) for leak in results.leaks] == [
        ("bytes", "/set/train/cats/1.jpg", "/set/test/cats/1 again.jpg"),
        ("pixels", "/set/train/cats/2.jpg", "/set/test/cats/1 again.jpg"),
        ("near", "/set/train/dogs/3.jpg", "/set/test/dogs/4.jpg"),
    ]
    assert all((leak.first_split, leak.second_split) == ("train", "test") for leak in results.leaks)
    body = groups_to_json(results)["leaks"]
    names = {"first": "train", "second": "test", "tier": "near"}
    assert body["counts"][2] == {**names, "pairs": 1, "files": {"train": 1, "test": 1}}
    assert body["pairs"][0]["paths"] == ["/set/train/cats/1.jpg", "/set/test/cats/1 again.jpg"]


def test_pairs_decided_as_different_or_beyond_the_threshold_are_no_leaks(catalogue: Catalogue) -> None:
    catalogue.duplicates.save_decisions([Decision(sha(3), sha(4), same=False)])
    results, _ = collect_results(catalogue, DedupResultOptions(split_names=("train", "test"), threshold=0.8))
    assert results.leaks is not None
    assert [leak for leak in results.leaks if leak.pair.tier == "near"] == []
    assert groups_to_json(results)["threshold"] == 0.5, "the run looked no further"


def test_every_file_with_a_copy_in_the_other_split_is_a_leak(catalogue: Catalogue) -> None:
    more = ((1, "/set/train/cats/1 too.jpg"), (3, "/set/train/dogs/3 too.jpg"), (2, "/set/train/cats/2 too.jpg"))
    catalogue.files.add([(image_id, FileStat(path, 100, 1)) for image_id, path in more])
    results, _ = collect_results(catalogue, DedupResultOptions(split_names=("train", "test")))
    assert results.leaks is not None
    assert [(count.tier, count.pairs, count.files) for count in count_leaks(results.leaks)] == [
        ("bytes", 2, {"train": 2, "test": 1}),
        ("pixels", 2, {"train": 2, "test": 1}),
        ("near", 2, {"train": 2, "test": 1}),
    ]


def test_the_number_of_leaks_is_linear_in_the_files(catalogue: Catalogue) -> None:
    paths = [f"/set/{split}/blank/{number}.jpg" for split in ("train", "test") for number in range(3000)]
    catalogue.files.add([(1, FileStat(path, 100, 1)) for path in paths])
    results, _ = collect_results(catalogue, DedupResultOptions(split_names=("train", "test"), tiers=("bytes",)))
    (count,) = count_leaks(results.leaks or ())
    assert (count.files, count.pairs) == ({"train": 3001, "test": 3001}, 6001)


def test_links_are_leaks_and_conflicts_but_no_copies(catalogue: Catalogue, tmp_path: Path) -> None:
    names = [tmp_path / name for name in ("set/train/cats/a.jpg", "set/test/dogs/a.jpg", "set/train/cats/soft.jpg")]
    for name in names:
        name.parent.mkdir(parents=True, exist_ok=True)
    names[0].write_bytes(b"one file")
    names[1].hardlink_to(names[0])
    names[2].symlink_to(names[0])
    images = [make_stored_image(9, "", file=FileStat(str(name), 8, 10**18)) for name in names]
    catalogue.images.add_batch(images, VAE, "torch")
    datasets = {"split_names": ("train", "test"), "label_source": "folders"}
    wanted = DedupResultOptions(**datasets, tiers=("bytes",), filter=make_filter(under=str(tmp_path)))
    results, plan = collect_results(catalogue, wanted)
    assert (list(results.groups), plan.removals) == ([], ())
    assert results.leaks is not None and results.conflicts is not None
    assert [(leak.first.path, leak.second.path) for leak in results.leaks] == [
        (str(names[0]), str(names[1])),
        (str(names[2]), str(names[1])),
    ]
    (conflict,) = results.conflicts
    assert dict(conflict.labels) == {"cats": (str(names[0]), str(names[2])), "dogs": (str(names[1]),)}
    (tmp_path / "set/test/birds").mkdir()
    copy = tmp_path / "set/test/birds/a.jpg"
    copy.write_bytes(b"one file")
    catalogue.files.add([(results.conflicts[0].group.kept_member.file.image_id or 0, FileStat(str(copy), 8, 10**18))])
    results, _ = collect_results(catalogue, wanted)
    (group,), (conflict,) = results.groups, results.conflicts or ()
    assert len(group.members) == 2 and conflict.group.id == group.id
    assert conflict.labels.keys() == {"birds", "cats", "dogs"}


def test_a_split_comes_from_the_manifest_a_path_or_the_innermost_folder() -> None:
    def at(path: str, split: str | None = None) -> str | None:
        labels = {} if split is None else {"split": split}
        return splits.get_split(make_file(1, path, labels=labels))

    splits = DatasetSplits(["train", "test", "/other/val"])
    assert at("/set/train/a.png") == "train"
    assert at("/test/set/train/x/a.png") == "train"
    assert at("/set/train/a.png", "test") == "test"
    assert at("/set/train/a.png", "holdout") == "train"
    assert at("/other/val/train/a.png") == "/other/val"
    assert at("/other/valley/a.png") is None
    assert at("/set/train.png") is None


def test_equal_or_empty_splits_are_refused(catalogue: Catalogue) -> None:
    for names in (["train"], ["train", "train"], []):
        with pytest.raises(BadSetting, match="between can't be"):
            DatasetSplits(names)
    with pytest.raises(BadSetting, match="between can't be 'validation'"):
        collect_results(catalogue, DedupResultOptions(split_names=("train", "validation")))
    assert count_splits(catalogue, DatasetSplits(["train", "test"])) == {"train": 4, "test": 4}


def test_an_image_in_three_splits_leaks_between_each_pair_of_splits(catalogue: Catalogue) -> None:
    catalogue.files.add([(1, FileStat("/set/val/1.jpg", 100, 1)), (1, FileStat("/set/val/2.jpg", 100, 1))])
    results, _ = collect_results(catalogue, DedupResultOptions(split_names=("train", "test", "val"), tiers=("bytes",)))
    assert results.leaks is not None
    assert [(count.first, count.second, count.pairs, count.files) for count in count_leaks(results.leaks)] == [
        ("train", "test", 1, {"train": 1, "test": 1}),
        ("train", "val", 2, {"train": 1, "val": 2}),
        ("test", "val", 2, {"test": 1, "val": 2}),
    ]
    assert find_leaks(results.findings, results.copies, DatasetSplits(["train", "elsewhere"])) == []


def test_leaks_include_images_with_the_same_pixels_as_a_pair(catalogue: Catalogue) -> None:
    third = make_stored_image(8, "/set/test/cats/8.png", format="png", width=99)
    (eighth,) = catalogue.images.add_batch([third], VAE, "torch")
    pairs = [
        DuplicateRecord(4, 5, "pixels", 0.0, None, "the same pixels"),  # both of the test set …
        DuplicateRecord(4, eighth, "pixels", 0.0, None, "the same pixels"),
        DuplicateRecord(3, 5, "near", 0.25, 0.9, "cropped"),
    ]
    catalogue.duplicates.replace(catalogue.runs.start("dedup", {}), pairs)
    measure_all(catalogue, {image_id for pair in pairs for image_id in (pair.first, pair.second)})
    catalogue.files.add([(eighth, FileStat("/set/val/8.png", 100, 1))])
    results, _ = collect_results(catalogue, DedupResultOptions(split_names=("test", "val"), tiers=("pixels",)))
    assert [(leak.first.image_id, leak.second.image_id) for leak in results.leaks or ()] == [(4, eighth), (5, eighth)]
    results, _ = collect_results(catalogue, DedupResultOptions(split_names=("train", "val"), tiers=("near",)))
    assert [(leak.first.image_id, leak.second.image_id) for leak in results.leaks or ()] == [(3, eighth)]


def test_conflicting_labels_among_copies_by_class_folder(catalogue: Catalogue) -> None:
    catalogue.files.add([(3, FileStat("/set/train/cats/3.jpg", 100, 1))])
    results, _ = collect_results(catalogue, DedupResultOptions(label_source="folders", split_names=("train", "test")))
    assert results.conflicts is not None
    assert [(one.group.tier, dict(one.labels)) for one in results.conflicts] == [
        ("bytes", {"cats": ("/set/train/cats/3.jpg",), "dogs": ("/set/train/dogs/3.jpg",)}),
        ("near", {"cats": ("/set/train/cats/3.jpg",), "dogs": ("/set/test/dogs/4.jpg",)}),
    ]
    labels = {"cats": ["/set/train/cats/3.jpg"], "dogs": ["/set/train/dogs/3.jpg"]}
    assert groups_to_json(results)["conflicts"][0]["labels"] == labels


def test_classes_are_counted_before_and_after_by_folder_and_by_column(catalogue: Catalogue) -> None:
    results, plan = collect_results(catalogue, DedupResultOptions(label_source="folders"))
    assert len(plan.removals) == 4
    assert groups_to_json(results)["classes"] == {"cats": {"before": 3, "after": 1}, "dogs": {"before": 5, "after": 3}}
    catalogue.metadata.set_for_files({path: {"kind": "odd" if n % 2 else "even"} for path, n in FILES.items() if n < 7})
    results, _ = collect_results(catalogue, DedupResultOptions(label_source="kind"))
    assert groups_to_json(results)["classes"] == {"even": {"before": 3, "after": 0}, "odd": {"before": 4, "after": 3}}
    assert [len(one.labels) for one in results.conflicts or ()] == [2, 2, 2]
    with pytest.raises(BadSetting, match="labels can't be 'species'"):
        collect_results(catalogue, DedupResultOptions(label_source="species"))


def test_the_class_folder_is_below_the_split_or_the_files_own_folder(tmp_path: Path) -> None:
    def label(path: str, splits: DatasetSplits | None = None) -> str | None:
        return make_label_reader("folders", splits)(make_file(1, path))

    splits = DatasetSplits(["train", "/a/test"])
    assert label("/a/train/cats/indoors/1.png") == "indoors"
    assert label("/a/train/cats/indoors/1.png", splits) == "cats"
    assert label("/a/test/dogs/1.png", splits) == "dogs"
    assert label("/a/train/1.png", splits) is None
    assert label("/a/elsewhere/1.png", splits) == "elsewhere"
