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
from simile.dedup.detection.candidates import PairArray, iterate_in_locality_order
from simile.dedup.records import ImagePair
from simile.images.formats import Limits
from simile.images.loading.fork_server import WorkerLost
from simile.images.loading.worker_pool import WorkerPool
from simile.images.matching.alignment import AlignmentResult
from simile.images.matching.tasks import compare_files
from simile.store.home import translate_write_errors

VERIFICATION_BATCH_SIZE = 256  # candidates that are lost at most when the process is killed
SIMILAR_PAIRS_PER_IMAGE = 3  # pairs of a picture that are kept though they were not confirmed

CandidatePair = tuple[int, int, float]  # first, second, distance


def verify_candidates(
    pairs: PairArray,
    paths: dict[int, str],
    workers: WorkerPool,
    limits: Limits,
    results_path: Path,
    on_progress: Callable[[int, int], None],
    on_failure: Callable[[Failure], None] = lambda _: None,
) -> Iterator[ImagePair]:
    """Those of the pairs (NEAR records) that are near copies, and some of the others, as similar.

    files: a file of each picture; on_failure: gets those that can't be read any more. results: where they are kept as
    they are found. Raises HomeNotWritable.
    """
    question = zlib.crc32(pairs.tobytes())  # they depend on files that may be gone for a while
    done, kept = _read_verified_pairs(results_path, question)
    yield from kept
    similar = Counter(end for pair in kept if pair.tier == "similar" for end in (pair.first, pair.second))
    todo = islice(iterate_in_locality_order(pairs), done, None)
    task = partial(compare_files, limits=limits)
    with translate_write_errors(results_path), results_path.open("a", encoding="utf-8") as file:
        while batch := list(islice(todo, VERIFICATION_BATCH_SIZE)):
            found = list(workers.map(task, [(paths[first], paths[second]) for first, second, _ in batch]))
            judged = list(_make_verified_pairs(batch, found, similar))
            for one in found:
                if isinstance(one, Failure):
                    on_failure(one)
            done += len(batch)
            rows = [list(vars(pair).values()) for pair in judged]
            file.write(json.dumps({"of": question, "done": done, "pairs": rows}) + "\n")
            file.flush()
            yield from judged
            on_progress(done, len(pairs))


def _make_verified_pairs(
    batch: Sequence[CandidatePair],
    agreements: Sequence[AlignmentResult | Failure | WorkerLost],
    similar_counts: Counter[int],
) -> Iterator[ImagePair]:
    for (first, second, distance), agreement in zip(batch, agreements, strict=True):
        if isinstance(agreement, Failure | WorkerLost):  # gone or damaged since it was indexed: nothing can be said
            continue
        alike = round(agreement.similarity, 4)
        if agreement.is_copy:
            yield ImagePair(first, second, "near", distance, alike, agreement.reason)
        elif min(similar_counts[first], similar_counts[second]) < SIMILAR_PAIRS_PER_IMAGE:
            similar_counts.update((first, second))
            yield ImagePair(first, second, "similar", distance, alike, f"not a copy: {agreement.reason}")


def _read_verified_pairs(results_path: Path, checksum: int) -> tuple[int, list[ImagePair]]:
    """How many candidates were done before, and what came of them. Cuts off a broken line, and what is of others."""
    if not results_path.exists():
        return 0, []
    done, kept, whole = 0, [], 0
    with results_path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            batch = json.loads(line)
            if batch.get("of") != checksum:
                break
            done, whole = batch["done"], whole + len(line)
            kept += [ImagePair(*row) for row in batch["pairs"]]
    with results_path.open("r+b") as file:
        file.truncate(whole)
    return done, kept
