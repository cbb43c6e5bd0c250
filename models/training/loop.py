"""The training loop, flat: one function to read from top to bottom, and the few that it calls."""

from __future__ import annotations

import copy
import hashlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from simile.core.errors import NotFinite, TooFewPictures
from simile.images.formats import Pixels
from simile.images.transforms import Preprocessing
from simile.models.inference.devices import has_fast_bfloat16, select_device
from simile.models.networks.vae import Network
from simile.models.recipes import Recipe
from simile.models.training.objective import make_batch
from simile.models.training.resume import EpochState, can_resume, load_training_state, save_training_state
from simile.models.training.setup import (
    NO_EXTRAS,
    TrainingExtras,
    fit_to_sample,
    hash_encoder_weights,
    make_network,
    make_objective,
    make_optimiser,
    resize_to_input,
)
from simile.models.training.validation import validate

log = logging.getLogger(__name__)

RowIndices = NDArray[np.int64]

MIN_TRAINING_IMAGES = 16
MAX_VALIDATION_IMAGES = 5000  # more make the curve no smoother and each epoch longer
LEARNING_RATE_WARMUP_STEPS = 100  # steps
UNTIMED_STEPS, TIMED_STEPS = 10, 50  # the first steps set up kernels and are slower than the rest
PLANNED_TIME_SHARE = 0.95  # of the time budget, as the cosine should end before the time does
MAX_TIME_SHARE = 0.97  # whatever happens the last step is then, so that the report is written in time too


@dataclass(frozen=True)
class TrainingOptions:
    """How long, where and from what seed. `started` is the time.monotonic() from which `minutes` count.

    Without `minutes`, a run that is resumed keeps the budget that it was started with.
    """

    seed: int = 0
    minutes: float | None = None
    device: str = "auto"
    resume: bool | None = False  # None: if there is an unfinished run of these very pictures and settings
    start_time: float = 0.0


@dataclass(frozen=True)
class TrainingProgress:
    """Where training stands. `parts` of the loss: likelihoods, KL and cross-entropies in nats per picture."""

    epoch: int
    step: int
    total_steps: int | None
    parts: dict[str, float]
    images_per_second: float
    seconds_left: float | None


@dataclass(frozen=True)
class TrainingResult:
    """The best network by validation, the history by epoch, why it stopped, and what to be warned of."""

    network: Network
    history: list[dict[str, Any]]
    best_epoch: int
    stop_reason: str
    warnings: list[str]
    train_count: int
    validation_images: Pixels


def train(  # flat on purpose: one thing after another, to be read from top to bottom  # noqa: PLR0912, PLR0915
    images: Pixels,
    preprocessing: Preprocessing,
    recipe: Recipe,
    options: TrainingOptions,
    state_folder: Path,
    on_progress: Callable[[TrainingProgress], None],
    *,
    extras: TrainingExtras = NO_EXTRAS,
) -> TrainingResult:
    """Trains a network on pictures (n, R, R, C) uint8; R is the network's size, or twice that for crisp copies.

    Each epoch ends with a checkpoint in `state_folder`, from which `options.resume` goes on with equal losses (same
    machine and thread count). Raises TooFewPictures, NotFinite (before the first good epoch) and BadSetting
    (nothing to resume, or other settings or pictures than at the start).
    """
    device = select_device(options.device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bfloat16(device))
    train_rows, validation_rows = split_train_validation(len(images), options.seed)
    shown = resize_to_input(images, preprocessing.image_size, state_folder.parent)  # (n, S, S, C)
    large = images if shown is not images else None  # for copies as sharp as those of the files
    validation_set, validation_large = shown[validation_rows], None if large is None else large[validation_rows]
    validation_labels = None if extras.labels is None else extras.labels[validation_rows]
    batch_size = choose_batch_size(len(train_rows), recipe)
    steps_per_pass = len(train_rows) // batch_size
    steps_per_epoch = steps_per_pass * recipe.passes

    torch.manual_seed(options.seed)  # the initial weights; everything later draws from `generator`
    network = make_network(preprocessing, recipe, extras)
    objective = make_objective(len(images), preprocessing, recipe, extras)
    if extras.frozen_network is None:
        fit_to_sample(network, objective, shown, train_rows, recipe)
    network, objective = network.to(device), objective.to(device)
    averaged = copy.deepcopy(network).requires_grad_(False)  # what is validated and kept: steadier than the last step
    optimiser = make_optimiser(network, objective, recipe)
    generator = torch.Generator().manual_seed(options.seed)
    modules = {"model": network, "averaged": averaged, "objective": objective}
    binarising = generator if recipe.binarise else None
    identity = _make_run_identity(images, preprocessing, recipe, options.seed, extras)
    at = EpochState()
    if options.resume or (options.resume is None and can_resume(state_folder, identity)):
        at = load_training_state(state_folder, identity, modules, optimiser, generator)
        log.info("going on after epoch %d", at.epoch)
    resumed_after, started = at.seconds, options.start_time if at.epoch == 0 else time.monotonic()

    def measure() -> dict[str, float]:
        return validate(
            averaged, objective, validation_set, validation_large, validation_labels, autocast, options.seed
        )

    validation_started = time.monotonic()
    measure()
    epoch_overhead = time.monotonic() - validation_started
    longest = recipe.epochs * steps_per_epoch
    if options.minutes is not None:
        at.minutes = options.minutes
    if at.total_steps is None and (at.minutes is None or longest - at.step <= UNTIMED_STEPS + TIMED_STEPS):
        at.total_steps = longest  # no budget, or over before it could be timed
    stopped, timed, first_step, loop_started = "all steps done", 0.0, at.step, time.monotonic()
    epoch_started = loop_started

    while at.total_steps is None or at.step < at.total_steps:
        if _is_out_of_patience(at, recipe):
            stopped = "no better for a while (early stopping)"
            break
        network.train()
        objective.train()
        if extras.frozen_network is not None:
            network.encoder.eval()  # its batch norms must not move either
        sums: dict[str, float] = {}
        order = np.concatenate(
            [
                torch.randperm(len(train_rows), generator=generator).numpy()[: steps_per_pass * batch_size]
                for _ in range(recipe.passes)
            ]
        )
        steps_done = 0
        for rows in train_rows[order].reshape(steps_per_epoch, batch_size):
            step_started = time.monotonic()
            batch = make_batch(shown, extras.labels, rows, device, binarising, large)  # (b, C, S, S)
            _set_learning_rate(optimiser, _compute_learning_rate(at, recipe))
            with autocast:
                terms = objective(network, batch, generator, _compute_beta(at, recipe), _compute_fraction_done(at))
            parts = {name: part.item() for name, part in terms.parts.items()}
            if not all(map(math.isfinite, parts.values())):
                stopped = "not finite"
                break
            optimiser.zero_grad(set_to_none=True)
            terms.loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
            optimiser.step()
            _update_average(averaged, network, at.step, recipe.ema)
            at.step, steps_done = at.step + 1, steps_done + 1
            sums = {name: sums.get(name, 0.0) + part for name, part in parts.items()}

            now = time.monotonic()
            at.seconds = resumed_after + now - started
            if at.total_steps is None:
                timed += now - step_started if at.step - first_step > UNTIMED_STEPS else 0.0
                if at.step - first_step >= UNTIMED_STEPS + TIMED_STEPS:
                    seconds_per_step = timed / TIMED_STEPS + epoch_overhead / steps_per_epoch
                    at.total_steps = _plan_total_steps(at, seconds_per_step, longest)
                    log.info("%d steps fit into %g minutes", at.total_steps, at.minutes)
            on_progress(_make_progress(at, parts, batch_size, (now - loop_started) / (at.step - first_step)))
            if at.minutes is not None and at.seconds > MAX_TIME_SHARE * at.minutes * 60:
                stopped = "out of time"
                break
            if at.total_steps is not None and at.step >= at.total_steps:
                break

        if stopped == "not finite" or steps_done == 0:
            break
        measured = measure()
        if not math.isfinite(measured["objective"]):  # the last step spoiled the weights
            stopped = "not finite"
            break
        at.epoch += 1
        reached = {name: total / steps_done for name, total in sums.items()}
        schedule = {"learning_rate": _compute_learning_rate(at, recipe), "beta": _compute_beta(at, recipe)}
        at.add_epoch(reached, measured, schedule, averaged)
        if at.minutes is not None and at.step < (at.total_steps or 0):  # machines slow down, and get quiet again
            epoch_took, epoch_started = time.monotonic() - epoch_started, time.monotonic()
            at.total_steps = _plan_total_steps(at, epoch_took / steps_done, longest)
        save_training_state(state_folder, identity, modules, optimiser, generator, at)
        if stopped == "out of time":
            break

    if at.best_weights is None:
        raise NotFinite("Training gave NaN or infinity in its first epoch. Try a lower learning rate.")
    averaged.load_state_dict(at.best_weights)
    warnings = _make_warnings(at, recipe, stopped)
    for warning in warnings:
        log.warning(warning)
    return TrainingResult(
        averaged.eval(), at.history, at.best_epoch, stopped, warnings, len(train_rows), validation_set
    )


def split_train_validation(count: int, seed: int) -> tuple[RowIndices, RowIndices]:
    """Rows to train on and rows to validate on: a seeded tenth is held out, at least 2, at most 5,000."""
    if count < MIN_TRAINING_IMAGES:
        raise TooFewPictures(
            f"{count} pictures are too few to train on: give at least {MIN_TRAINING_IMAGES}, better hundreds."
        )
    held_out = min(max(2, count // 10), MAX_VALIDATION_IMAGES)
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def choose_batch_size(count: int, recipe: Recipe) -> int:
    """The recipe's batch, but smaller for a small collection, so that an epoch has about eight steps."""
    eighth = 1 << max(3, (count // 8).bit_length() - 1)  # a power of two, at least 8
    return min(recipe.batch_size, count, eighth)


@torch.no_grad()
def _update_average(ema_network: Network, network: Network, step: int, decay: float) -> None:
    """An exponential moving average of weights and batch statistics, over fewer steps at the beginning."""
    kept = min(decay, (step + 1) / (step + 10)) if decay else 0.0
    for average, tensor in zip(ema_network.state_dict().values(), network.state_dict().values(), strict=True):
        if average.is_floating_point():
            average.lerp_(tensor, 1 - kept)
        else:
            average.copy_(tensor)


def _compute_fraction_done(state: EpochState) -> float:
    """How much of the training is over, 0 to 1."""
    return min(1.0, state.step / state.total_steps) if state.total_steps else 0.0


def _compute_learning_rate(state: EpochState, recipe: Recipe) -> float:
    cosine = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * _compute_fraction_done(state)))
    return recipe.learning_rate * cosine * min(1.0, (state.step + 1) / LEARNING_RATE_WARMUP_STEPS)


def _set_learning_rate(optimiser: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = learning_rate * group["factor"]


def _compute_beta(state: EpochState, recipe: Recipe) -> float:
    return recipe.beta * min(1.0, (state.step + 1) / max(1, recipe.kl_warmup_steps))


def _plan_total_steps(state: EpochState, seconds_per_step: float, max_steps: int) -> int:
    assert state.minutes is not None
    left = PLANNED_TIME_SHARE * state.minutes * 60 - state.seconds
    return max(state.step + 1, min(max_steps, state.step + int(left / seconds_per_step)))


def _make_progress(
    state: EpochState, parts: dict[str, float], batch_size: int, seconds_per_step: float
) -> TrainingProgress:
    left = None if state.total_steps is None else (state.total_steps - state.step) * seconds_per_step
    return TrainingProgress(
        state.epoch + 1, state.step, state.total_steps, parts, batch_size / max(seconds_per_step, 1e-9), left
    )


def _is_out_of_patience(state: EpochState, recipe: Recipe) -> bool:
    return (
        state.epoch - state.best_epoch >= recipe.patience_epochs
        and state.step - state.history[state.best_epoch - 1]["step"] >= recipe.patience_steps
    )


def _make_warnings(state: EpochState, recipe: Recipe, stop_reason: str) -> list[str]:
    found = []
    active = state.history[state.best_epoch - 1]["validation"]["active_units"]
    if recipe.variational and active < max(1, recipe.latent_dim // 10):
        found.append(
            f"Posterior collapse: only {active} of {recipe.latent_dim} latent dimensions tell pictures apart. "
            "Try a lower --beta, a smaller --latent-dim, or more pictures."
        )
    if stop_reason == "not finite":
        found.append(
            f"Training gave NaN or infinity after step {state.step} and was stopped; the weights of epoch "
            f"{state.best_epoch} were kept. Try a lower learning rate."
        )
    return found


def _make_run_identity(
    images: Pixels, preprocessing: Preprocessing, recipe: Recipe, seed: int, extras: TrainingExtras
) -> dict[str, Any]:
    """What must be the same for a run to be resumed."""
    labels = None if extras.labels is None else [*extras.classes, hashlib.sha256(extras.labels.tobytes()).hexdigest()]
    return {
        "pictures": hashlib.sha256(np.ascontiguousarray(images).data).hexdigest(),
        "preprocessing": preprocessing.to_dict(),
        "recipe": recipe.to_dict(),
        "seed": seed,
        "labels": labels,
        "features": None if extras.perceptual_distance is None else extras.perceptual_distance.name,
        "frozen encoder": None if extras.frozen_network is None else hash_encoder_weights(extras.frozen_network),
    }
