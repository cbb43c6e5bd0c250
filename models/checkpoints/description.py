"""The description of a trained encoder, as stored in encoder.json. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from simile.core.errors import CheckpointDamaged

DESCRIPTION_FILE = "encoder.json"
CHECKPOINT_FORMAT = 1
RESTORE_HINT = "Restore the folder from a backup, or train again."


@dataclass(frozen=True, kw_only=True)
class EncoderDescription:
    """Everything that encoder.json says of an encoder, except the file's format and checksum."""

    fingerprint: str = ""  # hash over the weights and the four fields below; empty before the encoder is saved
    # `Architecture.to_dict()` as stored, because the fingerprint covers these exact values.
    architecture: dict[str, Any]
    preprocessing: dict[str, Any]  # `Preprocessing.to_dict()` as stored, for the same reason
    metric: str  # how vectors are compared, "l2" or "cosine"
    index_dims: int | None  # number of leading values of mu that are indexed; None for all of them
    recipe: dict[str, Any] | None = None  # `Recipe.to_dict()` of the training that made the encoder network
    classes: list[str] | None = None  # class names of a classifier; None in files of older versions
    seed: int | None = None
    # Image counts "pictures", "training", "validation" and "set_aside" of the training.
    data: dict[str, int] | None = None
    # "over" (fingerprint of the base encoder) and "recipe" of a decoder that was trained later.
    decoder: dict[str, Any] | None = None
    teacher: dict[str, str] | None = None  # "fingerprint" and "name" of the encoder with neighbours that it learned
    name: str | None = None  # that the user gave to an external encoder
    source: dict[str, str] | None = None  # "format", "file" and "sha256" of an external encoder
    text: dict[str, Any] | None = None  # of its text tower, as external/text_tower.py describes it

    @property
    def label(self) -> str:
        """The name of an external encoder, else that of the recipe; empty if it is not known."""
        return self.name or self.recipe_name

    @property
    def recipe_name(self) -> str:
        """Name of the recipe; empty if it is not known."""
        return str((self.recipe or {}).get("name", ""))

    @property
    def likelihood(self) -> str:
        """Name of the reconstruction term that the recipe used; empty if it is not known."""
        return str((self.recipe or {}).get("likelihood", ""))

    @property
    def is_binarised(self) -> bool:
        """Whether the encoder was trained on dynamically binarised images."""
        return bool((self.recipe or {}).get("binarise", False))

    @property
    def training_file_count(self) -> int:
        """Number of files that the training read, including those that could not be used; 0 if not known."""
        data = self.data or {}
        return data.get("pictures", 0) + data.get("set_aside", 0)

    def to_dict(self) -> dict[str, Any]:
        """Return the keys and values of encoder.json, in the order of the file; unknown values are left out."""
        return {name: value for name, value in vars(self).items() if value is not None or name == "index_dims"}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EncoderDescription:
        """Return the description with these values; other keys are ignored. Raises CheckpointDamaged."""
        try:
            return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})
        except TypeError as error:
            raise CheckpointDamaged(f"{DESCRIPTION_FILE} is incomplete ({error}). {RESTORE_HINT}") from None


def resolve_name(encoders: Path, reference: str) -> str:
    """Return the fingerprint of the encoder in this folder of encoders with this name, else the reference itself."""
    for path in sorted(encoders.glob(f"[!.]*/{DESCRIPTION_FILE}")):
        try:
            if read_description(path.parent).name == reference:
                return path.parent.name
        except CheckpointDamaged:
            continue
    return reference


def read_description(folder: Path) -> EncoderDescription:
    """Read encoder.json from an encoder's folder and check its format and checksum. Raises CheckpointDamaged."""
    path = folder / DESCRIPTION_FILE
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointDamaged(f"{path} can't be read ({error}). {RESTORE_HINT}") from None
    if not isinstance(body, dict) or body.get("format") != CHECKPOINT_FORMAT:
        raise CheckpointDamaged(f"{path} has a format that this version does not know. Update simile, or train again.")
    if body.pop("checksum", None) != compute_checksum(body):
        raise CheckpointDamaged(f"{path} was changed: its checksum does not match. {RESTORE_HINT}")
    return EncoderDescription.from_dict(body)


def compute_checksum(body: Mapping[str, Any]) -> str:
    """Return the SHA-256 over encoder.json without its checksum."""
    return hashlib.sha256(to_canonical_json(body)).hexdigest()


def to_canonical_json(body: Mapping[str, Any]) -> bytes:
    """Return JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
