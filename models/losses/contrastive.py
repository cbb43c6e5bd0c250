"""Two views of one picture, and the terms that give them the same place, far from those of other pictures."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONTENT_SWAP_RATE = 0.4  # share of contents that are taken from the other view
MAX_PROXIES = 50_000  # pictures with a place of their own: more would cost more than the network


class ContrastiveLoss(nn.Module):
    """How surprising it is that two views are of one picture, in nats: among the batch, and among all pictures.

    Every picture of the training set has a proxy, a learned direction that its views are drawn to. Looked at together
    they hold each view against all pictures in every step, the look-alikes too, which a batch seldom brings together
    (Dosovitskiy et al., arXiv 1406.6909, with directions as in Wu et al., arXiv 1805.01978).
    """

    def __init__(self, image_count: int, dimensions: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.proxies = nn.Parameter(0.1 * torch.randn(min(image_count, MAX_PROXIES), dimensions))

    def forward(self, first: Tensor, second: Tensor, rows: Tensor | None) -> Tensor:
        """A scalar, of the contents (b, c) of two views of the pictures numbered `rows` (b,), None for unknown ones."""
        first, second = (F.normalize(content.float(), dim=1) for content in (first, second))
        loss = info_nce(first, second, self.temperature)
        known = None if rows is None else rows < len(self.proxies)
        if known is None or not known.any():
            return loss
        towards = F.normalize(self.proxies, dim=1).T / self.temperature  # (c, pictures)
        own = rows[known]  # type: ignore[index]  # known is None where rows is
        return loss + 0.5 * sum(F.cross_entropy(view[known] @ towards, own) for view in (first, second))


def info_nce(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """How surprising each view's other view is among those of all pictures of the batch, a scalar in nats.

    Directions (b, c), of length 1, of two views of b pictures. Cross-entropy over cosines divided by `temperature`
    (van den Oord et al., arXiv 1807.03748), first against second and second against first, never within: a search
    holds a copy against pictures as they are.
    """
    likeness = first @ second.T / temperature  # (b, b)
    same = torch.arange(len(first), device=first.device)
    return 0.5 * (F.cross_entropy(likeness, same) + F.cross_entropy(likeness.T, same))


def swap_content(first: Tensor, second: Tensor, content_dim: int, generator: torch.Generator) -> Tensor:
    """z of the first view (b, d), its first `content_dim` numbers some of the time taken from the second view.

    The decoder must then repaint a view from the other view's content: what the views share goes there.
    """
    other = (torch.rand(len(first), 1, generator=generator) < CONTENT_SWAP_RATE).to(first.device)
    content = torch.where(other, second[:, :content_dim], first[:, :content_dim])
    return torch.cat([content, first[:, content_dim:]], 1)
