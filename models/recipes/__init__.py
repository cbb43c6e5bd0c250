"""Recipes: the settings of `simile train`, as TOML files in this folder.

A file contains only the settings that differ from its `base` recipe; vae.toml contains all settings.
"""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, fields
from importlib.resources import files
from typing import Any, Literal

from simile.core.errors import BadSetting
from simile.models.augmentation.corruption import parse_corruption
from simile.models.losses.elbo import Likelihood

# Most searches look for neighbours of the same kind. Of the recipes without labels, perceptual finds these best, on
# photos and on Fashion-MNIST. The invariant recipe finds copies far better, but treats rotated or mirrored objects as
# the same, and a 6 is not a 9.
DEFAULT_RECIPE = "perceptual"
PHOTO_RECIPE = "invariant"  # the default for photographs: see is_photographic
_CHOICES = {
    "likelihood": ("gaussian", "bernoulli", "l2", "l1"),
    "features_from": ("picture", "latent"),
    "metric": ("l2", "cosine"),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of a training; vae.toml documents every field."""

    name: str
    architecture: str
    bottleneck: Literal["dense", "convolutional"]
    variational: bool
    classifier: bool
    weights: str
    latent_dim: int
    content_dim: int
    width: int
    edges: bool
    linear: bool
    full_resolution: bool
    likelihood: Likelihood
    variance: str | float
    binarise: bool
    pixel_weight: float
    beta: float
    free_bits: float
    kl_warmup_steps: int
    corrupt: str
    features: str
    features_from: Literal["picture", "latent"]
    feature_weight: float
    contrast_weight: float
    teacher_weight: float
    temperature: float
    augmentation_ramp: float
    batch_size: int
    learning_rate: float
    weight_decay: float
    clip_norm: float
    ema: float
    epochs: int
    passes: int
    patience_epochs: int
    patience_steps: int
    metric: Literal["l2", "cosine"]

    @property
    def has_decoder(self) -> bool:
        """Whether a decoder is trained; a classifier has none."""
        return not self.classifier

    @property
    def is_plain(self) -> bool:
        """Whether the training uses clean images and only pixels and KL, so that the ELBO measures it."""
        plain = self.corrupt == "none" and self.features == "none"
        return plain and not self.classifier and not self.contrast_weight

    def to_dict(self) -> dict[str, Any]:
        """Return the settings by name, as encoder.json stores them."""
        return asdict(self)


def list_recipes() -> list[str]:
    """Return the sorted names of all recipes."""
    return sorted(
        entry.name.removesuffix(".toml") for entry in files(__name__).iterdir() if entry.name.endswith(".toml")
    )


def load_recipe(name: str, **overrides: object) -> Recipe:
    """Load a recipe by its name; settings in `overrides` replace those of the file, except None. Raises BadSetting."""
    values = _read_recipe(name) | {key: value for key, value in overrides.items() if value is not None}
    if values["features"] != "gradients" and "features_from" not in overrides:
        values["features_from"] = "picture"  # only gradients can be computed from the latent
    known = {field.name for field in fields(Recipe)}
    if unknown := (values.keys() | {"name"}) ^ known:
        raise BadSetting(f"recipe {name!r} has missing or unknown settings: {', '.join(sorted(unknown))}.")
    recipe = Recipe(name=name, **values)
    _check_recipe(recipe)
    return recipe


def _read_recipe(name: str) -> dict[str, Any]:
    if name not in list_recipes():
        raise BadSetting(f"recipe can't be {name!r}. This version has: {', '.join(list_recipes())}.")
    values = tomllib.loads((files(__name__) / f"{name}.toml").read_text(encoding="utf-8"))
    base = values.pop("base", None)
    return values if base is None else _read_recipe(base) | values


def _check_recipe(recipe: Recipe) -> None:
    """Raise BadSetting with the first setting that can't be used or contradicts another one."""
    for setting in ("latent_dim", "epochs", "batch_size", "learning_rate", "temperature"):
        if not getattr(recipe, setting) > 0:
            raise BadSetting(f"{setting} can't be {getattr(recipe, setting)}. Use a number above zero.")
    weights = "pixel_weight", "feature_weight", "contrast_weight", "teacher_weight"
    for setting in ("beta", "free_bits", "augmentation_ramp", *weights):
        if getattr(recipe, setting) < 0:
            raise BadSetting(f"{setting} can't be {getattr(recipe, setting)}. Use zero or more.")
    for setting, choices in _CHOICES.items():
        if getattr(recipe, setting) not in choices:
            raise BadSetting(f"{setting} can't be {getattr(recipe, setting)!r}. Use {' or '.join(choices)}.")
    if recipe.features_from == "latent" and recipe.features != "gradients":
        raise BadSetting(
            f"features can't be {recipe.features!r} from the latent. Use gradients, or features_from picture."
        )
    if not 0 <= recipe.ema < 1:
        raise BadSetting(f"ema can't be {recipe.ema}. Use 0 to 0.9999.")
    if recipe.variational and recipe.likelihood in ("l2", "l1"):
        raise BadSetting(
            f"likelihood can't be {recipe.likelihood!r} in a variational recipe: it is not a density. "
            "Use gaussian (with --variance for a fixed one) or bernoulli, or the autoencoder recipe."
        )
    if not 0 <= recipe.content_dim < recipe.latent_dim:
        raise BadSetting(f"content_dim can't be {recipe.content_dim}. Use 0 to {recipe.latent_dim - 1}.")
    parse_variance(recipe.variance)
    parse_corruption(recipe.corrupt)


def parse_variance(variance: str | float) -> float | None:
    """Return the fixed variance, or None for "optimal" and "learned". Raises BadSetting."""
    if variance in ("optimal", "learned"):
        return None
    try:
        fixed = float(variance)
    except ValueError:
        fixed = 0.0
    if not 0 < fixed < float("inf"):
        raise BadSetting(f"variance can't be {variance!r}. Use optimal, learned, or a number above zero.")
    return fixed
