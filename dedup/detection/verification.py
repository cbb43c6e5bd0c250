"""Verify candidate pairs by their pixels, in worker processes.

Results go to a file, so that an interrupted run continues after the last batch. Each line is one batch: a checksum of
all candidates, the number of candidates that are done, and the pairs of the batch that are copies or similar.
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
from simile.dedup.detection.candidates import PairArray, StageProgress, iterate_in_locality_order
from simile.dedup.records import ImagePair
from simile.images.formats import Limits
from simile.images.loading.fork_server import WorkerLost
from simile.images.loading.worker_pool import WorkerPool
from simile.images.matching.alignment import AlignmentResult
from simile.images.matching.tasks import compare_files
from simile.store.home import translate_write_errors

VERIFICATION_BATCH_SIZE = 256  # candidates; at most one batch is lost when the process is killed
SIMILAR_PAIRS_PER_IMAGE = 3  # pairs of an image that are reported although they are not copies

CandidatePair = tuple[int, int, float]  # first, second, distance


def verify_candidates(
    pairs: PairArray,
    paths: dict[int, str],
    workers: WorkerPool,
    limits: Limits,
    results_path: Path,
    on_progress: StageProgress,
    on_failure: Callable[[Failure], None] = lambda _: None,
) -> Iterator[ImagePair]:
    """Yield the pairs that are near copies, and some of the other pairs as similar. Raises HomeNotWritable.

    Args:
        pairs: The candidates, (n,) of PAIR_DTYPE.
        paths: One file of each image, by image id.
        results_path: The file with the results; it is continued if it belongs to the same candidates.
        on_failure: Gets each file that can no longer be read.
    """
    checksum = zlib.crc32(pairs.tobytes())  # other candidates (a file was missing for a while) have other results
    done, verified = _read_verified_pairs(results_path, checksum)
    yield from verified
    similar_counts = Counter(end for pair in verified if pair.tier == "similar" for end in (pair.first, pair.second))
    remaining = islice(iterate_in_locality_order(pairs), done, None)
    task = partial(compare_files, limits=limits)
    with translate_write_errors(results_path), results_path.open("a", encoding="utf-8") as file:
        while batch := list(islice(remaining, VERIFICATION_BATCH_SIZE)):
            alignments = list(workers.map(task, [(paths[first], paths[second]) for first, second, _ in batch]))
            for alignment in alignments:
                if isinstance(alignment, Failure):
                    on_failure(alignment)
            verified = list(_make_verified_pairs(batch, alignments, similar_counts))
            done += len(batch)
            file.write(
                json.dumps({"of": checksum, "done": done, "pairs": [pair._asdict() for pair in verified]}) + "\n"
            )
            file.flush()
            yield from verified
            on_progress(done, len(pairs))


def _make_verified_pairs(
    batch: Sequence[CandidatePair],
    alignments: Sequence[AlignmentResult | Failure | WorkerLost],
    similar_counts: Counter[int],
) -> Iterator[ImagePair]:
    """Yield the copies and similar pairs of a batch; `similar_counts` (by image id) is updated."""
    for (first, second, distance), alignment in zip(batch, alignments, strict=True):
        if isinstance(alignment, Failure | WorkerLost):  # missing or damaged since indexing: nothing is known
            continue
        pair = ImagePair(first, second, "near", distance, round(alignment.similarity, 4), alignment.reason)
        if alignment.is_copy:
            yield pair
        elif min(similar_counts[first], similar_counts[second]) < SIMILAR_PAIRS_PER_IMAGE:
            similar_counts.update((first, second))
            yield pair._replace(tier="similar", reason=f"not a copy: {alignment.reason}")


def _read_verified_pairs(results_path: Path, checksum: int) -> tuple[int, list[ImagePair]]:
    """Return how many candidates are done, and their pairs; cut off a broken line and results of other candidates."""
    if not results_path.exists():
        return 0, []
    done, pairs, valid_bytes = 0, list[ImagePair](), 0
    with results_path.open("r+b") as file:
        for line in file:
            if not line.endswith(b"\n") or (batch := json.loads(line)).get("of") != checksum:
                break
            done, valid_bytes = batch["done"], valid_bytes + len(line)
            pairs += [ImagePair(**row) for row in batch["pairs"]]
        file.truncate(valid_bytes)
    return done, pairs
