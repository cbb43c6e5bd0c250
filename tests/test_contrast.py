"""The contrastive term, against its formula written out, and the exchange of contents."""

from __future__ import annotations

import math

import pytest
import torch

from models.contrast import exchanged, info_nce


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
    assert info_nce(first, second, 0.2).item() == pytest.approx(total / 6, rel=1e-5)


def test_views_in_one_place_far_from_all_others_surprise_nobody() -> None:
    assert info_nce(torch.eye(8), torch.eye(8), 0.05).item() < 1e-6
    assert info_nce(torch.eye(8), torch.eye(8).roll(1, 0), 0.05).item() > 1


def test_contents_are_taken_from_the_other_view_half_of_the_time_and_views_stay() -> None:
    first, second = torch.zeros(200, 5), torch.ones(200, 5)
    mixed = exchanged(first, second, 3, torch.Generator().manual_seed(1))
    assert torch.equal(mixed[:, 3:], first[:, 3:])
    assert set(mixed[:, :3].sum(1).tolist()) == {0.0, 3.0}  # all of the content or nothing of it
    assert 60 < mixed[:, 0].sum().item() < 140
