"""The training loop: one flat function to read from top to bottom, and the helpers that it calls."""

from __future__ import annotations

import copy
import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from simile.core.errors import NotFinite, TooFewPictures
from simile.images.formats import Pixels
from simile.images.transforms import Preprocessing
from simile.models.checkpoints.checkpoint import hash_weights
from simile.models.inference.runtimes import has_fast_bfloat16, select_device
from simile.models.networks.vae import Network
from simile.models.recipes import Recipe
from simile.models.training.dataset import ImageDataset, RowIndices, TrainingBatch
from simile.models.training.objective import validate
from simile.models.training.resume import EpochState, TrainingStateFile
from simile.models.training.setup import (
    NO_EXTRAS,
    TrainingExtras,
    fit_proxies,
    fit_to_sample,
    make_network,
    make_objective,
    make_optimiser,
)

log = logging.getLogger(__name__)

MIN_TRAINING_IMAGES = 16
MAX_VALIDATION_IMAGES = 5000  # more make the curve no smoother and every epoch longer
WARMUP_STEPS = 100  # of the learning rate
UNTIMED_STEPS, TIMED_STEPS = 10, 50  # the first steps set up kernels and are slower than the rest
PLANNED_TIME_SHARE = 0.95  # of the time budget: the cosine schedule should end before the time does
MAX_TIME_SHARE = 0.97  # of the time budget: training stops here in any case, so that there is time for the report


PreparedBatch = tuple[TrainingBatch, tuple[Tensor, Tensor]]  # with the result of Objective.make_inputs


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Seed, duration and device of a training."""

    seed: int = 0  # of all random numbers
    minutes: float | None = None  # time budget; None for no limit, or for the original budget of a resumed run
    device: str = "auto"  # `auto`, `cpu`, `cuda` or `cuda:N`
    resume: bool | None = False  # None to resume only if there is an unfinished run with the same images and settings
    start_time: float = 0.0  # the time.monotonic() from which `minutes` count


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """Progress after a step. `parts` of the loss: likelihoods, KL and cross-entropies in nats per image."""

    epoch: int
    step: int
    total_steps: int | None  # None until the steps have been timed
    parts: dict[str, float]
    images_per_second: float
    seconds_left: float | None


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """The result of a training."""

    network: Network  # of the best epoch
    is_better: bool  # than the network that the training started from, on the held-out images; True without one
    history: list[dict[str, Any]]  # measurements of each epoch
    best_epoch: int  # number of the epoch with the best validation objective, from 1
    stop_reason: str
    warnings: list[str]  # problems that the user should know
    train_count: int  # number of images that weights were fitted to
    validation_images: Pixels  # held-out images (m, S, S, C) uint8


def train(  # noqa: PLR0912, PLR0915  # flat on purpose: it is read from top to bottom
    images: Pixels,
    preprocessing: Preprocessing,
    recipe: Recipe,
    options: TrainingOptions,
    state_folder: Path,
    on_progress: Callable[[TrainingProgress], None],
    *,
    extras: TrainingExtras = NO_EXTRAS,
) -> TrainingResult:
    """Train a network.

    Args:
        images: (n, R, R, C) uint8; R is the network's size, or larger for sharp crops.
        preprocessing: How the images were made; it has the network's size.
        state_folder: Receives a checkpoint after each epoch. A resumed run continues from it with equal losses (on
            the same machine with the same number of threads).
        on_progress: Called after each step.

    Raises:
        TooFewPictures: There are fewer than `MIN_TRAINING_IMAGES`.
        NotFinite: The loss became NaN or infinite before the first epoch ended.
        BadSetting: There is no run to resume, or it had other images or settings.
    """
    # 1. Data: a tenth of the images is held out for validation.
    device = select_device(options.device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bfloat16(device))
    train_rows, validation_rows = split_train_validation(len(images), options.seed)
    latents = None if extras.frozen_encoder is None else extras.frozen_encoder.latents
    dataset = ImageDataset.from_images(
        images,
        preprocessing.image_size,
        state_folder.parent,
        labels=extras.labels,
        latents=latents,
        teacher=None if extras.teacher is None else extras.teacher.vectors,
    )
    validation_set = dataset.select(validation_rows)
    batch_size = choose_batch_size(len(train_rows), recipe)
    steps_per_pass = len(train_rows) // batch_size
    steps_per_epoch = steps_per_pass * recipe.passes
    max_steps = recipe.epochs * steps_per_epoch

    # 2. Network, objective and optimiser.
    torch.manual_seed(options.seed)  # for the initial weights; all later random numbers come from `generator`
    network = make_network(preprocessing, recipe, extras)
    objective = make_objective(len(images), preprocessing, recipe, extras)
    if extras.initial_network is not None:
        fit_proxies(network, objective, dataset, train_rows)
    elif extras.frozen_encoder is None:
        fit_to_sample(network, objective, dataset, train_rows, recipe)
    network, objective = network.to(device), objective.to(device)
    # The moving average of the weights is validated and kept: it varies less than the weights of the last step.
    averaged = copy.deepcopy(network).requires_grad_(False)
    optimiser = make_optimiser(network, objective, recipe)
    generator = torch.Generator().manual_seed(options.seed)
    modules = {"model": network, "averaged": averaged, "objective": objective}

    # 3. Resume an unfinished run.
    identity = _make_run_identity(images, preprocessing, recipe, options.seed, extras)
    state = EpochState()
    state_file = TrainingStateFile(
        folder=state_folder, identity=identity, modules=modules, optimiser=optimiser, generator=generator
    )
    if options.resume or (options.resume is None and state_file.can_be_resumed()):
        state = state_file.load()
        log.info("resuming after epoch %d", state.epoch)
    seconds_before, start_time = state.seconds, options.start_time if state.epoch == 0 else time.monotonic()

    # 4. Plan the number of steps. With a time budget it is known only after some steps have been timed.
    validation_start = time.monotonic()
    objective_now = validate(averaged, objective, validation_set, autocast, options.seed)["objective"]
    if state.initial_objective is None:
        state.initial_objective = objective_now
    epoch_overhead = time.monotonic() - validation_start
    if options.minutes is not None:
        state.minutes = options.minutes
    if state.total_steps is None and (state.minutes is None or max_steps - state.step <= UNTIMED_STEPS + TIMED_STEPS):
        state.total_steps = max_steps  # no budget, or the run is shorter than the timing
    stop_reason, timed_seconds, first_step, loop_start = "all steps done", 0.0, state.step, time.monotonic()
    epoch_start = loop_start

    def prepare(rows: RowIndices, step: int, progress: float) -> PreparedBatch:
        # Each step has its own random numbers, because batches are prepared in another thread.
        step_generator = make_step_generator(options.seed, step)
        batch = dataset.get_batch(rows, device, step_generator if recipe.binarise else None)
        return batch, objective.make_inputs(batch, step_generator, progress)

    while state.total_steps is None or state.step < state.total_steps:
        if _is_out_of_patience(state, recipe):
            stop_reason = "no better for a while (early stopping)"
            break

        # 5. One epoch: `passes` random orders of the training images.
        network.train()
        objective.train()
        part_sums: dict[str, float] = {}
        orders = [torch.randperm(len(train_rows), generator=generator).numpy() for _ in range(recipe.passes)]
        order = np.concatenate([pass_order[: steps_per_pass * batch_size] for pass_order in orders])
        epoch_steps = 0
        batches = train_rows[order].reshape(steps_per_epoch, batch_size)
        step_start = time.monotonic()
        for batch, inputs_and_target in _prepare_ahead(prepare, batches, state):
            # Set the values of the schedules.
            beta = _compute_beta(state, recipe)
            for group in optimiser.param_groups:
                group["lr"] = _compute_learning_rate(state, recipe) * group["factor"]
            # Forward pass.
            with autocast:
                terms = objective(network, batch, generator, beta, inputs_and_target)
            parts = {name: part.item() for name, part in terms.parts.items()}
            if not all(map(math.isfinite, parts.values())):
                stop_reason = "not finite"
                break
            # Backward pass: clip the gradient, update the weights and their moving average.
            optimiser.zero_grad(set_to_none=True)
            terms.loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
            optimiser.step()
            _update_average(averaged, network, state.step, recipe.ema)
            state.step, epoch_steps = state.step + 1, epoch_steps + 1
            part_sums = {name: part_sums.get(name, 0.0) + part for name, part in parts.items()}

            # Time the step, and plan the number of steps once enough steps were timed.
            now = time.monotonic()
            state.seconds = seconds_before + now - start_time
            if state.total_steps is None:
                timed_seconds += now - step_start if state.step - first_step > UNTIMED_STEPS else 0.0
                step_start = now
                if state.step - first_step >= UNTIMED_STEPS + TIMED_STEPS:
                    seconds_per_step = timed_seconds / TIMED_STEPS + epoch_overhead / steps_per_epoch
                    state.total_steps = _plan_total_steps(state, seconds_per_step, max_steps)
                    log.info("%d steps fit into %g minutes", state.total_steps, state.minutes)
            on_progress(_make_progress(state, parts, batch_size, (now - loop_start) / (state.step - first_step)))
            if state.minutes is not None and state.seconds > MAX_TIME_SHARE * state.minutes * 60:
                stop_reason = "out of time"
                break
            if state.total_steps is not None and state.step >= state.total_steps:
                break

        # 6. Validate, and keep the weights if they are the best so far.
        if stop_reason == "not finite" or epoch_steps == 0:
            break
        validation_means = validate(averaged, objective, validation_set, autocast, options.seed)
        if not math.isfinite(validation_means["objective"]):  # the last step made the weights unusable
            stop_reason = "not finite"
            break
        state.epoch += 1
        train_means = {name: total / epoch_steps for name, total in part_sums.items()}
        schedule = {"learning_rate": _compute_learning_rate(state, recipe), "beta": _compute_beta(state, recipe)}
        state.add_epoch(train_means, validation_means, schedule, averaged)

        # 7. Plan again, because the speed of a machine changes, and save the state.
        if state.minutes is not None and state.step < (state.total_steps or 0):
            epoch_seconds, epoch_start = time.monotonic() - epoch_start, time.monotonic()
            state.total_steps = _plan_total_steps(state, epoch_seconds / epoch_steps, max_steps)
        state_file.save(state)
        if stop_reason == "out of time":
            break

    # 8. Return the best network.
    if state.best_weights is None:
        raise NotFinite("Training gave NaN or infinity in its first epoch. Try a lower learning rate.")
    averaged.load_state_dict(state.best_weights)
    warnings = _make_warnings(state, recipe, stop_reason)
    for warning in warnings:
        log.warning(warning)
    best_objective = state.history[state.best_epoch - 1]["validation"]["objective"]
    return TrainingResult(
        network=averaged.eval(),
        is_better=extras.initial_network is None or best_objective > state.initial_objective,
        history=state.history,
        best_epoch=state.best_epoch,
        stop_reason=stop_reason,
        warnings=warnings,
        train_count=len(train_rows),
        validation_images=validation_set.images,
    )


def split_train_validation(count: int, seed: int) -> tuple[RowIndices, RowIndices]:
    """Return rows for training and for validation: a random tenth is held out, at least 2, at most 5,000."""
    if count < MIN_TRAINING_IMAGES:
        raise TooFewPictures(
            f"{count} images are too few for training: give at least {MIN_TRAINING_IMAGES}, better hundreds."
        )
    held_out = min(max(2, count // 10), MAX_VALIDATION_IMAGES)
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def choose_batch_size(count: int, recipe: Recipe) -> int:
    """Return the recipe's batch size, or less for a small dataset, so that an epoch has about eight steps."""
    eighth = 1 << max(3, (count // 8).bit_length() - 1)  # a power of two, at least 8
    return min(recipe.batch_size, count, eighth)


def make_step_generator(seed: int, step: int) -> torch.Generator:
    """Return the generator of the inputs of one step; it is the same in a resumed training."""
    state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) >> 1)


def _prepare_ahead(
    prepare: Callable[[RowIndices, int, float], PreparedBatch], batches: Iterable[RowIndices], state: EpochState
) -> Iterator[PreparedBatch]:
    """Yield each prepared batch, and prepare the next one meanwhile: many small operations, which use one core."""
    first_step = state.step
    with ThreadPoolExecutor(1) as thread:
        pending: Future[PreparedBatch] | None = None
        for number, rows in enumerate(batches):
            step = first_step + number
            following = thread.submit(prepare, rows, step, _compute_progress(state, step))
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()


@torch.no_grad()
def _update_average(ema_network: Network, network: Network, step: int, decay: float) -> None:
    """Update the exponential moving average of weights and batch statistics; it covers fewer steps at the start."""
    decay = min(decay, (step + 1) / (step + 10)) if decay else 0.0
    for average, tensor in zip(ema_network.state_dict().values(), network.state_dict().values(), strict=True):
        if average.is_floating_point():
            average.lerp_(tensor, 1 - decay)
        else:
            average.copy_(tensor)


def _compute_progress(state: EpochState, step: int) -> float:
    """Return the share of the training that is done at a step, 0 to 1; 0 while the number of steps is not known."""
    return min(1.0, step / state.total_steps) if state.total_steps else 0.0


def _compute_learning_rate(state: EpochState, recipe: Recipe) -> float:
    """Return the learning rate: a linear warm-up, then a cosine from the recipe's value to a hundredth of it."""
    cosine = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * _compute_progress(state, state.step)))
    return recipe.learning_rate * cosine * min(1.0, (state.step + 1) / WARMUP_STEPS)


def _compute_beta(state: EpochState, recipe: Recipe) -> float:
    """Return the weight of the KL term, after a linear warm-up."""
    return recipe.beta * min(1.0, (state.step + 1) / max(1, recipe.kl_warmup_steps))


def _plan_total_steps(state: EpochState, seconds_per_step: float, max_steps: int) -> int:
    """Return the number of steps that fit into the time budget, at least one more and at most `max_steps`."""
    assert state.minutes is not None
    seconds_left = PLANNED_TIME_SHARE * state.minutes * 60 - state.seconds
    return max(state.step + 1, min(max_steps, state.step + int(seconds_left / seconds_per_step)))


def _make_progress(
    state: EpochState, parts: dict[str, float], batch_size: int, seconds_per_step: float
) -> TrainingProgress:
    return TrainingProgress(
        epoch=state.epoch + 1,
        step=state.step,
        total_steps=state.total_steps,
        parts=parts,
        images_per_second=batch_size / max(seconds_per_step, 1e-9),
        seconds_left=None if state.total_steps is None else (state.total_steps - state.step) * seconds_per_step,
    )


def _is_out_of_patience(state: EpochState, recipe: Recipe) -> bool:
    return (
        state.epoch - state.best_epoch >= recipe.patience_epochs
        and state.step - state.history[state.best_epoch - 1]["step"] >= recipe.patience_steps
    )


def _make_warnings(state: EpochState, recipe: Recipe, stop_reason: str) -> list[str]:
    warnings = []
    active = state.history[state.best_epoch - 1]["validation"]["active_units"]
    if recipe.variational and active < max(1, recipe.latent_dim // 10):
        warnings.append(
            f"Posterior collapse: only {active} of {recipe.latent_dim} latent dimensions differ between images. "
            "Try a lower --beta, a smaller --latent-dim, or more images."
        )
    if stop_reason == "not finite":
        warnings.append(
            f"Training gave NaN or infinity after step {state.step} and was stopped; the weights of epoch "
            f"{state.best_epoch} were kept. Try a lower learning rate."
        )
    return warnings


def _make_run_identity(
    images: Pixels, preprocessing: Preprocessing, recipe: Recipe, seed: int, extras: TrainingExtras
) -> dict[str, Any]:
    """Return everything that must be the same when a run is resumed; the keys are part of the state file."""
    labels = None if extras.labels is None else [*extras.classes, hashlib.sha256(extras.labels.tobytes()).hexdigest()]
    return {
        "pictures": hashlib.sha256(np.ascontiguousarray(images).data).hexdigest(),
        "preprocessing": preprocessing.to_dict(),
        "recipe": recipe.to_dict(),
        "seed": seed,
        "labels": labels,
        "features": None if extras.perceptual_distance is None else extras.perceptual_distance.name,
        "frozen encoder": None if extras.frozen_encoder is None else extras.frozen_encoder.fingerprint,
        "teacher": None if extras.teacher is None else extras.teacher.fingerprint,
        "initial network": None if extras.initial_network is None else hash_weights(extras.initial_network),
    }
