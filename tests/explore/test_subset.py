"""Subsets of a collection: diverse, representative and unique."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from simile.core.errors import BadSetting
from simile.core.filters.parser import make_filter
from simile.core.settings import Settings
from simile.explore.subset.exports import copy_subset, write_subset
from simile.explore.subset.subset import select_farthest_points, select_medoids, select_subset
from simile.search.searcher import Searcher
from simile.store.catalogue.records import DuplicateRecord
from tests.support.commands import run_json, run_simile

CLUSTERS = np.array([[0, 0], [0.1, 0], [0, 0.1], [9, 9], [9, 9.1], [-5, 5]], np.float32)


def test_farthest_points_cover_what_they_are_selected_from() -> None:
    positions, counts = select_farthest_points(CLUSTERS, 3)
    clusters = [0 if position < 3 else 1 if position < 5 else 2 for position in positions.tolist()]
    assert sorted(clusters) == [0, 1, 2]
    assert sorted(counts.tolist()) == [1, 2, 3]
    same, sizes = select_farthest_points(np.zeros((4, 2), np.float32), 4)
    assert sorted(same.tolist()) == [0, 1, 2, 3] and sizes.sum() == 4


def test_medoids_are_the_middles_of_clusters_the_largest_first() -> None:
    positions, counts = select_medoids(CLUSTERS, 3)
    assert positions[0] in (0, 1, 2) and positions[1] in (3, 4) and positions[2] == 5
    assert counts.tolist() == [3, 2, 1]
    assert len(select_medoids(np.zeros((4, 2), np.float32), 3)[0]) == 1


def test_a_seed_selects_the_same_images_that_match_the_filter(searcher: Searcher) -> None:
    for method in ("diverse", "representative", "unique"):
        images = select_subset(searcher, 10, method, seed=3)
        assert images == select_subset(searcher, 10, method, seed=3) and len({image.image_id for image in images}) == 10
    assert sum(image.count for image in select_subset(searcher, 10, "representative")) == 120
    searcher.catalogue.metadata.set_for_image(5, {"class": "five"})
    assert [image.image_id for image in select_subset(searcher, 3, "diverse", make_filter(where=["class=five"]))] == [5]
    assert len(select_subset(searcher, 500, "diverse")) == 120
    with pytest.raises(BadSetting, match="-n 100"):
        select_subset(searcher, None, "diverse")


def test_diverse_images_are_farther_from_each_other_than_random_ones(searcher: Searcher) -> None:
    def measure_spread(ids: list[int]) -> float:
        vectors = searcher.index.get_snapshot().get_vectors(np.sort(ids))[1]
        distances = np.linalg.norm(vectors[:, None] - vectors, axis=2)
        return float(distances[~np.eye(len(ids), dtype=bool)].min())

    diverse = [image.image_id for image in select_subset(searcher, 12, "diverse")]
    assert measure_spread(diverse) > measure_spread(list(range(1, 13)))


def test_unique_images_are_one_of_each_group_of_copies(searcher: Searcher) -> None:
    run = searcher.catalogue.runs.start("dedup", {})
    pairs = [DuplicateRecord(7, 8, "pixels", 0.0, None, "equal"), DuplicateRecord(8, 9, "near", 0.1, 0.9, "cropped")]
    searcher.catalogue.duplicates.replace(run, pairs)
    images = {image.image_id: image.count for image in select_subset(searcher, None, "unique")}
    assert len(images) == 118 and images[7] == 3 and not {8, 9} & images.keys()


def test_a_subset_is_written_as_a_manifest_or_copied(searcher: Searcher, tmp_path: Path) -> None:
    searcher.catalogue.metadata.set_for_image(5, {"class": "=five"})
    images = select_subset(searcher, 120, "diverse")
    for name in ("subset.csv", "subset.parquet"):
        write_subset(searcher, images, tmp_path / name)
    rows = list(csv.DictReader((tmp_path / "subset.csv").read_text().splitlines()))
    assert [row["path"] for row in rows] == [image.path for image in images]
    assert {row["class"] for row in rows} == {"", "'=five"}  # safe for spreadsheets
    table = parquet.read_table(tmp_path / "subset.parquet").to_pylist()
    assert [row["image_id"] for row in table] == [image.image_id for image in images]
    folder = tmp_path / "copies"
    assert copy_subset(searcher, images[:3], folder) == {}
    assert sorted(path.read_bytes() for path in folder.iterdir()) == sorted(
        Path(i.path).read_bytes() for i in images[:3]
    )
    with pytest.raises(BadSetting, match="not empty"):
        copy_subset(searcher, images[:3], folder)


def test_the_command_prints_paths_and_copies_files(home_with_digits: Settings, tmp_path: Path) -> None:
    home = ("--home", home_with_digits.home)
    done = run_simile("select", "-n", "4", "--copy-to", tmp_path / "copies", *home)
    assert len(done.stdout.splitlines()) == 4 and "4 files" in done.stderr
    found = run_json("select", "-n", "4", "--how", "representative", *home)["images"]
    assert sum(image["count"] for image in found) == 120
