"""Confirming candidates by their pixels, in worker processes, so that a run that was stopped goes on where it was.

Results go to a file, a line for each batch: how many candidates are done, and those of them that are copies or similar.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from core.records import Failure
from dedup.candidates import Pairs, in_order
from dedup.records import Pair
from models.alignment import Agreement
from models.comparing import compare_files
from models.images import Limits
from models.nursery import Lost
from models.workers import Workers
from store.home import writing

BATCH = 256  # candidates that are lost at most when the process is killed
SIMILAR = 3  # pairs of a picture that are kept though they were not confirmed

Candidate = tuple[int, int, float]  # first, second, distance


def confirmed(
    pairs: Pairs,
    files: dict[int, str],
    workers: Workers,
    limits: Limits,
    results: Path,
    on_progress: Callable[[int, int], None],
) -> Iterator[Pair]:
    """Those of the pairs (NEAR records) that are near copies, and some of the others, as similar.

    files: a file of each picture. results: where they are kept as they are found. Raises HomeNotWritable.
    """
    done, kept = _read(results)
    yield from kept
    similar = Counter(end for pair in kept if pair.tier == "similar" for end in (pair.first, pair.second))
    todo = islice(in_order(pairs), done, None)
    task = partial(compare_files, limits=limits)
    with writing(results), results.open("a", encoding="utf-8") as file:
        while batch := list(islice(todo, BATCH)):
            found = list(workers.map(task, [(files[first], files[second]) for first, second, _ in batch]))
            judged = list(_judged(batch, found, similar))
            done += len(batch)
            file.write(json.dumps({"done": done, "pairs": [list(vars(pair).values()) for pair in judged]}) + "\n")
            file.flush()
            yield from judged
            on_progress(done, len(pairs))


def _judged(
    batch: Sequence[Candidate], found: Sequence[Agreement | Failure | Lost], similar: Counter[int]
) -> Iterator[Pair]:
    for (first, second, distance), agreement in zip(batch, found, strict=True):
        if isinstance(agreement, Failure | Lost):  # gone or damaged since it was indexed: nothing can be said
            continue
        tier, reason = ("near", agreement.reason) if agreement.same else ("similar", f"not a copy: {agreement.reason}")
        if tier == "similar":
            if min(similar[first], similar[second]) >= SIMILAR:
                continue
            similar.update((first, second))
        yield Pair(first, second, "near" if tier == "near" else "similar", distance, round(agreement.alike, 4), reason)


def _read(results: Path) -> tuple[int, list[Pair]]:
    """How many candidates were done before, and what came of them; a line that was cut off is taken away."""
    if not results.exists():
        return 0, []
    done, kept, whole = 0, [], 0
    with results.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            batch = json.loads(line)
            done, whole = batch["done"], whole + len(line)
            kept += [Pair(*row) for row in batch["pairs"]]
    with results.open("r+b") as file:
        file.truncate(whole)
    return done, kept
