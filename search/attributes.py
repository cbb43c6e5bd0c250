"""Attributes on disk: HOME/attributes/<encoder>/<name>.npz. A file never changes: it is written once, or removed."""

from __future__ import annotations

import json
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from simile.core.atomic_write import sync, write_durably
from simile.core.errors import BadSetting

pass
from collections.abc import Sequence

from simile.store.home import Home, writing

pass
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from numpy.typing import NDArray

from simile.core.errors import BadSetting, EncoderMismatch
from simile.core.records import FloatArray
from simile.search.queries import Asked, Question
from simile.search.searcher import Searcher

pass


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


def pushed_question(
    searcher: Searcher, question: Question, plus: Sequence[str], minus: Sequence[str], strength: float
) -> Question:
    """The same search from where there is more of some attributes and less of others, each once though named twice.

    Images that are asked with are no hits, here as elsewhere. Raises BadSetting for an attribute that isn't there or
    stands on both sides, and what the question itself would raise.
    """
    if not (plus or minus):
        return question
    if question.asked.posterior:
        raise BadSetting("posterior compares a picture's own σ: leave it out, or plus and minus.")
    wanted = strengths(plus, minus, strength)
    base = searcher.ask(Question(question.positives, question.negatives, Asked(limit=0, error=False))).query.mu
    return Question((pushed(searcher, base, wanted),), asked=question.asked, hidden=frozenset(question.ids))


def strengths(plus: Sequence[str], minus: Sequence[str], strength: float) -> dict[str, float]:
    """How far each attribute is pushed. Raises BadSetting for one that is to be both more and less."""
    both = sorted(set(plus) & set(minus))
    if both:
        raise BadSetting(f"{', '.join(both)} can't be both more and less. Name it in plus or in minus.")
    return dict.fromkeys(plus, strength) | dict.fromkeys(minus, -strength)


NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

Doubles = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Attribute:
    """raw, whitened, centre: (d,) float64; centre is where the mean of the two means lies.

    auc, spread: on held-out pictures, mean and standard deviation over the folds, by direction. contradictory: pictures
    that stood on both sides, and were left out.
    """

    name: str
    encoder: str
    raw: Doubles
    whitened: Doubles
    centre: Doubles
    auc: dict[str, float]
    spread: dict[str, float]
    positives: int
    negatives: int
    contradictory: int
    unreadable: int
    seed: int

    def pushed(self, mu: FloatArray, strength: float) -> FloatArray:
        """mu (…, d), moved along the raw direction. Raises EncoderMismatch."""
        if mu.shape[-1] != len(self.raw):
            raise EncoderMismatch(f"Attribute {self.name} has {len(self.raw)} numbers, the vector {mu.shape[-1]}.")
        moved: FloatArray = (mu + strength * self.raw).astype(np.float32)
        return moved

    def scores(self, mu: FloatArray) -> Doubles:
        """How much of it each mu (n, d) has, (n,): 0 half way between the means, 1 a step of strength 1 further."""
        found: Doubles = (mu - self.centre) @ self.whitened / (self.raw @ self.whitened)
        return found


def check_name(name: str) -> None:
    """Raises BadSetting for a name that can't be a file's everywhere."""
    if not NAME.fullmatch(name):
        raise BadSetting(f"An attribute can't be called {name!r}. Use up to 64 of a-z, 0-9, - and _.")


def pushed(searcher: Searcher, mu: FloatArray, attributes: Mapping[str, float]) -> FloatArray:
    """mu (d,) pushed along stored attributes, each by its strength. Raises BadSetting for one that isn't there."""
    encoder = searcher.encoder().fingerprint
    for name, strength in attributes.items():
        if strength:
            mu = load(searcher.home, encoder, name).pushed(mu, strength)
    return mu
