"""The contrastive term, against its formula written out, and the exchange of contents."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

import simile.models.losses.contrastive as contrast_module
from simile.models.losses.contrastive import ContrastiveLoss, info_nce, swap_content


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_term_is_its_formula_written_out() -> None:
    first, second = drawn(3, 4), drawn(3, 4, seed=1)
    a, b = ((x / x.norm(dim=1, keepdim=True)).tolist() for x in (first, second))
    total = 0.0
    for queries, others in ((a, b), (b, a)):
        for row in range(3):
            e = [math.exp(sum(x * y for x, y in zip(queries[row], other, strict=True)) / 0.2) for other in others]
            total -= math.log(e[row] / sum(e))
    directions = (F.normalize(x, dim=1) for x in (first, second))
    assert info_nce(*directions, 0.2).item() == pytest.approx(total / 6, rel=1e-5)


def test_views_in_one_place_far_from_all_others_surprise_nobody() -> None:
    assert info_nce(torch.eye(8), torch.eye(8), 0.05).item() < 1e-6
    assert info_nce(torch.eye(8), torch.eye(8).roll(1, 0), 0.05).item() > 1


def test_each_image_s_views_are_held_against_the_proxies_of_all() -> None:
    contrast = ContrastiveLoss(5, 5, 0.1)
    with torch.no_grad():
        contrast.proxies.copy_(torch.eye(5))
    first, rows = torch.eye(5)[[3, 1]], torch.tensor([3, 1])
    alone = contrast(first, first, None).item()
    right, wrong = (contrast(first, first, at).item() - alone for at in (rows, rows.flip(0)))
    assert right == pytest.approx(math.log(1 + 4 * math.exp(-10)), abs=1e-5)
    assert wrong == pytest.approx(10 + right, abs=1e-4)


def test_images_beyond_the_last_proxy_are_compared_within_the_batch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrast_module, "MAX_PROXIES", 2)
    contrast = ContrastiveLoss(9, 4, 0.1)
    first, second = drawn(3, 4), drawn(3, 4, seed=1)
    assert contrast(first, second, torch.tensor([7, 8, 2])).item() == contrast(first, second, None).item()
    assert contrast(first, second, torch.tensor([7, 1, 2])).item() > contrast(first, second, None).item()


def test_contents_are_taken_from_the_other_view_some_of_the_time_and_views_stay() -> None:
    first, second = torch.zeros(200, 5), torch.ones(200, 5)
    mixed = swap_content(first, second, 3, torch.Generator().manual_seed(1))
    assert torch.equal(mixed[:, 3:], first[:, 3:])
    assert set(mixed[:, :3].sum(1).tolist()) == {0.0, 3.0}  # all of the content or nothing of it
    assert 50 < mixed[:, 0].sum().item() < 140
