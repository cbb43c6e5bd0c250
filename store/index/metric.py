"""Which numbers of an embedding are compared, and with which metric."""

from __future__ import annotations

import numpy as np

from simile.core.errors import EncoderMismatch
from simile.core.records import FloatArray


def make_index_vectors(mu: FloatArray, index_dims: int | list[int] | None, metric: str) -> FloatArray:
    """Return the vectors (n, d') float32 that the index compares, from latent means (n, d).

    `index_dims` are the dimensions to compare: None for all, n for the first n, or a list of them. The metric is "l2",
    or "cosine", which scales each vector to length 1 (a zero vector stays zero). Raises EncoderMismatch.
    """
    dims = list(range(index_dims)) if isinstance(index_dims, int) else index_dims
    if dims is not None and len(dims) and max(dims) >= mu.shape[1]:
        raise EncoderMismatch(f"The encoder indexes dimension {max(dims)}, but the vector has only {mu.shape[1]}.")
    selected = mu if dims is None else mu[:, list(dims)]
    if metric != "cosine":
        return np.ascontiguousarray(selected, np.float32)
    wide = selected.astype(np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    return (wide / np.where(length == 0, 1, length)).astype(np.float32)
