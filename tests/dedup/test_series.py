"""Series: shots that were taken seconds apart and look alike are no copies, and the sharpest of them is proposed."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from simile.cli.main import app
from simile.dedup.grouping.groups import make_groups
from simile.dedup.grouping.series import explain_shot
from simile.indexer.pipeline.job import IndexRequest, index
from tests.conftest import own_settings
from tests.support.dedup_records import make_file, make_findings, make_measurement, make_pair
from tests.support.images import make_exif
from tests.support.servers.postgresql import copy_home
from tests.support.synthetic_images import scene

START = datetime(2026, 5, 1, 9)


def write_shot(path: Path, seconds: float, seed: int, blur: float = 0.0, shift: int = 0) -> None:
    """Write a scene that was taken so many seconds after START."""
    pixels = scene(seed, 120, 160)
    if blur:
        pixels = cv2.GaussianBlur(pixels, (0, 0), blur)
    taken = START + timedelta(seconds=seconds)
    shot = {36867: f"{taken:%Y:%m:%d %H:%M:%S}", 37521: f"{taken.microsecond // 1000:03}"}
    exif = make_exif(shot=shot)
    Image.fromarray(np.ascontiguousarray(pixels[:, shift : shift + 150])).save(path, exif=exif)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, _trained_home: Path) -> Path:
    """A series of three shots, the second of which is sharp; other scenes; and one of the same scene an hour later."""
    root = tmp_path_factory.mktemp("series")
    photos = root / "photos"
    photos.mkdir()
    write_shot(photos / "1.png", 0, 0, blur=1.5)
    write_shot(photos / "2.png", 1.5, 0, shift=4)
    write_shot(photos / "3.png", 3, 0, blur=2.5, shift=2)
    write_shot(photos / "later.png", 3600, 0, blur=1, shift=6)
    for seed in range(1, 8):
        write_shot(photos / f"other{seed}.png", 3 + seed, seed)
    index(own_settings(_trained_home, root / "home"), [photos], IndexRequest())
    return root


@pytest.fixture
def home(tmp_path: Path, template: Path) -> Path:
    return copy_home(template / "home", tmp_path / "home")


def dedup(home: Path, *arguments: object) -> Result:
    result = CliRunner().invoke(app, ["dedup", *map(str, arguments), "--home", str(home)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def list_series(home: Path, *arguments: object) -> list[list[str]]:
    """Run `simile dedup` and return the names of each series, the best shot first."""
    body: dict[str, Any] = json.loads(dedup(home, "--tier", "series", "--json", *arguments).stdout)
    assert body["groups"] == []
    return [[Path(member["path"]).stem for member in series["members"]] for series in body["series"]]


def test_shots_that_follow_each_other_and_look_alike_are_a_series(home: Path) -> None:
    assert list_series(home) == [["2", "1", "3"]]
    text = dedup(home, "--last").stdout
    assert "2.png  of 3: sharpest of 3" in text


def test_the_longest_time_between_shots_can_be_chosen(home: Path) -> None:
    assert list_series(home, "--series-seconds", 1) == []
    assert [sorted(names) for names in list_series(home, "--series-seconds", 3600)] == [["1", "2", "3", "later"]]


def test_near_copies_with_other_times_are_shots_of_a_series(home: Path) -> None:
    body = json.loads(dedup(home, "--threshold", 100, "--json").stdout)
    (near,) = [[Path(member["path"]).stem for member in group["members"]] for group in body["groups"]]
    assert "later" in near
    assert len(near) == 2
    assert [len(series["members"]) for series in body["series"]] == [3]


def test_a_plan_keeps_series_unless_it_is_asked_to_keep_the_best_shot(home: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    dedup(home, "--tier", "series", "--plan", plan)
    assert json.loads(plan.read_text())["removals"] == []
    dedup(home, "--last", "--tier", "series", "--series", "keep-best", "--plan", plan)
    removals = json.loads(plan.read_text())["removals"]
    assert [(Path(line["path"]).stem, Path(line["keep_path"]).stem, line["tier"]) for line in removals] == [
        ("1", "2", "series"),
        ("3", "2", "series"),
    ]


def test_a_plan_that_keeps_the_best_shot_is_applied_and_undone(home: Path, template: Path, tmp_path: Path) -> None:
    plan, photos = tmp_path / "plan.json", template / "photos"
    before = {path: path.read_bytes() for path in photos.iterdir()}
    dedup(home, "--tier", "series", "--series", "keep-best", "--plan", plan)
    dedup(home, "apply", plan, "--move-to", tmp_path / "moved")
    assert before.keys() - set(photos.iterdir()) == {photos / "1.png", photos / "3.png"}
    dedup(home, "undo")
    assert {path: path.read_bytes() for path in photos.iterdir()} == before


def test_a_plan_can_not_call_shots_of_a_series_copies(home: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    dedup(home, "--tier", "series", "--series", "keep-best", "--plan", plan)
    plan.write_text(plan.read_text().replace('"tier": "series"', '"tier": "near"'))
    arguments = ["dedup", "apply", str(plan), "--move-to", str(tmp_path / "moved"), "--home", str(home)]
    result = CliRunner().invoke(app, arguments)
    assert "does not know the two as copies" in result.output


def shots(*details: float, clipped: tuple[float, ...] = ()) -> tuple[Any, ...]:
    """Make files 1, 2, … with this detail."""
    shares = clipped or (0.0,) * len(details)
    return tuple(
        make_file(number, measurement=make_measurement(detail=(detail,), clipped=share), width=100)
        for number, (detail, share) in enumerate(zip(details, shares, strict=True), 1)
    )


PAIRS = make_pair(1, 2, tier="series"), make_pair(2, 3, tier="series")


def list_image_ids(**findings: Any) -> list[tuple[int | None, ...]]:
    groups = make_groups(make_findings(*PAIRS, **findings), tiers=("series",))
    return [tuple(file.image_id for file in group.files) for group in groups]


def test_the_sharpest_shot_is_best_unless_much_of_it_is_clipped() -> None:
    assert list_image_ids(files=shots(0.1, 0.2, 0.3)) == [(3, 2, 1)]
    files = shots(0.1, 0.29, 0.3, clipped=(0, 0, 0.1))
    assert list_image_ids(files=files) == [(2, 3, 1)]
    assert explain_shot(files[1], files) == "97% as sharp as the sharpest"
    assert explain_shot(files[2], files) == "sharpest of 3; 10% of it is black or white"


def test_decisions_on_shots_are_kept() -> None:
    files = shots(0.1, 0.2, 0.3)
    assert list_image_ids(files=files, decided={(1, 3): (True, 1)}) == [(1, 3, 2)]
    assert list_image_ids(files=files, decided={(2, 3): (False, None)}) == [(2, 1)]


def test_a_copy_of_a_shot_is_no_shot_of_its_own() -> None:
    files = shots(0.1, 0.2, 0.3)
    pairs = *PAIRS, make_pair(1, 4), make_pair(2, 4, tier="series")
    groups = make_groups(make_findings(*pairs, files=files), tiers=("near", "series"))
    assert [(group.tier, [file.image_id for file in group.files]) for group in groups] == [
        ("near", [4, 1]),
        ("series", [3, 2, 4]),
    ]
