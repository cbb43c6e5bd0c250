"""Measure a network on the held-out images at the end of each epoch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simile.models.losses.elbo import count_active_units
from simile.models.networks.vae import Network
from simile.models.training.dataset import ImageDataset
from simile.models.training.objective import Objective

VALIDATION_BATCH_SIZE = 500  # images in one forward pass
ELBO_PARTS = {"reconstruction", "kl"}  # measured on clean images


def validate(
    network: Network, objective: Objective, dataset: ImageDataset, autocast: Any, seed: int
) -> dict[str, float]:
    """Measure the network on the held-out images, with the same noise in each call.

    Returns:
        "objective" (to be maximised, for early stopping) and "active_units"; with a decoder the terms of the ELBO in
        nats per image and the mean squared error at z = mu, of clean images; and the other terms of the training.
    """
    network.eval()
    objective.eval()
    generator = torch.Generator().manual_seed(seed)
    device, recipe = network.variance.device, objective.recipe
    means, latents = RunningMeans(), []
    with torch.inference_mode(), autocast:
        for start in range(0, len(dataset), VALIDATION_BATCH_SIZE):
            rows = np.arange(start, min(start + VALIDATION_BATCH_SIZE, len(dataset)))
            batch = dataset.get_batch(rows, device, generator if recipe.binarise else None)
            mu, log_variance = network.encode(batch.images)
            latents.append(mu.float().cpu())
            if network.decoder is not None:
                means.add(len(rows), objective.measure_elbo(network, batch.images, mu, log_variance, generator))
            if not recipe.is_plain:
                # The row numbers are those of this dataset, not of the training dataset.
                terms = objective(network, replace(batch, rows=None), generator, recipe.beta)
                others = {name: terms.parts[name] for name in terms.parts.keys() - ELBO_PARTS}
                means.add(len(rows), {"loss": terms.loss} | others)
    results = means.compute_means()
    if "reconstruction" in results:
        results["elbo"] = results["reconstruction"] - recipe.beta * results["kl"]
    results["objective"] = results["elbo"] if recipe.is_plain else -results["loss"]
    return {**results, "active_units": count_active_units(torch.cat(latents))}


class RunningMeans:
    """Means per image over batches of different sizes."""

    def __init__(self) -> None:
        self.totals: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def add(self, count: int, values: dict[str, Tensor]) -> None:
        """Add values that are means over `count` images."""
        for name, value in values.items():
            self.totals[name] = self.totals.get(name, 0.0) + count * value.double().item()
            self.counts[name] = self.counts.get(name, 0) + count

    def compute_means(self) -> dict[str, float]:
        """Return the mean of each value over all images."""
        return {name: total / self.counts[name] for name, total in self.totals.items()}
