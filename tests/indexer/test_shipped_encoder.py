"""The encoder that comes with the package: used at once, adapted by training, refused if it was changed."""

from __future__ import annotations

import io
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from simile.core.errors import BadSetting, CheckpointDamaged
from simile.core.settings import Settings, load_settings
from simile.images.drawn.generator import BLOCK_SIZE, draw_block
from simile.indexer.maintenance.encoders import export_encoder
from simile.indexer.pipeline.job import IndexRequest, index
from simile.indexer.training import train as train_module
from simile.indexer.training.train import TrainingRequest, train_on_sources
from simile.models import pretrained
from simile.models.inference.encoder import TrainedEncoder
from simile.models.pretrained import SHIPPED, SHIPPED_FOLDER, load_shipped_encoder
from simile.models.training.loop import TrainingResult
from simile.search.searcher import Searcher
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home

MAX_SHIPPED_BYTES = 12_000_000
ONE_EPOCH = {"epochs": 1}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, image in enumerate(draw_block(0, 80, 3)):
        Image.fromarray(image).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path / "home", workers=2, device="cpu")


def get_active(settings: Settings) -> str:
    with Catalogue(Home(settings.home)) as catalogue:
        active = catalogue.encoders.find_active()
        assert active is not None
        return active.fingerprint


def ignore(_: object) -> None:
    pass


def test_it_is_small_complete_and_a_vae_with_a_model_card() -> None:
    names = {path.name for path in SHIPPED_FOLDER.iterdir()}
    assert {"weights.safetensors", "encoder.json", "README.md"} <= names
    assert sum(path.stat().st_size for path in SHIPPED_FOLDER.iterdir()) <= MAX_SHIPPED_BYTES
    encoder = load_shipped_encoder("cpu", "torch")
    assert encoder.has_decoder and encoder.has_variance
    assert encoder.fingerprint in (SHIPPED_FOLDER / "README.md").read_text(encoding="utf-8")


def test_it_finds_altered_copies_of_images_that_no_training_saw() -> None:
    encoder = load_shipped_encoder("cpu", "torch")
    images = [Image.fromarray(image) for image in draw_block(0, 160, 99)]
    altered = []
    for image in images:
        file = io.BytesIO()
        image.crop((8, 4, 156, 152)).save(file, "JPEG", quality=40)
        altered.append(Image.open(file))
    originals, copies = (
        encoder.encode(np.stack([np.asarray(image.resize((64, 64))) for image in group])).mu[:, : encoder.index_dims]
        for group in (images, altered)
    )
    similarity = copies @ originals.T
    assert (similarity.argmax(1) == np.arange(BLOCK_SIZE)).mean() > 0.9


def test_a_fresh_home_is_searchable_without_any_training(
    settings: Settings, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "simile"):
        assert index(settings, [photos], IndexRequest()).new == BLOCK_SIZE
    assert "`simile train PHOTOS` adapts it" in caplog.text
    assert get_active(settings) == load_shipped_encoder("cpu", "torch").fingerprint
    with Searcher(settings) as searcher:
        result = searcher.by_file(photos / "05.png", name="05.png", limit=3)
    assert result.hits[0].path.endswith("05.png") and result.hits[0].distance < 0.01


def test_a_single_image_is_enough(settings: Settings, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    shutil.copy(photos / "00.png", tmp_path / "few")
    assert index(settings, [tmp_path / "few"], IndexRequest()).new == 1


def test_for_small_images_of_one_size_it_advises_training(
    settings: Settings, digits: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "simile"):
        index(settings, [digits], IndexRequest())
    assert "`simile index PHOTOS --train`" in caplog.text


def test_indexing_with_training_replaces_the_encoder_of_a_home(settings: Settings, digits: Path) -> None:
    index(settings, [digits], IndexRequest())
    first = get_active(settings)
    summary = index(settings, [digits], IndexRequest(train=True, minutes=0.02))
    assert get_active(settings) != first and summary.failures == []
    with Searcher(settings) as searcher:
        assert len(searcher.by_id(1, limit=200).hits) == 119
    with pytest.raises(BadSetting, match="stdin"):
        index(settings, [Path("-")], IndexRequest(train=True))


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_damaged_weights_are_refused_with_a_reason(
    settings: Settings, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    folder = Path(shutil.copytree(SHIPPED_FOLDER, tmp_path / "shipped"))
    weights = folder / "weights.safetensors"
    if damage == "missing":
        weights.unlink()
    else:
        data = bytearray(weights.read_bytes())
        data[-100] ^= 1
        weights.write_bytes(data)
    monkeypatch.setattr(pretrained, "SHIPPED_FOLDER", folder)
    with pytest.raises(CheckpointDamaged, match="Install simile again"):
        index(settings, [photos], IndexRequest())


def test_a_training_on_photos_starts_from_it(settings: Settings, photos: Path) -> None:
    request = TrainingRequest(overrides=ONE_EPOCH | {"learning_rate": 1e-6})
    trained = train_on_sources(settings, [photos], request, ignore)
    shipped = load_shipped_encoder("cpu", "torch")
    if trained["improved"]:
        weights = TrainedEncoder.load(Path(trained["folder"]), "cpu", "torch").network.state_dict()
        for name, tensor in shipped.network.state_dict().items():
            if name.startswith("encoder.head"):
                assert torch.allclose(weights[name], tensor, atol=1e-3), name
    else:
        assert trained["fingerprint"] == shipped.fingerprint


def test_a_training_that_improves_nothing_keeps_the_encoder(
    settings: Settings, photos: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run: Callable[..., TrainingResult] = train_module.train
    monkeypatch.setattr(train_module, "train", lambda *a, **k: replace(run(*a, **k), is_better=False))
    trained = train_on_sources(settings, [photos], TrainingRequest(overrides=ONE_EPOCH), ignore)
    assert trained["improved"] is False and trained["active"] is True
    assert get_active(settings) == trained["fingerprint"] == load_shipped_encoder("cpu", "torch").fingerprint
    assert "did not improve" in caplog.text
    assert not (settings.home / "encoders" / ".training").exists()


def test_a_training_with_new_weights_or_from_a_named_encoder(settings: Settings, photos: Path, digits: Path) -> None:
    request = TrainingRequest(overrides=ONE_EPOCH, start_from="none")
    fresh = train_on_sources(settings, [photos], request, ignore)
    assert fresh["improved"] is True
    for options in (
        {"overrides": {"latent_dim": 8}},
        {"recipe": "perceptual"},
        {"image_size": 32},
    ):
        with pytest.raises(BadSetting, match="--from none"):
            train_on_sources(settings, [photos], TrainingRequest(start_from=SHIPPED, **options), ignore)
    # Digits would get another recipe and another size, but a named encoder determines both.
    again = TrainingRequest(overrides=ONE_EPOCH, start_from=fresh["fingerprint"])
    adapted = train_on_sources(settings, [digits], again, ignore)
    description = json.loads((Path(adapted["folder"]) / "encoder.json").read_text())
    assert description["preprocessing"]["image_size"] == 64 and description["recipe"]["name"] == "invariant"


def test_drawn_images_alone_train_an_encoder(settings: Settings, photos: Path) -> None:
    overrides = {"latent_dim": 8, "width": 8, "epochs": 1}
    request = TrainingRequest(recipe="vae", overrides=overrides, drawn=40, image_size=32)
    alone = train_on_sources(settings, [], request, ignore)
    mixed = train_on_sources(settings, [photos], replace(request, seed=1), ignore)
    counts = [
        json.loads((settings.home / "encoders" / trained["fingerprint"] / "encoder.json").read_text())["data"]
        for trained in (alone, mixed)
    ]
    assert [count["pictures"] for count in counts] == [40, 40 + BLOCK_SIZE]
    digests = TrainedEncoder.load(Path(mixed["folder"]), "cpu", "torch").training_digests
    assert digests is not None and len(digests.fitted) + len(digests.held_out) == BLOCK_SIZE  # of files only
    with pytest.raises(BadSetting, match="labels"):
        train_on_sources(settings, [], TrainingRequest(recipe="supervised", labels="folders", drawn=40), ignore)


def test_an_exported_encoder_serves_another_home(settings: Settings, photos: Path, tmp_path: Path) -> None:
    whole = export_encoder(settings, SHIPPED, tmp_path / "whole", half=False)
    half = export_encoder(settings, SHIPPED, tmp_path / "half", half=True)
    assert half["bytes"] < 0.6 * whole["bytes"]
    index(settings, [photos], IndexRequest(encoder=str(tmp_path / "half")))
    assert get_active(settings) == half["fingerprint"]
    with pytest.raises(BadSetting, match="is not empty"):
        export_encoder(settings, SHIPPED, tmp_path / "half", half=True)
