"""Contrastive terms: two augmented views of an image get similar contents, different from those of other images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONTENT_SWAP_RATE = 0.4  # share of contents that come from the other view
MAX_PROXIES = 10_000  # images with a proxy: more would cost more than the network


class ContrastiveLoss(nn.Module):
    """InfoNCE over the views of a batch, plus a proxy loss over all training images, in nats.

    Every training image has a proxy, a learned direction that its views are pulled towards. The proxies compare each
    view with all images in every step, also with look-alikes, which are rarely in the same batch (Dosovitskiy et al.,
    arXiv 1406.6909, with directions as in Wu et al., arXiv 1805.01978).
    """

    def __init__(self, image_count: int, dimensions: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.proxies = nn.Parameter(0.1 * torch.randn(min(image_count, MAX_PROXIES), dimensions))

    def forward(self, first: Tensor, second: Tensor, rows: Tensor | None) -> Tensor:
        """Return the loss, a scalar.

        Args:
            first: Contents (b, c) of the first views.
            second: Contents (b, c) of the second views.
            rows: Row numbers (b,) of the images in the training set; None for other images.
        """
        first, second = (F.normalize(content.float(), dim=1) for content in (first, second))
        loss = info_nce(first, second, self.temperature)
        has_proxy = None if rows is None else rows < len(self.proxies)
        if has_proxy is None or not has_proxy.any():
            return loss
        directions = F.normalize(self.proxies, dim=1).T / self.temperature  # (c, images)
        targets = rows[has_proxy]  # type: ignore[index]  # has_proxy is None if rows is
        return loss + 0.5 * sum(F.cross_entropy(view[has_proxy] @ directions, targets) for view in (first, second))


def info_nce(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Return the InfoNCE loss of two views of b images, directions (b, c) of length 1: a scalar in nats.

    Cross-entropy over cosines divided by `temperature` (van den Oord et al., arXiv 1807.03748). First views are
    compared with second views and the reverse, never within one set: a search compares a copy with unaltered images.
    A smaller temperature gives the nearest other images more weight.
    """
    similarity = first @ second.T / temperature  # (b, b)
    targets = torch.arange(len(first), device=first.device)
    return 0.5 * (F.cross_entropy(similarity, targets) + F.cross_entropy(similarity.T, targets))


def swap_content(first: Tensor, second: Tensor, content_dim: int, generator: torch.Generator) -> Tensor:
    """Return z of the first views (b, d), with the first `content_dim` values of some rows from the second views.

    The decoder must then reconstruct a view from the content of the other view, so the content holds what views share.
    """
    is_swapped = (torch.rand(len(first), 1, generator=generator) < CONTENT_SWAP_RATE).to(first.device)
    content = torch.where(is_swapped, second[:, :content_dim], first[:, :content_dim])
    return torch.cat([content, first[:, content_dim:]], 1)
