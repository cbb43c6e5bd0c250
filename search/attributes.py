"""Attributes on disk: HOME/attributes/<encoder>/<name>.npz. A file never changes: it is written once, or removed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from simile.core.atomic_write import fsync_path, write_atomically
from simile.core.errors import BadSetting, EncoderMismatch
from simile.core.records import FloatArray
from simile.search.queries import SearchParams, SearchQuery
from simile.search.searcher import Searcher
from simile.store.home import Home, translate_write_errors

pass

pass

pass


ATTRIBUTE_ARRAYS = ("raw", "whitened", "centre")


def save_attribute(home: Home, attribute: Attribute) -> Path:
    """Writes it. Raises BadSetting where there is one of this name, HomeNotWritable."""
    path = _get_attribute_path(home, attribute.encoder, attribute.name)
    check_attribute_name_free(home, attribute.encoder, attribute.name)
    with translate_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda temporary: _write_attribute(attribute, temporary))
    return path


def check_attribute_name_free(home: Home, encoder: str, name: str) -> None:
    """Raises BadSetting where the name is taken, or none."""
    check_attribute_name(name)
    if _get_attribute_path(home, encoder, name).exists():
        raise BadSetting(
            f"There is an attribute {name} already. Remove it with `simile attribute remove {name}`, or choose another "
            "name."
        )


def load_attribute(home: Home, encoder: str, name: str) -> Attribute:
    """One attribute. Raises BadSetting where this encoder has none of that name, or its file is damaged."""
    check_attribute_name(name)
    path = _get_attribute_path(home, encoder, name)
    if not path.exists():
        known = ", ".join(list_attribute_names(home, encoder)) or "none"
        raise BadSetting(
            f"Encoder {encoder} has no attribute {name} (known: {known}). "
            f"Learn it with `simile attribute learn {name}`."
        )
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {which: stored[which] for which in ATTRIBUTE_ARRAYS}
            return Attribute(**json.loads(str(stored["about"])), **arrays)
    except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise BadSetting(f"{path} is damaged ({error}). Remove the file, and learn the attribute anew.") from error


def load_attributes(home: Home, encoder: str) -> list[Attribute]:
    """All attributes of an encoder, by name."""
    return [load_attribute(home, encoder, name) for name in list_attribute_names(home, encoder)]


def list_attribute_names(home: Home, encoder: str) -> list[str]:
    """The names of an encoder's attributes, sorted."""
    return sorted(path.stem for path in _get_attribute_folder(home, encoder).glob("[a-z0-9]*.npz"))


def remove_attribute(home: Home, encoder: str, name: str) -> None:
    """Removes one, though it be damaged. Raises BadSetting where there is none, HomeNotWritable."""
    path = _get_attribute_path(home, encoder, name)
    if not path.exists():
        load_attribute(home, encoder, name)  # says which there are
    with translate_write_errors(path):
        path.unlink(missing_ok=True)
        fsync_path(path.parent)


def _write_attribute(attribute: Attribute, path: Path) -> None:
    about = {name: value for name, value in vars(attribute).items() if name not in ATTRIBUTE_ARRAYS}
    arrays = {which: getattr(attribute, which) for which in ATTRIBUTE_ARRAYS}
    with path.open("wb") as file:
        np.savez(file, about=json.dumps(about), **arrays)


def _get_attribute_folder(home: Home, encoder: str) -> Path:
    return home.attributes / encoder


def _get_attribute_path(home: Home, encoder: str, name: str) -> Path:
    check_attribute_name(name)
    return _get_attribute_folder(home, encoder) / f"{name}.npz"


def make_attribute_query(
    searcher: Searcher, query: SearchQuery, plus: Sequence[str], minus: Sequence[str], strength: float
) -> SearchQuery:
    """The same search from where there is more of some attributes and less of others, each once though named twice.

    Images that are asked with are no hits, here as elsewhere. Raises BadSetting for an attribute that isn't there or
    stands on both sides, and what the question itself would raise.
    """
    if not (plus or minus):
        return query
    if query.params.use_posterior:
        raise BadSetting("posterior compares a picture's own σ: leave it out, or plus and minus.")
    wanted = make_attribute_strengths(plus, minus, strength)
    base = searcher.search(
        SearchQuery(query.positives, query.negatives, SearchParams(limit=0, include_error=False))
    ).query.mu
    return SearchQuery(
        (with_attributes(searcher, base, wanted),), params=query.params, hidden_ids=frozenset(query.excluded_ids)
    )


def make_attribute_strengths(plus: Sequence[str], minus: Sequence[str], strength: float) -> dict[str, float]:
    """How far each attribute is pushed. Raises BadSetting for one that is to be both more and less."""
    both = sorted(set(plus) & set(minus))
    if both:
        raise BadSetting(f"{', '.join(both)} can't be both more and less. Name it in plus or in minus.")
    return dict.fromkeys(plus, strength) | dict.fromkeys(minus, -strength)


ATTRIBUTE_NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Attribute:
    """raw, whitened, centre: (d,) float64; centre is where the mean of the two means lies.

    auc, spread: on held-out pictures, mean and standard deviation over the folds, by direction. contradictory: pictures
    that stood on both sides, and were left out.
    """

    name: str
    encoder: str
    raw: Float64Array
    whitened: Float64Array
    centre: Float64Array
    auc: dict[str, float]
    spread: dict[str, float]
    positives: int
    negatives: int
    contradictory: int
    unreadable: int
    seed: int

    def shift(self, mu: FloatArray, strength: float) -> FloatArray:
        """mu (…, d), moved along the raw direction. Raises EncoderMismatch."""
        if mu.shape[-1] != len(self.raw):
            raise EncoderMismatch(f"Attribute {self.name} has {len(self.raw)} numbers, the vector {mu.shape[-1]}.")
        moved: FloatArray = (mu + strength * self.raw).astype(np.float32)
        return moved

    def compute_scores(self, mu: FloatArray) -> Float64Array:
        """How much of it each mu (n, d) has, (n,): 0 half way between the means, 1 a step of strength 1 further."""
        found: Float64Array = (mu - self.centre) @ self.whitened / (self.raw @ self.whitened)
        return found


def check_attribute_name(name: str) -> None:
    """Raises BadSetting for a name that can't be a file's everywhere."""
    if not ATTRIBUTE_NAME_PATTERN.fullmatch(name):
        raise BadSetting(f"An attribute can't be called {name!r}. Use up to 64 of a-z, 0-9, - and _.")


def with_attributes(searcher: Searcher, mu: FloatArray, attributes: Mapping[str, float]) -> FloatArray:
    """mu (d,) pushed along stored attributes, each by its strength. Raises BadSetting for one that isn't there."""
    encoder = searcher.get_encoder().fingerprint
    for name, strength in attributes.items():
        if strength:
            mu = load_attribute(searcher.home, encoder, name).shift(mu, strength)
    return mu
