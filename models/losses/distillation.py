"""Distillation of neighbours: the images near an image by a teacher's vectors become those near it by the contents."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from simile.core.records import FloatArray

# Of the teacher's similarities, in their standard deviations: the cosines of one network differ by 0.3 between images,
# those of another by 0.03. An image three deviations nearer than the mean gets 8,000 times its share.
TEACHER_TEMPERATURE = 1 / 3


def neighbour_divergence(
    first: Tensor, second: Tensor, teacher: Tensor, temperature: float, teacher_temperature: float
) -> Tensor:
    """Return how far the neighbours by the contents are from those by the teacher's vectors: a scalar in nats.

    For each image, a softmax over its similarities to the other images of the batch gives each of them a probability
    of being its neighbour. The result is the mean KL divergence from the teacher's probabilities to the student's: SEED
    (Fang et al., arXiv 2101.04731), with the batch in place of a queue. Only relations are compared (Park et al., arXiv
    1904.05068), so the vectors may have any lengths and dimensions.

    Args:
        first: Contents (b, c) of the images, compared by cosine.
        second: Contents (b, c) of the same images, in which neighbours are searched for: of other views, or `first`.
        teacher: Vectors (b, d) of the images; NaN for images that the teacher does not know, which are left out.
        temperature: By which cosines are divided before the softmax.
        teacher_temperature: The same, for the teacher's similarities.
    """
    with torch.autocast(first.device.type, enabled=False):
        is_known = teacher[:, 0].isfinite()
        if is_known.sum() < 2:
            return torch.zeros((), device=first.device)
        first, second = (F.normalize(content[is_known].float(), dim=1) for content in (first, second))
        targets = _log_probabilities(compute_similarities(teacher[is_known].float()) / teacher_temperature)
        similarity = first @ second.T / temperature
        losses = [
            F.kl_div(_log_probabilities(rows), targets, reduction="batchmean", log_target=True)
            for rows in (similarity, similarity.T)
        ]
    return 0.5 * (losses[0] + losses[1])


def compute_similarities(vectors: Tensor) -> Tensor:
    """Return minus half the squared distances (n, n) of vectors (n, d); for vectors of length 1, the cosines - 1."""
    half_norms = 0.5 * vectors.square().sum(1)
    return vectors @ vectors.T - half_norms[:, None] - half_norms


def measure_spread(vectors: FloatArray) -> float:
    """Return the standard deviation of the similarities between different vectors (n, d)."""
    similarities = compute_similarities(torch.from_numpy(vectors))
    return float(_drop_diagonal(similarities).std())


def _log_probabilities(similarities: Tensor) -> Tensor:
    """Return the log of the softmax of each row (b, b - 1), over the other images."""
    return F.log_softmax(_drop_diagonal(similarities), dim=1)


def _drop_diagonal(square: Tensor) -> Tensor:
    """Return (n, n - 1): each row of (n, n) without its value on the diagonal."""
    count = len(square)
    return square.flatten()[1:].view(count - 1, count + 1)[:, :-1].reshape(count, count - 1)
