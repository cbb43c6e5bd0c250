"""Oriented gradients at both ends of a network: seen by the encoder, and asked of z.

Edges say more of what a picture shows than brightness does. As an input they spare the encoder learning them; as a
target they make pictures with like edges neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from simile.models.networks.hog import compute_hog

HOG_BINS = 8
MIN_FEATURE_DEVIATION = 1e-4  # where a feature is the same in every picture


class HogFeatures(nn.Module):
    """Oriented gradients of pictures (n, C, S, S), as they are and contrast-normalised, centred and scaled, (n, k).

    Centre and scale are those of a sample of the collection: `fit`.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, image_size: int) -> None:
        super().__init__()
        # Cells of an eighth of the side, at least 4 pixels: they stay as telling at any size.
        self.cell_size = max(4, -(-image_size // 8))
        self.num_features = 2 * HOG_BINS * (-(-image_size // self.cell_size)) ** 2
        self.register_buffer("mean", torch.zeros(self.num_features))
        self.register_buffer("deviation", torch.ones(self.num_features))

    def forward(self, x: Tensor) -> Tensor:
        return (self._compute_raw(x) - self.mean) / self.deviation

    def _compute_raw(self, x: Tensor) -> Tensor:
        return compute_hog(x, self.cell_size, HOG_BINS, contrast="both")

    @torch.no_grad()
    def fit(self, sample: Tensor) -> None:
        """Centre and scale by pictures (m, C, S, S) in [0, 1]."""
        raw = torch.cat([self._compute_raw(sample[at : at + 500]) for at in range(0, len(sample), 500)])  # (m, k)
        self.mean.copy_(raw.mean(0))
        # One scale for plain and one for normalised: a feature that hardly varies must not count like the others.
        scale = raw.std(0).reshape(2, -1).mean(1).clamp_min(MIN_FEATURE_DEVIATION)
        self.deviation.copy_(scale.repeat_interleave(self.num_features // 2))


class HogHead(nn.Module):
    """A linear map of z that must give a picture's oriented gradients, as a Gaussian with the optimal variance.

    Linear, so that pictures whose gradients are alike lie close together in z.
    """

    def __init__(self, latent_dim: int, image_size: int) -> None:
        super().__init__()
        self.edges = HogFeatures(image_size)
        self.linear = nn.Linear(latent_dim, self.edges.num_features)

    def log_likelihood(self, z: Tensor, x: Tensor) -> Tensor:
        """log p(gradients | z), a mean over the batch in nats, up to a constant. z: (n, d), x: (n, C, S, S)."""
        with torch.no_grad():
            target = self.edges(x)  # (n, k)
        error: Tensor = (self.linear(z).float() - target).square().mean()
        return -0.5 * self.edges.num_features * error.clamp_min(1e-8).log()
