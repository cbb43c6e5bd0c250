"""What one step of training minimises: the terms of every recipe, one after another.

input      clean or corrupted; or two views, altered copies of which the first is altered less
latent     mu, or z = mu + sigma·eps; of the first view, its content some of the time from the second
terms      pixel log-likelihood, KL, feature log-likelihood, contrast, cross-entropy of a classifier
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from simile.images.formats import Pixels
from simile.images.transforms import Preprocessing
from simile.models.augmentation.corruption import apply_corruption, parse_corruption
from simile.models.augmentation.geometric import MILD_STRENGTH, AugmentationStrength, augment
from simile.models.losses.contrastive import ContrastiveLoss, swap_content
from simile.models.losses.elbo import (
    apply_free_bits,
    kl_divergence,
    kl_per_dimension,
    optimal_variance,
    reconstruction_log_likelihood,
)
from simile.models.losses.perceptual import PerceptualDistance
from simile.models.networks.hog_layers import HogHead
from simile.models.networks.vae import Network, reparametrise
from simile.models.recipes import Recipe, parse_variance

ClassNumbers = NDArray[np.int64]
CPU_DEVICE = torch.device("cpu")

# The first view stands for the picture as it is indexed, the second for a copy that somebody made of it.
CLEAN_VIEW_RATE = 0.6  # share of first views that are not altered at all
MAX_DECODED_VIEWS = (
    48  # first views of a batch that are decoded: they teach the decoder enough, and cost as much as the rest
)
# Copies are altered little at first, and fully from a part of the training on: what is hard is learned after all.
STRENGTH_RAMP, INITIAL_STRENGTH = 0.4, 0.25


@dataclass(frozen=True)
class TrainingBatch:
    """pictures: (b, C, S, S) in [0, 1], as the network sees them. labels: (b,) class numbers.

    rows: (b,) their numbers in the training set; None for pictures that are not in it. large: (b, C, R, R), the same
    pictures at a larger size that copies are made from, where they are kept.
    """

    images: Tensor
    labels: Tensor | None = None
    rows: Tensor | None = None
    large_images: Tensor | None = None


@dataclass(frozen=True)
class Terms:
    """loss: a scalar per pixel value. parts: what is reported, in nats per picture where they are likelihoods."""

    loss: Tensor
    parts: dict[str, Tensor]


class Objective(nn.Module):
    """The loss of a recipe, with what it needs beside the network and does not keep: a learned variance, features."""

    def __init__(
        self,
        recipe: Recipe,
        preprocessing: Preprocessing,
        perceptual_distance: PerceptualDistance | None = None,
        edge_head: HogHead | None = None,
        contrast: ContrastiveLoss | None = None,
        *,
        freeze_encoder: bool = False,
    ) -> None:
        super().__init__()
        self.recipe, self.preprocessing, self.freeze_encoder = recipe, preprocessing, freeze_encoder
        self.perceptual_distance, self.edge_head, self.contrast = perceptual_distance, edge_head, contrast
        self.corruption = parse_corruption(recipe.corrupt)
        self.fixed_variance = parse_variance(recipe.variance)
        if recipe.variance == "learned":
            self.log_variance = nn.Parameter(torch.tensor(-2.3))  # 0.1 to begin with
        self.content_dim = recipe.content_dim or recipe.latent_dim

    def forward(
        self, network: Network, batch: TrainingBatch, generator: torch.Generator, beta: float, progress: float = 1.0
    ) -> Terms:
        """The terms of one batch, `done` (0 to 1) of the training behind it; all noise is drawn from `generator`."""
        with torch.autocast(batch.images.device.type, enabled=False):
            seen, target = self._make_inputs(batch, generator, progress)  # (v·b, C, S, S) with v views, (b, C, S, S)
        mu, log_variance = network.encode(seen)  # (v·b, d) each
        if self.freeze_encoder:
            mu, log_variance = mu.detach(), None
        if self.recipe.classifier:
            return self._compute_classification_terms(network, mu, batch.labels)
        z = mu if log_variance is None else reparametrise(mu, log_variance, generator)
        if self.contrast is not None:
            first, second = z.chunk(2)
            z, target = (
                swap_content(first, second, self.content_dim, generator)[:MAX_DECODED_VIEWS],
                target[:MAX_DECODED_VIEWS],
            )
        inner, logits = self.crop_content(target), self.crop_content(network.decode(z))
        likelihood = self.recipe.likelihood
        reconstruction = reconstruction_log_likelihood(inner, logits, likelihood, self._get_variance()).mean()
        parts = {"reconstruction": reconstruction}
        gain = self.recipe.pixel_weight * reconstruction
        if log_variance is not None:
            kl = kl_per_dimension(mu, log_variance)  # (v·b, d)
            parts["kl"] = kl.sum(1).mean()
            gain = gain - beta * apply_free_bits(kl, self.recipe.free_bits)
        if self.perceptual_distance is not None:
            parts["features"] = self._compute_feature_log_likelihood(self.perceptual_distance, inner, logits)
        if self.edge_head is not None:
            parts["features"] = self.edge_head.log_likelihood(z, target)
        if "features" in parts:
            gain = gain + self.recipe.feature_weight * parts["features"]
        loss = -gain / inner[0].numel()
        if self.contrast is not None:
            first, second = mu[:, : self.content_dim].chunk(2)
            parts["contrast"] = self.contrast(first, second, batch.rows)
            loss = loss + self.recipe.contrast_weight * parts["contrast"]
        self._track_variance(network, inner, logits)
        return Terms(loss, parts)

    def crop_content(self, x: Tensor) -> Tensor:
        """The part of (n, C, S, S) that is picture: padding is neither scored nor learned."""
        top, left, height, width = self.preprocessing.content_box()
        return x[:, :, top : top + height, left : left + width]

    @torch.no_grad()
    def measure_elbo(
        self, network: Network, x: Tensor, mu: Tensor, log_variance: Tensor | None, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Both parts of the ELBO in nats per picture, and the mean squared error at z = mu, of clean x (n, C, S, S).

        A Gaussian is scored under the variance that the network keeps.
        """
        inner = self.crop_content(x)
        at_mean = self.crop_content(network.decode(mu))
        squared_error = (torch.sigmoid(at_mean) - inner).square().mean()
        if log_variance is None or self.freeze_encoder:
            logits, kl = at_mean, torch.zeros(())
        else:
            logits = self.crop_content(network.decode(reparametrise(mu, log_variance, generator)))
            kl = kl_divergence(mu, log_variance).mean()
        reconstruction = reconstruction_log_likelihood(inner, logits, self.recipe.likelihood, network.variance)
        return {"reconstruction": reconstruction.mean(), "kl": kl, "squared_error": squared_error}

    def _make_inputs(self, batch: TrainingBatch, generator: torch.Generator, progress: float) -> tuple[Tensor, Tensor]:
        """What the encoder sees, (v·b, C, S, S), and what the decoder is asked for, (b, C, S, S)."""
        shown = batch.images
        if self.contrast is None:
            return apply_corruption(shown, self.corruption, generator), shown
        size, device = shown.shape[-1], shown.device
        large = (
            shown if batch.large_images is None else batch.large_images
        ).cpu()  # copies are made there, for any device
        first = shown.cpu().clone()
        altered = (torch.rand(len(first), generator=generator) >= CLEAN_VIEW_RATE).nonzero()[:, 0]
        if len(altered):
            first[altered] = augment(large[altered], size, generator, MILD_STRENGTH)
        strength = AugmentationStrength().scale(
            min(1.0, INITIAL_STRENGTH + (1 - INITIAL_STRENGTH) * progress / STRENGTH_RAMP)
        )
        seen = torch.cat([first, augment(large, size, generator, strength)])
        return apply_corruption(seen, self.corruption, generator).to(device), first.to(device)

    def _compute_classification_terms(self, network: Network, mu: Tensor, labels: Tensor | None) -> Terms:
        assert labels is not None
        logits = network.classifier(mu).float()  # (b, classes)
        cross_entropy = F.cross_entropy(logits, labels)
        accuracy = (logits.argmax(1) == labels).float().mean()
        return Terms(cross_entropy, {"cross_entropy": cross_entropy, "accuracy": accuracy})

    def _compute_feature_log_likelihood(
        self, perceptual_distance: PerceptualDistance, inner: Tensor, logits: Tensor
    ) -> Tensor:
        """log-likelihood of the clean picture's features, optimal variance, up to a constant; a mean in nats.

        They count as many values as the picture has, so that neither side drowns the other at any size.
        """
        distance = perceptual_distance.distance(inner, torch.sigmoid(logits)).mean()
        return -0.5 * logits[0].numel() * distance.clamp_min(1e-8).log()

    def _get_variance(self) -> Tensor | None:
        """Of the Gaussian p(x|z); None: the optimal one of the batch."""
        if self.recipe.variance == "learned":
            return self.log_variance.exp()
        return None if self.fixed_variance is None else torch.tensor(self.fixed_variance)

    @torch.no_grad()
    def _track_variance(self, network: Network, x: Tensor, logits: Tensor) -> None:
        """The variance for scoring pictures outside training; of the optimal one a running mean."""
        if not network.training:
            return
        known = self._get_variance()
        if known is not None:
            network.variance.copy_(known)
        else:
            network.variance.lerp_(optimal_variance(x, torch.sigmoid(logits.detach())), 0.05)


def make_batch(
    images: Pixels,
    labels: ClassNumbers | None,
    rows: NDArray[np.int64],
    device: torch.device = CPU_DEVICE,
    binarise: torch.Generator | None = None,
    large_images: Pixels | None = None,
) -> TrainingBatch:
    """Pictures (n, S, S, C) uint8 of `rows` as a batch; with a generator each value is drawn as 0 or 1."""
    x = _to_unit_tensor(images, rows).to(device)
    if binarise is not None:
        x = (torch.rand(x.shape, generator=binarise).to(device) < x).float()
    chosen = None if labels is None else torch.from_numpy(labels[rows]).to(device)
    return TrainingBatch(
        x,
        chosen,
        torch.from_numpy(rows).to(device),
        None if large_images is None else _to_unit_tensor(large_images, rows),
    )


def _to_unit_tensor(images: Pixels, rows: NDArray[np.int64]) -> Tensor:
    """(n, S, S, C) uint8 of `rows` as (b, C, S, S) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images[rows])).permute(0, 3, 1, 2).float() / 255
