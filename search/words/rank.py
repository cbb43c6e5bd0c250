"""Rank images by words, and by their distance from a query image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from simile.core.records import Float64Array, FloatArray
from simile.search.words.text import TextTerm
from simile.search.words.vocabulary import Vocabulary
from simile.store.index.flat import SCAN_CHUNK_ROWS, Ids, Neighbours, sort_by_distance
from simile.store.index.snapshot import Snapshot

ComputeExpected = Callable[[Float64Array], Float64Array]


def rank_by_words(
    snapshot: Snapshot,
    vocabulary: Vocabulary,
    terms: Sequence[TextTerm],
    allowed_ids: Ids | None = None,
    query_vector: FloatArray | None = None,
    compute_expected: ComputeExpected | None = None,
) -> Neighbours:
    """Return the ids of all images that may be hits, the best first, with -ln of each score.

    The score is the probability that an image has all words of the text, and no excluded one. With a query
    vector (d,) it is multiplied by 1 / (1 + E): the number of images that are expected at its distance. That is
    what `compute_expected` returns for distances (n,), or without it the number of images that are nearer.
    """
    absent = [vocabulary.rows[term.word.text] for term in terms if term.is_absent]
    present = [vocabulary.rows[term.word.text] for term in terms if not term.is_absent]
    ids = snapshot.get_live_ids() if allowed_ids is None else allowed_ids
    found: list[Ids] = [np.empty(0, np.int64)]
    costs, distances = [np.empty(0)], [np.empty(0)]
    for start in range(0, len(ids), SCAN_CHUNK_ROWS):
        chunk, vectors = snapshot.get_vectors(ids[start : start + SCAN_CHUNK_ROWS])
        found.append(chunk)
        costs.append(-vocabulary.compute_log_probabilities(vectors, present, absent))
        if query_vector is not None:
            distances.append(np.linalg.norm(vectors.astype(np.float64) - query_vector, axis=1))
    cost = np.concatenate(costs)
    if query_vector is not None:
        distance = np.concatenate(distances)
        nearer_counts = np.searchsorted(np.sort(distance), distance)
        cost += np.log1p(nearer_counts if compute_expected is None else compute_expected(distance))
    return sort_by_distance(np.concatenate(found), cost)
