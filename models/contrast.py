"""Two views of one picture, and the term that gives them the same place."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """How surprising each view's other view is among those of all pictures of the batch, a scalar in nats.

    Contents (b, c) of two views of b pictures. Cross-entropy over cosines divided by `temperature` (van den Oord et
    al., arXiv 1807.03748), first against second and second against first, never within: a search holds a copy against
    pictures as they are. Pictures seen in earlier steps make it worse: their places are out of date.
    """
    first, second = (F.normalize(content.float(), dim=1) for content in (first, second))
    likeness = first @ second.T / temperature  # (b, b)
    same = torch.arange(len(first), device=first.device)
    return 0.5 * (F.cross_entropy(likeness, same) + F.cross_entropy(likeness.T, same))


def exchanged(first: Tensor, second: Tensor, content_dim: int, generator: torch.Generator) -> Tensor:
    """z of the first view (b, d), its first `content_dim` numbers half of the time taken from the second view.

    The decoder must then repaint a view from the other view's content: what the views share goes there.
    """
    other = (torch.rand(len(first), 1, generator=generator) < 0.5).to(first.device)
    content = torch.where(other, second[:, :content_dim], first[:, :content_dim])
    return torch.cat([content, first[:, content_dim:]], 1)
