"""What the held-out pictures say of a network, at the end of each epoch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simile.images.formats import Pixels
from simile.models.losses.elbo import count_active_units
from simile.models.networks.vae import Network
from simile.models.training.objective import ClassNumbers, Objective, make_batch

VALIDATION_BATCH_SIZE = 500  # pictures in one forward pass
ELBO_PARTS = {"reconstruction", "kl"}  # measured on clean pictures


def validate(
    network: Network,
    objective: Objective,
    images: Pixels,
    large_images: Pixels | None,
    labels: ClassNumbers | None,
    autocast: Any,
    seed: int,
) -> dict[str, float]:
    """What the held-out pictures say, the same noise each time; `objective`, to be maximised, judges the epoch.

    With a decoder: both parts of the ELBO in nats per picture, and the mean squared error at z = mu, of clean
    pictures. Where training sees other than clean pictures or has other terms: those terms too.
    """
    network.eval()
    objective.eval()
    generator = torch.Generator().manual_seed(seed)
    device, recipe = network.variance.device, objective.recipe
    sums, means = RunningMeans(), []
    with torch.inference_mode(), autocast:
        for start in range(0, len(images), VALIDATION_BATCH_SIZE):
            rows = np.arange(start, min(start + VALIDATION_BATCH_SIZE, len(images)))
            batch = make_batch(images, labels, rows, device, generator if recipe.binarise else None, large_images)
            x = batch.images
            mu, log_variance = network.encode(x)
            means.append(mu.float().cpu())
            if network.decoder is not None:
                sums.add(len(x), objective.measure_elbo(network, x, mu, log_variance, generator))
            if not recipe.is_plain:
                unknown = replace(batch, rows=None)
                terms = objective(network, unknown, generator, recipe.beta)
                loss = {"loss": terms.loss}
                sums.add(len(x), loss | {name: terms.parts[name] for name in terms.parts.keys() - ELBO_PARTS})
    found = sums.compute_means()
    if "reconstruction" in found:
        found["elbo"] = found["reconstruction"] - recipe.beta * found["kl"]
    found["objective"] = found["elbo"] if recipe.is_plain else -found["loss"]
    return {**found, "active_units": count_active_units(torch.cat(means))}


class RunningMeans:
    """Running sums of per-picture figures."""

    def __init__(self) -> None:
        self.totals: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def add(self, count: int, figures: dict[str, Tensor]) -> None:
        """Adds figures that are means over `count` pictures."""
        for name, figure in figures.items():
            self.totals[name] = self.totals.get(name, 0.0) + count * figure.double().item()
            self.counts[name] = self.counts.get(name, 0) + count

    def compute_means(self) -> dict[str, float]:
        """The mean of each figure over all pictures."""
        return {name: total / self.counts[name] for name, total in self.totals.items()}
