"""Perceptual distances: what they find different, what their gradient does, and how they are told apart."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from simile.core.errors import BadSetting, CheckpointDamaged, NoSuchEncoder, NoSuchPath
from simile.images.decoding import DecodedImage
from simile.images.transforms import Preprocessing
from simile.models.checkpoints import checkpoint
from simile.models.checkpoints.description import EncoderDescription
from simile.models.losses.perceptual import EncoderInput, FeatureMapDistance, make_perceptual_distance
from simile.models.networks.architecture import Architecture
from simile.models.networks.backbones import Backbone
from simile.models.networks.vae import Network

Perceive = Callable[[str, int, int], nn.Module]


def blocks(count: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Images with edges: 4 x 4 pixels of one colour each."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(count, channels, -(-height // 4), -(-width // 4), generator=generator)
    return small.repeat_interleave(4, 2).repeat_interleave(4, 3)[:, :, :height, :width].contiguous()


def weights_of(name: str, path: Path, seed: int = 3) -> str:
    """A file of random weights; gives the spec that names it."""
    torch.manual_seed(seed)
    save_file(Backbone(name, 3, 32).body.state_dict(), path)
    return f"{name}:{path}"


def encoder_folder(folder: Path, channels: int, size: int = 32, crop: Any = None, **architecture: Any) -> str:
    """A folder with an encoder of random weights; crop: the (height, width) that its images were padded from."""
    fit = {} if crop is None else {"fit": "pad", "content": crop}
    preprocessing = Preprocessing(image_size=size, channels=channels, **fit)
    made = Architecture(image_size=size, channels=channels, **architecture)
    torch.manual_seed(11)
    network = Network(made)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.2, 0.2)
    description = EncoderDescription(
        architecture=made.to_dict(), preprocessing=preprocessing.to_dict(), metric="l2", index_dims=None
    )
    checkpoint.save_checkpoint(folder, network.state_dict(), description)
    return str(folder)


def spec_for(kind: str, tmp_path: Path, channels: int) -> str:
    """The spec of each kind, with files where it needs some."""
    if kind in ("gradients", "ms-ssim"):
        return kind
    if kind == "encoder":
        return encoder_folder(tmp_path / "encoder", channels, latent_dim=4, width=4)
    if kind == "supervised":
        classifier = {"kind": "resnet18", "variational": False, "decoder": False, "classes": 3}
        return encoder_folder(tmp_path / "supervised", channels, latent_dim=8, **classifier)
    return weights_of(kind, tmp_path / f"{kind}.safetensors")


@pytest.fixture(scope="module")
def perceive(tmp_path_factory: pytest.TempPathFactory) -> Perceive:
    """Makes a perception of a kind, for so many channels and a size; each is made once."""

    @cache
    def find_spec(kind: str, channels: int) -> str:
        return spec_for(kind, tmp_path_factory.mktemp("weights"), channels)

    @cache
    def perception(kind: str, channels: int, size: int) -> nn.Module:
        return make_perceptual_distance(find_spec(kind, channels), channels, size)

    return perception


KINDS = ["gradients", "ms-ssim", "resnet18", "mobilenet_v3_small", "squeezenet1_1", "encoder", "supervised"]


# What every distance promises


@pytest.mark.parametrize("kind", KINDS)
def test_equal_images_are_at_no_distance_and_others_further_the_more_is_changed(kind: str, perceive: Perceive) -> None:
    perception = perceive(kind, 1, 32)
    x = blocks(3, 1, 32, 32)
    other = blocks(3, 1, 32, 32, seed=1)
    same, some, all_of_it = (perception.distance(x, torch.lerp(x, other, part)) for part in (0.0, 0.1, 1.0))
    assert same.shape == (3,)
    assert same.abs().max() < 1e-6
    assert (some > 1e-6).all() and (all_of_it > some).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_flows_to_the_decoded_image_alone_and_leads_back(kind: str, perceive: Perceive) -> None:
    perception = perceive(kind, 3, 32)
    clean = blocks(2, 3, 32, 32).requires_grad_()
    decoded = blocks(2, 3, 32, 32, seed=1).requires_grad_()
    before = perception.distance(clean, decoded)
    (slope,) = torch.autograd.grad(before.sum(), decoded)
    assert torch.isfinite(slope).all() and slope.abs().max() > 0
    step = 0.5 / slope.flatten(1).norm(dim=1).view(2, 1, 1, 1)
    assert (perception.distance(clean, decoded - step * slope) < before).all()
    assert perception.distance(clean, decoded.detach()).requires_grad is False


@pytest.mark.parametrize("kind", KINDS)
def test_flat_images_have_a_finite_gradient(kind: str, perceive: Perceive) -> None:
    perception = perceive(kind, 1, 32)
    decoded = torch.full((2, 1, 32, 32), 0.5).requires_grad_()
    perception.distance(torch.zeros(2, 1, 32, 32), decoded).sum().backward()
    assert decoded.grad is not None and torch.isfinite(decoded.grad).all()


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_alone_has_the_distance_that_it_has_in_a_batch(kind: str, perceive: Perceive) -> None:
    perception = perceive(kind, 1, 32)
    x, y = blocks(4, 1, 32, 32), blocks(4, 1, 32, 32, seed=1)
    together = perception.distance(x, y)
    alone = torch.cat([perception.distance(x[n : n + 1], y[n : n + 1]) for n in range(4)])
    assert torch.allclose(together, alone, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("height", "width"), [(28, 20), (17, 16), (64, 48)])
def test_images_need_not_be_square_or_of_the_networks_size(
    kind: str, height: int, width: int, perceive: Perceive
) -> None:
    perception = perceive(kind, 1, min(height, width))
    x, y = blocks(2, 1, height, width), blocks(2, 1, height, width, seed=1)
    found = perception.distance(x, y)
    assert torch.isfinite(found).all() and (found > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_under_autocast_the_distance_is_nearly_the_same_and_fp32(kind: str, perceive: Perceive) -> None:
    perception = perceive(kind, 1, 32)
    x, y = blocks(4, 1, 32, 32), blocks(4, 1, 32, 32, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        found = perception.distance(x, y)
    assert found.dtype == torch.float32
    assert torch.allclose(found, perception.distance(x, y), rtol=0.05)


# Names


def test_names_tell_features_apart_and_not_where_their_files_lie(tmp_path: Path) -> None:
    first = make_perceptual_distance(weights_of("squeezenet1_1", tmp_path / "a.safetensors", seed=1), 1, 32).name
    moved = make_perceptual_distance(weights_of("squeezenet1_1", tmp_path / "b.safetensors", seed=1), 1, 32).name
    other = make_perceptual_distance(weights_of("squeezenet1_1", tmp_path / "a.safetensors", seed=2), 1, 32).name
    assert first == moved != other
    assert first.startswith("squeezenet1_1 ")
    assert make_perceptual_distance("gradients", 1, 32).name != make_perceptual_distance("gradients", 1, 64).name
    assert make_perceptual_distance("ms-ssim", 1, 32).name == "ms-ssim"


def test_the_name_of_an_encoders_features_holds_its_fingerprint(tmp_path: Path) -> None:
    folder = spec_for("encoder", tmp_path, 1)
    _, description = checkpoint.load_checkpoint(Path(folder))
    assert description.fingerprint in make_perceptual_distance(folder, 1, 32).name


# Feature maps


def test_vgg16_gives_a_map_before_each_halving_without_its_classifier() -> None:
    backbone = Backbone("vgg16", 3, 64)
    backbone.drop_classifier()
    assert sum(weight.numel() for weight in backbone.parameters()) < 15e6  # of 138 million
    features = FeatureMapDistance("vgg16", backbone.prepare, backbone.get_feature_layers())
    maps = list(features.iterate_feature_maps(blocks(1, 3, 64, 64)))
    shapes = [(64, 64, 64), (128, 32, 32), (256, 16, 16), (512, 8, 8), (512, 4, 4)]
    assert [tuple(found.shape[1:]) for found in maps] == shapes
    assert isinstance(features.layers[-1], nn.ReLU)  # relu5_3, as in the paper


def test_a_resnet_gives_its_stem_and_four_stages(tmp_path: Path) -> None:
    perception = make_perceptual_distance(weights_of("resnet18", tmp_path / "w.safetensors"), 3, 64)
    assert isinstance(perception, FeatureMapDistance)
    maps = list(perception.iterate_feature_maps(blocks(1, 3, 64, 64)))
    assert [found.shape[1] for found in maps] == [64, 64, 128, 256, 512]
    assert [found.shape[2] for found in maps] == [32, 16, 8, 4, 2]
    length = maps[2].square().sum(1)
    assert length.max() <= 1 and length.mean() > 0.9


def test_an_encoder_gives_a_map_at_each_level_of_what_it_was_trained_on(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "encoder", 1, 28, (20, 24), latent_dim=4, width=4)
    perception = make_perceptual_distance(folder, 3, 20)
    assert isinstance(perception, FeatureMapDistance)
    grey = blocks(2, 1, 20, 24)
    assert perception.prepare(grey.expand(-1, 3, -1, -1)).shape == (2, 1, 28, 28)
    maps = list(perception.iterate_feature_maps(grey))
    assert [tuple(found.shape[1:]) for found in maps] == [(4, 14, 14), (8, 7, 7)]


def test_an_encoders_input_is_padded_as_its_images_were() -> None:
    preprocessing = Preprocessing(image_size=32, channels=1, fit="pad", content=(20, 27))
    x = torch.randint(0, 256, (1, 1, 20, 27), generator=torch.Generator().manual_seed(0)).float()
    pixels = x[0, 0].byte().numpy()[:, :, None].repeat(3, 2)
    image = DecodedImage(pixels=pixels, width=27, height=20, format="png", is_grey=True)
    expected = torch.tensor(preprocessing.to_array(image)).permute(2, 0, 1).float()
    assert torch.equal(EncoderInput(preprocessing, 0)(x)[0], expected)


def test_a_dense_encoder_gives_its_last_layer(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "dense", 1, 16, latent_dim=4, width=12, kind="dense")
    perception = make_perceptual_distance(folder, 1, 16)
    assert isinstance(perception, FeatureMapDistance)
    assert [tuple(found.shape) for found in perception.iterate_feature_maps(blocks(2, 1, 16, 16))] == [(2, 12, 1)]
    assert (perception.distance(blocks(2, 1, 16, 16), blocks(2, 1, 16, 16, seed=1)) > 0).all()


def test_a_colour_encoder_sees_grey_images_as_grey(tmp_path: Path) -> None:
    perception = make_perceptual_distance(spec_for("encoder", tmp_path, 3), 1, 32)
    x, y = blocks(2, 1, 32, 32), blocks(2, 1, 32, 32, seed=1)
    colour = perception.distance(x.repeat(1, 3, 1, 1), y.repeat(1, 3, 1, 1))
    assert torch.allclose(perception.distance(x, y), colour)


def test_features_stay_frozen_in_a_module_that_trains(tmp_path: Path) -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.perception = make_perceptual_distance(spec_for("encoder", tmp_path, 1), 1, 32)

    holder = Holder().train()
    assert list(holder.parameters()) == [] and holder.state_dict() == {}
    assert isinstance(holder.perception, FeatureMapDistance)
    norm = next(layer for layer in holder.perception.layers if isinstance(layer, nn.BatchNorm2d))
    before = norm.running_mean.clone()
    holder.perception.distance(blocks(2, 1, 32, 32), blocks(2, 1, 32, 32, seed=1))
    assert torch.equal(norm.running_mean, before) and not norm.training


# Specs that can't be used


@pytest.mark.parametrize("spec", ["gradient", "vgg99", "zzz:file.pt", "vgg16:", ""])
def test_an_unknown_spec_says_what_there_is(spec: str) -> None:
    with pytest.raises(BadSetting, match=rf"features can't be '{spec}'. Use gradients, ms-ssim, a classifier"):
        make_perceptual_distance(spec, 1, 32)


def test_ms_ssim_of_images_that_are_too_small_is_refused() -> None:
    with pytest.raises(BadSetting, match="ms-ssim for images of 10 px: it needs 11"):
        make_perceptual_distance("ms-ssim", 1, 10)


def test_gradients_of_tiny_images_have_cells_that_fit() -> None:
    x, y = blocks(2, 1, 5, 5), blocks(2, 1, 5, 5, seed=1)
    assert (make_perceptual_distance("gradients", 1, 5).distance(x, y) > 0).all()
    assert make_perceptual_distance("gradients", 1, 3).distance(x[:, :, :3, :3], y[:, :, :3, :3]).shape == (2,)


@pytest.mark.parametrize(("side", "cells"), [(3, "3"), (5, "4"), (28, "4, 8"), (64, "4, 8, 16"), (128, "4, 8, 16, 32")])
def test_gradients_are_compared_in_cells_of_several_sizes(side: int, cells: str) -> None:
    assert make_perceptual_distance("gradients", 1, side).name == f"gradients in cells of {cells}"


def test_files_and_folders_that_are_missing_or_damaged_are_named(tmp_path: Path) -> None:
    with pytest.raises(NoSuchPath, match=r"nowhere/encoder"):
        make_perceptual_distance("nowhere/encoder", 1, 32)
    with pytest.raises(NoSuchPath, match=r"missing\.pt"):
        make_perceptual_distance("resnet18:missing.pt", 1, 32)
    with pytest.raises(NoSuchEncoder):
        make_perceptual_distance(str(tmp_path), 1, 32)
    folder = Path(spec_for("encoder", tmp_path, 1))
    (folder / "weights.safetensors").write_bytes(b"altered")
    with pytest.raises(CheckpointDamaged):
        make_perceptual_distance(str(folder), 1, 32)
    (tmp_path / "w.pt").write_bytes(b"no weights")
    with pytest.raises(CheckpointDamaged, match=r"w\.pt"):
        make_perceptual_distance(f"resnet18:{tmp_path / 'w.pt'}", 1, 32)
