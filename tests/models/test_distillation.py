"""The distillation of neighbours: its loss against the formula written out, and a training with a teacher."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from simile.core.errors import BadSetting
from simile.images.formats import Pixels
from simile.images.transforms import Preprocessing
from simile.models.losses.distillation import compute_similarities, measure_spread, neighbour_divergence
from simile.models.recipes import load_recipe
from simile.models.training.loop import TrainingOptions, TrainingResult, train
from simile.models.training.setup import Teacher, TrainingExtras

SPEC = Preprocessing(image_size=16, channels=1)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_divergence_is_its_formula_written_out() -> None:
    contents, teacher = drawn(3, 4), drawn(3, 5, seed=1)

    def probabilities(vectors: torch.Tensor, row: int, temperature: float) -> list[float]:
        a = [vector / vector.norm() for vector in vectors]
        e = [math.exp(float(a[row] @ a[other]) / temperature) for other in range(3) if other != row]
        return [value / sum(e) for value in e]

    expected = 0.0
    for row in range(3):
        p, q = probabilities(teacher, row, 0.3), probabilities(contents, row, 0.2)
        expected += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / 3
    actual = neighbour_divergence(contents, contents, F.normalize(teacher, dim=1), 0.2, 0.3)
    assert actual.item() == pytest.approx(expected, rel=1e-5)


def test_it_is_zero_for_equal_neighbours_and_falls_towards_them() -> None:
    teacher, other = F.normalize(drawn(16, 6), dim=1), F.normalize(drawn(16, 6, seed=1), dim=1)
    rotation = torch.linalg.qr(drawn(6, 6, seed=2))[0]
    assert neighbour_divergence(3 * teacher @ rotation, 3 * teacher @ rotation, teacher, 0.1, 0.1).item() < 1e-6
    nearer = [other.lerp(teacher, share) for share in (0.0, 0.3, 0.6, 0.9)]
    values = [neighbour_divergence(contents, contents, teacher, 0.1, 0.1).item() for contents in nearer]
    assert values == sorted(values, reverse=True) and values[0] > 1 and values[-1] < 0.1


def test_two_views_are_compared_with_each_other_in_both_directions() -> None:
    first, second, teacher = drawn(8, 4), drawn(8, 4, seed=1), drawn(8, 4, seed=2)
    forward = neighbour_divergence(first, second, teacher, 0.1, 1.0)
    assert forward.item() == pytest.approx(neighbour_divergence(second, first, teacher, 0.1, 1.0).item())
    assert forward.item() != pytest.approx(neighbour_divergence(first, first, teacher, 0.1, 1.0).item())


def test_images_that_the_teacher_does_not_know_are_left_out() -> None:
    contents, teacher = drawn(6, 4).requires_grad_(), drawn(6, 3, seed=1)
    expected = neighbour_divergence(contents[:4], contents[:4], teacher[:4], 0.1, 1.0)
    teacher[4:] = torch.nan
    actual = neighbour_divergence(contents, contents, teacher, 0.1, 1.0)
    assert actual.item() == expected.item()
    actual.backward()
    assert contents.grad is not None and contents.grad.isfinite().all() and not contents.grad[4:].any()
    teacher[1:] = torch.nan
    assert neighbour_divergence(contents, contents, teacher, 0.1, 1.0).item() == 0


def test_similarities_of_directions_are_cosines_and_their_spread_leaves_out_the_diagonal() -> None:
    vectors = F.normalize(drawn(5, 3), dim=1)
    torch.testing.assert_close(compute_similarities(vectors), vectors @ vectors.T - 1)
    pairs = [float(vectors[a] @ vectors[b]) for a in range(5) for b in range(5) if a != b]
    assert measure_spread(vectors.numpy()) == pytest.approx(np.std(pairs, ddof=1), rel=1e-4)


# A training: bars of four brightnesses at any place. The teacher sees the brightness alone, so that a content which
# follows it says nothing of the place: the decoder needs the view.


def bars(count: int) -> tuple[Pixels, np.ndarray]:
    random = np.random.default_rng(0)
    levels = random.integers(0, 4, count)
    images = np.zeros((count, 16, 16, 1), np.uint8)
    for image, level in zip(images, levels, strict=True):
        left = random.integers(0, 12)
        image[:, left : left + 4] = 90 + 50 * level
    return images, np.eye(4, dtype=np.float32)[levels]


def run(
    folder: Path, teacher: str | None, epochs: int = 2, recipe_name: str = "vae", **options: object
) -> TrainingResult:
    images, vectors = bars(200)
    sizes = {"latent_dim": 8, "content_dim": 4, "width": 8}
    recipe = load_recipe(recipe_name, **sizes, epochs=epochs, kl_warmup_steps=20, passes=1)
    known = Teacher(fingerprint=teacher or "", name=None, vectors=vectors, spread=measure_spread(vectors))
    extras = TrainingExtras(teacher=known if teacher else None)
    training = TrainingOptions(**{"start_time": time.monotonic(), **options})  # type: ignore[arg-type]
    return train(images, SPEC, recipe, training, folder, lambda _: None, extras=extras)


def share_of_equal_levels(trained: TrainingResult) -> float:
    """Precision at 5 among the images, by cosine of mu."""
    images, levels = bars(200)
    with torch.inference_mode():
        mu, _ = trained.network.encode(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
    similarities = compute_similarities(F.normalize(mu[:, :4], dim=1)).fill_diagonal_(-math.inf)
    nearest = similarities.topk(5).indices.numpy()
    return float((levels.argmax(1)[nearest] == levels.argmax(1)[:, None]).mean())


def test_a_training_with_a_teacher_learns_its_neighbours_and_still_reconstructs(tmp_path: Path) -> None:
    alone, taught = run(tmp_path / "a", None, 20), run(tmp_path / "b", "4ea", 20)
    assert share_of_equal_levels(taught) > 0.97 > share_of_equal_levels(alone)
    first, best = taught.history[0]["validation"], taught.history[taught.best_epoch - 1]["validation"]
    assert best["distillation"] < 0.5 * first["distillation"]
    assert best["squared_error"] < 0.5 * first["squared_error"]
    assert "distillation" not in alone.history[0]["validation"]


def test_two_views_of_a_recipe_learn_from_a_teacher_besides_their_contrast(tmp_path: Path) -> None:
    last = run(tmp_path, "4ea", recipe_name="invariant").history[-1]
    for split in ("train", "validation"):
        assert last[split]["contrast"] > 0 and last[split]["distillation"] > 0


def test_a_run_is_resumed_only_with_the_same_teacher(tmp_path: Path) -> None:
    run(tmp_path, "4ea")
    for teacher in ("5eb", None):
        with pytest.raises(BadSetting, match="started with other teacher"):
            run(tmp_path, teacher, resume=True)
    run(tmp_path, "4ea", resume=True)
