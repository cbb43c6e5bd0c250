"""Confirming candidates by their pixels, in worker processes, so that a run that was stopped goes on where it was.

Results go to a file, a line for each batch: of which candidates (a checksum of all) how many are done, and those of
them that are copies or similar.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from simile.core.records import Failure
from simile.dedup.detection.candidates import Pairs, in_order
from simile.dedup.records import Pair
from simile.images.formats import Limits
from simile.images.loading.fork_server import Lost
from simile.images.loading.worker_pool import Workers
from simile.images.matching.alignment import Agreement
from simile.images.matching.tasks import compare_files
from simile.store.home import writing

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
    on_failure: Callable[[Failure], None] = lambda _: None,
) -> Iterator[Pair]:
    """Those of the pairs (NEAR records) that are near copies, and some of the others, as similar.

    files: a file of each picture; on_failure: gets those that can't be read any more. results: where they are kept as
    they are found. Raises HomeNotWritable.
    """
    question = zlib.crc32(pairs.tobytes())  # they depend on files that may be gone for a while
    done, kept = _read(results, question)
    yield from kept
    similar = Counter(end for pair in kept if pair.tier == "similar" for end in (pair.first, pair.second))
    todo = islice(in_order(pairs), done, None)
    task = partial(compare_files, limits=limits)
    with writing(results), results.open("a", encoding="utf-8") as file:
        while batch := list(islice(todo, BATCH)):
            found = list(workers.map(task, [(files[first], files[second]) for first, second, _ in batch]))
            judged = list(_judged(batch, found, similar))
            for one in found:
                if isinstance(one, Failure):
                    on_failure(one)
            done += len(batch)
            rows = [list(vars(pair).values()) for pair in judged]
            file.write(json.dumps({"of": question, "done": done, "pairs": rows}) + "\n")
            file.flush()
            yield from judged
            on_progress(done, len(pairs))


def _judged(
    batch: Sequence[Candidate], found: Sequence[Agreement | Failure | Lost], similar: Counter[int]
) -> Iterator[Pair]:
    for (first, second, distance), agreement in zip(batch, found, strict=True):
        if isinstance(agreement, Failure | Lost):  # gone or damaged since it was indexed: nothing can be said
            continue
        alike = round(agreement.alike, 4)
        if agreement.same:
            yield Pair(first, second, "near", distance, alike, agreement.reason)
        elif min(similar[first], similar[second]) < SIMILAR:
            similar.update((first, second))
            yield Pair(first, second, "similar", distance, alike, f"not a copy: {agreement.reason}")


def _read(results: Path, question: int) -> tuple[int, list[Pair]]:
    """How many candidates were done before, and what came of them. Cuts off a broken line, and what is of others."""
    if not results.exists():
        return 0, []
    done, kept, whole = 0, [], 0
    with results.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            batch = json.loads(line)
            if batch.get("of") != question:
                break
            done, whole = batch["done"], whole + len(line)
            kept += [Pair(*row) for row in batch["pairs"]]
    with results.open("r+b") as file:
        file.truncate(whole)
    return done, kept
