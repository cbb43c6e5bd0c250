"""What training begins with: the network, its loss and its optimiser, and what some recipes need beside pictures."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from simile.core.errors import BadSetting
from simile.images.loading.image_file import empty_images, is_in_file
from simile.images.transforms import Pixels, Preprocessing
from simile.models.augmentation.geometric import clean
from simile.models.losses.contrastive import Contrast
from simile.models.losses.perceptual import Perception
from simile.models.networks.architecture import USUAL_WIDTHS, Architecture
from simile.models.networks.backbones import Backbone, load_weights
from simile.models.networks.hog_layers import EdgeHead, Edges
from simile.models.networks.vae import Network
from simile.models.recipes import Recipe, parse_variance
from simile.models.training.objective import ClassNumbers, Objective, make_batch
from simile.models.training.pca_init import fit_linear_path

Rows = NDArray[np.int64]

SAMPLE = 4000  # pictures: mean and deviation of features, principal components
PROXY_FACTOR = 5.0  # of the learning rate


@dataclass(frozen=True)
class Extras:
    """What some recipes need beside pictures.

    labels: (n,) class numbers for `classes`. perception: the features that the decoder must give back. frozen: an
    encoder that stays as it is while a decoder is trained over it.
    """

    labels: ClassNumbers | None = None
    classes: tuple[str, ...] = ()
    perception: Perception | None = None
    frozen: Network | None = None


NO_EXTRAS = Extras()


def start_network(preprocessing: Preprocessing, recipe: Recipe, extras: Extras) -> Network:
    """The network as training begins: new weights, a backbone's own, or another encoder's, frozen."""
    if extras.frozen is not None:
        architecture = replace(extras.frozen.architecture, decoder=True)
        network = Network(architecture)
        network.encoder.load_state_dict(extras.frozen.encoder.state_dict())
        network.encoder.requires_grad_(False)
        return network
    architecture = Architecture(
        preprocessing.image_size,
        preprocessing.channels,
        recipe.latent_dim,
        recipe.width or USUAL_WIDTHS.get(recipe.architecture, 32),
        recipe.architecture,
        recipe.bottleneck,
        recipe.variational,
        recipe.decoder,
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
        load_weights(network.encoder.trunk, recipe.weights)
    return network


def start_objective(pictures: int, preprocessing: Preprocessing, recipe: Recipe, extras: Extras) -> Objective:
    """The loss as training begins, for so many pictures."""
    head = EdgeHead(recipe.latent_dim, preprocessing.image_size) if recipe.features_from == "latent" else None
    contrast = None
    if recipe.contrast_weight:
        contrast = Contrast(pictures, recipe.content_dim or recipe.latent_dim, recipe.temperature)
    return Objective(recipe, preprocessing, extras.perception, head, contrast, frozen=extras.frozen is not None)


def start_optimiser(network: Network, objective: Objective, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW over what is trained; a proxy is met once a pass, so it takes larger steps, and it has no weight decay."""
    proxies = [] if objective.contrast is None else [objective.contrast.proxies]
    others = [weight for weight in [*network.parameters(), *objective.parameters()] if weight.requires_grad]
    others = [weight for weight in others if not any(weight is proxy for proxy in proxies)]
    groups = [{"params": others, "factor": 1.0}, {"params": proxies, "factor": PROXY_FACTOR, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)


def fit_to(network: Network, objective: Objective, pictures: Pixels, rows: Rows, recipe: Recipe) -> None:
    """Fit the scales of oriented gradients and the linear path to a sample of the `rows` of pictures (n, S, S, C)."""
    edges = [part for module in (network, objective) for part in module.modules() if isinstance(part, Edges)]
    if not edges and not recipe.linear:
        return
    places = np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(np.int64)
    sample = make_batch(pictures, None, rows[places]).pictures
    for part in edges:
        part.fit(sample)
    if recipe.linear:
        fit_linear_path(network, sample, parse_variance(recipe.variance))


def as_seen(pictures: Pixels, size: int, folder: Path) -> Pixels:
    """Pictures (n, R, R, C) uint8 at the network's size, (n, S, S, C); in a file in `folder` if they are in one."""
    if pictures.shape[1] == size:
        return pictures
    shape = (len(pictures), size, size, pictures.shape[3])
    found = empty_images(shape, folder if is_in_file(pictures) else None)
    for start in range(0, len(pictures), 500):
        x = torch.from_numpy(pictures[start : start + 500]).permute(0, 3, 1, 2).float() / 255
        found[start : start + 500] = (clean(x, size) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return found


def frozen_hash(network: Network) -> str:
    """A hash over an encoder's weights."""
    digest = hashlib.sha256()
    for tensor in network.encoder.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
