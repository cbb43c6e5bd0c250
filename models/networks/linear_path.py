"""A linear path beside the network: principal components when training starts, and what it makes of them later.

The lecture calls an autoencoder a non-linear PCA. With this path a network is no worse than PCA from its first step on,
and learns what PCA leaves over. A linear VAE's optimum is probabilistic PCA (Lucas et al., arXiv 1911.02469), whose
closed form (Tipping & Bishop 1999, "Probabilistic Principal Component Analysis") is what the path starts as.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    pass


class LinearPathDecoder(nn.Module):
    """Logits (n, C, S, S) of a decoder, plus a linear map of z (n, d)."""

    def __init__(self, decoder: nn.Module, latent_dim: int, value_count: int) -> None:
        super().__init__()
        self.decoder = decoder
        self.linear = nn.Linear(latent_dim, value_count)

    def forward(self, z: Tensor) -> Tensor:
        logits: Tensor = self.decoder(z)
        path: Tensor = self.linear(z).float()
        return logits + path.view_as(logits)
