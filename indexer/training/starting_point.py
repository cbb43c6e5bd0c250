"""The encoder that a training starts from: the shipped one, one that the user names, or none."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from simile.core.errors import BadSetting
from simile.core.settings import Settings
from simile.indexer.training.dataset import TrainingRequest
from simile.models.inference.encoder import TrainedEncoder
from simile.models.pretrained import SHIPPED
from simile.models.recipes import Recipe, load_recipe
from simile.search.encoder_registry import find_encoder
from simile.store.home import Home

NO_ENCODER = "none"
# Settings that say nothing about the network: with only these, the recipe is still chosen by the images, and a training
# may start from any encoder.
CHANGEABLE_SETTINGS = {"epochs", "batch_size", "learning_rate", "patience_epochs", "teacher_weight"}
# A trained network needs smaller steps, no warm-up, and augmentation at full strength from the first step on.
LEARNING_RATE_FACTOR = 0.5


@dataclass(frozen=True, kw_only=True)
class StartingPoint:
    """An encoder that a training starts from."""

    encoder: TrainedEncoder
    recipe: Recipe  # of that encoder, with what suits a trained network
    is_requested: bool  # whether the user named it; else it is used only for photographs


def find_starting_point(home: Home, request: TrainingRequest, settings: Settings) -> StartingPoint | None:
    """Return the encoder to start from; None to start with new weights.

    Raises:
        NoSuchEncoder, CheckpointDamaged: The encoder can't be loaded.
        BadSetting: Another option contradicts the encoder.
    """
    if request.start_from == NO_ENCODER or request.decoder_only:
        return None
    changed = {name for name, value in request.overrides.items() if value is not None} - CHANGEABLE_SETTINGS
    if request.start_from is None and (changed or request.drawn or request.labels or request.image_size or request.fit):
        return None
    encoder = find_encoder(home, request.start_from or SHIPPED, settings.device)
    if encoder.description.name is not None:
        raise BadSetting(
            f"A training can't start from {encoder.description.name}, which simile did not train. Train a decoder for "
            f"it with `simile train PHOTOS --decoder-only {encoder.description.name}`, learn its neighbours with "
            f"`--teacher {encoder.description.name}`, or start from another encoder."
        )
    name = encoder.description.recipe_name
    if request.start_from is None and request.recipe not in (None, name):
        return None
    if request.recipe not in (None, name):
        changed.add("recipe")
    if request.image_size not in (None, encoder.preprocessing.image_size):
        changed.add("image_size")
    if request.fit not in (None, encoder.preprocessing.fit):
        changed.add("fit")
    if changed:
        raise BadSetting(
            f"{' and '.join(sorted(changed))} can't be set in a training that starts from {request.start_from}, "
            f"because its network exists. Leave that out, or start with new weights: --from {NO_ENCODER}."
        )
    return StartingPoint(
        encoder=encoder, recipe=_make_recipe(encoder, request), is_requested=request.start_from is not None
    )


def _make_recipe(encoder: TrainedEncoder, request: TrainingRequest) -> Recipe:
    """Return the recipe that the encoder was trained with, for a training of the same network."""
    recipe = load_recipe(encoder.description.recipe_name)
    known = {field.name for field in fields(Recipe)} - CHANGEABLE_SETTINGS
    stored = {name: value for name, value in (encoder.description.recipe or {}).items() if name in known}
    overrides = {name: value for name, value in request.overrides.items() if value is not None}
    learning_rate = recipe.learning_rate * LEARNING_RATE_FACTOR
    warm = {"kl_warmup_steps": 0, "augmentation_ramp": 0.0, "learning_rate": learning_rate, **overrides}
    return replace(recipe, **{**stored, **warm})
