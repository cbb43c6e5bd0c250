"""The start of a training: the network, its objective and its optimiser."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch

from simile.core.errors import BadSetting
from simile.images.transforms import Preprocessing
from simile.models.losses.contrastive import ContrastiveLoss
from simile.models.losses.perceptual import PerceptualDistance
from simile.models.networks.architecture import DEFAULT_WIDTHS, Architecture
from simile.models.networks.backbones import Backbone, load_backbone_weights
from simile.models.networks.hog import HogFeatures, HogHead
from simile.models.networks.vae import Network
from simile.models.recipes import Recipe, parse_variance
from simile.models.training.dataset import ClassNumbers, ImageDataset, RowIndices
from simile.models.training.objective import Objective
from simile.models.training.pca_init import fit_linear_path

FIT_SAMPLE_SIZE = 4000  # images for the scales of HOG features and for the principal components
PROXY_LEARNING_RATE_FACTOR = 5.0  # a proxy gets a gradient once per pass, so it takes larger steps


@dataclass(frozen=True)
class TrainingExtras:
    """Inputs in addition to images that some recipes need."""

    labels: ClassNumbers | None = None  # class numbers (n,) for `classes`
    classes: tuple[str, ...] = ()
    perceptual_distance: PerceptualDistance | None = None  # distance of the features that the decoder must reproduce
    frozen_network: Network | None = None  # a network with an encoder that stays as it is while a decoder is trained


NO_EXTRAS = TrainingExtras()


def make_network(preprocessing: Preprocessing, recipe: Recipe, extras: TrainingExtras) -> Network:
    """Return the network at the start: with new weights, a backbone's weights, or the frozen encoder."""
    if extras.frozen_network is not None:
        network = Network(replace(extras.frozen_network.architecture, decoder=True))
        network.encoder.load_state_dict(extras.frozen_network.encoder.state_dict())
        network.encoder.requires_grad_(False)
        return network
    network = Network(
        Architecture(
            image_size=preprocessing.image_size,
            channels=preprocessing.channels,
            latent_dim=recipe.latent_dim,
            width=recipe.width or DEFAULT_WIDTHS.get(recipe.architecture, 32),
            kind=recipe.architecture,
            bottleneck=recipe.bottleneck,
            variational=recipe.variational,
            decoder=recipe.has_decoder,
            classes=len(extras.classes) if recipe.classifier else 0,
            edges=recipe.edges,
            full_resolution=recipe.full_resolution,
            sphere=recipe.content_dim if recipe.contrast_weight else 0,
            linear=recipe.linear,
        )
    )
    if recipe.weights != "none":
        if not isinstance(network.encoder.trunk, Backbone):
            raise BadSetting(
                f"weights can't be given for architecture {recipe.architecture}. Use a classifier of torchvision."
            )
        load_backbone_weights(network.encoder.trunk, recipe.weights)
    return network


def make_objective(image_count: int, preprocessing: Preprocessing, recipe: Recipe, extras: TrainingExtras) -> Objective:
    """Return the objective at the start, for a dataset of `image_count` images."""
    edge_head = HogHead(recipe.latent_dim, preprocessing.image_size) if recipe.features_from == "latent" else None
    contrast = None
    if recipe.contrast_weight:
        contrast = ContrastiveLoss(image_count, recipe.content_dim or recipe.latent_dim, recipe.temperature)
    is_frozen = extras.frozen_network is not None
    return Objective(recipe, preprocessing, extras.perceptual_distance, edge_head, contrast, freeze_encoder=is_frozen)


def make_optimiser(network: Network, objective: Objective, recipe: Recipe) -> torch.optim.Optimizer:
    """Return AdamW over all trained weights; proxies have larger steps and no weight decay."""
    proxies = [] if objective.contrast is None else [objective.contrast.proxies]
    weights = [weight for weight in [*network.parameters(), *objective.parameters()] if weight.requires_grad]
    weights = [weight for weight in weights if not any(weight is proxy for proxy in proxies)]
    groups = [
        {"params": weights, "factor": 1.0},
        {"params": proxies, "factor": PROXY_LEARNING_RATE_FACTOR, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)


def fit_to_sample(
    network: Network, objective: Objective, dataset: ImageDataset, rows: RowIndices, recipe: Recipe
) -> None:
    """Fit the scales of HOG features and the linear path to a sample of these rows of the dataset."""
    hogs = [layer for module in (network, objective) for layer in module.modules() if isinstance(layer, HogFeatures)]
    if not hogs and not recipe.linear:
        return
    positions = np.linspace(0, len(rows) - 1, min(FIT_SAMPLE_SIZE, len(rows))).astype(np.int64)
    sample = dataset.get_batch(rows[positions]).images
    for hog in hogs:
        hog.fit(sample)
    if recipe.linear:
        fit_linear_path(network, sample, parse_variance(recipe.variance))


def hash_encoder_weights(network: Network) -> str:
    """Return a SHA-256 over the encoder's weights."""
    digest = hashlib.sha256()
    for tensor in network.encoder.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
