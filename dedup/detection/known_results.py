"""Results about images that a later run uses again: the digest of an image's pixels, and the comparison of two images.

An id identifies the content of an image, so a result stays valid until another version or other limits are used.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simile.core.atomic_write import write_atomically
from simile.images.matching.alignment import AlignmentResult
from simile.store.home import translate_write_errors

RESULTS_PER_LINE = 1024  # bounds the memory of writing a file anew

PairIds = tuple[int, int]  # first < second


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The stored result of comparing two images.

    Attributes:
        matrix: (3, 3), from the second image's unit square to the first's; None if they are no copies.
    """

    is_copy: bool
    score: float
    similarity: float
    reason: str
    matrix: list[list[float]] | None

    @classmethod
    def from_alignment(cls, alignment: AlignmentResult) -> Comparison:
        """Return the stored part of an alignment."""
        matrix = alignment.matrix.tolist() if alignment.is_copy and alignment.matrix is not None else None
        similarity, score = round(alignment.similarity, 4), round(alignment.score, 4)
        return cls(
            is_copy=matrix is not None, score=score, similarity=similarity, reason=alignment.reason, matrix=matrix
        )


class KnownResults:
    """The results in a file of JSON lines: a line that identifies them, then batches of results.

    Attributes:
        digests: Digest of the pixels, by image id.
        comparisons: Comparison of two images, by their ids.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Read the file, or begin a new one; `identity` is JSON. Raises HomeNotWritable."""
        self._path, self._identity = path, identity
        self.digests: dict[int, str] = {}
        self.comparisons: dict[PairIds, Comparison] = {}
        try:
            is_usable = self._read()
        except (ValueError, TypeError, AttributeError):  # damaged: everything is compared again
            self.digests, self.comparisons, is_usable = {}, {}, False
        if not is_usable:
            self._rewrite()

    def add(self, digests: Mapping[int, str], comparisons: Mapping[PairIds, Comparison]) -> None:
        """Store results. Raises HomeNotWritable."""
        self.digests.update(digests)
        self.comparisons.update(comparisons)
        if digests or comparisons:
            with translate_write_errors(self._path), self._path.open("a", encoding="utf-8") as file:
                file.write(_format_line(digests, comparisons))

    def keep_only(self, image_ids: Collection[int]) -> None:
        """Delete the results about other images. Raises HomeNotWritable."""
        current = frozenset(image_ids)
        digests = {image_id: digest for image_id, digest in self.digests.items() if image_id in current}
        comparisons = {pair: result for pair, result in self.comparisons.items() if current.issuperset(pair)}
        if (len(digests), len(comparisons)) != (len(self.digests), len(self.comparisons)):
            self.digests, self.comparisons = digests, comparisons
            self._rewrite()

    def _read(self) -> bool:
        """Read the file and cut off a broken line; return False if there is no file, or one of another identity."""
        if not self._path.exists():
            return False
        with translate_write_errors(self._path), self._path.open("r+b") as file:
            valid_bytes = 0
            for line in file:
                if not line.endswith(b"\n"):
                    break
                batch = json.loads(line)
                if not valid_bytes and batch != self._identity:
                    return False
                valid_bytes += len(line)
                self.digests.update({int(image_id): digest for image_id, digest in batch.get("digests", ())})
                for first, second, result in batch.get("compared", ()):
                    self.comparisons[first, second] = Comparison(**result)
            file.truncate(valid_bytes)
        return valid_bytes > 0

    def _rewrite(self) -> None:
        def write(path: Path) -> None:
            with path.open("w", encoding="utf-8") as file:
                file.write(json.dumps(self._identity) + "\n")
                digests, comparisons = list(self.digests.items()), list(self.comparisons.items())
                for start in range(0, max(len(digests), len(comparisons)), RESULTS_PER_LINE):
                    chunk = slice(start, start + RESULTS_PER_LINE)
                    file.write(_format_line(dict(digests[chunk]), dict(comparisons[chunk])))

        with translate_write_errors(self._path):
            self._path.parent.mkdir(exist_ok=True)
            write_atomically(self._path, write)


def _format_line(digests: Mapping[int, str], comparisons: Mapping[PairIds, Comparison]) -> str:
    compared = [[*pair, vars(result)] for pair, result in comparisons.items()]
    return json.dumps({"digests": list(digests.items()), "compared": compared}) + "\n"
