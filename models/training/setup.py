"""What training begins with: the network, its loss and its optimiser, and what some recipes need beside pictures."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from simile.core.errors import BadSetting
from simile.images.formats import Pixels
from simile.images.loading.loader import empty_images, is_in_file
from simile.images.transforms import Preprocessing
from simile.models.augmentation.geometric import resize_images
from simile.models.losses.contrastive import ContrastiveLoss
from simile.models.losses.perceptual import PerceptualDistance
from simile.models.networks.architecture import DEFAULT_WIDTHS, Architecture
from simile.models.networks.backbones import Backbone, load_backbone_weights
from simile.models.networks.hog_layers import HogFeatures, HogHead
from simile.models.networks.vae import Network
from simile.models.recipes import Recipe, parse_variance
from simile.models.training.objective import ClassNumbers, Objective, make_batch
from simile.models.training.pca_init import fit_linear_path

Rows = NDArray[np.int64]

FIT_SAMPLE_SIZE = 4000  # pictures: mean and deviation of features, principal components
PROXY_LEARNING_RATE_FACTOR = 5.0  # of the learning rate


@dataclass(frozen=True)
class TrainingExtras:
    """What some recipes need beside pictures.

    labels: (n,) class numbers for `classes`. perception: the features that the decoder must give back. frozen: an
    encoder that stays as it is while a decoder is trained over it.
    """

    labels: ClassNumbers | None = None
    classes: tuple[str, ...] = ()
    perceptual_distance: PerceptualDistance | None = None
    frozen_network: Network | None = None


NO_EXTRAS = TrainingExtras()


def make_network(preprocessing: Preprocessing, recipe: Recipe, extras: TrainingExtras) -> Network:
    """The network as training begins: new weights, a backbone's own, or another encoder's, frozen."""
    if extras.frozen_network is not None:
        architecture = replace(extras.frozen_network.architecture, decoder=True)
        network = Network(architecture)
        network.encoder.load_state_dict(extras.frozen_network.encoder.state_dict())
        network.encoder.requires_grad_(False)
        return network
    architecture = Architecture(
        preprocessing.image_size,
        preprocessing.channels,
        recipe.latent_dim,
        recipe.width or DEFAULT_WIDTHS.get(recipe.architecture, 32),
        recipe.architecture,
        recipe.bottleneck,
        recipe.variational,
        recipe.has_decoder,
        len(extras.classes) if recipe.classifier else 0,
        recipe.edges,
        recipe.full_resolution,
        recipe.content_dim if recipe.contrast_weight else 0,
        recipe.linear,
    )
    network = Network(architecture)
    if recipe.weights != "none":
        if not isinstance(network.encoder.trunk, Backbone):
            raise BadSetting(f"weights can't be given for architecture {recipe.architecture}. Name one of torchvision.")
        load_backbone_weights(network.encoder.trunk, recipe.weights)
    return network


def make_objective(image_count: int, preprocessing: Preprocessing, recipe: Recipe, extras: TrainingExtras) -> Objective:
    """The loss as training begins, for so many pictures."""
    head = HogHead(recipe.latent_dim, preprocessing.image_size) if recipe.features_from == "latent" else None
    contrast = None
    if recipe.contrast_weight:
        contrast = ContrastiveLoss(image_count, recipe.content_dim or recipe.latent_dim, recipe.temperature)
    return Objective(
        recipe,
        preprocessing,
        extras.perceptual_distance,
        head,
        contrast,
        freeze_encoder=extras.frozen_network is not None,
    )


def make_optimiser(network: Network, objective: Objective, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW over what is trained; a proxy is met once a pass, so it takes larger steps, and it has no weight decay."""
    proxies = [] if objective.contrast is None else [objective.contrast.proxies]
    others = [weight for weight in [*network.parameters(), *objective.parameters()] if weight.requires_grad]
    others = [weight for weight in others if not any(weight is proxy for proxy in proxies)]
    groups = [
        {"params": others, "factor": 1.0},
        {"params": proxies, "factor": PROXY_LEARNING_RATE_FACTOR, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)


def fit_to_sample(network: Network, objective: Objective, images: Pixels, rows: Rows, recipe: Recipe) -> None:
    """Fit the scales of oriented gradients and the linear path to a sample of the `rows` of pictures (n, S, S, C)."""
    edges = [part for module in (network, objective) for part in module.modules() if isinstance(part, HogFeatures)]
    if not edges and not recipe.linear:
        return
    places = np.linspace(0, len(rows) - 1, min(FIT_SAMPLE_SIZE, len(rows))).astype(np.int64)
    sample = make_batch(images, None, rows[places]).images
    for part in edges:
        part.fit(sample)
    if recipe.linear:
        fit_linear_path(network, sample, parse_variance(recipe.variance))


def resize_to_input(images: Pixels, size: int, folder: Path) -> Pixels:
    """Pictures (n, R, R, C) uint8 at the network's size, (n, S, S, C); in a file in `folder` if they are in one."""
    if images.shape[1] == size:
        return images
    shape = (len(images), size, size, images.shape[3])
    found = empty_images(shape, folder if is_in_file(images) else None)
    for start in range(0, len(images), 500):
        x = torch.from_numpy(images[start : start + 500]).permute(0, 3, 1, 2).float() / 255
        found[start : start + 500] = (resize_images(x, size) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return found


def hash_encoder_weights(network: Network) -> str:
    """A hash over an encoder's weights."""
    digest = hashlib.sha256()
    for tensor in network.encoder.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
