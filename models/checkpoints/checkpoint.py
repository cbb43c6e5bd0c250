"""An encoder on disk: a folder with weights.safetensors and encoder.json, never pickle.

The fingerprint is a SHA-256 over the weights and over everything in encoder.json that changes a vector or what
vectors are compared with; `checksum` covers all of encoder.json. Loading recomputes both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from simile.core.atomic_write import write_atomically
from simile.core.errors import CheckpointDamaged, NoSuchEncoder

WEIGHTS_FILE = "weights.safetensors"
DESCRIPTION_FILE = "encoder.json"
CHECKPOINT_FORMAT = 1
FINGERPRINT_LENGTH = 16  # hexadecimal digits: 64 bits tell the encoders of one home apart

_FINGERPRINT_KEYS = ("architecture", "preprocessing", "metric", "index_dims")  # what, beside weights, makes a vector


def compute_fingerprint(weights: Mapping[str, Tensor], description: Mapping[str, Any]) -> str:
    """16 hexadecimal digits over the weights and over what else makes a vector."""
    digest = hashlib.sha256(_to_canonical_json({key: description[key] for key in _FINGERPRINT_KEYS}))
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()[:FINGERPRINT_LENGTH]


def save_checkpoint(folder: Path, weights: Mapping[str, Tensor], description: Mapping[str, Any]) -> str:
    """Writes both files into `folder` (made if missing), durably; gives the fingerprint."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    print_ = compute_fingerprint(tensors, description)
    body = {"format": CHECKPOINT_FORMAT, "fingerprint": print_, **description}
    write_atomically(folder / WEIGHTS_FILE, lambda path: save_file(tensors, path))
    body["checksum"] = hashlib.sha256(_to_canonical_json(body)).hexdigest()
    write_json(folder / DESCRIPTION_FILE, body)
    return print_


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and description. Raises NoSuchEncoder, or CheckpointDamaged where the files don't belong together."""
    if not (folder / DESCRIPTION_FILE).is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise NoSuchEncoder(
            f"{folder} holds no encoder ({DESCRIPTION_FILE} and {WEIGHTS_FILE}). Name another, or `simile train`."
        )
    description = _read_description(folder)
    try:
        weights = load_file(folder / WEIGHTS_FILE)
    except (SafetensorError, OSError) as error:
        raise CheckpointDamaged(f"{folder / WEIGHTS_FILE} can't be read ({error}). {_RESTORE_HINT}") from None
    if compute_fingerprint(weights, description) != description["fingerprint"]:
        raise CheckpointDamaged(
            f"{folder / WEIGHTS_FILE} and {DESCRIPTION_FILE} do not belong together: altered. {_RESTORE_HINT}"
        )
    return weights, description


_RESTORE_HINT = "Restore the folder from a backup, or train again."


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION_FILE
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointDamaged(f"{path} can't be read ({error}). {_RESTORE_HINT}") from None
    if not isinstance(body, dict) or body.get("format") != CHECKPOINT_FORMAT:
        raise CheckpointDamaged(f"{path} is not of a format that this version knows. Update simile, or train again.")
    claimed = body.pop("checksum", None)
    if claimed != hashlib.sha256(_to_canonical_json(body)).hexdigest():
        raise CheckpointDamaged(f"{path} was altered: its checksum does not match. {_RESTORE_HINT}")
    return body


def write_json(path: Path, body: Mapping[str, Any]) -> None:
    """Readable JSON, durably."""
    text = json.dumps(body, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, lambda target: target.write_text(text, encoding="utf-8"))


def _to_canonical_json(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
