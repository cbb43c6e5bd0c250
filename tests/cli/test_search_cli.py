"""`simile search` with verified hits and a smallest score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simile.core.errors import BadSetting, BadUsage
from simile.core.settings import Settings
from simile.images.encoding import encode_png
from simile.indexer.pipeline.job import IndexRequest, index
from simile.search.searcher import Searcher
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import DuplicateRecord
from simile.store.home import Home
from tests.support.commands import run_json, run_simile
from tests.support.synthetic_images import scene


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A mirrored copy of scene 1, and other images."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "mirrored.png").write_bytes(encode_png(np.ascontiguousarray(scene(1)[:, ::-1])))
    for seed in range(2, 8):
        (folder / f"scene-{seed}.png").write_bytes(encode_png(scene(seed)))
    (tmp_path / "query.png").write_bytes(encode_png(scene(1)))
    return folder


@pytest.fixture
def settings(trained_home: Settings, photos: Path) -> Settings:
    index(trained_home, [photos], IndexRequest())
    return trained_home


def test_a_verified_hit_is_shown_first_with_how_it_differs(settings: Settings, photos: Path, tmp_path: Path) -> None:
    query = ("search", tmp_path / "query.png", "--home", settings.home)
    first, *others = run_simile(*query, "--verify").stdout.splitlines()
    assert first.endswith(f"{photos / 'mirrored.png'}  verified: mirrored")
    assert len(others) == 6 and not any("  verified: " in line for line in others)
    assert "verified: " not in run_simile(*query).stdout
    hits = run_json(*query, "--verify", "-k", "3")["hits"]
    assert [(hit["verified"], hit["relation"]) for hit in hits] == [(True, "mirrored"), (False, None), (False, None)]
    assert {hit["verified"] for hit in run_json(*query)["hits"]} == {None}
    sheet = tmp_path / "hits.html"
    run_simile(*query, "--verify", "--output", sheet)
    assert sheet.read_text().count("verified: mirrored</span>") == 1


def test_a_smallest_score_says_whether_scores_are_calibrated(settings: Settings, tmp_path: Path) -> None:
    query = ("search", tmp_path / "query.png", "--home", settings.home)
    bound = run_json(*query)["hits"][2]["score"]
    done = run_simile(*query, "--min-score", bound)
    assert len(done.stdout.splitlines()) == 3
    assert "not calibrated yet" in done.stderr and "simile serve" in done.stderr
    assert "calibrated" not in run_simile(*query).stderr
    with Searcher(settings) as searcher:
        searcher.calibrations.start(searcher.index.get_snapshot())
        searcher.calibrations.wait()
    found = run_json(*query, "--min-score", bound)
    assert found["score_calibrated"] and all(hit["score"] >= bound for hit in found["hits"])
    assert "calibrated" not in run_simile(*query, "--min-score", bound).stderr
    assert run_simile(*query, "--min-score", "2").exit_code == 2


def test_known_copies_are_shown_once(settings: Settings, tmp_path: Path) -> None:
    query = ("search", tmp_path / "query.png", "--home", settings.home)
    nearest = [hit["image_id"] for hit in run_json(*query)["hits"]]
    with Catalogue(Home(settings.home)) as catalogue:
        pair = DuplicateRecord(*sorted(nearest[:2]), "near", 0.1, 0.9, "cropped")
        catalogue.duplicates.replace(catalogue.runs.start("dedup", {}), [pair])
    assert [hit["image_id"] for hit in run_json(*query, "--distinct")["hits"]] == [nearest[0], *nearest[2:]]
    first, *others = run_simile(*query, "--distinct").stdout.splitlines()
    assert first.endswith("  and 1 more like it") and not any("more like it" in line for line in others)


def test_hits_in_groups_are_listed_below_their_value(settings: Settings, tmp_path: Path) -> None:
    query = ("search", tmp_path / "query.png", "--home", settings.home, "--group-by", "format", "--group-size", "2")
    heading, *lines = run_simile(*query).stdout.splitlines()
    assert heading == "format=png  7 images" and len(lines) == 2
    found = run_json(*query)
    assert [hit["group"] for hit in found["hits"]] == ["png", "png"]
    ids = [hit["image_id"] for hit in found["hits"]]
    assert found["groups"] == [{"value": "png", "count": 7, "image_ids": ids}]
    with pytest.raises(BadSetting, match="Leave one of them out"):
        run_simile(*query, "--diversity", "0.5")


def test_several_images_are_searched_by_their_mean_or_by_the_best_match(settings: Settings, tmp_path: Path) -> None:
    query = ("search", tmp_path / "query.png", "--id", "3", "--home", settings.home)
    by_best, by_mean = run_json(*query, "--combine", "best"), run_json(*query)
    alone = [run_json("search", *of, "--home", settings.home) for of in ((tmp_path / "query.png",), ("--id", "3"))]
    distances = [{hit["image_id"]: hit["distance"] for hit in found["hits"]} for found in alone]
    nearest = {image_id: min(found.get(image_id, np.inf) for found in distances) for image_id in (1, 2, 4, 5, 6, 7)}
    assert {hit["image_id"]: hit["distance"] for hit in by_best["hits"]} == pytest.approx(nearest)
    assert len(by_mean["hits"]) == 6
    with pytest.raises(BadSetting, match="combine=best compares images with images"):
        run_simile(*query, "--combine", "best", "--plus", "light")


def test_a_box_searches_by_a_part_of_a_file_or_of_an_indexed_image(settings: Settings, tmp_path: Path) -> None:
    whole, box = ("search", tmp_path / "query.png", "--home", settings.home), ("--box", "0,0,0.5,0.5")
    part = run_json(*whole, *box)
    assert part["query"]["width"] == run_json(*whole)["query"]["width"] // 2
    by_id = run_json("search", "--id", "1", "--home", settings.home, *box)
    assert len(by_id["hits"]) == 6 and 1 not in [hit["image_id"] for hit in by_id["hits"]]
    with pytest.raises(BadUsage, match="--box is a part"):
        run_simile("search", "--text", "red", "--home", settings.home, *box)
