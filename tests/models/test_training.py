"""Training, and what a checkpoint refuses; test_recipes.py kills, resumes and loads every recipe."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.optim.optimizer import register_optimizer_step_post_hook

from simile.core.errors import BadSetting, CheckpointDamaged, HomeNotWritable, NoSuchEncoder, NotFinite, TooFewPictures
from simile.core.settings import Settings, load_settings
from simile.images.formats import Pixels
from simile.images.loading.loader import empty_images, is_in_file
from simile.images.sources.sources import walk_sources
from simile.images.transforms import Preprocessing, scale_to_unit
from simile.indexer.training.dataset import DatasetSpec, read_training_set
from simile.indexer.training.train import get_budget_start
from simile.models.checkpoints import checkpoint
from simile.models.checkpoints.description import EncoderDescription
from simile.models.inference.encoder import TrainedEncoder
from simile.models.networks.architecture import Architecture
from simile.models.networks.vae import Network
from simile.models.recipes import Recipe, list_recipes, load_recipe
from simile.models.training.dataset import resize_to_input
from simile.models.training.loop import (
    TrainingOptions,
    TrainingProgress,
    TrainingResult,
    choose_batch_size,
    split_train_validation,
    train,
)
from simile.models.training.setup import TrainingExtras
from simile.store.home import Home

SPEC = Preprocessing(image_size=16, channels=1)


def bars(count: int, seed: int = 0) -> Pixels:
    """(n, 16, 16, 1): a white bar of random place and width on black, easy to learn."""
    random = np.random.default_rng(seed)
    images = np.zeros((count, 16, 16, 1), np.uint8)
    for image in images:
        left = random.integers(0, 12)
        image[:, left : left + random.integers(2, 5)] = 255
    return images


def small(**overrides: object) -> Recipe:
    return load_recipe("vae", **{"latent_dim": 4, "width": 8, "epochs": 6, "kl_warmup_steps": 20, **overrides})


def run(images: Pixels, folder: Path, recipe: Recipe, **options: object) -> TrainingResult:
    training = TrainingOptions(**{"start_time": time.monotonic(), **options})
    return train(images, SPEC, recipe, training, folder, lambda _: None)


@pytest.mark.parametrize("size", [16, 17, 28, 45, 64, 100, 128, 256])
@pytest.mark.parametrize(("channels", "kind"), [(1, "convolutional"), (3, "patches"), (3, "residual"), (1, "dense")])
def test_any_square_input_comes_back_in_its_shape(size: int, channels: int, kind: str) -> None:
    sizes = {"image_size": size, "channels": channels, "latent_dim": 5, "width": 4}
    network = Network(Architecture(**sizes, kind=kind, full_resolution=False)).eval()
    with torch.inference_mode():
        mu, log_variance = network.encode(torch.rand(2, channels, size, size))
        assert mu.shape == log_variance.shape == (2, 5)
        assert network.decode(mu).shape == (2, channels, size, size)


def test_the_validation_elbo_rises(tmp_path: Path) -> None:
    trained = run(bars(200), tmp_path, small(epochs=20))
    elbos = [epoch["validation"]["elbo"] for epoch in trained.history]
    assert elbos[trained.best_epoch - 1] == max(elbos)
    assert max(elbos) > elbos[0] + 100


def test_both_likelihoods_train(tmp_path: Path) -> None:
    trained = run(bars(64), tmp_path, small(likelihood="bernoulli", epochs=3))
    assert all(np.isfinite(epoch["validation"]["elbo"]) for epoch in trained.history)


def test_the_same_seed_gives_the_same_losses_and_another_seed_others(tmp_path: Path) -> None:
    first, second = (run(bars(64), tmp_path / name, small(epochs=2), seed=1) for name in "ab")
    other = run(bars(64), tmp_path / "c", small(epochs=2), seed=2)
    assert losses(first) == losses(second) != losses(other)


def losses(trained: TrainingResult) -> list[object]:
    return [(epoch["train"], epoch["validation"]) for epoch in trained.history]


# More images than memory should hold


def in_file(images: Pixels, folder: Path) -> Pixels:
    folder.mkdir(exist_ok=True)
    kept = empty_images(images.shape, folder)
    kept[:] = images
    return kept


def test_images_in_a_file_are_trained_on_as_those_in_memory(tmp_path: Path) -> None:
    images = bars(100)
    kept = in_file(images, tmp_path / "home")
    assert is_in_file(kept) and not is_in_file(images)
    recipe = small(epochs=2, linear=True)
    one, other = run(images, tmp_path / "a", recipe, seed=1), run(kept, tmp_path / "b", recipe, seed=1)
    assert losses(one) == losses(other)
    larger = images.repeat(2, axis=1).repeat(2, axis=2)
    shown = resize_to_input(in_file(larger, tmp_path / "home"), 16, tmp_path / "home")
    assert is_in_file(shown) and np.array_equal(shown, resize_to_input(larger, 16, tmp_path / "home"))
    assert list((tmp_path / "home").iterdir()) == []  # the files have no name: nothing can be left behind


def test_no_image_is_left_out_however_little_memory_training_may_take(
    tmp_path: Path, digits: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (digits / "bad.png").write_bytes(b"no image")
    settings = load_settings(home=tmp_path / "home", workers=1, device="cpu")
    Home(settings.home).create()
    before = sorted(settings.home.rglob("*"))
    files = walk_sources([digits]).files
    with caplog.at_level("INFO"):
        whole, little = (
            read_training_set(settings.model_copy(update={"train_memory": limit}), files, DatasetSpec(recipe=small()))
            for limit in (2_000_000_000, 1000)
        )
    assert not is_in_file(whole.images) and is_in_file(little.images)
    assert len(little.images) == 120 and np.array_equal(whole.images, little.images)
    assert [failure.path for failure in little.failures] == [str(digits / "bad.png")]
    assert sum("all are used, from a temporary file" in message for message in caplog.messages) == 1
    assert sorted(settings.home.rglob("*")) == before


def test_too_little_space_for_the_images_is_an_error_that_says_how_much_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000_000))
    words = r"50,000 images to train on need 0\.6 GB in .*: No space left on device.*SIMILE_TRAIN_MEMORY"
    with pytest.raises(HomeNotWritable, match=words):
        empty_images((50_000, 64, 64, 3), tmp_path)


def test_minutes_become_a_number_of_steps_that_is_stored(tmp_path: Path) -> None:
    def planned(resume: bool) -> int:
        """The plan as it stands two epochs after it was first made, or as a resumed run begins."""
        seen: list[int] = []

        def watch(at: TrainingProgress) -> None:
            seen.extend([at.epoch] if at.total_steps is not None else [])
            if resume or (seen and at.epoch == seen[0] + 2):
                raise Planned(at.total_steps)

        options = TrainingOptions(minutes=5.0, start_time=time.monotonic(), resume=resume)
        with pytest.raises(Planned) as caught:
            train(bars(100), SPEC, small(epochs=10_000), options, tmp_path, watch)
        return int(caught.value.args[0])

    assert planned(resume=False) == planned(resume=True)


class Planned(Exception):
    """Ends a training run from its progress report, as Ctrl-C does."""


def test_reading_many_images_leaves_most_of_the_time_for_training() -> None:
    assert get_budget_start(started_at=100.0, now=130.0, minutes=10) == 100.0
    assert get_budget_start(started_at=100.0, now=5000.0, minutes=10) == 5000.0 - 120
    assert get_budget_start(started_at=100.0, now=5000.0, minutes=None) == 100.0


def test_epochs_end_a_run_whose_minutes_would_allow_more(tmp_path: Path) -> None:
    trained = run(bars(32), tmp_path, small(epochs=2), minutes=5.0)
    assert len(trained.history) == 2


def test_a_resumed_run_is_compared_with_the_network_that_it_started_from(tmp_path: Path) -> None:
    first = run(bars(64), tmp_path / "first", small(epochs=1))
    extras = TrainingExtras(initial_network=first.network)
    for resume in (False, True):  # the second one finds all steps done, and the last epoch's weights
        options = TrainingOptions(resume=resume, start_time=time.monotonic())
        recipe = small(epochs=2, ema=0.0)
        trained = train(bars(64), SPEC, recipe, options, tmp_path / "warm", lambda _: None, extras=extras)
        assert trained.is_better


def test_a_run_that_is_resumed_without_minutes_keeps_its_budget(tmp_path: Path) -> None:
    cut_off = TrainingOptions(minutes=0.001, start_time=time.monotonic() - 60)  # it ends after its first step
    train(bars(100), SPEC, small(epochs=10_000), cut_off, tmp_path, lambda _: None)
    resumed = run(bars(100), tmp_path, small(epochs=10_000), resume=True)
    assert resumed.stop_reason == "out of time" and len(resumed.history) == 2


def test_resume_without_a_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="no unfinished training"):
        run(bars(32), tmp_path, small(), resume=True)


def test_resume_refuses_other_images_and_other_settings(tmp_path: Path) -> None:
    run(bars(32), tmp_path, small(epochs=1))
    with pytest.raises(BadSetting, match="other images"):
        run(bars(32, seed=9), tmp_path, small(epochs=1), resume=True)
    with pytest.raises(BadSetting, match="other recipe"):
        run(bars(32), tmp_path, small(epochs=1, beta=2.0), resume=True)


def test_early_stopping_ends_a_run_that_no_longer_gains(tmp_path: Path) -> None:
    recipe = small(epochs=3000, patience_epochs=3, patience_steps=10, learning_rate=3e-3)
    trained = run(bars(40), tmp_path, recipe)
    assert "early stopping" in trained.stop_reason
    assert len(trained.history) < 3000


def test_nan_in_the_first_epoch_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotFinite, match="lower learning rate"):
        run(bars(64), tmp_path, small(learning_rate=1e30, clip_norm=1e30))


def test_nan_later_keeps_the_last_good_weights(tmp_path: Path) -> None:
    recipe = small(epochs=30)

    def spoil(at: object) -> None:
        if at.epoch == 4:  # type: ignore[attr-defined]
            for group in optimisers[0].param_groups:
                for parameter in group["params"]:
                    parameter.data.fill_(float("nan"))

    optimisers: list[torch.optim.Optimizer] = []
    hook = register_optimizer_step_post_hook(lambda optimiser, *_: optimisers.append(optimiser))
    try:
        trained = train(bars(64), SPEC, recipe, TrainingOptions(), tmp_path, spoil)
    finally:
        hook.remove()
    assert trained.stop_reason == "not finite"
    assert len(trained.history) == 3
    assert any("lower learning rate" in warning for warning in trained.warnings)
    assert all(torch.isfinite(tensor).all() for tensor in trained.network.state_dict().values())


def test_posterior_collapse_is_warned_of(tmp_path: Path) -> None:
    trained = run(bars(64), tmp_path, small(beta=1e6, epochs=12, kl_warmup_steps=0, learning_rate=1e-2))
    assert any("Posterior collapse" in warning for warning in trained.warnings)


def test_fewer_than_16_images_are_refused_with_a_hint() -> None:
    with pytest.raises(TooFewPictures, match="at least 16"):
        split_train_validation(15, seed=0)


@pytest.mark.parametrize(("count", "expected"), [(14, 8), (100, 8), (300, 32), (1617, 128), (60_000, 128)])
def test_small_collections_get_smaller_batches(count: int, expected: int) -> None:
    assert choose_batch_size(count, load_recipe("vae")) == expected


def test_every_recipe_loads_and_unknown_ones_are_named() -> None:
    assert "vae" in list_recipes()
    for name in list_recipes():
        assert load_recipe(name).name == name
    with pytest.raises(BadSetting, match="nonsense"):
        load_recipe("nonsense")
    with pytest.raises(BadSetting, match="tpyo"):
        load_recipe("vae", tpyo=1)


def encoder_folder(settings: Settings, tmp_path: Path) -> Path:
    (source,) = (path for path in (settings.home / "encoders").iterdir() if not path.name.startswith("."))
    return Path(shutil.copytree(source, tmp_path / "copy"))


def test_the_encoders_folder_holds_a_report_a_person_can_look_at(home_with_digits: Settings, tmp_path: Path) -> None:
    folder = encoder_folder(home_with_digits, tmp_path)
    charts = {"curves.png", "reconstructions.png", "samples.png"}
    files = {"weights.safetensors", "encoder.json", "report.json", "trained_on.npz", *charts}
    assert {path.name for path in folder.iterdir()} == files
    report = json.loads((folder / "report.json").read_text())
    assert {"reconstruction", "kl", "elbo", "squared_error", "active_units"} <= report["best"]["validation"].keys()
    description = json.loads((folder / "encoder.json").read_text())
    assert description["data"] == {"pictures": 120, "training": 108, "validation": 12, "set_aside": 0}


def test_an_image_alone_and_in_a_batch_gets_the_same_mu(home_with_digits: Settings, tmp_path: Path) -> None:
    encoder = TrainedEncoder.load(encoder_folder(home_with_digits, tmp_path), "cpu")
    size, channels = encoder.preprocessing.image_size, encoder.preprocessing.channels
    batch = np.random.default_rng(0).integers(0, 256, (300, size, size, channels)).astype(np.uint8)
    together = encoder.encode(batch).mu
    alone = np.concatenate([encoder.encode(batch[n : n + 1]).mu for n in range(0, 300, 37)])
    assert np.abs(alone - together[::37]).max() <= 1e-5 * np.abs(together).max()
    assert np.array_equal(encoder.encode(batch).mu, together)


def test_altered_weights_are_refused(home_with_digits: Settings, tmp_path: Path) -> None:
    folder = encoder_folder(home_with_digits, tmp_path)
    weights = load_file(folder / "weights.safetensors")
    weights["variance"] = weights["variance"] + 1
    save_file(weights, folder / "weights.safetensors")
    with pytest.raises(CheckpointDamaged, match="do not belong together"):
        TrainedEncoder.load(folder)


def test_a_cut_off_weights_file_is_refused(home_with_digits: Settings, tmp_path: Path) -> None:
    folder = encoder_folder(home_with_digits, tmp_path)
    os.truncate(folder / "weights.safetensors", 1000)
    with pytest.raises(CheckpointDamaged, match="can't be read"):
        TrainedEncoder.load(folder)


@pytest.mark.parametrize("change", [{"metric": "l2"}, {"seed": 5}, {"format": 99}])
def test_an_altered_description_is_refused(
    home_with_digits: Settings, tmp_path: Path, change: dict[str, object]
) -> None:
    folder = encoder_folder(home_with_digits, tmp_path)
    body = json.loads((folder / "encoder.json").read_text())
    (folder / "encoder.json").write_text(json.dumps({**body, **change}))
    with pytest.raises(CheckpointDamaged):
        TrainedEncoder.load(folder)


def test_a_folder_without_an_encoder_says_so(tmp_path: Path) -> None:
    with pytest.raises(NoSuchEncoder, match="holds no encoder"):
        TrainedEncoder.load(tmp_path)


def test_a_checkpoint_of_the_first_version_still_loads_with_its_fingerprint(tmp_path: Path) -> None:
    network = Network(Architecture(image_size=16, channels=1, latent_dim=4, width=4)).eval()
    old_names = {"encoder.head.1.weight": "encoder.head.weight", "encoder.head.1.bias": "encoder.head.bias"}
    weights = {old_names.get(name, name): tensor for name, tensor in network.state_dict().items()}
    architecture = {"image_size": 16, "channels": 1, "latent_dim": 4, "width": 4, "kind": "convolutional-vae"}
    preprocessing = SPEC.to_dict()
    description = EncoderDescription(
        architecture=architecture, preprocessing=preprocessing, metric="cosine", index_dims=None
    )
    fingerprint = checkpoint.save_checkpoint(tmp_path / "old", weights, description)
    encoder = TrainedEncoder.load(tmp_path / "old", "cpu")
    assert encoder.fingerprint == fingerprint
    with torch.inference_mode():
        expected = network.encode(torch.from_numpy(scale_to_unit(bars(3))))[0].numpy()
    np.testing.assert_allclose(encoder.encode(bars(3)).mu, expected, rtol=1e-5, atol=1e-6)
    assert encoder.decode(expected).shape == (3, 1, 16, 16)
