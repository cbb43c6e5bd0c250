"""Model files that tests add as encoders: exported by torch, or written by hand, also hostile ones."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SIDE = 32
PREPROCESS = {
    "size": SIDE,
    "fit": "stretch",
    "resampling": "bicubic",
    "order": "rgb",
    "range": [0, 1],
    "mean": [0.5, 0.4, 0.3],
    "deviation": [0.2, 0.3, 0.4],
}


def small_network(dimensions: int = 12) -> nn.Module:
    """Images (n, 3, h, w) to vectors (n, dimensions)."""
    torch.manual_seed(3)
    layers = nn.Conv2d(3, 16, 5, 2), nn.Tanh(), nn.Conv2d(16, 16, 3, 2), nn.Tanh()
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, dimensions)).eval()


def vision_transformer() -> nn.Module:
    """Images to the class token, as DINOv2 and the vision towers of CLIP."""
    from simile.models.networks.backbones import import_torchvision

    torch.manual_seed(4)
    sizes = {"image_size": SIDE, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
    network: nn.Module = import_torchvision().models.VisionTransformer(**sizes)
    network.heads = nn.Identity()
    return network.eval()


class PowerPooling(nn.Module):
    """Generalised mean pooling and vectors of length 1, as in SSCD."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.layers = nn.Sequential(nn.Conv2d(3, 16, 5, 2), nn.ReLU(), nn.Conv2d(16, 24, 3, 2), nn.ReLU()).eval()

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.layers(x).clamp(min=1e-6).pow(3.0).mean((2, 3)).pow(1 / 3)
        return nn.functional.normalize(pooled)


def export_onnx(module: nn.Module, path: Path, side: int = SIDE, *, free_count: bool = True) -> Path:
    """Export a network with torch.onnx, also where the package onnx is not installed: it adds functions of users."""
    from torch.onnx._internal.torchscript_exporter import onnx_proto_utils

    target = io.BytesIO()
    torch.backends.mha.set_fastpath_enabled(False)  # ONNX has no operator for torch's fast attention
    add, onnx_proto_utils._add_onnxscript_fn = onnx_proto_utils._add_onnxscript_fn, lambda graph, _: graph
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                (torch.zeros(2, 3, side, side),),
                target,  # type: ignore[arg-type]
                dynamo=False,
                opset_version=17,
                input_names=["images"],
                dynamic_axes={"images": {0: "n"}} if free_count else None,
            )
    finally:
        onnx_proto_utils._add_onnxscript_fn = add
        torch.backends.mha.set_fastpath_enabled(True)
    path.write_bytes(target.getvalue())
    return path


def export_torchscript(module: nn.Module, path: Path, *, scripted: bool = False) -> Path:
    """Export a network with torch.jit."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        script = torch.jit.script(module) if scripted else torch.jit.trace(module, torch.rand(2, 3, SIDE, SIDE))
        script.save(str(path))
    return path


# ONNX files by hand: every message is a list of (field number, value).

Message = Sequence[tuple[int, Any]]


def pack(message: Message) -> bytes:
    """Return a protocol buffer."""
    data = b""
    for number, value in message:
        if isinstance(value, int):
            data += _varint(number << 3) + _varint(value)
        else:
            content = value.encode() if isinstance(value, str) else value if isinstance(value, bytes) else pack(value)
            data += _varint(number << 3 | 2) + _varint(len(content)) + content
    return data


def _varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    data = bytearray()
    while number > 127:
        data.append(number & 127 | 128)
        number >>= 7
    return bytes([*data, number])


def tensor(name: str, values: np.ndarray[Any, Any], **others: Any) -> Message:
    """A TensorProto of float32 (1) or int64 (7)."""
    kind = 7 if values.dtype == np.int64 else 1
    return [*((1, side) for side in values.shape), (2, kind), (8, name), (9, values.tobytes())]


def value(name: str, shape: Sequence[int | str], kind: int = 1) -> Message:
    """A ValueInfoProto."""
    dims = [(1, [(1, side)] if isinstance(side, int) else [(2, side)]) for side in shape]
    return [(1, name), (2, [(1, [(1, kind), (2, dims)])])]


def node(
    kind: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", attributes: Message = ()
) -> Message:
    """A NodeProto."""
    return [*((1, name) for name in inputs), *((2, name) for name in outputs), (4, kind), *attributes, (7, domain)]


def onnx_file(
    path: Path,
    nodes: Sequence[Message] = (),
    tensors: Sequence[Message] = (),
    *,
    opset: int = 17,
    shape: Sequence[int | str] = ("n", 3, SIDE, SIDE),
    outputs: Mapping[str, Sequence[int | str]] | None = None,
    inputs: Sequence[Message] = (),
) -> Path:
    """Write an ONNX file whose output `vectors` is, without other nodes, the mean colour of each image."""
    nodes = [node("GlobalAveragePool", ["images"], ["mean"]), node("Flatten", ["mean"], ["colour"]), *nodes]
    if not any("vectors" in (part[1] for part in one if part[0] == 2) for one in nodes):
        nodes = [*nodes, node("Identity", ["colour"], ["vectors"])]
    graph: list[tuple[int, Any]] = [*((1, one) for one in nodes), (2, "graph"), *((5, one) for one in tensors)]
    graph += [(11, value("images", shape)), *((11, one) for one in inputs)]
    graph += [(12, value(name, sides)) for name, sides in (outputs or {"vectors": ("n", 3)}).items()]
    path.write_bytes(pack([(1, 8), (7, graph), (8, [(1, ""), (2, opset)])]))
    return path


class WritesFile(nn.Module):
    """A network whose code writes a file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = str(path)

    def forward(self, x: Tensor) -> Tensor:
        torch.save(x, self.path)
        return x.mean((2, 3))


class WritesWhenLoaded(nn.Module):
    """A network whose code writes a file as soon as it is loaded."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = str(path)
        self.state = torch.ones(1)

    @torch.jit.export
    def __getstate__(self) -> tuple[str, Tensor, bool]:
        return self.path, self.state, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, Tensor, bool]) -> None:
        self.path, self.state, self.training = state[0], state[1], state[2]
        torch.save(state[1], state[0])

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class NeverEnds(nn.Module):
    """A network that computes forever."""

    def forward(self, x: Tensor) -> Tensor:
        total = x.mean((2, 3))
        while bool((total < 1e30).any()):
            total = total * 0.5
        return total


class TakesMemory(nn.Module):
    """A network that needs 40 GB."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) + torch.ones(10_000_000_000, device=x.device).mean()


class Random(nn.Module):
    """A network with dropout that is on."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) + torch.rand(3)


class DependsOnBatch(nn.Module):
    """A network that normalises over its batch."""

    def forward(self, x: Tensor) -> Tensor:
        colours = x.mean((2, 3))
        return colours - colours.mean(0)


# A pair of towers: the vector of an image is its mean colour, that of a text the mean of the colours that it names.

COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "purple": (1, 0, 1), "yellow": (1, 1, 0)}
CONTEXT = 8


class ColourTower(nn.Module):
    """Images (n, 3, h, w) in [0, 1] to vectors (n, dimensions): the mean colour along three axes."""

    def __init__(self, dimensions: int = 6) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.register_buffer("axes", torch.linalg.qr(torch.randn(dimensions, dimensions))[0][:3])

    def forward(self, x: Tensor) -> Tensor:
        return 7.0 * x.mean((2, 3)) @ self.axes  # type: ignore[no-any-return, operator]


class ColourTextTower(nn.Module):
    """Token ids (n, length) and a mask of them to the vectors of their colours; two outputs, as of CLIP."""

    def __init__(self, dimensions: int = 6, *, masked: bool = True) -> None:
        super().__init__()
        colours = torch.zeros(len(VOCABULARY), 3)
        for name, colour in COLOURS.items():
            colours[VOCABULARY[name]] = torch.tensor(colour).float()
        self.register_buffer("table", colours @ ColourTower(dimensions).axes)  # type: ignore[operator]
        self.masked = masked

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        hidden = self.table[ids]  # type: ignore[index]
        weights = (ids > 2).float() if mask is None else (mask * (ids > 2)).float()
        pooled = (hidden * weights[..., None]).sum(1) / weights.sum(1, keepdim=True).clamp(min=1)
        return hidden, pooled + 1e-3


VOCABULARY = {"<pad>": 0, "<unk>": 1, "<end>": 2} | {name: place for place, name in enumerate(COLOURS, 3)}


def export_text_tower(path: Path, *, masked: bool = True, fixed: bool = False, dimensions: int = 6) -> Path:
    """Export the text tower of colours: with a mask and any length, or without either, as exporters do."""
    from torch.onnx._internal.torchscript_exporter import onnx_proto_utils

    target = io.BytesIO()
    ids = torch.ones(2, CONTEXT, dtype=torch.int64)
    names = ["input_ids", "attention_mask"] if masked else ["input_ids"]
    free = {0: "n"} if fixed else {0: "n", 1: "length"}
    add, onnx_proto_utils._add_onnxscript_fn = onnx_proto_utils._add_onnxscript_fn, lambda graph, _: graph
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                ColourTextTower(dimensions, masked=masked).eval(),
                (ids, ids) if masked else (ids,),
                target,  # type: ignore[arg-type]
                dynamo=False,
                opset_version=17,
                input_names=names,
                output_names=["last_hidden_state", "text_embeds"],
                dynamic_axes=dict.fromkeys(names, free) | {"text_embeds": {0: "n"}},
            )
    finally:
        onnx_proto_utils._add_onnxscript_fn = add
    path.write_bytes(target.getvalue())
    return path


def write_tokenizer(path: Path, *, context: int | None = CONTEXT, pad: bool = True) -> Path:
    """Write a tokenizer.json of whole words in small letters, with an end, as that of CLIP has."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = dict(VOCABULARY)
    if not pad:
        vocabulary["<fill>"] = vocabulary.pop("<pad>")
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 2)])
    tokenizer.add_special_tokens(["<pad>" if pad else "<fill>", "<unk>", "<end>"])
    if context is not None:
        tokenizer.enable_truncation(context)
    tokenizer.save(str(path))
    return path
