"""Add an encoder that simile did not train to a home: from a file, or from a plug-in."""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from simile.core.atomic_write import fsync_path, replace_folder
from simile.core.errors import BadSetting, BadUsage, NoSuchPath
from simile.core.settings import Settings
from simile.images.loading.fork_server import WorkCost, WorkerLost
from simile.images.loading.isolation import call_isolated
from simile.images.transforms import Preprocessing
from simile.models.checkpoints.checkpoint import save_checkpoint
from simile.models.checkpoints.description import EncoderDescription, resolve_name
from simile.models.external.inspection import (
    ModelFile,
    build_external_network,
    build_network,
    check_vectors,
    inspect_model,
    make_architecture,
)
from simile.models.external.plugins import load_plugin
from simile.models.external.preprocess import PRESETS, parse_preprocessing, read_preprocessing
from simile.models.external.text_tower import (
    MAX_TOKENIZER_BYTES,
    TEXT_FILES,
    TextDescription,
    TextFiles,
    inspect_text,
)
from simile.models.inference.encoder import TrainedEncoder
from simile.models.networks.vae import Network
from simile.models.pretrained import SHIPPED
from simile.search.encoder_registry import register_encoder
from simile.store.catalogue.catalogue import Catalogue
from simile.store.database import schema
from simile.store.home import Home, translate_write_errors

PLUGIN_PREFIX = "plugin:"
MAX_MODEL_BYTES = 2_000_000_000  # of a protocol buffer, and of the memory that an inspection takes
INSPECTION_SECONDS = 180.0
INSPECTION_MEMORY = 4_000_000_000  # bytes besides `MEMORY_PER_BYTE` for each byte of the file
MEMORY_PER_BYTE = 8
_FORMATS = {".onnx": "onnx", ".pt": "torchscript", ".pth": "torchscript", ".ts": "torchscript"}
_NAME = re.compile(r"[a-z][a-z0-9._-]{0,62}[a-z0-9]", re.ASCII)
_RESERVED_NAMES = (SHIPPED, "none")


@dataclass(frozen=True, kw_only=True)
class AddRequest:
    """The user's options for adding an encoder.

    Attributes:
        file: A model file, or plugin:NAME.
        preprocess: A preset or a JSON file; None for a plug-in, which declares its own.
        metric: "cosine" or "l2".
        index_dims: Number of leading values that are indexed; None for all.
        architecture: torchvision's name of the network that the file has weights of; None for a whole model.
        output: As for `ModelFile`.
        trust: Whether the code in a TorchScript file may run.
        text: The text tower of the encoder, if any.
    """

    file: str
    name: str
    preprocess: str | None = None
    metric: str = "cosine"
    index_dims: int | None = None
    architecture: str | None = None
    output: str | None = None
    trust: bool = False
    text: TextFiles | None = None


def add_encoder(settings: Settings, request: AddRequest) -> dict[str, Any]:
    """Inspect an encoder and store it in the home, which need not exist.

    It becomes active if the home has no encoder yet.

    Returns:
        "fingerprint", "name", "format", "dimensions", "runtime", and whether it is "active" and takes "text".

    Raises:
        NoSuchPath, BadUsage: The file does not exist, or options are missing.
        BadSetting: The file, or an option, can't be used; the message gives the reason.
    """
    home = Home.from_settings(settings)
    if not _NAME.fullmatch(request.name) or request.name in _RESERVED_NAMES or re.fullmatch("[0-9a-f]+", request.name):
        raise BadSetting(
            f"name can't be {request.name!r}. Use 2 to 64 small letters, digits, dots and hyphens, not only "
            f"hexadecimal digits, and not {' or '.join(_RESERVED_NAMES)}."
        )
    if request.metric not in ("cosine", "l2"):
        raise BadSetting(f"metric can't be {request.metric!r}. Use cosine or l2.")
    if resolve_name(home.encoders, request.name) != request.name:
        raise BadSetting(f"This home has an encoder {request.name} already. Remove it first, or choose another name.")
    make = _make_from_plugin if request.file.startswith(PLUGIN_PREFIX) else _make_from_file
    network, preprocessing, source = make(settings, request)
    dimensions = network.architecture.latent_dim
    if request.index_dims is not None and not 1 <= request.index_dims <= dimensions:
        raise BadSetting(f"index_dims can't be {request.index_dims}. The vectors have {dimensions} values.")
    text = None if request.text is None else _inspect_text_tower(request.text, dimensions)
    description = EncoderDescription(
        architecture=network.architecture.to_dict(),
        preprocessing=preprocessing.to_dict(),
        metric=request.metric,
        index_dims=None if request.index_dims == dimensions else request.index_dims,
        name=request.name,
        source=source,
        text=None if text is None else asdict(text),
    )
    with home.lock("simile encoders add"):
        schema.upgrade_schema(home)
        with Catalogue(home) as catalogue:
            encoder = _store(home, settings, network, description, request.text)
            register_encoder(catalogue, encoder)
            if catalogue.encoders.find_active() is None:
                catalogue.encoders.activate(encoder.fingerprint)
            active = catalogue.encoders.find_active()
    return {
        "fingerprint": encoder.fingerprint,
        "name": request.name,
        "format": source["format"],
        "dimensions": dimensions,
        "runtime": encoder.runtime,
        "text": text is not None,
        "active": active is not None and active.fingerprint == encoder.fingerprint,
    }


def _make_from_plugin(settings: Settings, request: AddRequest) -> tuple[Network, Preprocessing, dict[str, str]]:
    name = request.file.removeprefix(PLUGIN_PREFIX)
    if request.preprocess is not None:
        raise BadUsage("A plug-in declares its own preprocessing. Leave out --preprocess.")
    plugin = load_plugin(name)
    if isinstance(plugin.preprocess, str):
        preprocessing = read_preprocessing(plugin.preprocess, settings.background)
    else:
        preprocessing = parse_preprocessing(plugin.preprocess, f"that of plug-in {name}", settings.background)
    try:
        dimensions = check_vectors(plugin.encode, preprocessing)
    except BadSetting as error:
        raise BadSetting(f"Encoder plug-in {name} can't be added. {error}") from None
    architecture = make_architecture("plugin", preprocessing, dimensions, name)
    network = build_external_network(architecture, plugin.identity.encode())
    return network, preprocessing, {"format": "plugin", "file": request.file}


def _make_from_file(settings: Settings, request: AddRequest) -> tuple[Network, Preprocessing, dict[str, str]]:
    path = Path(request.file)
    format = _check_file(path, request)
    if request.preprocess is None:
        raise BadUsage(
            f"Give --preprocess: {', '.join(PRESETS)} or a .json file. How images were prepared in the training of a "
            "network is not in its file, and a guess would give wrong vectors."
        )
    file = ModelFile(
        path=str(path.absolute()),
        format=format,
        preprocessing=read_preprocessing(request.preprocess, settings.background),
        backbone=request.architecture,
        output=request.output,
    )
    memory = INSPECTION_MEMORY + MEMORY_PER_BYTE * path.stat().st_size
    inspected = call_isolated(inspect_model, file, WorkCost(INSPECTION_SECONDS, memory))
    if isinstance(inspected, str | WorkerLost):
        reason = inspected if isinstance(inspected, str) else f"While it was inspected, {inspected.reason}."
        raise BadSetting(f"{path} can't be added. {reason}")
    return (
        build_network(file, inspected),
        file.preprocessing,
        {
            "format": format,
            "file": path.name,
            "sha256": inspected.sha256,
        },
    )


def _check_file(path: Path, request: AddRequest) -> str:
    """Return the format of a file. Raises NoSuchPath, BadUsage, BadSetting."""
    if not path.exists():
        raise NoSuchPath(path)
    if not path.is_file():
        raise BadSetting(f"{path} is no file. Name the file of a model.")
    if path.stat().st_size > MAX_MODEL_BYTES:
        raise BadSetting(
            f"{path} has {path.stat().st_size / 1e9:.1f} GB, and {MAX_MODEL_BYTES / 1e9:g} GB is the most. Use a "
            "smaller network, or a plug-in (docs/encoders.md)."
        )
    format = "weights" if request.architecture is not None else _FORMATS.get(path.suffix.lower())
    if format is None and path.suffix == ".safetensors":
        raise BadUsage(
            f"{path} has weights alone. Name their network: --architecture resnet18, or another of torchvision."
        )
    if format is None:
        raise BadSetting(
            f"{path} has the suffix {path.suffix or 'of no format'}. Use {', '.join(_FORMATS)}, or weights "
            "(.safetensors) with --architecture."
        )
    if format == "torchscript" and not request.trust:
        raise BadUsage(
            f"{path} is TorchScript, which is code: to read it is to run it. Add --trust if you know where it comes "
            "from, or export the network to ONNX, which is data."
        )
    return format


def _inspect_text_tower(files: TextFiles, dimensions: int) -> TextDescription:
    """Return the description of a text tower. Raises NoSuchPath, BadSetting."""
    for path, limit in ((Path(files.graph), MAX_MODEL_BYTES), (Path(files.tokenizer), MAX_TOKENIZER_BYTES)):
        if not path.exists():
            raise NoSuchPath(path)
        if not path.is_file() or path.stat().st_size > limit:
            raise BadSetting(
                f"{path} is no file of at most {limit / 1e9:g} GB. Name an ONNX file, and a tokenizer.json."
            )
    memory = INSPECTION_MEMORY + MEMORY_PER_BYTE * Path(files.graph).stat().st_size
    inspected = call_isolated(inspect_text, files, WorkCost(INSPECTION_SECONDS, memory))
    if isinstance(inspected, str | WorkerLost):
        reason = inspected if isinstance(inspected, str) else f"While it was inspected, {inspected.reason}."
        raise BadSetting(f"{files.graph} with {files.tokenizer} can't be added. {reason}")
    description, text_dimensions = inspected
    if text_dimensions != dimensions:
        raise BadSetting(
            f"{files.graph} gives vectors of {text_dimensions} values, and the image network of {dimensions}. Give "
            "both towers of one model, each with its projection."
        )
    return description


def _store(
    home: Home, settings: Settings, network: Network, description: EncoderDescription, text: TextFiles | None
) -> TrainedEncoder:
    """Write the encoder's folder. Raises BadSetting if a file of the text tower has changed since its inspection."""
    arriving = home.encoders / ".arriving"
    with translate_write_errors(home.encoders):
        shutil.rmtree(arriving, ignore_errors=True)
        fingerprint = save_checkpoint(arriving, network.state_dict(), description)
        if text is not None and description.text is not None:
            for name, source in zip(TEXT_FILES, (text.graph, text.tokenizer), strict=True):
                shutil.copyfile(source, arriving / name)
                if hashlib.sha256((arriving / name).read_bytes()).hexdigest() != description.text["sha256"][name]:
                    raise BadSetting(f"{source} was changed while it was added. Add it again.")
                fsync_path(arriving / name)
        replace_folder(arriving, home.encoders / fingerprint)
    return TrainedEncoder.load(home.encoders / fingerprint, settings.device, settings.runtime)
