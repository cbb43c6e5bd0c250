"""Every recipe, from images to an encoder that is used: trained, killed, resumed, loaded, searched with, refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simile.core.errors import BadSetting, CheckpointDamaged, NoDecoder
from simile.core.settings import Settings, load_settings
from simile.images.formats import Pixels
from simile.indexer.pipeline.job import IndexRequest, index
from simile.indexer.training.train import TrainingRequest, train_on_sources
from simile.models.inference.encoder import TrainedEncoder
from simile.models.recipes import Recipe, list_recipes, load_recipe
from simile.search.searcher import Searcher
from tests.support.synthetic_images import scene

COUNT = 40
SMALL = {"latent_dim": 8, "width": 8, "epochs": 3, "kl_warmup_steps": 10, "passes": 1, "batch_size": 16}
RECIPES = [name for name in list_recipes() if name != "decoder"]  # that one needs an encoder first


def request(recipe: str, **options: Any) -> TrainingRequest:
    overrides = SMALL | ({"content_dim": 5} if load_recipe(recipe).content_dim else {})
    labels = "folders" if recipe == "supervised" else None
    return TrainingRequest(recipe=recipe, overrides=overrides, labels=labels, **options)


def settings_of(home: Path) -> Settings:
    return load_settings(home=home, workers=1, device="cpu")


def in_class_folders(digits: Path, target: Path, count: int) -> Path:
    """The first `count` digits in folders named by their label."""
    for path in sorted(digits.iterdir())[:count]:
        folder = target / path.stem.split("-")[1]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, folder)
    return target


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, _all_digits: Path) -> Path:
    return in_class_folders(_all_digits, tmp_path_factory.mktemp("classes"), COUNT)


# A fork for each recipe, so that torch is imported once: each child is killed in its second epoch.
KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import tests.models.test_recipes as t
def kill(at):
    if at.epoch == 2 and at.step % 3 == 1:
        os.kill(os.getpid(), signal.SIGKILL)
for recipe in t.RECIPES:
    child = os.fork()
    if not child:
        try:
            t.train_on_sources(t.settings_of(Path({homes!r}) / recipe), [Path({photos!r})], t.request(recipe), kill)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, recipe
"""

FRESH = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import tests.models.test_recipes as t
for recipe in t.RECIPES:
    t.np.save(Path({homes!r}) / recipe / "mu.npy", t.encoder_of(Path({homes!r}) / recipe).encode(t.some_images()).mu)
"""


def in_process(script: str, homes: Path, photos: Path) -> None:
    code = script.format(tests=str(Path(__file__).parents[2]), homes=str(homes), photos=str(photos))
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2], timeout=200)
    assert done.returncode == 0


def encoder_of(home: Path) -> TrainedEncoder:
    (folder,) = (home / "encoders").glob("[0-9a-f]*")
    return TrainedEncoder.load(folder, "cpu")


def some_images() -> Pixels:
    """(7, 32, 32, 1) uint8."""
    return np.random.default_rng(3).integers(0, 256, (7, 32, 32, 1)).astype(np.uint8)


def history(home: Path) -> Any:
    (report,) = (home / "encoders").glob("[0-9a-f]*/report.json")
    epochs = json.loads(report.read_text())["epochs"]
    return [(epoch["train"], epoch["validation"]) for epoch in epochs]


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """A home for each recipe whose training was killed and resumed."""
    root = tmp_path_factory.mktemp("homes")
    in_process(KILLED, root, photos)
    for recipe in RECIPES:
        train_on_sources(settings_of(root / recipe), [photos], request(recipe, resume=True), lambda _: None)
    in_process(FRESH, root, photos)
    return root


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_killed_training_that_is_resumed_ends_as_an_undisturbed_one(
    recipe: str, homes: Path, photos: Path, tmp_path: Path
) -> None:
    train_on_sources(settings_of(tmp_path / "whole"), [photos], request(recipe), lambda _: None)
    assert history(homes / recipe) == history(tmp_path / "whole")
    assert encoder_of(homes / recipe).fingerprint == encoder_of(tmp_path / "whole").fingerprint


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_fresh_process_gives_equal_mu(recipe: str, homes: Path) -> None:
    stored = np.load(homes / recipe / "mu.npy")
    assert np.array_equal(stored, encoder_of(homes / recipe).encode(some_images()).mu)
    assert np.ptp(stored, axis=0).max() > 0, "every image has the same mu"


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_checkpoint_whose_files_were_altered_is_refused(recipe: str, homes: Path, tmp_path: Path) -> None:
    (source,) = (homes / recipe / "encoders").glob("[0-9a-f]*")
    folder = Path(shutil.copytree(source, tmp_path / "copy"))
    data = bytearray((folder / "weights.safetensors").read_bytes())
    data[-3] ^= 1
    (folder / "weights.safetensors").write_bytes(data)
    with pytest.raises(CheckpointDamaged):
        TrainedEncoder.load(folder, "cpu")
    shutil.copy(source / "weights.safetensors", folder)
    body = json.loads((folder / "encoder.json").read_text())
    body["recipe"]["beta"] = 7.0
    (folder / "encoder.json").write_text(json.dumps(body))
    with pytest.raises(CheckpointDamaged):
        TrainedEncoder.load(folder, "cpu")


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_indexed_and_searched_with(recipe: str, homes: Path, photos: Path, tmp_path: Path) -> None:
    settings = settings_of(Path(shutil.copytree(homes / recipe, tmp_path / "home")))
    assert index(settings, [photos], IndexRequest()).new == COUNT
    query = next(photos.rglob("*.png"))
    with Searcher(settings) as searcher:
        result = searcher.by_file(query, name=query.name, limit=3)
        assert result.hits[0].path == str(query)
        assert result.hits[0].distance == pytest.approx(0, abs=1e-3)
        assert (result.query.reconstruction_error is None) == (recipe == "supervised")


def test_the_indexed_part_of_a_latent_in_two_parts_is_the_content(homes: Path) -> None:
    encoder = encoder_of(homes / "invariant")
    assert encoder.index_dims == 5 and encoder.latent_dim == 8


def test_labels_teach_a_classifier(_all_digits: Path, tmp_path: Path) -> None:
    photos = in_class_folders(_all_digits, tmp_path / "photos", 400)
    wanted = replace(request("supervised"), overrides=SMALL | {"epochs": 12})
    report = train_on_sources(settings_of(tmp_path / "home"), [photos], wanted, lambda _: None)
    assert report["best"]["validation"]["accuracy"] > 0.6  # of ten digits, by chance a tenth
    assert encoder_of(tmp_path / "home").description.classes == list("0123456789")


def test_a_supervised_training_without_labels_says_how_to_give_them(photos: Path, tmp_path: Path) -> None:
    wanted = replace(request("supervised"), labels=None)
    with pytest.raises(BadSetting, match="--labels folders"):
        train_on_sources(settings_of(tmp_path / "home"), [photos], wanted, lambda _: None)


def test_a_decoder_over_a_frozen_encoder_leaves_its_vectors_and_shows_reconstructions(
    homes: Path, photos: Path, tmp_path: Path
) -> None:
    settings = settings_of(Path(shutil.copytree(homes / "supervised", tmp_path / "home")))
    before = encoder_of(settings.home)
    with pytest.raises(NoDecoder, match="--decoder-only"):
        before.decode(np.zeros((1, 8), np.float32))
    wanted = replace(request("decoder"), overrides=SMALL | {"epochs": 15}, decoder_only=before.fingerprint)
    report = train_on_sources(settings, [photos], wanted, lambda _: None)
    after = TrainedEncoder.load(Path(report["folder"]), "cpu")
    assert np.array_equal(after.encode(some_images()).mu, before.encode(some_images()).mu)
    assert after.decode(np.zeros((1, 8), np.float32)).shape == (1, 1, 32, 32)
    assert after.description.recipe == before.description.recipe
    assert after.description.decoder is not None and after.description.decoder["over"] == before.fingerprint
    epochs = json.loads((Path(report["folder"]) / "report.json").read_text())["epochs"]
    errors = [epoch["validation"]["squared_error"] for epoch in epochs]
    assert errors[-1] < errors[0]


def test_the_autoencoder_s_report_shows_training_against_validation(homes: Path) -> None:
    (folder,) = (homes / "autoencoder" / "encoders").glob("[0-9a-f]*")
    assert "reconstruction" in history(homes / "autoencoder")[0][0].keys() & history(homes / "autoencoder")[0][1].keys()
    assert (folder / "curves.png").is_file() and not (folder / "samples.png").exists()


def test_options_that_contradict_each_other_are_refused_by_name() -> None:
    for name, overrides in [
        ("likelihood", {"likelihood": "l2"}),
        ("variance", {"variance": "0"}),
        ("variance", {"variance": "much"}),
        ("corrupt", {"corrupt": "rust"}),
        ("corrupt", {"corrupt": "noise=-1"}),
        ("content_dim", {"content_dim": 64}),
        ("free_bits", {"free_bits": -1.0}),
    ]:
        with pytest.raises(BadSetting, match=name):
            load_recipe("vae", **overrides)


@pytest.mark.parametrize(
    ("side", "overrides", "recipe"),
    [(80, {}, "invariant"), (20, {}, "perceptual"), (80, {"latent_dim": 8}, "perceptual")],
)
def test_the_recipe_follows_the_images_where_nothing_speaks_for_one(tmp_path, monkeypatch, side, overrides, recipe):
    def load_small(name: str, **options: Any) -> Recipe:
        return replace(load_recipe(name, **options), width=8, passes=1)

    monkeypatch.setattr("simile.indexer.training.train.load_recipe", load_small)
    photos = tmp_path / "photos"
    photos.mkdir()
    for seed in range(20):
        Image.fromarray(scene(seed, side, side)).save(photos / f"{seed}.png")
    settings = load_settings(home=tmp_path / "home", device="cpu")
    request = TrainingRequest(overrides={"epochs": 1, **overrides})
    trained = train_on_sources(settings, [photos], request, lambda _: None)
    description = json.loads((Path(trained["folder"]) / "encoder.json").read_text("utf-8"))
    assert description["recipe"]["name"] == recipe
