"""Inspect the file of an external encoder, in a process with limits (images/loading/isolation.py).

    .onnx                       declared tensors and operators, then a trial run
    .pt, .pth, .ts              TorchScript: its code runs here and only here; its graph is stored (OpenVINO)
    weights + architecture      a torchvision network

The trial run checks what a search relies on: one finite vector for each image, the same every time, alone and in a
batch.
"""

from __future__ import annotations

import hashlib
import io
import re
import resource
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from simile.core.errors import BadSetting, SimileError
from simile.core.records import FloatArray
from simile.images.transforms import Preprocessing
from simile.models.external.onnx_file import FLOAT32, read_onnx
from simile.models.external.runtimes import (
    get_disagreement,
    get_first_line,
    make_external_runtime,
    make_openvino_model,
    pack_openvino,
    to_vectors,
)
from simile.models.inference.engines import convert_to_openvino, import_openvino
from simile.models.inference.parity import compare_outputs, make_smooth_images
from simile.models.inference.runtimes import EncoderModule, NetworkModule, TorchRuntime
from simile.models.networks.architecture import Architecture
from simile.models.networks.backbones import Backbone, load_backbone_weights
from simile.models.networks.external import ExternalModel
from simile.models.networks.vae import Network

SAMPLE_SIZE = 8  # images of the trial run
MAX_REPEAT_DIFFERENCE = 1e-5  # of two runs, relative to the largest value
# Operators of TorchScript that open files, as its code names them. Code also runs while a file is loaded.
FILE_OPERATORS = re.compile(rb"\b(?:save|from_file)\s*\(")
_NO_MEMORY = "It needs more memory than the inspection of a file may use."
_CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A file that is to become an encoder.

    Attributes:
        format: "onnx", "torchscript" or "weights".
        backbone: Name of the torchvision network that weights belong to.
        output: Name or number of the output that is the embedding; None if there is only one.
    """

    path: str
    format: str
    preprocessing: Preprocessing
    backbone: str | None = None
    output: str | None = None


@dataclass(frozen=True, kw_only=True)
class InspectedModel:
    """A file that passed the inspection."""

    architecture: dict[str, Any]  # as `Architecture.to_dict`
    content: bytes | None  # of a converted model; None if the file itself is the content
    sha256: str  # of the file


def inspect_model(file: ModelFile) -> InspectedModel | str:
    """Return what the file is, or the reason why it is refused."""
    try:
        data = Path(file.path).read_bytes()
        content = None
        if file.format == "onnx":
            architecture = _inspect_onnx(file, data)
        elif file.format == "torchscript":
            architecture, content = _inspect_torchscript(file, data)
        else:
            architecture = _inspect_weights(file)
        return InspectedModel(
            architecture=architecture.to_dict(), content=content, sha256=hashlib.sha256(data).hexdigest()
        )
    except SimileError as error:
        return str(error)
    except MemoryError:
        return _NO_MEMORY
    except Exception as error:  # noqa: BLE001  # engines raise errors of any type
        if "alloc" in str(error):
            return _NO_MEMORY
        return f"It can't be used ({get_first_line(error)})."


def build_network(file: ModelFile, inspected: InspectedModel) -> Network:
    """Return the network of an inspected file. Raises BadSetting if the file has changed since."""
    data = Path(file.path).read_bytes()
    if hashlib.sha256(data).hexdigest() != inspected.sha256:
        raise BadSetting(f"{file.path} was changed while it was added. Add it again.")
    architecture = Architecture.from_dict(inspected.architecture)
    if file.format == "weights":
        return _build_backbone(file, architecture)
    return build_external_network(architecture, data if inspected.content is None else inspected.content)


def build_external_network(architecture: Architecture, content: bytes) -> Network:
    """Return a network with an external model of this content as its encoder."""
    network = Network(replace(architecture, content_size=len(content)))
    assert isinstance(network.encoder.trunk, ExternalModel)
    network.encoder.trunk.content.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    return network


def make_architecture(kind: str, preprocessing: Preprocessing, dimensions: int, entry: str = "") -> Architecture:
    """Return the architecture of an encoder without a variance and without a decoder."""
    return Architecture(
        image_size=preprocessing.image_size,
        channels=preprocessing.channels,
        latent_dim=dimensions,
        kind=kind,
        variational=False,
        decoder=False,
        full_resolution=False,  # of a decoder that is trained later: half the time
        entry=entry,
    )


def check_vectors(run: Callable[[FloatArray], FloatArray], preprocessing: Preprocessing) -> int:
    """Check an encoder by a trial run and return the length of its vectors. Raises BadSetting with the reason.

    Args:
        run: Returns the output for inputs (n, C, S, S).
    """
    sample = make_sample(preprocessing)
    together, again = to_vectors(run(sample), len(sample)), to_vectors(run(sample), len(sample))
    if not np.isfinite(together).all():
        raise BadSetting("It gives NaN or infinity for plain images. Export it again, in float32.")
    largest = float(np.abs(together).max())
    if np.abs(together - again).max() > MAX_REPEAT_DIFFERENCE * largest:
        raise BadSetting("It gives other vectors for the same images when it runs again. Export it in evaluation mode.")
    if np.abs(together - together[0]).max() <= MAX_REPEAT_DIFFERENCE * largest:
        raise BadSetting("It gives the same vector for different images. Name another output, or export it again.")
    alone = np.concatenate([to_vectors(run(sample[row : row + 1]), 1) for row in range(len(sample))])
    if reason := compare_outputs([together], [alone]).get_rejection_reason(True, "its batch"):
        raise BadSetting(f"An image alone {reason}. Export it in evaluation mode, with a free number of images.")
    return int(together.shape[1])


def make_sample(preprocessing: Preprocessing) -> FloatArray:
    """Return inputs (n, C, S, S) for a trial run."""
    return preprocessing.normalise(make_smooth_images(SAMPLE_SIZE, preprocessing.channels, preprocessing.image_size))


def _inspect_onnx(file: ModelFile, data: bytes) -> Architecture:
    interface = read_onnx(data, "It")
    size, channels = file.preprocessing.image_size, file.preprocessing.channels
    if len(interface.inputs) != 1:
        names = ", ".join(value.name for value in interface.inputs) or "none"
        raise BadSetting(f"It needs one input, the images, and has: {names}. Export the image network alone.")
    (given,) = interface.inputs
    expected = (None, channels, size, size)
    fits = len(given.shape) == 4 and all(
        side in (None, needed) for side, needed in zip(given.shape, expected, strict=True)
    )
    if not fits or given.element_type != FLOAT32:
        shape = " x ".join("n" if side is None else str(side) for side in given.shape)
        shape = shape or "of a free shape"
        kind = "float32" if given.element_type == FLOAT32 else f"type {given.element_type}"
        raise BadSetting(
            f"Its input {given.name} is {shape} of {kind}, but the preprocessing gives n x {channels} x {size} x "
            f"{size} of float32. Declare what it takes, or export it with a free number of images (dynamic_axes)."
        )
    entry = _choose(file.output, [value.name for value in interface.outputs])
    architecture = make_architecture("onnx", file.preprocessing, 1, entry)
    model = _get_model(build_external_network(architecture, data))
    runtime = make_external_runtime(model, make_sample(file.preprocessing), "auto")
    dimensions = check_vectors(lambda x: runtime.run(x)[0], file.preprocessing)
    return replace(architecture, latent_dim=dimensions, content_size=len(data))


def _inspect_torchscript(file: ModelFile, data: bytes) -> tuple[Architecture, bytes]:
    import_openvino()
    sample = make_sample(file.preprocessing)
    with _without_writing(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and its files stay
        _refuse_file_operators(data)
        script = torch.jit.load(io.BytesIO(data), map_location="cpu").eval()  # type: ignore[no-untyped-call]
        module = _ScriptModule(script, file.output, torch.from_numpy(sample[:1]))
        reference = TorchRuntime(cast(NetworkModule, module), _CPU)
        dimensions = check_vectors(lambda x: reference.run(x)[0], file.preprocessing)
        graph = convert_to_openvino(module, torch.from_numpy(sample[:2]))
    content = pack_openvino(*_serialise(graph))
    architecture = make_architecture("openvino", file.preprocessing, dimensions)
    runtime = make_openvino_model(_get_model(build_external_network(architecture, content)))
    if reason := get_disagreement(reference, runtime, sample):
        raise BadSetting(f"Its graph in OpenVINO {reason}. Export it to ONNX instead.")
    check_vectors(lambda x: runtime.run(x)[0], file.preprocessing)
    return replace(architecture, content_size=len(content)), content


def _refuse_file_operators(data: bytes) -> None:
    """Search the code in a TorchScript archive before it is loaded. Raises BadSetting, BadZipFile."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.infolist():
            if member.filename.endswith(".py") and FILE_OPERATORS.search(archive.read(member)):
                raise BadSetting("Its code calls an operator that opens a file. An encoder needs no files.")


@contextmanager
def _without_writing() -> Iterator[None]:
    """Let no code of this process write into a file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def _inspect_weights(file: ModelFile) -> Architecture:
    assert file.backbone is not None
    backbone = Backbone(file.backbone, file.preprocessing.channels, file.preprocessing.image_size)
    architecture = make_architecture(file.backbone, file.preprocessing, backbone.num_features)
    runtime = TorchRuntime(EncoderModule(_build_backbone(file, architecture)), _CPU)
    check_vectors(lambda x: runtime.run(x)[0], file.preprocessing)
    return architecture


def _build_backbone(file: ModelFile, architecture: Architecture) -> Network:
    network = Network(architecture).eval()
    backbone = network.encoder.trunk
    assert isinstance(backbone, Backbone)
    load_backbone_weights(backbone, file.path)
    # The declared preprocessing normalises already.
    backbone.prepare.mean.zero_()
    backbone.prepare.std.fill_(1)
    return network


class _ScriptModule(nn.Module):
    """A TorchScript module with one output."""

    is_searched = True

    def __init__(self, script: nn.Module, output: str | None, sample: Tensor) -> None:
        super().__init__()
        self.script = script
        self.key: str | int | None = None
        with torch.no_grad():
            outputs = script(sample)
        if isinstance(outputs, dict):
            self.key = _choose(output, list(outputs))
        elif isinstance(outputs, tuple | list):
            self.key = int(_choose(output, [str(position) for position in range(len(outputs))]))
        elif not isinstance(outputs, Tensor):
            raise BadSetting(
                f"It gives {type(outputs).__name__}, not a tensor. Export a network that gives one vector."
            )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the embedding as a tuple of one."""
        outputs = self.script(x)
        return (outputs if self.key is None else outputs[self.key],)


def _choose(output: str | None, names: list[str]) -> str:
    """Return the name of the output that is the embedding. Raises BadSetting."""
    if output is None and len(names) == 1:
        return names[0]
    if output in names:
        return str(output)
    problem = "has several outputs" if output is None else f"has no output {output!r}"
    raise BadSetting(f"It {problem}: {', '.join(names) or 'none'}. Name the one with the embedding: --output NAME.")


def _serialise(graph: Any) -> tuple[bytes, bytes]:
    """Return an OpenVINO graph as XML and weights."""
    with tempfile.TemporaryDirectory() as folder:
        xml, weights = Path(folder, "graph.xml"), Path(folder, "graph.bin")
        import_openvino().serialize(graph, str(xml), str(weights))
        return xml.read_bytes(), weights.read_bytes()


def _get_model(network: Network) -> ExternalModel:
    model = network.encoder.trunk
    assert isinstance(model, ExternalModel)
    return model
