"""Options that choose files compare real folders, and one that fits no indexed file is an error that names others."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from simile.core.errors import BadSetting
from simile.core.settings import Settings
from simile.dedup.reporting.dataset_checks import DatasetSplits
from simile.images.sources import real_folders
from simile.images.sources.real_folders import RealFolder
from simile.indexer.maintenance.verify import verify_home
from simile.indexer.pipeline.job import IndexRequest, index
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home
from tests.conftest import app_client
from tests.support.commands import run_json, run_simile

MANIFEST = "path,class,price\ninbox/photo.png,shirt,5\ninbox/other.png,dress,20\n"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with masters/photo.png, its copy and another image in inbox, and a link to masters that comes first."""
    folder = tmp_path / "s"
    for name in ("masters", "inbox"):
        (folder / name).mkdir(parents=True)
    Image.linear_gradient("L").save(folder / "masters/photo.png")
    shutil.copy(folder / "masters/photo.png", folder / "inbox/photo.png")
    os.utime(folder / "inbox/photo.png", (10**9, 10**9))
    Image.radial_gradient("L").save(folder / "inbox/other.png")
    (folder / "favourites").symlink_to("masters")
    (folder / "list.csv").write_text(MANIFEST)
    return folder


@pytest.fixture
def settings(trained_home: Settings, photos: Path) -> Settings:
    """A home with these photos."""
    index(trained_home, [photos], IndexRequest())
    index(trained_home, [photos / "list.csv"], IndexRequest())
    return trained_home


@pytest.fixture
def older_settings(settings: Settings, photos: Path) -> Settings:
    """A home that knows the masters by the name of the link, as earlier versions indexed them."""
    with closing(sqlite3.connect(settings.home / "catalogue.sqlite")) as database, database:
        database.execute("UPDATE locations SET path = replace(path, '/s/masters/', '/s/favourites/')")
    return settings


def search(settings: Settings, photos: Path, *options: object) -> list[str]:
    """Return the paths of the hits, relative to the photos."""
    hits = run_json("search", photos / "masters/photo.png", "--home", settings.home, *options)["hits"]
    return [os.path.relpath(hit["path"], photos) for hit in hits]


def get_error(*arguments: object) -> str:
    """Return the message of a command that fails."""
    with pytest.raises(BadSetting) as raised:
        run_simile(*arguments)
    return str(raised.value)


def list_paths(settings: Settings, photos: Path) -> list[str]:
    with Catalogue(Home(settings.home)) as catalogue:
        return [os.path.relpath(path, photos) for path in catalogue.files.find_under([str(photos)])]


SPELLINGS = ["masters", "masters/", "favourites", "inbox/../masters", "~/masters", "favourites/photo.png"]


def test_files_are_known_by_the_real_name_of_their_folder(settings: Settings, photos: Path) -> None:
    assert list_paths(settings, photos) == ["inbox/other.png", "inbox/photo.png", "masters/photo.png"]
    assert search(settings, photos, "--under", photos / "masters") == ["masters/photo.png"]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(("home", "found"), [("settings", "masters"), ("older_settings", "favourites")])
def test_a_folder_is_found_under_every_name(
    spelling: str,
    home: str,
    found: str,
    photos: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings: Settings = request.getfixturevalue(home)
    monkeypatch.chdir(photos)
    monkeypatch.setenv("HOME", str(photos))
    assert search(settings, photos, f"--under={spelling}") == [f"{found}/photo.png"]


def test_dots_after_a_link_mean_what_they_mean_to_the_system(
    settings: Settings, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t").symlink_to(photos / "masters")
    monkeypatch.chdir(tmp_path)
    assert set(search(settings, photos, "--under", "t/../inbox")) == {"inbox/photo.png", "inbox/other.png"}


def test_indexing_again_replaces_the_name_of_a_link_and_keeps_the_metadata(
    older_settings: Settings, photos: Path
) -> None:
    with Catalogue(Home(older_settings.home)) as catalogue:
        catalogue.metadata.set_for_files({str(photos / "favourites/photo.png"): {"class": "gradient"}})
        before = catalogue.files.find_under([str(photos)])[str(photos / "favourites/photo.png")].image_id
    summary = index(older_settings, [photos], IndexRequest())
    assert (summary.moved, summary.new, summary.missing, summary.unchanged) == (1, 0, 0, 2)
    assert list_paths(older_settings, photos) == ["inbox/other.png", "inbox/photo.png", "masters/photo.png"]
    with Catalogue(Home(older_settings.home)) as catalogue:
        real = str(photos / "masters/photo.png")
        assert catalogue.files.find_under([real])[real].image_id == before
        assert catalogue.metadata.get_for_files([real]) == {real: {"class": "gradient"}}
    assert index(older_settings, [photos], IndexRequest()).unchanged == 3


def test_indexing_again_replaces_the_name_of_a_link_to_a_file_that_has_changed(
    older_settings: Settings, photos: Path
) -> None:
    Image.linear_gradient("L").rotate(90).save(photos / "masters/photo.png")
    assert index(older_settings, [photos], IndexRequest()).new == 1
    assert list_paths(older_settings, photos) == ["inbox/other.png", "inbox/photo.png", "masters/photo.png"]
    assert verify_home(older_settings, files=True) == []


def test_a_link_that_was_indexed_by_name_stays(settings: Settings, photos: Path) -> None:
    assert index(settings, [photos / "favourites"], IndexRequest()).copied == 1
    assert "favourites/photo.png" in list_paths(settings, photos)
    index(settings, [photos], IndexRequest(prune=True))
    assert {"favourites/photo.png", "masters/photo.png"} <= set(list_paths(settings, photos))


@pytest.mark.parametrize("old", [False, True])
def test_dedup_compares_real_folders(
    old: bool, settings: Settings, photos: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if old:
        request.getfixturevalue("older_settings")
    arguments = ("dedup", "--home", settings.home, "--tier", "bytes")
    groups = run_json(*arguments, "--under", photos / "masters", "--under", photos)["groups"]
    assert len(groups) == 1
    assert run_json(*arguments, "--under", photos / "masters")["groups"] == []
    splits = [str(photos / "masters"), str(photos / "inbox")]
    assert len(run_json(*arguments, "--between", *splits)["leaks"]["pairs"]) == 1
    for link in ("masters", "favourites"):
        assert DatasetSplits(splits).get_folders_below_split(str(photos / link / "cats/old/1.png")) == ["cats", "old"]
    # Its own files under another name are no copies of a folder.
    plan = tmp_path / "p.json"
    (photos / "inbox/photo.png").unlink()
    run_json("dedup", "--home", settings.home, "--against", photos / "masters", "--plan", plan)
    assert json.loads(plan.read_text())["removals"] == []


MISSPELT = {
    ("--where", "nosuch=1"): "no indexed file has metadata of this name. The names are price, class.",
    ("--where", "clas=shirt"): "where can't be 'clas=shirt'",
    ("--where", "class=shrit"): "no indexed file has this value. The values are shirt, dress.",
    ("--where", "price>20"): "no indexed file has such a value. There are values from 5 to 20.",
    ("--where", "class<a"): "There are values from dress to shirt.",
    ("--where", "class<5"): "There are no numbers.",
    ("--format", "gif"): "format can't be 'gif': no indexed image has that format. The formats are png.",
    ("--format", "pngg", "--format", "png"): "format can't be 'pngg'",
    ("--min-width", "9999"): "min_width can't be 9999: no indexed file satisfies it. There are values from 256 to 256.",
    ("--max-height", "0"): "max_height can't be 0",
    ("--until", "1999-12-31"): "There are values from 2001-09-09 01:46:40+00:00 to",
    ("--where", "class=shirt", "--where", "price=20"): "No indexed file satisfies all of these filters together.",
}


@pytest.mark.parametrize("command", ["search", "dedup", "dedup --last", "dedup --tier bytes"])
@pytest.mark.parametrize("options", MISSPELT)
def test_a_filter_that_fits_no_file_is_an_error_that_names_what_there_is(
    options: tuple[str, ...], command: str, settings: Settings, photos: Path
) -> None:
    query = (photos / "masters/photo.png",) if command == "search" else ()
    assert MISSPELT[options] in get_error(*command.split(), *query, "--home", settings.home, *options)


@pytest.mark.parametrize("folder", ["mastres", "favourite", "masters/photo.jpg", "../inbox", "inbox/none"])
def test_a_folder_that_holds_no_indexed_file_is_an_error_that_names_the_nearest(
    folder: str, settings: Settings, photos: Path
) -> None:
    (photos / "inbox/none").mkdir()
    message = get_error("search", photos / "masters/photo.png", "--home", settings.home, "--under", photos / folder)
    assert "no indexed file is in that folder. The nearest indexed folders are " in message
    nearest = message.partition("folders are ")[2].rstrip(".").split(", ")
    assert set(nearest) == {str(photos), str(photos / "masters"), str(photos / "inbox")}


def test_misspelt_splits_and_labels_name_what_there_is(settings: Settings, photos: Path) -> None:
    command = ("dedup", "--home", settings.home, "--tier", "bytes")
    message = get_error(*command, "--between", "mastres", "inbox")
    assert "between can't be 'mastres'" in message and "The nearest names are masters" in message
    message = get_error(*command, "--between", photos / "mastres", photos / "inbox")
    assert f"The nearest indexed folders are {photos / 'masters'}" in message
    assert "(there are: class, price)" in get_error(*command, "--labels", "clas")


def test_a_folder_in_an_archive_is_found_under_every_name(settings: Settings, photos: Path) -> None:
    with zipfile.ZipFile(photos / "masters/old.zip", "w") as packed:
        packed.write(photos / "inbox/other.png", "2024/other.png")
    index(settings, [photos / "favourites/old.zip"], IndexRequest())
    for name in ("favourites", "masters"):
        for folder in ("old.zip", "old.zip/2024"):
            hits = search(settings, photos, "--under", photos / name / folder)
            assert hits == ["favourites/old.zip/2024/other.png"]


def test_a_rule_for_labels_is_an_error_without_labels(trained_home: Settings, photos: Path) -> None:
    index(trained_home, [photos], IndexRequest())
    command = ("dedup", "--home", trained_home.home, "--tier", "bytes", "--keep", "labelled")
    assert "no indexed file has labels" in get_error(*command)
    index(trained_home, [photos / "list.csv"], IndexRequest())
    assert len(run_json(*command)["groups"]) == 1


def test_a_filter_that_fits_files_without_a_hit_is_no_error(settings: Settings, photos: Path) -> None:
    assert search(settings, photos, "--under", photos / "inbox", "--within", "0", "--where", "class=dress") == []


def test_a_condition_for_an_attribute_that_fits_nothing_is_an_error(settings: Settings) -> None:
    arguments = ("attribute", "learn", "sold", "--where", "clas=shirt", "--home", settings.home)
    assert "The names are class, price." in get_error(*arguments)


def test_the_service_answers_a_filter_that_fits_nothing_with_an_empty_list(settings: Settings) -> None:
    with app_client(settings) as client:
        for options in ({"under": "/nowhere"}, {"where": "nosuch=1"}):
            assert list_hits(client, options) == []


def list_hits(client: TestClient, options: dict[str, str]) -> list[Any]:
    response = client.get("/v1/images", params=options)
    assert response.status_code == 200, response.text
    return list(response.json()["images"])


def test_a_folder_is_found_by_other_letters_where_the_system_ignores_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "masters/sub").mkdir(parents=True)
    identify = real_folders._get_identity
    monkeypatch.setattr(real_folders, "_get_identity", lambda path: identify(path.replace("/Masters", "/masters")))
    folder = RealFolder(str(tmp_path / "Masters"))
    assert folder.find_relative(str(tmp_path / "masters/sub/a.png")) == "sub/a.png"
    assert folder.find_other_names([str(tmp_path / "masters/sub"), str(tmp_path)]) == [str(tmp_path / "masters")]
    assert not folder.contains(str(tmp_path / "other/a.png"))
