"""`simile dedup` as a person or a script meets it: tables, JSON, files, plans, and what can't be asked for together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import simile
from simile.cli.dedup.command import LEAK_EXIT_CODE
from simile.cli.main import app
from simile.core.errors import BadSetting, NoSuchPath
from simile.core.settings import Settings
from simile.dedup.records import CurvePoint, Decision
from simile.dedup.reporting.junit import measure_recall
from simile.indexer.pipeline.job import IndexRequest, index
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import DuplicateRecord
from simile.store.home import Home
from tests.conftest import copy_home_and_photos, copy_some, own_settings
from tests.support.dedup_records import make_calibration, record_dedup_run
from tests.support.servers.postgresql import copy_home

CALIBRATION = make_calibration(tuple(CurvePoint(n / 20, 1 - n / 1000, n / 20) for n in range(1, 21)))


def inside(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["dedup", *map(str, arguments)], catch_exceptions=False)


def asked(settings: Settings, *arguments: object) -> dict[str, Any]:
    result = inside("--home", settings.home, "--json", *arguments)
    assert result.exit_code == 0, result.output
    body: dict[str, Any] = json.loads(result.stdout)
    return body


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, _all_digits: Path, _trained_home: Path) -> Path:
    """A home and its photos: 120 digits, each in one of two splits and one of two classes; the first is there twice,
    in both splits.
    """
    root = tmp_path_factory.mktemp("template")
    photos = copy_some(_all_digits, root / "photos", 120)
    for number, path in enumerate(sorted(photos.iterdir())):
        folder = photos / ("train" if number % 3 else "test") / ("even" if number % 2 == 0 else "odd")
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / f"{number:03}.png")
    shutil.copy2(photos / "test/even/000.png", photos / "train/odd/a copy of 000.png")
    index(own_settings(_trained_home, root / "home"), [photos], IndexRequest())
    return root


@pytest.fixture
def indexed(template: Path, tmp_path: Path) -> Settings:
    """A home of one's own with its photos, in which nothing was searched for."""
    return copy_home_and_photos(template, tmp_path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """The photos of `indexed` and `settings`."""
    return tmp_path / "photos"


@pytest.fixture
def settings(indexed: Settings) -> Settings:
    """A home of one's own with its photos, and a run that found: 6 has the pixels of 4, 8 is near 10, 12 is like 14."""
    return record_findings(indexed)


@pytest.fixture(scope="module")
def shared(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """As `settings`, once for all tests that change nothing."""
    return record_findings(copy_home_and_photos(template, tmp_path_factory.mktemp("shared")))


def record_findings(settings: Settings) -> Settings:
    with Catalogue(Home(settings.home)) as catalogue:
        found = catalogue.files.find_under([str(settings.home.parent / "photos")])
        ids = {int(Path(path).stem[-3:]): known.image_id for path, known in found.items()}
        rows = [(4, 6, "pixels", 0.0), (8, 10, "near", 0.25), (16, 18, "near", 0.75), (12, 14, "similar", 0.5)]
        records = [
            DuplicateRecord(*sorted((ids[one], ids[two])), tier, distance, 0.9, f"made {tier}")
            for one, two, tier, distance in rows
        ]
        record_dedup_run(catalogue, records, CALIBRATION)
    return settings


def test_copies_byte_for_byte_need_no_run_and_no_encoder(indexed: Settings, photos: Path) -> None:
    body = asked(indexed, "--tier", "bytes")
    (group,) = body["groups"]
    assert (group["tier"], group["keep"]) == ("bytes", str(photos / "test/even/000.png"))
    assert [member["path"] for member in group["members"]] == [
        str(photos / "test/even/000.png"),
        str(photos / "train/odd/a copy of 000.png"),
    ]
    assert body["run_id"] is None
    assert body["tiers"] == {
        "bytes": {"groups": 1, "files": 2, "removable": 1, "bytes": group["members"][1]["size"], "pairs": 0}
    }
    text = inside("--home", indexed.home, "--tier", "bytes").stdout
    assert "pixel and near copies were never searched in this home" in text


def test_the_last_findings_are_shown_as_a_table_with_the_threshold_and_its_curve(shared: Settings) -> None:
    result = inside("--home", shared.home, "--last")
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["tier", "groups", "files", "removable", "size"]
    assert [line[:4] for line in lines[1:4]] == [[tier, "1", "2", "1"] for tier in ("bytes", "pixels", "near")]
    assert "similar pairs (not copies): 2" in result.stdout
    assert "precision 0.992 (target 0.99), recall 0.950 on 800 artificial copies and 3 decisions" in result.stdout
    curve = result.stdout.splitlines()[result.stdout.splitlines().index("  distance  precision  recall") + 1 :]
    assert [line.split()[0] for line in curve] == ["0.0500", "0.2000", "0.3000", "0.4500", "0.6000", "0.7500", "0.8500",
                                                   "1.0000"]  # fmt: skip
    assert "Nothing was changed" in result.stderr


def test_json_has_the_groups_and_the_counts_and_a_threshold_can_be_given(shared: Settings) -> None:
    body = asked(shared, "--last")
    assert [group["tier"] for group in body["groups"]] == ["bytes", "pixels", "near"]
    assert (body["threshold"], body["precision"], body["tiers"]["similar"]["pairs"]) == (0.5, 0.99, 2)
    narrow = asked(shared, "--last", "--threshold", "0.2", "--tier", "near,similar")
    assert (narrow["groups"], narrow["threshold"], narrow["tiers"]["similar"]["pairs"]) == ([], 0.2, 3)


def test_a_threshold_beyond_that_of_the_last_run_comes_to_it_and_says_so(shared: Settings) -> None:
    assert asked(shared, "--last", "--threshold", "100")["threshold"] == 0.5
    result = inside("--home", shared.home, "--last", "--threshold", "100")
    assert "near copies: up to a distance of 0.5000; precision 0.992" in result.stdout
    assert "The last run searched up to a distance of 0.5000: run without --last" in result.stderr
    for quiet in (("--threshold", "0.4"), ("--threshold", "100", "--tier", "pixels")):
        assert "searched up to" not in inside("--home", shared.home, "--last", *quiet).stderr


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--threshold", "3"), "--threshold is not valid before apply"),
        (("--last",), "--last is not valid before apply"),
        (("-o", "groups.json"), "--output is not valid before apply"),
        (("--json",), "--json is not valid before apply"),
    ],
)
def test_an_option_in_front_of_a_verb_is_refused_by_name(option: tuple[str, ...], words: str) -> None:
    with pytest.raises(BadSetting, match=words):
        inside(*option, "apply", "plan.json")


def test_the_home_may_stand_in_front_of_a_verb(shared: Settings) -> None:
    assert "no plan was applied" in inside("--home", shared.home, "--verbose", "journals").stdout


def test_filters_keep_to_the_files_that_they_let_through(shared: Settings) -> None:
    body = asked(shared, "--last", "--under", shared.home.parent / "photos" / "train")
    paths = [member["path"] for group in body["groups"] for member in group["members"]]
    assert paths and all("/train/" in path for path in paths)
    assert body["tiers"]["similar"]["pairs"] == 0  # each of both has one image in the test set


def test_a_scope_restricts_groups_and_the_plan_to_files_of_different_folders_or_of_one(
    shared: Settings, tmp_path: Path
) -> None:
    both = asked(shared, "--last", "--tier", "bytes")
    across = asked(shared, "--last", "--scope", "across", "--plan", tmp_path / "plan.json")
    within = asked(shared, "--last", "--scope", "within")
    equal = [group for group in across["groups"] if group["tier"] == "bytes"]
    assert equal == both["groups"] and len(equal) == 1 and across["scope"] == "across"
    removed = {line["path"]: line["keep_path"] for line in json.loads((tmp_path / "plan.json").read_text())["removals"]}
    assert removed and all(Path(path).parent != Path(kept).parent for path, kept in removed.items())
    assert not [group for group in within["groups"] if group["tier"] == "bytes"]
    assert "only copies in the same folder" in inside("--home", shared.home, "--last", "--scope", "within").output


def test_leaks_conflicts_and_classes_are_told_when_asked_for(shared: Settings) -> None:
    body = asked(shared, "--last", "--between", "train", "test", "--labels", "folders")
    assert [(count["tier"], count["pairs"]) for count in body["leaks"]["counts"]] == [("bytes", 1), ("pixels", 1)]
    assert [conflict["tier"] for conflict in body["conflicts"]] == ["bytes"]
    assert body["classes"] == {"even": {"before": 60, "after": 58}, "odd": {"before": 61, "after": 60}}
    text = inside("--home", shared.home, "--last", "--between", "train", "test", "--labels", "folders").stdout
    assert "leaks between splits: 2 pairs" in text
    assert "groups with conflicting labels: 1" in text
    assert text.splitlines()[-1].split() == ["odd", "61", "60"]


def test_leaks_fail_a_build_and_are_tests_of_junit(shared: Settings, tmp_path: Path) -> None:
    file = tmp_path / "leaks.xml"
    options = ("--home", shared.home, "--last", "--between", "train", "test", "--junit", file)
    assert inside(*options, "--fail-on", "leak").exit_code == LEAK_EXIT_CODE
    (suite,) = ElementTree.parse(file).getroot()
    cases = {case.attrib["name"]: case for case in suite.findall("testcase")}
    failed = {name: case.find("failure") for name, case in cases.items() if case.find("failure") is not None}
    assert (list(cases), list(failed)) == (
        ["bytes copies", "pixels copies", "near copies"],
        ["bytes copies", "pixels copies"],
    )
    assert (suite.attrib["tests"], suite.attrib["failures"]) == ("3", "2")
    text = getattr(failed["bytes copies"], "text", "")
    assert "a copy of 000.png" in text and "test/even/000.png" in text
    properties = {item.attrib["name"]: item.attrib["value"] for item in suite.iter("property")}
    assert properties["recall of near copies"] == f"{CALIBRATION.reached_recall:.4f}"
    assert properties["altered copies"] == str(CALIBRATION.copies)
    assert inside(*options).exit_code == 0  # without --fail-on


def test_splits_without_leaks_pass(shared: Settings, tmp_path: Path) -> None:
    file = tmp_path / "leaks.xml"
    splits = ("--between", "even", "train", "--tier", "near", "--threshold", "0")
    assert inside("--home", shared.home, "--last", *splits, "--fail-on", "leak", "--junit", file).exit_code == 0
    assert ElementTree.parse(file).getroot().attrib["failures"] == "0"


def test_recall_is_that_at_the_threshold() -> None:
    assert measure_recall(CALIBRATION, CALIBRATION.threshold) == CALIBRATION.reached_recall
    assert measure_recall(CALIBRATION, 0.12) == pytest.approx(0.1 * 1)
    assert measure_recall(CALIBRATION, 0.0) is None


def test_a_split_or_column_that_nothing_has_is_refused_before_the_work(shared: Settings) -> None:
    for wrong in (("--between", "train", "holdout"), ("--labels", "species")):
        with pytest.raises(BadSetting, match=f"can't be '{wrong[-1]}'"):
            inside("--home", shared.home, *wrong)
    with Catalogue(Home(shared.home)) as catalogue:
        assert [run.kind for run in catalogue.runs.get_latest()] == ["dedup", "index"]


def test_outputs_are_chosen_by_their_names(shared: Settings, tmp_path: Path) -> None:
    names = [tmp_path / name for name in ("groups.json", "pairs.csv", "pairs.parquet", "report.html")]
    body = asked(shared, "--last", *(part for name in names for part in ("-o", name)))
    assert body["outputs"] == list(map(str, names))
    assert [group["id"] for group in json.loads(names[0].read_text())["groups"]] == [
        one["id"] for one in body["groups"]
    ]
    assert len(names[1].read_text().splitlines()) == 1 + 5
    assert names[2].stat().st_size > 0
    assert "made pixels" in names[3].read_text()


def test_a_plan_is_written_applied_and_undone(settings: Settings, photos: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in photos.rglob("*.png")}
    plan = tmp_path / "plan.json"
    result = inside("--home", settings.home, "--tier", "bytes", "--plan", plan)
    assert result.exit_code == 0
    assert "1 files to remove; nothing was changed" in result.stderr
    assert {path: path.read_bytes() for path in photos.rglob("*.png")} == before
    moved = inside("--home", settings.home, "apply", plan, "--move-to", tmp_path / "away", "--json")
    assert moved.exit_code == 0, moved.output
    assert not (photos / "train/odd/a copy of 000.png").exists()
    undone = inside("undo", "--home", settings.home, "--json")
    assert undone.exit_code == 0, undone.output
    assert {path: path.read_bytes() for path in photos.rglob("*.png")} == before


def test_python_has_the_same_groups_and_plans(shared: Settings, tmp_path: Path) -> None:
    with simile.open_home(shared) as home:
        findings = simile.load_findings(home.catalogue)
        groups = simile.make_groups(findings, ["oldest"])
    assert [group.tier for group in groups] == ["bytes", "pixels", "near"]
    simile.write_plan(tmp_path / "plan.json", simile.plan_of(findings, groups))
    assert len(simile.read_plan(tmp_path / "plan.json").removals) == 3


def test_what_people_decided_is_remembered_by_the_next_look(settings: Settings) -> None:
    group = asked(settings, "--last", "--tier", "near")["groups"][0]
    shas = sorted(member["sha256"] for member in group["members"])
    with Catalogue(Home(settings.home)) as catalogue:
        catalogue.duplicates.save_decisions([Decision(shas[0], shas[1], same=False)])
    assert asked(settings, "--last", "--tier", "near")["groups"] == []
    assert "decisions: 0 same, 1 different" in inside("--home", settings.home, "--last").stdout


def test_findings_of_an_encoder_that_is_no_longer_in_use_say_so(settings: Settings) -> None:
    with Catalogue(Home(settings.home)) as catalogue:
        catalogue.encoders.register("b" * 64, "new", "vae", dimensions=16)
        catalogue.encoders.activate("b" * 64)
    result = inside("--home", settings.home, "--last")
    assert "Another encoder" in result.stderr and "without --last" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--precision", "0.9", "--threshold", "0.1"], "--precision finds a threshold"),
        (["--precision", "0.9", "--last"], "--precision finds a threshold"),
        (["--last", "--threshold", "inf"], "threshold can't be inf"),
        (["--against", "photos", "--labels", "folders"], "--against compares with the whole home"),
        (["--against", "photos", "--last"], "--against compares with the whole home"),
        (["--against", "photos", "-o", "pairs.parquet"], "its name must end in .json, .csv"),
        (["--between", "train", "train"], "between can't be"),
        (["--fail-on", "leak"], "--fail-on is about leaks"),
        (["--junit", "leaks.xml", "--last"], "--junit is about leaks"),
        (["--between", "train", "test", "--junit", "leaks.json"], "leaks.json can't be written"),
        (["--scope", "across", "--between", "train", "test"], "--between checks the copies in all folders"),
        (["--scope", "within", "--labels", "folders"], "--labels checks the copies in all folders"),
        (["--scope", "within", "--tier", "similar"], "similar images are none"),
        (["--scope", "across", "--tier", "series", "--series", "keep-best"], "does not restrict series"),
        (["--scope", "within", "--against", "photos"], "--against compares with the whole home"),
        (["--tier", "exact"], "tier can't be 'exact'"),
        (["--keep", "newest"], "keep can't be 'newest'"),
        (["-o", "groups.txt"], "groups.txt can't be written"),
        (["--plan", "one.json", "-o", "one.json"], "the same file twice"),
        (["--plan", "plan.csv"], "plan.csv can't be written"),
    ],
)
def test_what_can_not_be_asked_for_is_refused_before_anything_is_read(arguments: list[str], words: str) -> None:
    with pytest.raises(BadSetting, match=words):
        inside("--home", "/nowhere/at/all", *arguments)


def test_help_shows_the_defaults() -> None:
    shown = inside("--help")
    assert shown.exit_code == 0
    assert "[default: all]" in shown.stdout


def test_a_run_finds_what_was_wrapped_anew_and_says_how_sure_it_is(indexed: Settings, photos: Path) -> None:
    with Image.open(photos / "train/odd/001.png") as picture:
        picture.save(photos / "test/even/wrapped.webp", lossless=True)
    for path in photos.rglob("[0-9]*.png"):
        if int(path.stem) >= 40:
            path.unlink()  # each image that is left is distorted in many ways
    index(indexed, [photos], IndexRequest(prune=True))
    body = asked(indexed, "--precision", "0.9", "--seed", "1")
    assert body["run_id"] is not None and body["precision"] == 0.9
    assert len(body["calibration"]["curve"]) > 1
    pixels = [group for group in body["groups"] if group["tier"] == "pixels"]
    assert [sorted(Path(member["path"]).name for member in group["members"]) for group in pixels] == [
        ["001.png", "wrapped.webp"]
    ]
    assert [group["tier"] for group in body["groups"]][:2] == ["bytes", "pixels"]
    again = asked(indexed, "--last")
    assert (again["run_id"], again["groups"]) == (body["run_id"], body["groups"])


def test_progress_is_told_stage_by_stage_as_json(indexed: Settings) -> None:
    result = inside("--home", indexed.home, "--threshold", "0.01", "--json")
    events = [json.loads(line) for line in result.stderr.splitlines() if line.startswith("{")]
    assert events and all(event["event"] == "progress" and event["done"] <= event["total"] for event in events)
    assert json.loads(result.stdout)["threshold"] == 0.01


# Against a folder or another home


def test_which_of_a_folders_images_does_the_home_have_already(settings: Settings, photos: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.mkdir()
    shutil.copy2(photos / "train/odd/001.png", new / "known.png")
    (new / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    body = asked(settings, "--against", new, "-o", tmp_path / "found.csv", "--plan", tmp_path / "plan.json")
    assert (body["found"], body["not_found"]) == (1, 0)
    (one,) = body["files"]
    assert one["path"] == str(new / "known.png")
    assert (one["matches"][0]["tier"], one["matches"][0]["path"]) == ("bytes", str(photos / "train/odd/001.png"))
    assert [failure["path"] for failure in body["failures"]] == [str(new / "broken.png")]
    rows = (tmp_path / "found.csv").read_text().splitlines()
    assert rows[0] == "path,tier,match,image_id,distance,agreement,reason"
    assert {row.split(",")[1] for row in rows[1:]} == {"bytes", "unreadable"}
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert [(line["path"], line["keep_path"]) for line in plan["removals"]] == [
        (str(new / "known.png"), str(photos / "train/odd/001.png"))
    ]
    applied = inside("--home", settings.home, "apply", tmp_path / "plan.json", "--move-to", tmp_path / "away", "--json")
    assert applied.exit_code == 1, "the folder is not indexed, and was not named"
    assert (new / "known.png").exists()
    named = ("--root", new, "--move-to", tmp_path / "away", "--json")
    applied = inside("--home", settings.home, "apply", tmp_path / "plan.json", *named)
    assert applied.exit_code == 0, applied.output
    assert not (new / "known.png").exists()
    inside("--home", settings.home, "undo")
    result = inside("--home", settings.home, "--against", new, "--plan", tmp_path / "a plan.json")
    assert f"apply '{tmp_path / 'a plan.json'}' --root {new} --trash`" in result.stderr
    result = inside("--home", settings.home, "--against", new / "known.png", "--plan", tmp_path / "plan.json")
    assert f"--root {new} --trash`" in result.stderr
    text = inside("--home", settings.home, "--against", new).stdout
    assert "1 of 1 images are in the home, 0 are not" in text


def test_an_indexed_folder_is_not_found_as_itself(shared: Settings) -> None:
    body = asked(shared, "--against", shared.home.parent / "photos" / "train" / "odd")
    assert [Path(one["path"]).name for one in body["files"] if one["matches"]] == ["a copy of 000.png"]
    assert body["files"][-1]["matches"][0]["path"] == str(shared.home.parent / "photos" / "test/even/000.png")


def test_another_home_is_looked_through_by_its_files(settings: Settings, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos / "test", tmp_path / "theirs")
    other = tmp_path / "other home"
    copy_home(settings.home, other)
    with Catalogue(Home(other)) as catalogue:
        catalogue.files.delete([str(path) for path in photos.rglob("*.png")])
    index(Settings(home=other, workers=1, device="cpu"), [tmp_path / "theirs"], IndexRequest())
    body = asked(settings, "--against", other)
    assert (body["found"], body["not_found"]) == (40, 0)
    with pytest.raises(BadSetting, match="this home itself"):
        inside("--home", settings.home, "--against", settings.home)
    with pytest.raises(NoSuchPath):
        inside("--home", settings.home, "--against", tmp_path / "nothing")
