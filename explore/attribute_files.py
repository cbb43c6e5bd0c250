"""Attributes on disk: HOME/attributes/<encoder>/<name>.npz. A file never changes: it is written once, or removed."""

from __future__ import annotations

import json
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from core.durable import sync, write_durably
from core.errors import BadSetting
from explore.attributes import Attribute, check_name
from store.home import Home, writing

ARRAYS = ("raw", "whitened", "centre")


def save(home: Home, attribute: Attribute) -> Path:
    """Writes it. Raises BadSetting where there is one of this name, HomeNotWritable."""
    path = _path(home, attribute.encoder, attribute.name)
    check_free(home, attribute.encoder, attribute.name)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, lambda temporary: _write(attribute, temporary))
    return path


def check_free(home: Home, encoder: str, name: str) -> None:
    """Raises BadSetting where the name is taken, or none."""
    check_name(name)
    if _path(home, encoder, name).exists():
        raise BadSetting(
            f"There is an attribute {name} already. Remove it with `simile attribute remove {name}`, or choose another "
            "name."
        )


def load(home: Home, encoder: str, name: str) -> Attribute:
    """One attribute. Raises BadSetting where this encoder has none of that name, or its file is damaged."""
    check_name(name)
    path = _path(home, encoder, name)
    if not path.exists():
        known = ", ".join(names(home, encoder)) or "none"
        raise BadSetting(
            f"Encoder {encoder} has no attribute {name} (known: {known}). "
            f"Learn it with `simile attribute learn {name}`."
        )
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {which: stored[which] for which in ARRAYS}
            return Attribute(**json.loads(str(stored["about"])), **arrays)
    except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise BadSetting(f"{path} is damaged ({error}). Remove the file, and learn the attribute anew.") from error


def load_all(home: Home, encoder: str) -> list[Attribute]:
    """All attributes of an encoder, by name."""
    return [load(home, encoder, name) for name in names(home, encoder)]


def names(home: Home, encoder: str) -> list[str]:
    """The names of an encoder's attributes, sorted."""
    return sorted(path.stem for path in _folder(home, encoder).glob("[a-z0-9]*.npz"))


def remove(home: Home, encoder: str, name: str) -> None:
    """Removes one, though it be damaged. Raises BadSetting where there is none, HomeNotWritable."""
    path = _path(home, encoder, name)
    if not path.exists():
        load(home, encoder, name)  # says which there are
    with writing(path):
        path.unlink(missing_ok=True)
        sync(path.parent)


def _write(attribute: Attribute, path: Path) -> None:
    about = {name: value for name, value in vars(attribute).items() if name not in ARRAYS}
    arrays = {which: getattr(attribute, which) for which in ARRAYS}
    with path.open("wb") as file:
        np.savez(file, about=json.dumps(about), **arrays)


def _folder(home: Home, encoder: str) -> Path:
    return home.attributes / encoder


def _path(home: Home, encoder: str, name: str) -> Path:
    check_name(name)
    return _folder(home, encoder) / f"{name}.npz"
