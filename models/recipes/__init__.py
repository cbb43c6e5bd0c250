"""Recipes: what `simile train` does, as TOML files beside this one."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, fields
from importlib.resources import files
from typing import Any, Literal

from core.errors import BadSetting


@dataclass(frozen=True)
class Recipe:
    """One way to train an encoder. Field comments stand in vae.toml."""

    name: str
    likelihood: Literal["gaussian", "bernoulli"]
    latent_dim: int
    width: int
    beta: float
    kl_warmup_steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    clip_norm: float
    epochs: int
    patience_epochs: int
    patience_steps: int
    metric: Literal["l2", "cosine"]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def recipe_names() -> list[str]:
    """The recipes that this version brings, sorted."""
    return sorted(
        entry.name.removesuffix(".toml") for entry in files(__name__).iterdir() if entry.name.endswith(".toml")
    )


def load_recipe(name: str, **overrides: object) -> Recipe:
    """The recipe `name`; `overrides` that are not None win. Raises BadSetting."""
    if name not in recipe_names():
        raise BadSetting(f"recipe can't be {name!r}. This version has: {', '.join(recipe_names())}.")
    values = tomllib.loads((files(__name__) / f"{name}.toml").read_text(encoding="utf-8"))
    values |= {key: value for key, value in overrides.items() if value is not None}
    known = {field.name for field in fields(Recipe)}
    if unknown := (values.keys() | {"name"}) ^ known:
        raise BadSetting(f"recipe {name!r} has missing or unknown settings: {', '.join(sorted(unknown))}.")
    recipe = Recipe(name=name, **values)
    _check(recipe)
    return recipe


def _check(recipe: Recipe) -> None:
    for setting in ("latent_dim", "epochs", "batch_size", "learning_rate"):
        if not getattr(recipe, setting) > 0:
            raise BadSetting(f"{setting} can't be {getattr(recipe, setting)}. Use a number above zero.")
    if recipe.beta < 0:
        raise BadSetting(f"beta can't be {recipe.beta}. Use zero or more; 1 is the evidence lower bound.")
    if recipe.likelihood not in ("gaussian", "bernoulli"):
        raise BadSetting(f"likelihood can't be {recipe.likelihood!r}. Use gaussian or bernoulli.")
