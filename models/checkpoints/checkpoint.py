"""Save and load an encoder's folder: weights.safetensors and encoder.json, without pickle.

The fingerprint is a SHA-256 over the weights and over every value of encoder.json that changes a vector or how
vectors are compared. The checksum covers all of encoder.json. Loading recomputes both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from simile.core.atomic_write import write_atomically
from simile.core.errors import BadSetting, CheckpointDamaged, NoSuchEncoder
from simile.models.checkpoints.description import (
    CHECKPOINT_FORMAT,
    DESCRIPTION_FILE,
    RESTORE_HINT,
    EncoderDescription,
    compute_checksum,
    read_description,
    to_canonical_json,
)

WEIGHTS_FILE = "weights.safetensors"
FINGERPRINT_LENGTH = 16  # hexadecimal digits: 64 bits are enough to distinguish the encoders of a home
_FINGERPRINT_KEYS = ("architecture", "preprocessing", "metric", "index_dims")


def compute_fingerprint(weights: Mapping[str, Tensor], description: EncoderDescription) -> str:
    """Return 16 hexadecimal digits over the weights and the settings that change vectors or their comparison."""
    digest = hashlib.sha256(to_canonical_json({key: getattr(description, key) for key in _FINGERPRINT_KEYS}))
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()[:FINGERPRINT_LENGTH]


def save_checkpoint(folder: Path, weights: Mapping[str, Tensor], description: EncoderDescription) -> str:
    """Write both files into `folder` durably and return the fingerprint; the folder is created if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    fingerprint = compute_fingerprint(tensors, description)
    body = {"format": CHECKPOINT_FORMAT, **replace(description, fingerprint=fingerprint).to_dict()}
    write_atomically(folder / WEIGHTS_FILE, lambda path: save_file(tensors, path))
    write_json(folder / DESCRIPTION_FILE, {**body, "checksum": compute_checksum(body)})
    return fingerprint


def round_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Round weights to 16 bits: half the size. Raises BadSetting if one is beyond the range of float16."""
    rounded = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    if beyond := [name for name, tensor in rounded.items() if not torch.isfinite(tensor).all()]:
        raise BadSetting(f"{beyond[0]} has values that do not fit into 16 bits. Leave out --half.")
    return rounded


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], EncoderDescription]:
    """Return the weights by name, and the description. Raises NoSuchEncoder for a missing file, CheckpointDamaged."""
    if not (folder / DESCRIPTION_FILE).is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise NoSuchEncoder(
            f"{folder} holds no encoder ({DESCRIPTION_FILE} and {WEIGHTS_FILE}). "
            "Name another folder, or train an encoder with `simile train`."
        )
    description = read_description(folder)
    try:
        weights = load_file(folder / WEIGHTS_FILE)
    except (SafetensorError, OSError) as error:
        raise CheckpointDamaged(f"{folder / WEIGHTS_FILE} can't be read ({error}). {RESTORE_HINT}") from None
    if compute_fingerprint(weights, description) != description.fingerprint:
        raise CheckpointDamaged(
            f"{folder / WEIGHTS_FILE} and {DESCRIPTION_FILE} do not belong together: one was changed. {RESTORE_HINT}"
        )
    return weights, description


def hash_weights(module: nn.Module) -> str:
    """Return a SHA-256 over the values of a module's weights."""
    digest = hashlib.sha256()
    for tensor in module.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def write_json(path: Path, body: Mapping[str, Any]) -> None:
    """Write indented JSON durably."""
    text = json.dumps(body, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, lambda target: target.write_text(text, encoding="utf-8"))
