"""Quality of indexed images: issues, filters, reports, and the measurement of images of older homes."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy import delete

from simile.core.errors import BadSetting, BadUsage
from simile.core.filters.parser import make_filter
from simile.core.records import ImageQuality
from simile.core.settings import Settings
from simile.explore.quality.report import make_quality_report
from simile.indexer.maintenance.quality import CHANGED_REASON, measure_quality_of_images
from simile.indexer.pipeline.job import IndexRequest, index
from simile.indexer.pipeline.uploads import add_upload
from simile.search.searcher import Searcher
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.filters import find_matching_ids
from simile.store.database.tables import ImageQualityRow, QualityLimitRow
from simile.store.filter_check import resolve_filter
from simile.store.home import Home
from tests.support.commands import run_json, run_simile
from tests.support.synthetic_images import FAULTS, write_faulty_images


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of `write_faulty_images`."""
    folder = tmp_path_factory.mktemp("photos")
    write_faulty_images(folder)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, photos: Path, _trained_home: Path) -> Settings:
    """A home with the photos, which tests leave as it is."""
    from tests.conftest import own_settings

    settings = own_settings(_trained_home, tmp_path_factory.mktemp("quality") / "home")
    index(settings, [photos], IndexRequest())
    return settings


def _find(settings: Settings, *where: str) -> set[str]:
    """The names of the files that a filter matches."""
    with Catalogue(Home.from_settings(settings)) as catalogue, catalogue.begin_read() as connection:
        ids = find_matching_ids(connection, make_filter(where=where))  # type: ignore[arg-type]
        images = catalogue.images.get_many([int(image_id) for image_id in ids])
        return {Path(image.paths[0]).name for image in images.values()}


def test_each_fault_is_an_issue_and_no_good_image_is(home: Settings) -> None:
    with Searcher(home) as searcher:
        report = make_quality_report(searcher, count=10)
    found = {issue.issue: [Path(image.path).name for image in issue.examples] for issue in report.issues}
    assert {name: found[name][0] for name in FAULTS} == {name: f"{name}.png" for name in FAULTS}
    assert found["wrong-profile"] == ["wrong-profile.png"]
    assert not any(name.startswith(("good", "srgb")) for files in found.values() for name in files)
    assert (report.images, report.measured) == (48, 48)
    (unreadable,) = report.unreadable
    assert (Path(unreadable.path).name, unreadable.reason) == ("truncated.png", "the file is truncated")


def test_issues_and_measures_are_fields_of_filters(home: Settings) -> None:
    assert "blurred.png" in _find(home, "quality=blurred") < _find(home, "sharpness<0.5") | _find(home, "contrast<0.05")
    assert _find(home, "quality=dark or quality=bright") == {"dark.png", "bright.png"}
    assert _find(home, "quality=flat", "not quality=blurred") == {"flat.png"}
    assert _find(home, "brightness>0.8") == {"bright.png"}
    assert _find(home, "profile=unusable") == {"wrong-profile.png"}
    assert len(_find(home, "exists quality")) == 48
    assert "flat.png" not in _find(home, "exists sharpness")
    assert _find(home, "quality=beautiful") == _find(home, "quality>blurred") == set()


def test_an_issue_that_there_is_not_is_explained(home: Settings, tmp_path: Path) -> None:
    with Searcher(home) as searcher:
        with pytest.raises(BadSetting, match="issue can't be 'noisy'"):
            make_quality_report(searcher, count=1, issue="noisy")
        with pytest.raises(BadSetting, match="The issues are blurred, dark"):
            resolve_filter(searcher.catalogue, make_filter(where=["quality=noisy"]))


def test_the_command_lists_counts_and_writes_a_table_and_a_sheet(home: Settings, tmp_path: Path) -> None:
    body = run_json("quality", "--home", home.home, "--count", 1)
    counts = {issue["issue"]: issue["count"] for issue in body["issues"]}
    assert counts["wrong-profile"] == counts["odd-size"] == 1
    lines = run_simile("quality", "--home", home.home).stdout.splitlines()
    assert lines[0] == "48 of 48 images are measured"
    assert any(line.startswith("odd-aspect") and "(aspect above" in line for line in lines)
    run_simile("quality", "--home", home.home, "-o", tmp_path / "all.csv")
    run_simile("quality", "--home", home.home, "--issue", "dark", "-o", tmp_path / "dark.csv")
    run_simile("quality", "--home", home.home, "-o", tmp_path / "sheet.png")
    tables = [(tmp_path / name).read_text().splitlines() for name in ("all.csv", "dark.csv")]
    rows, (dark,) = (list(csv.DictReader(lines)) for lines in tables)
    assert (len(rows), Path(dark["path"]).name, "dark" in dark["issues"]) == (48, "dark.png", True)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 160


def _forget(settings: Settings) -> dict[int, ImageQuality]:
    """Delete all measures and limits, as if an older version had made the home; return the measures."""
    with Catalogue(Home.from_settings(settings)) as catalogue:
        measured = dict(catalogue.quality.iterate_measured())
        with catalogue.begin_write() as (connection, _):
            connection.execute(delete(ImageQualityRow))
            connection.execute(delete(QualityLimitRow))
    return measured


def test_images_of_an_older_home_are_measured_without_embedding(trained_home: Settings, photos: Path) -> None:
    folder = Path(trained_home.home).parent / "photos"
    folder.mkdir()
    for name in ("good-00.png", "good-01.png", "blurred.png", "srgb.jpg"):
        (folder / name).write_bytes((photos / name).read_bytes())
    index(trained_home, [folder], IndexRequest())
    before = _forget(trained_home)
    with Searcher(trained_home) as searcher, pytest.raises(BadSetting, match="run `simile quality --measure`"):
        resolve_filter(searcher.catalogue, make_filter(where=["quality=blurred"]))
    shown = run_simile("quality", "--home", trained_home.home).stdout
    assert "0 of 4 images are measured\nmeasure the others with `simile quality --measure`" in shown
    (folder / "good-00.png").unlink()
    (folder / "good-01.png").write_bytes((photos / "dark.png").read_bytes())
    summary = measure_quality_of_images(trained_home)
    assert (summary.measured, summary.missing) == (2, 1)
    assert [failure.reason for failure in summary.failures] == [CHANGED_REASON]
    with Catalogue(Home.from_settings(trained_home)) as catalogue:
        after = dict(catalogue.quality.iterate_measured())
        assert after.items() <= before.items()
        assert catalogue.quality.get_for_images(after) == after
        catalogue.quality.set_for_images({99_999: next(iter(after.values()))})  # deleted meanwhile
    assert _find(trained_home, "quality=blurred") == {"blurred.png"}
    assert run_json("quality", "--measure", "--home", trained_home.home)["measured"] == 0


def test_an_upload_is_measured_and_a_deleted_image_loses_its_measures(trained_home: Settings, photos: Path) -> None:
    with Searcher(trained_home) as searcher:
        image_id, _ = add_upload(searcher, (photos / "dark.png").read_bytes(), name="dark.png")
        quality = searcher.catalogue.quality
        assert quality.get_for_images([image_id])[image_id].brightness < 0.2
        searcher.catalogue.images.delete(image_id)
        assert quality.count() == 0


def test_measuring_excludes_the_report(home: Settings) -> None:
    with pytest.raises(BadUsage, match="excludes --issue"):
        run_simile("quality", "--measure", "--issue", "dark", "--home", home.home)
