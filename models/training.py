"""The training loop, flat: one function to read from top to bottom, and the few that it calls."""

from __future__ import annotations

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
from torch import Tensor, nn

from core.errors import NotFinite, TooFewPictures
from models.devices import has_fast_bfloat16, pick_device
from models.networks import VAE, Architecture, reparametrise
from models.objective import (
    active_units,
    kl_divergence,
    optimal_variance,
    reconstruction_log_likelihood,
)
from models.preprocessing import Pixels, Preprocessing
from models.recipes import Recipe
from models.training_state import EpochState, can_resume, load_state, save_state

log = logging.getLogger(__name__)

Rows = NDArray[np.int64]

FEWEST_PICTURES = 16
LARGEST_VALIDATION = 5000  # more make the curve no smoother and each epoch longer
LEARNING_RATE_WARMUP = 100  # steps
UNTIMED_STEPS, TIMED_STEPS = 10, 50  # the first steps set up kernels and are slower than the rest
PLANNED_SHARE = 0.9  # of the time budget; machines slow down, and the cosine should end before the time does
LATEST_SHARE = 0.97  # whatever happens the last step is then, so that the report is written in time too


@dataclass(frozen=True)
class Options:
    """How long, where and from what seed. `started` is the time.monotonic() from which `minutes` count.

    Without `minutes`, a run that is resumed keeps the budget that it was started with.
    """

    seed: int = 0
    minutes: float | None = None
    device: str = "auto"
    resume: bool | None = False  # None: if there is an unfinished run of these very pictures and settings
    started: float = 0.0


@dataclass(frozen=True)
class Progress:
    """Where training stands. Both loss parts in nats per picture."""

    epoch: int
    step: int
    total_steps: int | None
    reconstruction: float
    kl: float
    images_per_second: float
    seconds_left: float | None


@dataclass(frozen=True)
class Trained:
    """The best network by validation, the history by epoch, why it stopped, and what to be warned of."""

    network: VAE
    history: list[dict[str, Any]]
    best_epoch: int
    stopped: str
    warnings: list[str]
    train_count: int
    validation: Pixels


def train(  # noqa: PLR0912, PLR0915  # flat on purpose: one thing after another, to be read from top to bottom
    pictures: Pixels,
    preprocessing: Preprocessing,
    recipe: Recipe,
    options: Options,
    state_folder: Path,
    on_progress: Callable[[Progress], None],
) -> Trained:
    """Trains a VAE on pictures (n, S, S, C) uint8.

    Each epoch ends with a checkpoint in `state_folder`, from which `options.resume` goes on with equal losses (same
    machine and thread count). Raises TooFewPictures, NotFinite (before the first good epoch) and BadSetting
    (nothing to resume, or other settings or pictures than at the start).
    """
    device = pick_device(options.device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bfloat16(device))
    train_rows, validation_rows = split(len(pictures), options.seed)
    validation_set = pictures[validation_rows]
    batch_size = batch_size_for(len(train_rows), recipe)
    steps_per_epoch = len(train_rows) // batch_size

    torch.manual_seed(options.seed)  # the initial weights; everything later draws from `generator`
    architecture = Architecture(preprocessing.image_size, preprocessing.channels, recipe.latent_dim, recipe.width)
    network = VAE(architecture).to(device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    generator = torch.Generator().manual_seed(options.seed)
    identity = _identity(pictures, preprocessing, recipe, options.seed)
    at = EpochState()
    if options.resume or (options.resume is None and can_resume(state_folder, identity)):
        at = load_state(state_folder, identity, network, optimiser, generator)
        log.info("going on after epoch %d", at.epoch)
    resumed_after, started = at.seconds, options.started if at.epoch == 0 else time.monotonic()

    validation_started = time.monotonic()
    validate(network, validation_set, preprocessing, recipe, autocast, options.seed)
    epoch_overhead = time.monotonic() - validation_started
    longest = recipe.epochs * steps_per_epoch
    if options.minutes is not None:
        at.minutes = options.minutes
    if at.total_steps is None and (at.minutes is None or longest - at.step <= UNTIMED_STEPS + TIMED_STEPS):
        at.total_steps = longest  # no budget, or over before it could be timed
    stopped, timed, first_step, loop_started = "all steps done", 0.0, at.step, time.monotonic()

    while at.total_steps is None or at.step < at.total_steps:
        if _out_of_patience(at, recipe):
            stopped = "no better for a while (early stopping)"
            break
        network.train()
        sums = torch.zeros(2, dtype=torch.float64)
        order = torch.randperm(len(train_rows), generator=generator).numpy()
        steps_done = 0
        for batch in order[: steps_per_epoch * batch_size].reshape(steps_per_epoch, batch_size):
            step_started = time.monotonic()
            x = _to_unit(pictures[train_rows[batch]], device)  # (b, C, S, S)
            _set_learning_rate(optimiser, _learning_rate(at, recipe))
            with autocast:
                mu, log_variance = network.encode(x)  # (b, d) each
                logits = network.decode(reparametrise(mu, log_variance, generator))  # (b, C, S, S)
            inner, logits = _content(x, preprocessing), _content(logits, preprocessing)
            reconstruction = reconstruction_log_likelihood(inner, logits, recipe.likelihood).mean()
            kl = kl_divergence(mu, log_variance).mean()
            loss = -(reconstruction - _beta(at, recipe) * kl) / inner[0].numel()
            parts = (reconstruction.item(), kl.item())
            if not all(map(math.isfinite, parts)):
                stopped = "not finite"
                break
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
            optimiser.step()
            _track_variance(network, inner, logits)
            at.step, steps_done = at.step + 1, steps_done + 1
            sums += torch.tensor(parts, dtype=torch.float64)

            now = time.monotonic()
            at.seconds = resumed_after + now - started
            if at.total_steps is None:
                timed += now - step_started if at.step - first_step > UNTIMED_STEPS else 0.0
                if at.step - first_step >= UNTIMED_STEPS + TIMED_STEPS:
                    seconds_per_step = timed / TIMED_STEPS + epoch_overhead / steps_per_epoch
                    at.total_steps = _plan(at, seconds_per_step, longest)
                    log.info("%d steps fit into %g minutes", at.total_steps, at.minutes)
            on_progress(_progress(at, parts, batch_size, (now - loop_started) / (at.step - first_step)))
            if at.minutes is not None and at.seconds > LATEST_SHARE * at.minutes * 60:
                stopped = "out of time"
                break
            if at.total_steps is not None and at.step >= at.total_steps:
                break

        if stopped == "not finite" or steps_done == 0:
            break
        measured = validate(network, validation_set, preprocessing, recipe, autocast, options.seed)
        if not math.isfinite(measured["elbo"]):  # the last step spoiled the weights
            stopped = "not finite"
            break
        at.epoch += 1
        reached = _parts(sums[0].item() / steps_done, sums[1].item() / steps_done, recipe)
        schedule = {"learning_rate": _learning_rate(at, recipe), "beta": _beta(at, recipe)}
        at.add_epoch(reached, measured, schedule, network)
        save_state(state_folder, identity, network, optimiser, generator, at)
        if stopped == "out of time":
            break

    if at.best_weights is None:
        raise NotFinite("Training gave NaN or infinity in its first epoch. Try a lower learning rate.")
    network.load_state_dict(at.best_weights)
    warnings = _warnings(at, recipe, stopped)
    for warning in warnings:
        log.warning(warning)
    return Trained(network.eval(), at.history, at.best_epoch, stopped, warnings, len(train_rows), validation_set)


def split(count: int, seed: int) -> tuple[Rows, Rows]:
    """Rows to train on and rows to validate on: a seeded tenth is held out, at least 2, at most 5,000."""
    if count < FEWEST_PICTURES:
        raise TooFewPictures(
            f"{count} pictures are too few to train on: give at least {FEWEST_PICTURES}, better hundreds."
        )
    held_out = min(max(2, count // 10), LARGEST_VALIDATION)
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def batch_size_for(count: int, recipe: Recipe) -> int:
    """The recipe's batch, but smaller for a small collection, so that an epoch has about eight steps."""
    eighth = 1 << max(3, (count // 8).bit_length() - 1)  # a power of two, at least 8
    return min(recipe.batch_size, count, eighth)


def validate(
    network: VAE, pictures: Pixels, preprocessing: Preprocessing, recipe: Recipe, autocast: Any, seed: int
) -> dict[str, float]:
    """Both parts of the ELBO in nats per picture, squared error at z = mu, active units; the same noise each time."""
    network.eval()
    generator = torch.Generator().manual_seed(seed)
    device = network.variance.device
    totals, means = torch.zeros(3, dtype=torch.float64), []
    with torch.inference_mode(), autocast:
        for start in range(0, len(pictures), 500):
            x = _to_unit(pictures[start : start + 500], device)
            mu, log_variance = network.encode(x)
            logits = network.decode(reparametrise(mu, log_variance, generator))
            inner = _content(x, preprocessing)
            reconstruction = reconstruction_log_likelihood(
                inner, _content(logits, preprocessing), recipe.likelihood, network.variance
            )
            at_mean = torch.sigmoid(_content(network.decode(mu), preprocessing))
            squared_error = (at_mean - inner).square().flatten(1).mean(1)
            sums = (reconstruction.sum(), kl_divergence(mu, log_variance).sum(), squared_error.sum())
            totals += torch.stack([part.double().cpu() for part in sums])
            means.append(mu.float().cpu())
    reconstruction_mean, kl, error = (totals / len(pictures)).tolist()
    measured = _parts(reconstruction_mean, kl, recipe)
    return {**measured, "squared_error": error, "active_units": active_units(torch.cat(means))}


def _parts(reconstruction: float, kl: float, recipe: Recipe) -> dict[str, float]:
    return {"reconstruction": reconstruction, "kl": kl, "elbo": reconstruction - recipe.beta * kl}


def _to_unit(batch: Pixels, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(batch)).to(device).permute(0, 3, 1, 2).float() / 255


def _content(x: Tensor, preprocessing: Preprocessing) -> Tensor:
    """The part of (n, C, S, S) that is picture: padding is neither scored nor learned."""
    top, left, height, width = preprocessing.content_box()
    return x[:, :, top : top + height, left : left + width]


def _learning_rate(at: EpochState, recipe: Recipe) -> float:
    done = at.step / at.total_steps if at.total_steps else 0.0
    cosine = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return recipe.learning_rate * cosine * min(1.0, (at.step + 1) / LEARNING_RATE_WARMUP)


def _set_learning_rate(optimiser: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = learning_rate


def _beta(at: EpochState, recipe: Recipe) -> float:
    return recipe.beta * min(1.0, (at.step + 1) / max(1, recipe.kl_warmup_steps))


@torch.no_grad()
def _track_variance(network: VAE, x: Tensor, logits: Tensor) -> None:
    """A running mean of the optimal variance, for scoring pictures outside training."""
    network.variance.lerp_(optimal_variance(x, torch.sigmoid(logits.detach())), 0.05)


def _plan(at: EpochState, seconds_per_step: float, longest: int) -> int:
    assert at.minutes is not None
    left = PLANNED_SHARE * at.minutes * 60 - at.seconds
    return max(at.step + 1, min(longest, at.step + int(left / seconds_per_step)))


def _progress(at: EpochState, parts: tuple[float, float], batch_size: int, seconds_per_step: float) -> Progress:
    left = None if at.total_steps is None else (at.total_steps - at.step) * seconds_per_step
    return Progress(at.epoch + 1, at.step, at.total_steps, *parts, batch_size / max(seconds_per_step, 1e-9), left)


def _out_of_patience(at: EpochState, recipe: Recipe) -> bool:
    return (
        at.epoch - at.best_epoch >= recipe.patience_epochs
        and at.step - at.history[at.best_epoch - 1]["step"] >= recipe.patience_steps
    )


def _warnings(at: EpochState, recipe: Recipe, stopped: str) -> list[str]:
    found = []
    active = at.history[at.best_epoch - 1]["validation"]["active_units"]
    if active < max(1, recipe.latent_dim // 10):
        found.append(
            f"Posterior collapse: only {active} of {recipe.latent_dim} latent dimensions tell pictures apart. "
            "Try a lower --beta, a smaller --latent-dim, or more pictures."
        )
    if stopped == "not finite":
        found.append(
            f"Training gave NaN or infinity after step {at.step} and was stopped; the weights of epoch "
            f"{at.best_epoch} were kept. Try a lower learning rate."
        )
    return found


def _identity(pictures: Pixels, preprocessing: Preprocessing, recipe: Recipe, seed: int) -> dict[str, Any]:
    """What must be the same for a run to be resumed."""
    return {
        "pictures": hashlib.sha256(np.ascontiguousarray(pictures).data).hexdigest(),
        "preprocessing": preprocessing.to_dict(),
        "recipe": recipe.to_dict(),
        "seed": seed,
    }
