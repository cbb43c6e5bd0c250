"""The objective of a training step, the terms of every recipe, and its validation at the end of each epoch.

input      clean or corrupted images; or two augmented views of each image, the first augmented less
latent     mu, or z = mu + sigma·eps; of the first view, with some contents from the second view
terms      pixel log-likelihood, KL, feature log-likelihood, contrast, distillation, cross-entropy of a classifier
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simile.images.transforms import Preprocessing
from simile.models.augmentation.corruption import apply_corruption, parse_corruption
from simile.models.augmentation.geometric import MILD_STRENGTH, AugmentationStrength, augment
from simile.models.losses.contrastive import ContrastiveLoss, swap_content
from simile.models.losses.distillation import neighbour_divergence
from simile.models.losses.elbo import (
    apply_free_bits,
    count_active_units,
    kl_divergence,
    kl_per_dimension,
    optimal_variance,
    reconstruction_log_likelihood,
)
from simile.models.losses.perceptual import PerceptualDistance
from simile.models.networks.hog import HogHead
from simile.models.networks.vae import Network, reparametrise
from simile.models.recipes import Recipe, parse_variance
from simile.models.training.dataset import ImageDataset, TrainingBatch

# The first view represents an indexed image, the second for a copy that someone made of it.
CLEAN_VIEW_RATE = 0.6  # share of first views without augmentation
MAX_DECODED_VIEWS = 32  # first views per batch that are decoded: enough for the decoder, and cheaper
INITIAL_STRENGTH = 0.25  # of the augmentation; it grows during the recipe's `augmentation_ramp`
VALIDATION_BATCH_SIZE = 500  # images in one forward pass
ELBO_PARTS = {"reconstruction", "kl"}  # measured on clean images


@dataclass(frozen=True)
class Terms:
    """The result of one training step."""

    loss: Tensor  # a scalar per pixel value
    parts: dict[str, Tensor]  # the terms by name, for the report; likelihoods are in nats per image


class Objective(nn.Module):
    """The loss of a recipe, with the learned values that are needed only in training: variance, features, proxies."""

    def __init__(
        self,
        recipe: Recipe,
        preprocessing: Preprocessing,
        perceptual_distance: PerceptualDistance | None = None,
        edge_head: HogHead | None = None,
        contrast: ContrastiveLoss | None = None,
        teacher_temperature: float | None = None,
    ) -> None:
        super().__init__()
        self.recipe, self.preprocessing = recipe, preprocessing
        self.perceptual_distance, self.edge_head, self.contrast = perceptual_distance, edge_head, contrast
        self.teacher_temperature = teacher_temperature  # of its similarities; None without a teacher
        self.corruption = parse_corruption(recipe.corrupt)
        self.fixed_variance = parse_variance(recipe.variance)
        if recipe.variance == "learned":
            self.log_variance = nn.Parameter(torch.tensor(-2.3))  # a variance of 0.1 at first
        self.content_dim = recipe.content_dim or recipe.latent_dim

    @property
    def is_plain(self) -> bool:
        """Whether the ELBO measures the training: the recipe is plain, and there is no teacher."""
        return self.recipe.is_plain and self.teacher_temperature is None

    def forward(
        self,
        network: Network,
        batch: TrainingBatch,
        generator: torch.Generator,
        beta: float,
        inputs_and_target: tuple[Tensor, Tensor] | None = None,
    ) -> Terms:
        """Return the terms of one batch.

        Args:
            generator: CPU generator of all noise.
            beta: Weight of the KL term.
            inputs_and_target: The result of `make_inputs`, if it is known already.
        """
        # 1. Inputs: v·b images for v views of b images, and b targets.
        inputs, target = inputs_and_target or self.make_inputs(batch, generator)
        # 2. Latents (v·b, d).
        mu, log_variance = encode_batch(network, batch, inputs)
        if self.recipe.classifier:
            return self._compute_classification_terms(network, mu, batch.labels)
        z = mu if log_variance is None else reparametrise(mu, log_variance, generator)
        if self.contrast is not None:
            first, second = z.chunk(2)
            z = swap_content(first, second, self.content_dim, generator)[:MAX_DECODED_VIEWS]
            target = target[:MAX_DECODED_VIEWS]
        # 3. Reconstruction, without padding.
        clean, logits = self.crop_content(target), self.crop_content(network.decode(z))
        likelihood = self.recipe.likelihood
        reconstruction = reconstruction_log_likelihood(clean, logits, likelihood, self._get_variance()).mean()
        parts = {"reconstruction": reconstruction}
        gain = self.recipe.pixel_weight * reconstruction
        # 4. KL.
        if log_variance is not None:
            kl = kl_per_dimension(mu, log_variance)  # (v·b, d)
            parts["kl"] = kl.sum(1).mean()
            gain = gain - beta * apply_free_bits(kl, self.recipe.free_bits)
        # 5. Features, of the decoded image or from z.
        if self.perceptual_distance is not None:
            # They count as many values as the image has, so that neither term dominates at any size.
            distance = self.perceptual_distance.distance(clean, torch.sigmoid(logits)).mean()
            parts["features"] = -0.5 * logits[0].numel() * distance.clamp_min(1e-8).log()
        if self.edge_head is not None:
            parts["features"] = self.edge_head.log_likelihood(z, target)
        if "features" in parts:
            gain = gain + self.recipe.feature_weight * parts["features"]
        # 6. Contrast between the views, and their neighbours against those of the teacher.
        loss = -gain / clean[0].numel()
        contents = mu[:, : self.content_dim].chunk(len(mu) // len(batch.images))  # of each view, (b, c)
        if self.contrast is not None:
            parts["contrast"] = self.contrast(contents[0], contents[1], batch.rows)
            loss = loss + self.recipe.contrast_weight * parts["contrast"]
        if self.teacher_temperature is not None and batch.teacher is not None:
            temperatures = self.recipe.temperature, self.teacher_temperature
            parts["distillation"] = neighbour_divergence(contents[0], contents[-1], batch.teacher, *temperatures)
            loss = loss + self.recipe.teacher_weight * parts["distillation"]
        self._track_variance(network, clean, logits)
        return Terms(loss, parts)

    def crop_content(self, x: Tensor) -> Tensor:
        """Return images (n, C, S, S) without their padding, which is neither scored nor learned."""
        return x[:, :, *self.preprocessing.content_slices]

    @torch.no_grad()
    def measure_elbo(
        self, network: Network, x: Tensor, mu: Tensor, log_variance: Tensor | None, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return the two terms of the ELBO in nats per image, and the mean squared error at z = mu.

        Args:
            x: Clean images (n, C, S, S); mu and log_variance are their latents (n, d).
            generator: CPU generator of the noise.
        """
        clean = self.crop_content(x)
        logits_at_mean = self.crop_content(network.decode(mu))
        squared_error = (torch.sigmoid(logits_at_mean) - clean).square().mean()
        if log_variance is None:
            logits, kl = logits_at_mean, torch.zeros(())
        else:
            logits = self.crop_content(network.decode(reparametrise(mu, log_variance, generator)))
            kl = kl_divergence(mu, log_variance).mean()
        reconstruction = reconstruction_log_likelihood(clean, logits, self.recipe.likelihood, network.variance)
        return {"reconstruction": reconstruction.mean(), "kl": kl, "squared_error": squared_error}

    def make_inputs(
        self, batch: TrainingBatch, generator: torch.Generator, progress: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Return the encoder's inputs (v·b, C, S, S) and the decoder's targets (b, C, S, S), in float32.

        Args:
            generator: CPU generator of all noise.
            progress: Share of the training that is done, 0 to 1.
        """
        with torch.autocast(batch.images.device.type, enabled=False):
            return self._make_inputs(batch, generator, progress)

    def _make_inputs(self, batch: TrainingBatch, generator: torch.Generator, progress: float) -> tuple[Tensor, Tensor]:
        images = batch.images
        if self.contrast is None:
            return apply_corruption(images, self.corruption, generator), images
        # Views are made on the CPU for any device.
        size, device = images.shape[-1], images.device
        large = (images if batch.large_images is None else batch.large_images).cpu()
        first = images.cpu().clone()
        augmented = (torch.rand(len(first), generator=generator) >= CLEAN_VIEW_RATE).nonzero()[:, 0]
        if len(augmented):
            first[augmented] = augment(large[augmented], size, generator, MILD_STRENGTH)
        ramp = self.recipe.augmentation_ramp
        factor = 1.0 if progress >= ramp else INITIAL_STRENGTH + (1 - INITIAL_STRENGTH) * progress / ramp
        second = augment(large, size, generator, AugmentationStrength().scale(factor))
        inputs = apply_corruption(torch.cat([first, second]), self.corruption, generator)
        return inputs.to(device), first.to(device)

    def _compute_classification_terms(self, network: Network, mu: Tensor, labels: Tensor | None) -> Terms:
        assert labels is not None
        logits = network.classifier(mu).float()  # (b, classes)
        cross_entropy = F.cross_entropy(logits, labels)
        accuracy = (logits.argmax(1) == labels).float().mean()
        return Terms(cross_entropy, {"cross_entropy": cross_entropy, "accuracy": accuracy})

    def _get_variance(self) -> Tensor | None:
        """Return the variance of the Gaussian p(x|z); None for the optimal one of the batch."""
        if self.recipe.variance == "learned":
            return self.log_variance.exp()
        return None if self.fixed_variance is None else torch.tensor(self.fixed_variance)

    @torch.no_grad()
    def _track_variance(self, network: Network, x: Tensor, logits: Tensor) -> None:
        """Store the variance in the network, for scoring images after training; a running mean of the optimal one."""
        if not network.training:
            return
        variance = self._get_variance()
        if variance is not None:
            network.variance.copy_(variance)
        else:
            network.variance.lerp_(optimal_variance(x, torch.sigmoid(logits.detach())), 0.05)


def encode_batch(network: Network, batch: TrainingBatch, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return mu and log sigma² of the inputs, (n, d), or the known latents of the batch, which have no variance."""
    return network.encode(inputs) if batch.latents is None else (batch.latents, None)


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
    totals: dict[str, float] = {}
    latents = []
    with torch.inference_mode(), autocast:
        for start in range(0, len(dataset), VALIDATION_BATCH_SIZE):
            rows = np.arange(start, min(start + VALIDATION_BATCH_SIZE, len(dataset)))
            batch = dataset.get_batch(rows, device, generator if recipe.binarise else None)
            mu, log_variance = encode_batch(network, batch, batch.images)
            latents.append(mu.float().cpu())
            means: dict[str, Tensor] = {}
            if network.decoder is not None:
                means |= objective.measure_elbo(network, batch.images, mu, log_variance, generator)
            if not objective.is_plain:
                # The row numbers are those of this dataset, not of the training dataset.
                terms = objective(network, replace(batch, rows=None), generator, recipe.beta)
                means |= {"loss": terms.loss} | {name: terms.parts[name] for name in terms.parts.keys() - ELBO_PARTS}
            for name, mean in means.items():
                totals[name] = totals.get(name, 0.0) + len(rows) * mean.double().item()
    results = {name: total / len(dataset) for name, total in totals.items()}
    if "reconstruction" in results:
        results["elbo"] = results["reconstruction"] - recipe.beta * results["kl"]
    results["objective"] = results["elbo"] if objective.is_plain else -results["loss"]
    return {**results, "active_units": count_active_units(torch.cat(latents))}
