"""The linear path beside a network: it starts as principal components, and is kept like all other weights."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch import Tensor

from simile.core.errors import BadSetting
from simile.images.formats import Pixels
from simile.images.transforms import Preprocessing
from simile.models.networks.architecture import Architecture
from simile.models.networks.vae import Network
from simile.models.recipes import load_recipe
from simile.models.training.loop import TrainingOptions, train
from simile.models.training.setup import fit_linear_path

DIMS = 12


@pytest.fixture(scope="module")
def digits() -> Tensor:
    """(n, 1, 16, 16), of middling contrast, where a sigmoid is nearly straight."""
    small = torch.from_numpy(load_digits().images[:600]).float()[:, None] / 16
    return 0.35 + 0.3 * small.repeat_interleave(2, 2).repeat_interleave(2, 3)


def started(sample: Tensor, dims: int = DIMS, variance: float | None = 1e-6, kind: str = "convolutional") -> Network:
    torch.manual_seed(0)
    network = Network(Architecture(image_size=16, channels=1, latent_dim=dims, width=8, kind=kind, linear=True)).eval()
    fit_linear_path(network, sample, variance)
    return network


@pytest.mark.parametrize("kind", ["convolutional", "dense", "residual", "patches"])
def test_before_any_training_it_is_about_as_good_as_pca(digits: Tensor, kind: str) -> None:
    network = started(digits, kind=kind)
    with torch.no_grad():
        mu, _ = network.encode(digits)
        error = float((torch.sigmoid(network.decode(mu)) - digits).square().mean())
    flat = digits.flatten(1).numpy()
    pca = PCA(DIMS, svd_solver="full").fit(flat)
    by_pca = float(np.square(pca.inverse_transform(pca.transform(flat)) - flat).mean())
    assert 0.9 * by_pca < error < 1.25 * by_pca  # a sigmoid flattens what PCA lets ring
    assert error < 0.5 * float((digits - digits.mean(0)).square().mean())


def test_it_starts_as_probabilistic_pca(digits: Tensor) -> None:
    variance = 0.02
    network = started(digits, 30, variance, "dense")
    pca = PCA(30, svd_solver="full").fit(digits.flatten(1).numpy())
    spread = pca.explained_variance_ * (len(digits) - 1) / len(digits)
    with torch.no_grad():
        log_variance = network.encode(digits)[1]
        path = network.encoder.linear(digits.flatten(1))
    assert log_variance is not None
    assert np.allclose(path.var(0, correction=0), np.maximum(0, 1 - variance / spread), atol=0.03)
    assert np.allclose(log_variance.exp().mean(0), np.minimum(1, variance / spread), rtol=0.5)
    assert (path[:, spread < variance].abs() < 1e-6).all() and (spread < variance).any()


def test_without_a_variance_what_is_left_out_says_it(digits: Tensor) -> None:
    a, b = started(digits, variance=None), started(digits, variance=1e-6)
    assert (a.encoder.linear.weight.norm() < b.encoder.linear.weight.norm()).item()


def test_fewer_images_than_numbers_leave_the_rest_at_0(digits: Tensor) -> None:
    network = started(digits[:10], 40)
    assert (network.encoder.linear.weight[9:] == 0).all()
    with torch.no_grad():
        assert torch.isfinite(network.decode(network.encode(digits)[0])).all()


def test_a_recipe_trains_it_and_gains(tmp_path: Path) -> None:
    images: Pixels = (load_digits().images[:400, :, :, None] * 15).astype(np.uint8)
    images = images.repeat(2, axis=1).repeat(2, axis=2)
    recipe = load_recipe("compression", latent_dim=16, width=8, epochs=6)
    options = TrainingOptions(start_time=time.monotonic())
    trained = train(images, Preprocessing(image_size=16, channels=1), recipe, options, tmp_path, lambda _: None)
    elbos = [epoch["validation"]["elbo"] for epoch in trained.history]
    assert trained.network.architecture.linear and elbos[-1] > elbos[0]


def test_what_was_written_before_has_no_such_path() -> None:
    values = Architecture(image_size=16, channels=1, latent_dim=4).to_dict()
    del values["linear"]
    assert not Architecture.from_dict(values).linear


@pytest.mark.parametrize("other", [{"kind": "resnet18"}, {"bottleneck": "convolutional", "latent_dim": 32}])
def test_it_needs_a_dense_latent_of_an_own_network(other: dict[str, object]) -> None:
    with pytest.raises(BadSetting, match="linear can't be true"):
        Network(Architecture(**{"image_size": 16, "channels": 1, "latent_dim": 4, "linear": True, **other}))
