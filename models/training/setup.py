"""The start of a training: the network, its linear path, its objective and its optimiser."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simile.core.errors import BadSetting
from simile.core.records import FloatArray
from simile.images.transforms import Preprocessing
from simile.models.losses.contrastive import ContrastiveLoss
from simile.models.losses.distillation import TEACHER_TEMPERATURE
from simile.models.losses.perceptual import PerceptualDistance
from simile.models.networks.architecture import DEFAULT_WIDTHS, Architecture
from simile.models.networks.backbones import Backbone, load_backbone_weights
from simile.models.networks.hog import HogFeatures, HogHead
from simile.models.networks.vae import LinearPathDecoder, Network
from simile.models.recipes import Recipe, parse_variance
from simile.models.training.dataset import ClassNumbers, ImageDataset, RowIndices
from simile.models.training.objective import Objective

# Fields of a recipe that are fields of the architecture, too.
SHARED_SETTINGS = ("latent_dim", "bottleneck", "variational", "edges", "full_resolution", "linear")
FIT_CHUNK_SIZE = 256  # images in one forward pass
FIT_SAMPLE_SIZE = 4000  # images for the scales of HOG features and for the principal components
PROXY_LEARNING_RATE_FACTOR = 5.0  # a proxy gets a gradient once per pass, so it takes larger steps
INITIAL_WEIGHT_SCALE = 0.1  # factor for the weights of the other layers, so that the linear path dominates at first
MIN_MEAN_BRIGHTNESS = 0.1  # the mean image is clamped to [0.1, 0.9], where a sigmoid is still steep
MIN_POSTERIOR_VARIANCE = 1e-4
SKETCH_OVERSAMPLING = 8  # extra components of the random sketch, which make the last ones exact


@dataclass(frozen=True, kw_only=True)
class FrozenEncoder:
    """An encoder that stays as it is while a decoder is trained, which needs only its vectors."""

    fingerprint: str
    architecture: Architecture
    latents: FloatArray  # mu (n, d) of the training images


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """An encoder with vectors that the contents of a network must follow."""

    fingerprint: str
    name: str | None  # of an external encoder
    vectors: FloatArray  # (n, d) of the training images, as they are compared; NaN for images that it does not know
    spread: float  # standard deviation of the similarities between them

    def describe(self) -> dict[str, str]:
        """Return what encoder.json stores of it."""
        return {"fingerprint": self.fingerprint} | ({} if self.name is None else {"name": self.name})


@dataclass(frozen=True, kw_only=True)
class TrainingExtras:
    """Inputs in addition to images that some recipes need."""

    labels: ClassNumbers | None = None  # class numbers (n,) for `classes`
    classes: tuple[str, ...] = ()
    perceptual_distance: PerceptualDistance | None = None  # distance of the features that the decoder must reproduce
    frozen_encoder: FrozenEncoder | None = None  # for a training of a decoder alone
    initial_network: Network | None = None  # a trained network to start from
    teacher: Teacher | None = None  # an encoder with neighbours to learn


NO_EXTRAS = TrainingExtras()


def make_network(preprocessing: Preprocessing, recipe: Recipe, extras: TrainingExtras) -> Network:
    """Return the network at the start: with new weights, trained weights, a backbone's, or a decoder alone."""
    if extras.initial_network is not None:
        return copy.deepcopy(extras.initial_network).cpu().requires_grad_(True)
    if extras.frozen_encoder is not None:
        encoder = extras.frozen_encoder.architecture
        decoder = replace(encoder, decoder=True, image_size=preprocessing.image_size, decoder_size=0)
        return Network(decoder, has_encoder=False)
    architecture = Architecture(
        image_size=preprocessing.image_size,
        channels=preprocessing.channels,
        width=recipe.width or DEFAULT_WIDTHS.get(recipe.architecture, 32),
        kind=recipe.architecture,
        decoder=recipe.has_decoder,
        classes=len(extras.classes) if recipe.classifier else 0,
        sphere=recipe.content_dim if recipe.contrast_weight else 0,
        **{name: getattr(recipe, name) for name in SHARED_SETTINGS},
    )
    network = Network(architecture)
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
    teacher_temperature = None if extras.teacher is None else TEACHER_TEMPERATURE * extras.teacher.spread
    return Objective(recipe, preprocessing, extras.perceptual_distance, edge_head, contrast, teacher_temperature)


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


@torch.no_grad()
def fit_proxies(network: Network, objective: Objective, dataset: ImageDataset, rows: RowIndices) -> None:
    """Set each proxy to the content of its image, so that a trained network is not drawn to random directions."""
    contrast = objective.contrast
    if contrast is None:
        return
    network.eval()
    for start in range(0, len(rows), FIT_CHUNK_SIZE):
        chunk = rows[start : start + FIT_CHUNK_SIZE]
        chunk = chunk[chunk < len(contrast.proxies)]
        if len(chunk):
            mu, _ = network.encode(dataset.get_batch(chunk).images)
            contrast.proxies[chunk] = F.normalize(mu[:, : objective.content_dim], dim=1)


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


@torch.no_grad()
def fit_linear_path(network: Network, sample: Tensor, variance: float | None) -> None:
    """Set the linear path of a network to probabilistic PCA of a sample (Tipping and Bishop, 1999, in closed form).

    Args:
        sample: Images (m, C, S, S) in [0, 1]. Dimensions beyond their number start at 0.
        variance: Of the Gaussian p(x|z); None for the maximum-likelihood one, the mean variance of the components
            that are left out. Components with a smaller variance start at 0.
    """
    x = sample.flatten(1)
    mean = x.mean(0)
    count = min(network.architecture.latent_dim, len(x) - 1, x.shape[1])
    rank = min(count + SKETCH_OVERSAMPLING, *x.shape)
    _, singular_values, directions = torch.pca_lowrank(x - mean, rank, center=False, niter=4)
    component_variance, directions = singular_values[:count].square() / len(x), directions[:, :count]  # (k,), (D, k)
    if variance is None:
        residual = (x - mean).square().sum() / len(x) - component_variance.sum()
        variance = float(residual / max(1, x.shape[1] - count))
    # Share of each component's variance that z explains.
    explained = (1 - variance / component_variance.clamp_min(1e-12)).clamp_min(0)
    weights = directions * (explained / component_variance.clamp_min(1e-12)).sqrt()
    _initialise_encoder(network, weights, mean, variance / component_variance)
    _initialise_decoder(network, directions * (explained * component_variance).sqrt(), mean)


def _initialise_encoder(network: Network, weights: Tensor, mean: Tensor, posterior: Tensor) -> None:
    """Set mu = weights' (x - mean), with sigma² of each component from `posterior` (k,)."""
    encoder, count = network.encoder, weights.shape[1]
    encoder.linear.weight.zero_()
    encoder.linear.weight[:count] = weights.T
    encoder.linear.bias.copy_(-encoder.linear.weight @ mean)
    head = cast(nn.Linear, cast(nn.Sequential, encoder.head)[-1])
    head.weight.mul_(INITIAL_WEIGHT_SCALE)
    head.bias.zero_()
    if encoder.variational:
        dims = network.architecture.latent_dim
        head.bias[dims : dims + count] = posterior.clamp(MIN_POSTERIOR_VARIANCE, 1).log()


def _initialise_decoder(network: Network, weights: Tensor, mean: Tensor) -> None:
    """Set logits so that their sigmoid is near mean + weights z, with the sigmoid's slope at the mean image."""
    if not isinstance(network.decoder, LinearPathDecoder):
        return
    clamped = mean.clamp(MIN_MEAN_BRIGHTNESS, 1 - MIN_MEAN_BRIGHTNESS)
    linear = network.decoder.linear
    linear.weight.zero_()
    linear.weight[:, : weights.shape[1]] = weights / (clamped * (1 - clamped))[:, None]
    linear.bias.copy_(torch.logit(clamped))
    last = [layer for layer in network.decoder.decoder.modules() if isinstance(layer, nn.Conv2d | nn.Linear)][-1]
    last.weight.mul_(INITIAL_WEIGHT_SCALE)
    if last.bias is not None:
        last.bias.zero_()
