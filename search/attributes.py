"""Attributes: directions in the latent space, stored as HOME/attributes/<encoder>/<name>.npz.

An attribute file is written once or removed; it never changes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simile.core.arrays import ARRAY_FILE_ERRORS, read_arrays, write_arrays
from simile.core.atomic_write import fsync_path, write_atomically
from simile.core.errors import BadSetting, EncoderMismatch
from simile.core.records import Float64Array, FloatArray
from simile.store.home import Home, translate_write_errors

ATTRIBUTE_ARRAYS = ("raw", "whitened", "centre")
ATTRIBUTE_NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")  # a valid file name on every system


@dataclass(frozen=True, eq=False, kw_only=True)
class Attribute:
    """A direction in the latent space that was learned from images with and without a property."""

    name: str
    encoder: str  # fingerprint of the encoder
    raw: Float64Array  # (d,) float64, mean of the positives minus mean of the negatives
    whitened: Float64Array  # (d,) float64, the direction for ranking
    centre: Float64Array  # (d,) float64, the midpoint of the two means
    auc: dict[str, float]  # mean AUC on held-out images over the folds, by direction (raw, whitened)
    spread: dict[str, float]  # standard deviation of that AUC, by direction
    positives: int  # number of images with the property
    negatives: int  # number of images without it
    contradictory: int  # number of images that were on both sides and were left out
    unreadable: int  # number of files that could not be read
    seed: int

    def shift(self, mu: FloatArray, strength: float) -> FloatArray:
        """Shift mu (…, d) along the raw direction. Raises EncoderMismatch."""
        if mu.shape[-1] != len(self.raw):
            raise EncoderMismatch(f"Attribute {self.name} has {len(self.raw)} numbers, the vector {mu.shape[-1]}.")
        shifted: FloatArray = (mu + strength * self.raw).astype(np.float32)
        return shifted


def check_attribute_name(name: str) -> None:
    """Raise BadSetting for a name that is not a valid file name everywhere."""
    if not ATTRIBUTE_NAME_PATTERN.fullmatch(name):
        raise BadSetting(f"An attribute can't be called {name!r}. Use up to 64 of a-z, 0-9, - and _.")


def check_attribute_name_free(home: Home, encoder: str, name: str) -> None:
    """Raise BadSetting if the name is invalid or in use."""
    if _get_attribute_path(home, encoder, name).exists():
        raise BadSetting(
            f"Attribute {name} exists already. Remove it with `simile attribute remove {name}`, or use another name."
        )


def save_attribute(home: Home, attribute: Attribute) -> Path:
    """Save a new attribute and return its path. Raises BadSetting if the name is in use, HomeNotWritable."""
    path = _get_attribute_path(home, attribute.encoder, attribute.name)
    check_attribute_name_free(home, attribute.encoder, attribute.name)
    with translate_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda temporary: _write_attribute(attribute, temporary))
    return path


def load_attribute(home: Home, encoder: str, name: str) -> Attribute:
    """Load an attribute. Raises BadSetting if the encoder has no such attribute or its file is damaged."""
    path = _get_attribute_path(home, encoder, name)
    if not path.exists():
        known = ", ".join(list_attribute_names(home, encoder)) or "none"
        raise BadSetting(
            f"Encoder {encoder} has no attribute {name} (known: {known}). "
            f"Learn it with `simile attribute learn {name}`."
        )
    try:
        stored = read_arrays(path)
        return Attribute(**json.loads(str(stored["about"])), **{array: stored[array] for array in ATTRIBUTE_ARRAYS})
    except ARRAY_FILE_ERRORS as error:
        raise BadSetting(f"{path} is damaged ({error}). Remove the file and learn the attribute again.") from error


def load_attributes(home: Home, encoder: str) -> list[Attribute]:
    """Load all attributes of an encoder, sorted by name."""
    return [load_attribute(home, encoder, name) for name in list_attribute_names(home, encoder)]


def list_attribute_names(home: Home, encoder: str) -> list[str]:
    """List the names of an encoder's attributes, sorted."""
    return sorted(path.stem for path in (home.attributes / encoder).glob("[a-z0-9]*.npz"))


def remove_attribute(home: Home, encoder: str, name: str) -> None:
    """Remove an attribute, even a damaged one. Raises BadSetting if there is none, HomeNotWritable."""
    path = _get_attribute_path(home, encoder, name)
    if not path.exists():
        load_attribute(home, encoder, name)  # raises the error that lists the known names
    with translate_write_errors(path):
        path.unlink(missing_ok=True)
        fsync_path(path.parent)


def make_attribute_strengths(plus: Sequence[str], minus: Sequence[str], strength: float) -> dict[str, float]:
    """Return the signed strength of each attribute. Raises BadSetting for a name on both sides."""
    both = sorted(set(plus) & set(minus))
    if both:
        raise BadSetting(f"{', '.join(both)} can't be in both plus and minus. Choose one.")
    return dict.fromkeys(plus, strength) | dict.fromkeys(minus, -strength)


def shift_by_attributes(home: Home, encoder: str, mu: FloatArray, strengths: Mapping[str, float]) -> FloatArray:
    """Shift mu (d,) along stored attributes of the encoder. Raises BadSetting for an unknown attribute."""
    for name, strength in strengths.items():
        if strength:
            mu = load_attribute(home, encoder, name).shift(mu, strength)
    return mu


def _write_attribute(attribute: Attribute, path: Path) -> None:
    values = {name: value for name, value in vars(attribute).items() if name not in ATTRIBUTE_ARRAYS}
    arrays = {name: getattr(attribute, name) for name in ATTRIBUTE_ARRAYS}
    write_arrays(path, about=json.dumps(values), **arrays)


def _get_attribute_path(home: Home, encoder: str, name: str) -> Path:
    check_attribute_name(name)
    return home.attributes / encoder / f"{name}.npz"
