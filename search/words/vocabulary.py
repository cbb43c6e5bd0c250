"""The words that a collection has learned: for each a direction among its vectors, and how well it separates images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from simile.core.arrays import read_arrays, write_arrays
from simile.core.records import Float64Array, FloatArray
from simile.search.background import CacheEntry
from simile.store.index.snapshot import Snapshot


@dataclass(frozen=True)
class Word:
    """A word that was learned from the images that have it."""

    text: str
    auc: float  # on held-out images
    count: int  # images with the word
    others: int  # images without it, among those with something in the same tags or folders


@dataclass(frozen=True, kw_only=True, eq=False)
class Vocabulary(CacheEntry):
    """The words of a collection.

    Attributes:
        changes: Of the catalogue that it was learned from; every change of metadata counts.
        words: By text; row i of `weights` belongs to word i.
        weights, biases: (n, d) and (n,): the log-odds of a word for an indexed vector x (d,) are weights @ x + bias.
        refused: Words that are not offered, with the reason.
    """

    suffix: ClassVar = "-words.npz"

    changes: int
    words: tuple[Word, ...]
    weights: FloatArray
    biases: Float64Array
    refused: Mapping[str, str]

    @cached_property
    def rows(self) -> dict[str, int]:
        """The row of each word by its text."""
        return {word.text: row for row, word in enumerate(self.words)}

    def compute_log_probabilities(
        self, vectors: FloatArray, present: Sequence[int], absent: Sequence[int]
    ) -> Float64Array:
        """Return for each indexed vector (n, d) the log-probability of all words in `present` and none in `absent`.

        The words, given as rows, count as independent of each other.
        """
        rows = [*present, *absent]
        signs = np.repeat([1.0, -1.0], [len(present), len(absent)])
        odds = (vectors @ self.weights[rows].T + self.biases[rows]) * signs
        logs: Float64Array = -np.logaddexp(0.0, -odds).sum(axis=1)
        return logs

    def fits(self, snapshot: Snapshot) -> bool:
        """Tell whether the catalogue is still as it was."""
        return self.changes == snapshot.state.changes

    def save(self, path: Path) -> None:
        """Save it as arrays and JSON."""
        about = {
            "encoder": self.encoder,
            "segment": self.segment,
            "changes": self.changes,
            "words": [list(vars(word).values()) for word in self.words],
            "refused": dict(self.refused),
        }
        write_arrays(path, about=json.dumps(about), weights=self.weights, biases=self.biases)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Load saved words. Raises one of ARRAY_FILE_ERRORS for a bad file."""
        arrays = read_arrays(path)
        about = json.loads(str(arrays["about"]))
        words = tuple(Word(*values) for values in about.pop("words"))
        return cls(**about, words=words, weights=arrays["weights"], biases=arrays["biases"])
