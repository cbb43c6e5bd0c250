"""Small real things for every test: pictures, a trained encoder, an indexed home; and a clean environment."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from core.settings import Settings, load_settings
from indexer.job import IndexRequest, index
from indexer.training import TrainingRequest
from indexer.training_job import train_on
from models.datasets import write_digits
from search.encoders import find_encoder, register
from store import schema
from store.catalogue import Catalogue
from store.home import Home

COUNT = 120


@pytest.fixture(autouse=True)
def _clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the person's own reaches a test, and what a test writes by accident lands in its folder."""
    for name in [name for name in os.environ if name.startswith("SIMILE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def _all_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder)
    return folder


@pytest.fixture(scope="session")
def _trained(tmp_path_factory: pytest.TempPathFactory, _all_digits: Path) -> tuple[Path, Path]:
    """A home with an indexed folder of 120 digits and a quickly trained encoder with 16 latent dimensions."""
    root = tmp_path_factory.mktemp("trained")
    photos = root / "photos"
    copy_some(_all_digits, photos, COUNT)
    settings = load_settings(home=root / "home", workers=2, device="cpu")
    overrides = {"latent_dim": 16, "width": 8, "epochs": 12, "kl_warmup_steps": 20}
    train_on(settings, [photos], TrainingRequest("vae", overrides), lambda _: None)
    index(settings, [photos], IndexRequest())
    return root / "home", photos


@pytest.fixture
def digits(tmp_path: Path, _all_digits: Path) -> Path:
    """A folder of one's own with 120 pictures of digits, 32 x 32."""
    return copy_some(_all_digits, tmp_path / "photos", COUNT)


@pytest.fixture
def home_with_digits(tmp_path: Path, _trained: tuple[Path, Path]) -> Settings:
    """Settings of a home of one's own, with 120 digits indexed; its pictures are shared, so don't change them."""
    shutil.copytree(_trained[0], tmp_path / "home")
    return load_settings(home=tmp_path / "home", workers=2, device="cpu")


@pytest.fixture
def trained_home(tmp_path: Path, _trained: tuple[Path, Path]) -> Settings:
    """Settings of a home with an encoder in use and nothing indexed."""
    settings = load_settings(home=tmp_path / "home", workers=2, device="cpu")
    home = Home(settings.home).create()
    shutil.copytree(_trained[0] / "encoders", home.encoders, dirs_exist_ok=True)
    schema.upgrade(home)
    encoder = find_encoder(home, next(home.encoders.glob("[0-9a-f]*")).name, "cpu")
    with Catalogue(home) as catalogue:
        register(catalogue, encoder)
        catalogue.activate(encoder.fingerprint)
    return settings


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty home with a current catalogue."""
    home = Home(tmp_path / "home")
    schema.upgrade(home)
    return home


def copy_some(source: Path, target: Path, count: int) -> Path:
    """The first `count` files of `source`, copied to `target`; gives `target`."""
    target.mkdir()
    for path in sorted(source.iterdir())[:count]:
        shutil.copy2(path, target)
    return target
