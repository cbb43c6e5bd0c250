"""Encoders that simile did not train: what is added, and what is refused with a reason."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from simile.core.errors import BadSetting, BadUsage, EncoderMismatch, NoSuchPath
from simile.core.settings import Settings, load_settings
from simile.images.transforms import Preprocessing, scale_to_unit
from simile.indexer.maintenance import add_encoder as adding
from simile.indexer.maintenance.add_encoder import AddRequest, add_encoder
from simile.indexer.maintenance.encoders import activate_encoder, export_encoder, list_encoders, remove_encoder
from simile.models.external.inspection import ModelFile, inspect_model
from simile.models.external.preprocess import PRESETS, parse_preprocessing, read_preprocessing
from simile.models.inference.encoder import TrainedEncoder
from simile.models.networks.architecture import Architecture
from simile.models.networks.backbones import import_torchvision
from simile.models.networks.vae import Network
from simile.search.encoder_registry import find_encoder
from simile.store.home import Home
from tests.models.external import model_files as models
from tests.models.external.model_files import SIDE, node, onnx_file, tensor, value


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path / "home", device="cpu")


@pytest.fixture
def preprocess(tmp_path: Path) -> str:
    path = tmp_path / "preprocess.json"
    path.write_text(json.dumps(models.PREPROCESS))
    return str(path)


def add(settings: Settings, file: Path | str, preprocess: str | None, **options: Any) -> TrainedEncoder:
    request = AddRequest(**{"name": "other", "preprocess": preprocess, **options, "file": str(file)})
    added = add_encoder(settings, request)
    return find_encoder(Home(settings.home), added["fingerprint"], "cpu")


@pytest.fixture
def inspected_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inspects files in this process, without the seconds that another one takes to start."""
    monkeypatch.setattr(adding, "call_isolated", lambda function, item, _: function(item))


def some_images(count: int, side: int = SIDE) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def expected_inputs(images: np.ndarray[Any, Any]) -> torch.Tensor:
    mean, deviation = (np.array(models.PREPROCESS[key], np.float32)[:, None, None] for key in ("mean", "deviation"))
    return torch.from_numpy((scale_to_unit(images) - mean) / deviation)


# What is added


@pytest.mark.parametrize("format", ["onnx", "torchscript"])
def test_an_exported_network_gives_the_vectors_that_torch_gives(
    format: str, settings: Settings, preprocess: str, tmp_path: Path
) -> None:
    network, images = models.small_network(), some_images(20)
    file = tmp_path / ("model.onnx" if format == "onnx" else "model.pt")
    export: Callable[..., Path] = models.export_onnx if format == "onnx" else models.export_torchscript
    encoder = add(settings, export(network, file), preprocess, trust=format == "torchscript")
    with torch.no_grad():
        expected = network(expected_inputs(images)).numpy()
    np.testing.assert_allclose(encoder.encode(images).mu, expected, atol=1e-4 * np.abs(expected).max())
    assert encoder.encode(images).sigma is None and not encoder.has_decoder
    assert encoder.description.label == "other" and encoder.metric == "cosine"
    assert encoder.description.source is not None and encoder.description.source["format"] == format


@pytest.mark.usefixtures("inspected_here")
def test_networks_like_those_of_the_recipes_give_the_vectors_that_torch_gives(
    settings: Settings, preprocess: str, tmp_path: Path
) -> None:
    images = some_images(10)
    transformer, pooling = models.vision_transformer(), models.PowerPooling().eval()
    for name, network, file in (
        ("tower", transformer, models.export_onnx(transformer, tmp_path / "tower.onnx")),
        ("copies", pooling, models.export_torchscript(pooling, tmp_path / "copies.torchscript.pt", scripted=True)),
    ):
        encoder = add(settings, file, preprocess, name=name, trust=True)
        with torch.no_grad():
            expected = network(expected_inputs(images)).numpy()
        np.testing.assert_allclose(encoder.encode(images).mu, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.usefixtures("inspected_here")
def test_weights_of_a_torchvision_network_are_added_with_its_name(
    settings: Settings, preprocess: str, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    network = import_torchvision().models.shufflenet_v2_x0_5(weights=None).eval()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(BadUsage, match="--architecture resnet18"):
        add(settings, tmp_path / "weights.safetensors", preprocess)
    encoder = add(settings, tmp_path / "weights.safetensors", preprocess, architecture="shufflenet_v2_x0_5")
    network.fc = torch.nn.Identity()
    with torch.no_grad():
        expected = network(expected_inputs(some_images(6))).numpy()
    np.testing.assert_allclose(encoder.encode(some_images(6)).mu, expected, atol=1e-4 * np.abs(expected).max())
    with pytest.raises(BadSetting, match=r"weights\.safetensors can't be added.*does not fit resnet18"):
        add(settings, tmp_path / "weights.safetensors", preprocess, architecture="resnet18", name="wrong")


@pytest.mark.usefixtures("inspected_here")
def test_a_name_stands_for_the_fingerprint(settings: Settings, preprocess: str, tmp_path: Path) -> None:
    first = add(settings, models.export_onnx(models.small_network(), tmp_path / "a.onnx"), preprocess)
    second = add(settings, onnx_file(tmp_path / "b.onnx"), preprocess, name="second", metric="l2", index_dims=2)
    assert [entry["active"] for entry in list_encoders(settings)] == [True, False]  # the first of a new home
    assert (second.metric, second.index_dims) == ("l2", 2)
    assert activate_encoder(settings, "second")["fingerprint"] == second.fingerprint
    assert find_encoder(Home(settings.home), "other", "cpu").fingerprint == first.fingerprint
    with pytest.raises(BadSetting, match="has an encoder second already"):
        add(settings, tmp_path / "b.onnx", preprocess, name="second")
    assert remove_encoder(settings, "other")["fingerprint"] == first.fingerprint
    for name in ("shipped", "none", "abc", "No", "../up", ""):
        with pytest.raises(BadSetting, match="name can't be"):
            add(settings, tmp_path / "b.onnx", preprocess, name=name)


@pytest.mark.usefixtures("inspected_here")
def test_the_fingerprint_covers_weights_preprocessing_and_metric(settings: Settings, tmp_path: Path) -> None:
    file = onnx_file(tmp_path / "a.onnx")
    scaled = onnx_file(
        tmp_path / "b.onnx", [node("Mul", ["colour", "two"], ["vectors"])], [tensor("two", np.array([2.0], np.float32))]
    )
    fingerprints = set()
    for number, (path, change, metric) in enumerate(
        [(file, {}, "cosine"), (scaled, {}, "cosine"), (file, {"mean": [0, 0, 0]}, "cosine"), (file, {}, "l2")]
    ):
        declared = tmp_path / f"{number}.json"
        declared.write_text(json.dumps(models.PREPROCESS | change))
        encoder = add(settings, path, str(declared), name=f"encoder-{number}", metric=metric)
        fingerprints.add(encoder.fingerprint)
    assert len(fingerprints) == 4


@pytest.mark.usefixtures("inspected_here")
def test_an_exported_encoder_can_be_used_by_another_home(settings: Settings, preprocess: str, tmp_path: Path) -> None:
    encoder = add(settings, models.export_onnx(models.small_network(), tmp_path / "a.onnx"), preprocess)
    export_encoder(settings, "other", tmp_path / "copy", half=False)
    copy = find_encoder(Home(tmp_path / "elsewhere"), str(tmp_path / "copy"), "cpu")
    assert copy.fingerprint == encoder.fingerprint and copy.description.name == "other"
    np.testing.assert_array_equal(copy.encode(some_images(3)).mu, encoder.encode(some_images(3)).mu)


@pytest.mark.usefixtures("inspected_here")
def test_an_output_is_chosen_by_name(settings: Settings, preprocess: str, tmp_path: Path) -> None:
    outputs = {"vectors": ("n", 3), "mean": ("n", 3, 1, 1), "images": ("n", 3, SIDE, SIDE)}
    file = onnx_file(tmp_path / "a.onnx", [node("Neg", ["colour"], ["vectors"])], outputs=outputs)
    with pytest.raises(BadSetting, match=r"several outputs: vectors, mean, images\. Name .* --output NAME"):
        add(settings, file, preprocess)
    with pytest.raises(BadSetting, match="no output 'pooled'"):
        add(settings, file, preprocess, output="pooled")
    with pytest.raises(BadSetting, match="one vector for each image"):
        add(settings, file, preprocess, output="images")
    encoder = add(settings, file, preprocess, output="mean")
    inputs = expected_inputs(some_images(4)).numpy()
    np.testing.assert_allclose(encoder.encode(some_images(4)).mu, inputs.mean((2, 3)), atol=1e-5)


@pytest.mark.usefixtures("inspected_here")
def test_both_engines_of_onnx_give_the_same_vectors(settings: Settings, preprocess: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    encoder = add(settings, models.export_onnx(models.small_network(), tmp_path / "a.onnx"), preprocess)
    assert encoder.runtime == "openvino-fp32"  # it agrees with ONNX Runtime
    reference = find_encoder(Home(settings.home), "other", "cpu", "onnxruntime")
    assert reference.runtime == "onnxruntime-fp32"
    mu = reference.encode(some_images(9)).mu
    np.testing.assert_allclose(encoder.encode(some_images(9)).mu, mu, atol=1e-5 * np.abs(mu).max())


# A torchvision network, three ways


@pytest.mark.usefixtures("inspected_here")
def test_resnet18_finds_the_same_neighbours_as_in_simile_s_own_path(settings: Settings, tmp_path: Path) -> None:
    torch.manual_seed(0)
    side, count = 40, 1000
    network = import_torchvision().models.resnet18(weights=None)
    with torch.no_grad():
        network(torch.rand(64, 3, side, side))  # statistics of the batch norms
    network.eval()
    own = Network(
        Architecture(image_size=side, channels=3, latent_dim=512, kind="resnet18", variational=False, decoder=False)
    )
    weights = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("fc.")}
    own.encoder.trunk.body.load_state_dict(weights)  # type: ignore[union-attr]
    network.fc = torch.nn.Identity()
    declared = PRESETS["imagenet"] | {"size": side, "fit": "stretch", "resampling": "bicubic"}
    del declared["resize"]
    (tmp_path / "declared.json").write_text(json.dumps(declared))
    images = smooth_images(count, side)
    preprocessing = Preprocessing(image_size=side, channels=3)
    from simile.models.checkpoints.description import EncoderDescription

    description = EncoderDescription(
        architecture=own.architecture.to_dict(), preprocessing=preprocessing.to_dict(), metric="cosine", index_dims=None
    )
    expected = TrainedEncoder(own, preprocessing, description, "cpu", "torch").encode(images).mu
    for file, options in (
        (models.export_onnx(network, tmp_path / "r.onnx", side), {"name": "as-onnx"}),
        (models.export_torchscript(network, tmp_path / "r.pt"), {"name": "as-torchscript", "trust": True}),
    ):
        encoder = add(settings, file, str(tmp_path / "declared.json"), **options)
        found = encoder.encode(images).mu
        assert np.abs(found - expected).max() <= 2e-2 * np.abs(expected).max()
        assert (nearest(found) == nearest(expected)).mean() >= 0.999


def smooth_images(count: int, side: int) -> np.ndarray[Any, Any]:
    """Different images that are smooth, like photos."""
    from simile.models.inference.parity import make_smooth_images

    return (make_smooth_images(count, 3, side) * 255).astype(np.uint8).transpose(0, 2, 3, 1)


def nearest(vectors: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -1)
    return similarity.argmax(1)


# Plug-ins

PLUGIN = """
import numpy as np

class Colours:
    identity = "{identity}"
    preprocess = {preprocess!r}
    def encode(self, images):
        return np.concatenate([images.mean((2, 3)), images.std((2, 3))], 1)

def broken():
    raise OSError("no model file")
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Installs a package with the plug-ins `colours` and `broken`."""
    folder = tmp_path / "packages"
    (folder / "colours-1.0.dist-info").mkdir(parents=True)
    (folder / "colours-1.0.dist-info" / "METADATA").write_text("Name: colours\nVersion: 1.0\n")
    entries = "[simile.encoders]\ncolours = colours_plugin:Colours\nbroken = colours_plugin:broken\n"
    (folder / "colours-1.0.dist-info" / "entry_points.txt").write_text(entries)
    monkeypatch.syspath_prepend(str(folder))

    def install(identity: str) -> None:
        source = PLUGIN.format(identity=identity, preprocess=models.PREPROCESS)
        (folder / "colours_plugin.py").write_text(source)
        monkeypatch.delitem(__import__("sys").modules, "colours_plugin", raising=False)
        for cached in folder.glob("__pycache__/*"):
            cached.unlink()

    install("first")
    return install


def test_a_plug_in_is_added_and_refused_once_it_changes(settings: Settings, plugin: Callable[[str], None]) -> None:
    encoder = add(settings, "plugin:colours", None)
    assert encoder.runtime == "plugin-colours" and encoder.latent_dim == 6
    inputs = expected_inputs(some_images(5)).numpy()
    np.testing.assert_allclose(encoder.encode(some_images(5)).mu[:, :3], inputs.mean((2, 3)), atol=1e-5)
    plugin("second")
    with pytest.raises(EncoderMismatch, match="colours has changed"):
        find_encoder(Home(settings.home), "other", "cpu").encode(some_images(5))


def test_a_plug_in_that_can_t_be_used_is_named(settings: Settings, plugin: Callable[[str], None]) -> None:
    with pytest.raises(BadSetting, match=r"no encoder plug-in 'colour' .*Installed: colours"):
        add(settings, "plugin:colour", None)
    with pytest.raises(BadSetting, match=r"broken can't be loaded .*no model file"):
        add(settings, "plugin:broken", None)
    with pytest.raises(BadUsage, match="declares its own"):
        add(settings, "plugin:colours", "imagenet")


# Preprocessing


def test_what_is_not_declared_is_not_guessed(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(BadUsage, match=r"Give --preprocess: imagenet, clip or a \.json file"):
        add(settings, onnx_file(tmp_path / "a.onnx"), None)
    for key in models.PREPROCESS:
        with pytest.raises(BadSetting, match=f"{key} must be declared"):
            parse_preprocessing({name: part for name, part in models.PREPROCESS.items() if name != key}, "x", "#ffffff")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"size": 0}, "size must be"),
        ({"size": 5000}, "size must be"),
        ({"size": True}, "size must be"),
        ({"fit": "squash"}, "fit must be one of"),
        ({"resize": 40}, "resize must be"),
        ({"fit": "crop", "resize": 8}, "resize must be"),
        ({"resampling": "nearest"}, "resampling must be"),
        ({"order": "rbg"}, "order must be"),
        ({"order": "grey"}, "list of 1 numbers"),
        ({"range": [1, 0]}, "first number of range"),
        ({"mean": [1, 2]}, "mean must be a list of 3"),
        ({"mean": [1, 2, float("nan")]}, "mean must be"),
        ({"deviation": [1, 1, 0]}, "deviation must be above zero"),
        ({"crop": 3}, "crop is not known"),
    ],
)
def test_preprocessing_that_makes_no_sense_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadSetting, match=reason):
        parse_preprocessing(models.PREPROCESS | change, "x.json", "#ffffff")


def test_every_preprocessing_in_the_documentation_can_be_declared() -> None:
    text = (Path(__file__).parents[2] / "docs" / "encoders.md").read_text("utf-8")
    blocks = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]
    assert len(blocks) == 4 and blocks[0] == PRESETS["imagenet"]
    for block in blocks:
        parse_preprocessing(block, "docs/encoders.md", "#ffffff")


def test_a_preprocessing_file_that_can_t_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(BadSetting, match=r"bad\.json can't be read as JSON"):
        read_preprocessing(str(tmp_path / "bad.json"), "#ffffff")
    with pytest.raises(BadSetting, match=r"list\.json: it is not an object"):
        read_preprocessing(str(tmp_path / "list.json"), "#ffffff")
    with pytest.raises(NoSuchPath):
        read_preprocessing(str(tmp_path / "none.json"), "#ffffff")
    with pytest.raises(BadSetting, match=r"Use imagenet, clip, or a \.json file"):
        read_preprocessing("image-net", "#ffffff")


# Files that are refused


def vast(path: Path) -> Path:
    """Declares a tensor of 10 GB."""
    return onnx_file(path, tensors=[[(1, 50_000), (1, 50_000), (2, 1), (8, "vast"), (9, b"1234")]])


def vast_at_run_time(path: Path) -> Path:
    """Makes a tensor of 40 GB when it runs."""
    shape = tensor("shape", np.array([10_000, 1_000_000], np.int64))
    nodes = [
        node("ConstantOfShape", ["shape"], ["vast"]),
        node("ReduceMax", ["vast"], ["most"], attributes=[(5, [(1, "keepdims"), (3, 0), (20, 2)])]),
        node("Add", ["colour", "most"], ["vectors"]),
    ]
    return onnx_file(path, nodes, [shape])


def outside(path: Path) -> Path:
    """Has its weights in a file outside of its folder."""
    place = [(1, "location"), (2, "../../../../etc/passwd")]
    return onnx_file(path, tensors=[[(1, 4), (2, 1), (8, "secret"), (13, place), (14, 1)]])


def with_nan(path: Path) -> Path:
    nodes = [node("Mul", ["colour", "nan"], ["vectors"])]
    return onnx_file(path, nodes, [tensor("nan", np.array([np.nan], np.float32))])


def constant(path: Path) -> Path:
    nodes = [node("Mul", ["colour", "zero"], ["nothing"]), node("Add", ["nothing", "one"], ["vectors"])]
    return onnx_file(path, nodes, [tensor("zero", np.zeros(1, np.float32)), tensor("one", np.ones(1, np.float32))])


def truncated(path: Path) -> Path:
    data = models.export_onnx(models.small_network(), path).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def nested(path: Path) -> Path:
    """Graphs inside nodes, 200 deep."""
    graph: list[tuple[int, Any]] = [(2, "innermost")]
    for _ in range(200):
        graph = [(1, node("If", ["x"], ["y"], attributes=[(5, [(1, "then_branch"), (6, graph), (20, 5)])]))]
    path.write_bytes(models.pack([(1, 8), (7, graph), (8, [(2, 17)])]))
    return path


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "empty": (lambda path: written(path, b""), "no ONNX file"),
    "text": (lambda path: written(path, b"this is not a model"), "no ONNX file"),
    "truncated": (truncated, "cut off"),
    "nested": (nested, "nested too deeply"),
    "old opset": (lambda path: onnx_file(path, opset=3), "opset 3, and the engines know 7 to"),
    "new opset": (lambda path: onnx_file(path, opset=999), "opset 999"),
    "declared size": (vast, "declares 2,500,000,000 values for the tensor 'vast', and holds 4 bytes"),
    "size at run time": (vast_at_run_time, "memory|can't load it|can't be used"),
    "outside": (outside, "weights in other files, which simile does not open"),
    "custom operator": (
        lambda path: onnx_file(path, [node("Steal", ["colour"], ["vectors"], "evil.ops")]),
        r"custom operator evil\.ops\.Steal",
    ),
    "unknown operator": (lambda path: onnx_file(path, [node("Steal", ["colour"], ["vectors"])]), "No engine can run"),
    "nan": (with_nan, "NaN or infinity"),
    "constant": (constant, "same vector for different images"),
    "fixed count": (
        lambda path: models.export_onnx(models.small_network(), path, free_count=False),
        "2 x 3 x 32 x 32 of float32, but the preprocessing gives n x 3 x 32 x 32",
    ),
    "other size": (lambda path: onnx_file(path, shape=("n", 3, 48, 48)), "n x 3 x 48 x 48 of float32"),
    "channels last": (lambda path: onnx_file(path, shape=("n", 32, 32, 3)), "n x 32 x 32 x 3 of float32"),
    "free shape": (lambda path: onnx_file(path, shape=()), "the preprocessing gives n x 3"),
    "two inputs": (
        lambda path: onnx_file(path, inputs=[value("tokens", ("n", 77), 7)]),
        "one input, the images, and has: images, tokens",
    ),
}
IN_THEIR_PROCESS = ("truncated", "size at run time", "outside", "unknown operator")


@pytest.mark.parametrize("kind", REFUSED)
def test_a_broken_or_hostile_onnx_file_is_refused_with_its_reason(
    kind: str, settings: Settings, preprocess: str, tmp_path: Path
) -> None:
    make, reason = REFUSED[kind]
    file = make(tmp_path / "bad.onnx")
    if kind in IN_THEIR_PROCESS:
        with pytest.raises(BadSetting, match=rf"bad\.onnx can't be added\. .*({reason})"):
            add(settings, file, preprocess)
        assert list(settings.home.glob("encoders/*")) == []
    else:  # what the process would do, without the time of its start
        preprocessing = read_preprocessing(preprocess, "#ffffff")
        refused = inspect_model(ModelFile(path=str(file), format="onnx", preprocessing=preprocessing))
        assert isinstance(refused, str) and re.search(reason, refused), refused


@pytest.mark.usefixtures("inspected_here")
def test_free_height_and_width_are_those_of_the_preprocessing(
    settings: Settings, preprocess: str, tmp_path: Path
) -> None:
    encoder = add(settings, onnx_file(tmp_path / "free.onnx", shape=("n", 3, "h", "w")), preprocess)
    assert encoder.encode(some_images(5)).mu.shape == (5, 3)


@pytest.mark.parametrize("network", [models.WritesFile, models.WritesWhenLoaded])
def test_torchscript_is_code_and_is_not_read_without_trust(
    network: Callable[[Path], torch.nn.Module], settings: Settings, preprocess: str, tmp_path: Path
) -> None:
    target = tmp_path / "written"
    file = models.export_torchscript(network(target), tmp_path / "writes.pt", scripted=True)
    target.write_bytes(b"precious")
    with pytest.raises(BadUsage, match=r"TorchScript, which is code.*--trust"):
        add(settings, file, preprocess)
    with pytest.raises(BadSetting, match=r"writes\.pt can't be added\. Its code calls an operator that opens a file"):
        add(settings, file, preprocess, trust=True)
    assert target.read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (models.Random(), "other vectors for the same images"),
        (models.DependsOnBatch(), "An image alone"),
        (models.TakesMemory(), "memory"),
        (models.NeverEnds(), "took more than 8 seconds"),
    ],
    ids=["random", "batch", "memory", "time"],
)
def test_torchscript_that_is_no_encoder_is_refused_in_bounded_time_and_memory(
    network: torch.nn.Module,
    reason: str,
    settings: Settings,
    preprocess: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adding, "INSPECTION_SECONDS", 8.0)
    file = models.export_torchscript(network, tmp_path / "bad.pt", scripted=True)
    with pytest.raises(BadSetting, match=rf"bad\.pt can't be added\. .*{reason}"):
        add(settings, file, preprocess, trust=True)


def test_files_of_other_kinds_are_refused(settings: Settings, preprocess: str, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"1")
    os.mkfifo(tmp_path / "pipe.onnx")
    with (tmp_path / "huge.onnx").open("wb") as file:
        file.truncate(adding.MAX_MODEL_BYTES + 1)
    (tmp_path / "weights.safetensors").write_bytes((10**10).to_bytes(8, "little") + b"{}")
    (tmp_path / "code.pt").write_bytes(b"PK\3\4 no archive")
    with pytest.raises(NoSuchPath):
        add(settings, tmp_path / "none.onnx", preprocess)
    for name, reason in (
        ("model.bin", "suffix .bin. Use .onnx"),
        ("pipe.onnx", "is no file"),
        ("huge.onnx", "2.0 GB, and 2 GB is the most"),
    ):
        with pytest.raises(BadSetting, match=reason):
            add(settings, tmp_path / name, preprocess)
    with pytest.raises(BadSetting, match="can't be read as weights"):
        add(settings, tmp_path / "weights.safetensors", preprocess, architecture="shufflenet_v2_x0_5")
    with pytest.raises(BadSetting, match=r"code\.pt can't be added"):
        add(settings, tmp_path / "code.pt", preprocess, trust=True)
