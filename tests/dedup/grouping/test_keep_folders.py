"""Rules that protect a folder compare real folders, and a folder that holds nothing of the collection is an error."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from simile.cli.main import app
from simile.core.settings import Settings
from simile.dedup.grouping.keep_rules import parse_keep_rules
from simile.indexer.pipeline.job import IndexRequest, index


@pytest.fixture
def photos(tmp_path: Path, trained_home: Settings) -> Path:
    """Return an indexed folder with a master, an older copy of it, and a link to the masters that comes first."""
    folder = tmp_path / "s"
    for name in ("masters", "inbox"):
        (folder / name).mkdir(parents=True)
    Image.linear_gradient("L").save(folder / "masters/photo.png")
    shutil.copy(folder / "masters/photo.png", folder / "inbox/photo.png")
    os.utime(folder / "inbox/photo.png", (10**9, 10**9))
    (folder / "favourites").symlink_to("masters")
    index(trained_home, [folder], IndexRequest())
    return folder


def list_removals(settings: Settings, tmp_path: Path, keep: str) -> list[str]:
    plan = tmp_path / "plan.json"
    arguments = ["dedup", "--home", str(settings.home), "--tier", "bytes", "--keep", keep, "--plan", str(plan)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return [removal["path"] for removal in json.loads(plan.read_text())["removals"]]


@pytest.mark.parametrize("spelling", ["masters", "masters/", "favourites", "inbox/../masters", "~/masters"])
def test_a_protected_folder_is_protected_under_every_name(
    spelling: str, photos: Path, trained_home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    monkeypatch.setenv("HOME", str(photos))
    assert list_removals(trained_home, tmp_path, f"under:{spelling},oldest") == [str(photos / "inbox/photo.png")]


def test_a_folder_that_holds_nothing_is_an_error_that_names_the_nearest(photos: Path, trained_home: Settings) -> None:
    arguments = ["dedup", "--home", str(trained_home.home), "--tier", "bytes", "--keep", f"under:{photos}/inbx,oldest"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code != 0
    message = " ".join(str(result.exception or result.output).split())
    assert f"no indexed file is in that folder. The nearest indexed folders are {photos}/inbox" in message


def test_the_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert parse_keep_rules(["under:~/best"]) == ("under:/somewhere/best",)
