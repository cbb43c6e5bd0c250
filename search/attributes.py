"""Attributes: directions in the latent space, stored as HOME/attributes/<encoder>/<name>.npz.

An attribute file is written once or removed; it never changes. In an object store its name has the hash of the file,
too, because another attribute may get the name of one that was removed.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simile.core.arrays import ARRAY_FILE_ERRORS, read_arrays, write_arrays
from simile.core.atomic_write import fsync_path, write_atomically
from simile.core.errors import BadSetting, EncoderMismatch, ObjectsUnavailable
from simile.core.records import Float64Array, FloatArray
from simile.store.home import Home, translate_write_errors
from simile.store.object_transfer import share_attribute
from simile.store.objects import ATTRIBUTE_PREFIX

log = logging.getLogger(__name__)

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
    if not _is_name(name):
        raise BadSetting(f"An attribute can't be called {name!r}. Use up to 64 of a-z, 0-9, - and _.")


def check_attribute_name_free(home: Home, encoder: str, name: str) -> None:
    """Raise BadSetting if the name is invalid or in use."""
    check_attribute_name(name)
    if name in _find_objects(home, encoder):
        raise BadSetting(
            f"Attribute {name} exists already. Remove it with `simile attribute remove {name}`, or use another name."
        )


def save_attribute(home: Home, attribute: Attribute) -> Path:
    """Save a new attribute and return its path.

    Raises BadSetting if the name is in use, HomeNotWritable, ObjectsUnavailable.
    """
    check_attribute_name_free(home, attribute.encoder, attribute.name)
    folder = home.attributes / attribute.encoder
    path = folder / f"{attribute.name}.npz"
    with translate_write_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda temporary: _write_attribute(attribute, temporary))
    if not home.objects.is_shared:
        return path
    try:
        return share_attribute(home, path)
    except ObjectsUnavailable:
        path.unlink(missing_ok=True)
        raise


def load_attribute(home: Home, encoder: str, name: str) -> Attribute:
    """Load an attribute.

    Raises BadSetting if the encoder has no such attribute or its file is damaged, and ObjectsUnavailable.
    """
    check_attribute_name(name)
    objects = _find_objects(home, encoder)
    if name not in objects:
        raise BadSetting(
            f"Encoder {encoder} has no attribute {name} (known: {', '.join(sorted(objects)) or 'none'}). "
            f"Learn it with `simile attribute learn {name}`."
        )
    return _load_object(home, objects[name])


def load_attributes(home: Home, encoder: str) -> list[Attribute]:
    """Load all attributes of an encoder, sorted by name."""
    return [_load_object(home, stored) for _, stored in sorted(_find_objects(home, encoder).items())]


def list_attribute_names(home: Home, encoder: str) -> list[str]:
    """List the names of an encoder's attributes, sorted."""
    return sorted(_find_objects(home, encoder))


def remove_attribute(home: Home, encoder: str, name: str) -> None:
    """Remove an attribute, even a damaged one.

    Raises BadSetting if there is none, HomeNotWritable, ObjectsUnavailable.
    """
    objects = _find_objects(home, encoder)
    if name not in objects:
        load_attribute(home, encoder, name)  # raises the error that lists the known names
    path = home.objects.get_local_path(objects[name])
    home.objects.remove(objects[name])  # at once: the object itself tells that the attribute exists
    with translate_write_errors(path):
        path.unlink(missing_ok=True)
        if path.parent.is_dir():
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


def _find_objects(home: Home, encoder: str) -> dict[str, str]:
    """Return the attributes of an encoder: the names of their objects by their own names.

    While the object store can't be reached, those that the home has fetched are returned.
    """
    folder = f"{ATTRIBUTE_PREFIX}{encoder}/"
    if not home.objects.is_shared:
        return {path.stem: folder + path.name for path in (home.root / folder).glob("*.npz") if _is_name(path.stem)}
    try:
        stored = sorted(home.objects.names(folder), key=lambda found: found.modified)
        names = [found.name for found in stored]  # of two with one name, learned at the same time, the later one counts
    except ObjectsUnavailable as error:
        log.warning("%s", error)
        names = [folder + path.name for path in (home.root / folder).glob("*.*.npz")]
    return {name.removeprefix(folder).split(".")[0]: name for name in names}


def _load_object(home: Home, stored: str) -> Attribute:
    path = home.objects.get_local_path(stored)
    try:
        if not home.objects.is_shared:
            return _read_attribute(path)
        sha256 = stored.split(".")[-2]
        try:
            return _read_attribute(home.objects.fetch(stored, sha256))
        except ARRAY_FILE_ERRORS:  # the copy in the home
            path.unlink(missing_ok=True)
            return _read_attribute(home.objects.fetch(stored, sha256))
    except ARRAY_FILE_ERRORS as error:
        raise BadSetting(f"{path} is damaged ({error}). Remove the file and learn the attribute again.") from error


def _read_attribute(path: Path) -> Attribute:
    stored = read_arrays(path)
    return Attribute(**json.loads(str(stored["about"])), **{array: stored[array] for array in ATTRIBUTE_ARRAYS})


def _is_name(text: str) -> bool:
    return ATTRIBUTE_NAME_PATTERN.fullmatch(text) is not None
