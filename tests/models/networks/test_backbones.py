"""torchvision's classifiers as encoders: what they give, what they take, and where their weights come from."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from simile.core.errors import BadSetting, CheckpointDamaged, DownloadFailed, NoSuchPath
from simile.models.networks.backbones import Backbone, import_torchvision, list_backbones, load_backbone_weights

models = import_torchvision().models

# One of each family that is quick to build, with its penultimate layer; the rest is the same code at another size.
FAMILIES = {
    "resnet18": 512,
    "mobilenet_v3_small": 1024,
    "efficientnet_b0": 1280,
    "shufflenet_v2_x0_5": 1024,
    "squeezenet1_1": 512,
    "densenet121": 1024,
    "regnet_y_400mf": 440,
    "googlenet": 1024,
}


def images(count: int, channels: int, side: int) -> Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(side))


@cache
def classifier(name: str, seed: int = 5) -> nn.Module:
    """torchvision's own network with random weights, batch norms that do something, and the published one's options."""
    torch.manual_seed(seed)
    options = {"init_weights": False, "transform_input": True} if name == "googlenet" else {}
    network: nn.Module = models.get_model(name, weights=None, **options)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.2, 0.2)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return network.eval()


def load(name: str, path: Path | str, side: int = 32) -> Backbone:
    """Return a backbone with the weights of a file."""
    backbone = Backbone(name, 3, side)
    load_backbone_weights(backbone, str(path))
    return backbone


# What they give


@pytest.mark.parametrize("name", FAMILIES)
def test_the_last_layer_of_torchvision_on_top_gives_what_torchvision_gives(name: str, tmp_path: Path) -> None:
    whole = classifier(name)
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    backbone = load(name, tmp_path / "weights.pth", 64).eval()
    transform = models.get_model_weights(name).DEFAULT.transforms()
    mean, std = torch.tensor(transform.mean).view(3, 1, 1), torch.tensor(transform.std).view(3, 1, 1)
    x = images(3, 3, 64)
    last = [layer for layer in whole.modules() if isinstance(layer, nn.Linear | nn.Conv2d)][-1]
    with torch.no_grad():
        expected = whole((x - mean) / std)
        if isinstance(last, nn.Conv2d):  # squeezenet averages what its last layer gives at every place
            before = backbone.body.features((x - mean) / std)
            assert torch.allclose(last(before).relu().mean((2, 3)), expected, atol=1e-5)
            assert torch.allclose(backbone(x), before.relu().mean((2, 3)), atol=1e-6)
        else:
            assert torch.allclose(last(backbone(x)), expected, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("side", [16, 28, 64])
@pytest.mark.parametrize("name", FAMILIES)
def test_images_of_every_size_give_features_with_a_gradient(name: str, side: int) -> None:
    backbone = Backbone(name, 1, side).train()
    x = images(4, 1, side).requires_grad_()
    features = backbone(x)
    assert features.shape == (4, backbone.num_features) == (4, FAMILIES[name])
    features.square().sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all() and x.grad.abs().max() > 0


def test_grey_images_are_seen_as_equal_channels() -> None:
    backbone = Backbone("resnet18", 1, 32).eval()
    x = images(2, 1, 32)
    assert torch.equal(backbone(x), backbone(x.repeat(1, 3, 1, 1)))


def test_what_is_too_small_for_a_network_is_enlarged_and_nothing_else() -> None:
    assert [Backbone("resnet18", 3, side).prepare.side for side in (16, 256)] == [16, 256]
    backbone = Backbone("convnext_tiny", 3, 16)  # made for 32 or more
    assert backbone.prepare(images(1, 3, 16)).shape == (1, 3, 32, 32)
    flat = backbone.prepare(torch.full((1, 3, 16, 16), 0.5))
    assert torch.allclose(flat, ((0.5 - backbone.prepare.mean) / backbone.prepare.std).expand_as(flat), atol=1e-6)


def test_a_transformer_sees_its_own_size_of_smaller_and_larger_images() -> None:
    small, large = Backbone("swin_t", 3, 32).eval(), Backbone("swin_t", 3, 256)
    assert (small.prepare.side, large.prepare.side) == (224, 224)
    assert large.prepare(images(1, 3, 256)).shape == (1, 3, 224, 224)
    with torch.no_grad():
        assert small(images(1, 3, 32)).shape == (1, 768)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_layers_one_after_another_end_in_the_last_feature_map(name: str) -> None:
    backbone = Backbone(name, 3, 64).eval()
    x = images(2, 3, 64)
    with torch.no_grad():
        found = backbone.prepare(x)
        for layer in backbone.get_feature_layers():
            found = layer(found)
        backbone.drop_classifier()  # what is left is the maps, flattened, and in densenet and squeezenet averaged
        expected = backbone(x)
    if name == "densenet121":
        found = found.relu()
    if name in ("densenet121", "shufflenet_v2_x0_5"):
        found = found.mean((2, 3))
    assert torch.allclose(found.flatten(1), expected, atol=1e-6)


def test_a_backbone_without_its_classifier_takes_weights_without_one(tmp_path: Path) -> None:
    state = classifier("mobilenet_v3_small").state_dict()
    maps = {name: tensor for name, tensor in state.items() if name.startswith("features.")}
    save_file(maps, tmp_path / "maps.safetensors")
    save_file(state, tmp_path / "whole.safetensors")
    with pytest.raises(BadSetting, match=r"it lacks classifier\.0\.weight, classifier\.0\.bias"):
        load("mobilenet_v3_small", tmp_path / "maps.safetensors")
    for name in ("maps", "whole"):
        backbone = Backbone("mobilenet_v3_small", 3, 32)
        backbone.drop_classifier()
        load_backbone_weights(backbone, str(tmp_path / f"{name}.safetensors"))
        assert backbone.body.state_dict().keys() == maps.keys()
        assert torch.equal(backbone.body.features[0][0].weight, maps["features.0.0.weight"])


def test_every_name_is_one_of_torchvisions() -> None:
    names = list_backbones()
    assert {"resnet50", "vgg16", "convnext_tiny", "vit_b_16", *FAMILIES} <= set(names)
    assert set(names) <= set(models.list_models())
    assert list(names) == sorted(names)


@pytest.mark.parametrize(("name", "near"), [("resnet-18", "resnet18"), ("vgg-16", "vgg16"), ("zzzz", "resnet18")])
def test_an_unknown_name_gets_names_that_look_alike(name: str, near: str) -> None:
    with pytest.raises(BadSetting, match=f"'{name}'.*{near}"):
        Backbone(name, 3, 32)


def test_state_and_normalisation_go_through_a_checkpoint_of_ones_own(tmp_path: Path) -> None:
    first, second = Backbone("resnet18", 3, 32).eval(), Backbone("resnet18", 3, 32).eval()
    save_file(first.state_dict(), tmp_path / "own.safetensors")
    second.load_state_dict(load_file(tmp_path / "own.safetensors"))  # strict: all of it is there
    x = images(2, 3, 32)
    assert torch.equal(first(x), second(x))


# Weights from files


@pytest.mark.parametrize("suffix", ["pt", "pth", "safetensors"])
@pytest.mark.parametrize("with_classifier", [True, False])
def test_weights_come_from_every_kind_of_file_with_or_without_the_classifier(
    suffix: str, with_classifier: bool, tmp_path: Path
) -> None:
    state = classifier("resnet18").state_dict()
    if not with_classifier:
        state = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    path = tmp_path / f"weights.{suffix}"
    if suffix == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    backbone = load("resnet18", path)
    assert torch.equal(backbone.body.conv1.weight, state["conv1.weight"])
    assert torch.equal(backbone.body.layer4[1].bn2.running_var, state["layer4.1.bn2.running_var"])


@pytest.mark.parametrize("wrapped", ["model", "state_dict"])
def test_what_training_scripts_put_around_weights_is_taken_off(wrapped: str, tmp_path: Path) -> None:
    state = classifier("resnet18").state_dict()
    torch.save({wrapped: state, "epoch": 3}, tmp_path / "checkpoint.pth")
    backbone = load("resnet18", tmp_path / "checkpoint.pth")
    assert torch.equal(backbone.body.conv1.weight, state["conv1.weight"])


def test_names_in_densenets_published_files_are_understood(tmp_path: Path) -> None:
    state = classifier("densenet121").state_dict()
    old = {name.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): t for name, t in state.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "densenet121.pth")
    backbone = load("densenet121", tmp_path / "densenet121.pth")
    name = "features.denseblock1.denselayer1.norm1.running_mean"
    assert torch.equal(backbone.body.state_dict()[name], state[name])


def test_weights_of_another_network_are_refused_with_names(tmp_path: Path) -> None:
    save_file(classifier("resnet18").state_dict(), tmp_path / "resnet18.safetensors")
    with pytest.raises(BadSetting, match=r"does not fit resnet34: it lacks layer1\.2\.\S+, .* and \d+ more"):
        load("resnet34", tmp_path / "resnet18.safetensors")
    with pytest.raises(BadSetting, match=r"does not fit squeezenet1_1: it lacks features\."):
        load("squeezenet1_1", tmp_path / "resnet18.safetensors")


def test_weights_with_more_or_of_other_shapes_are_refused_with_names(tmp_path: Path) -> None:
    state = classifier("resnet18").state_dict()
    save_file({**state, "layer5.weight": torch.ones(1)}, tmp_path / "more.safetensors")
    save_file({**state, "conv1.weight": torch.ones(64, 3, 3, 3)}, tmp_path / "other.safetensors")
    backbone = Backbone("resnet18", 3, 32)
    with pytest.raises(BadSetting, match=r"it has layer5\.weight too"):
        load_backbone_weights(backbone, str(tmp_path / "more.safetensors"))
    with pytest.raises(BadSetting, match=r"size mismatch for conv1\.weight"):
        load_backbone_weights(backbone, str(tmp_path / "other.safetensors"))


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("kept", [0, 10, 5000])
def test_a_damaged_file_is_named(suffix: str, kept: int, tmp_path: Path) -> None:
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    state = {"fc.weight": torch.ones(5000)}
    torch.save(state, whole) if suffix == "pt" else save_file(state, whole)
    path.write_bytes(whole.read_bytes()[:kept])
    with pytest.raises(CheckpointDamaged, match=rf"cut\.{suffix} can't be read"):
        load("resnet18", path)


class Bomb:
    """A pickle that runs code when it is loaded."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("exploded",)


def test_a_file_with_code_in_it_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": torch.ones(1), "bomb": Bomb()}, tmp_path / "bomb.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Bomb(), protocol=2))
    for name in ("bomb.pt", "plain.pt"):
        with pytest.raises(CheckpointDamaged, match=rf"{name} can't be read as weights \(damaged, or it contains"):
            load("resnet18", tmp_path / name)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content", [{}, [torch.ones(1)], {"epoch": 3}, torch.ones(2)])
def test_a_file_without_weights_by_name_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(CheckpointDamaged, match=r"odd\.pt holds no weights by name"):
        load("resnet18", tmp_path / "odd.pt")


def test_a_file_that_is_missing_or_of_another_kind_is_named(tmp_path: Path) -> None:
    backbone = Backbone("resnet18", 3, 32)
    with pytest.raises(NoSuchPath, match=r"missing\.pth"):
        load_backbone_weights(backbone, "missing.pth")
    (tmp_path / "weights.onnx").touch()
    with pytest.raises(BadSetting, match=r"weights\.onnx. Use published, or a \.safetensors"):
        load_backbone_weights(backbone, str(tmp_path / "weights.onnx"))


# Published weights


def published_file(name: str, torch_home: Path) -> Path:
    """Where torchvision keeps what it has downloaded."""
    folder = torch_home / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder / Path(models.get_model_weights(name).DEFAULT.url).name


def test_published_weights_that_were_downloaded_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    state = classifier("resnet18").state_dict()
    torch.save(state, published_file("resnet18", tmp_path))
    backbone = load("resnet18", "published")
    assert torch.equal(backbone.body.conv1.weight, state["conv1.weight"])


def test_a_download_that_was_cut_short_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    kept = published_file("resnet18", tmp_path)
    kept.write_bytes(b"half of it")
    with pytest.raises(DownloadFailed, match=f"delete {kept} if it is there"):
        load("resnet18", "published")


def test_without_a_network_published_weights_say_what_to_do(tmp_path: Path) -> None:
    code = """
from simile.models.networks.backbones import Backbone, load_backbone_weights
from simile.core.errors import DownloadFailed
try:
    load_backbone_weights(Backbone("squeezenet1_1", 3, 32), "published")
except DownloadFailed as error:
    print(error)
"""
    closed = {"https_proxy": "http://127.0.0.1:9", "TORCH_HOME": str(tmp_path), "no_proxy": ""}  # nothing listens there
    environment = {key: value for key, value in os.environ.items() if key.lower() not in closed} | closed
    options = {"capture_output": True, "text": True, "timeout": 120, "cwd": Path(__file__).parents[3]}
    done = subprocess.run([sys.executable, "-c", code], check=True, env=environment, **options)
    assert "published weights of squeezenet1_1 could not be downloaded from https://download.pytorch.org" in done.stdout
    assert "download that address elsewhere and name the file" in done.stdout
