"""Save and load the state of an unfinished training: one safetensors file, written atomically after each epoch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from simile.core.atomic_write import write_atomically
from simile.core.errors import BadSetting, CheckpointDamaged
from simile.models.networks.vae import Network

STATE_FILE = "state.safetensors"
_IDENTITY_LABELS = {"pictures": "images"}  # keys of the state file that messages name differently


@dataclass(kw_only=True)
class EpochState:
    """The state of a run at the end of an epoch."""

    step: int = 0  # steps that are done, like `epoch`
    epoch: int = 0
    total_steps: int | None = None  # planned number of steps; None before it is known
    minutes: float | None = None  # time budget; None for no limit
    seconds: float = 0.0  # time used of the budget
    initial_objective: float | None = None  # validation objective before the first step; None before it is known
    best_epoch: int = 0  # number of the best epoch so far, from 1; 0 before the first
    history: list[dict[str, Any]] = field(default_factory=list)  # measurements of each epoch
    best_weights: dict[str, Tensor] | None = None  # weights of the best epoch by name

    def add_epoch(
        self,
        train_means: dict[str, float],
        validation_means: dict[str, float],
        schedule: dict[str, float],
        network: Network,
    ) -> None:
        """Append an epoch to the history, and keep its weights if its validation objective is the best so far."""
        means = {"train": train_means, "validation": validation_means}
        seconds = round(self.seconds, 2)
        self.history.append({"epoch": self.epoch, "step": self.step, **means, **schedule, "seconds": seconds})
        best = self.history[self.best_epoch - 1]["validation"]["objective"] if self.best_epoch else -math.inf
        if self.best_epoch == 0 or validation_means["objective"] > best:
            self.best_epoch = self.epoch
            self.best_weights = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


@dataclass(frozen=True, kw_only=True)
class TrainingStateFile:
    """The state of an unfinished training in a folder: tensors and, as metadata of the same file, numbers.

    So both always belong to the same epoch. A training is resumed only with the same `identity`.
    """

    folder: Path
    identity: dict[str, Any]
    modules: Mapping[str, nn.Module]
    optimiser: torch.optim.Optimizer
    generator: torch.Generator

    def save(self, state: EpochState) -> None:
        """Write the file atomically."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"best.{name}": tensor for name, tensor in (state.best_weights or {}).items()}
        for name, module in self.modules.items():
            tensors |= {f"{name}.{key}": tensor for key, tensor in module.state_dict().items()}
        for index, values in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": value for name, value in values.items()}
        tensors["generator"] = self.generator.get_state()
        numbers = {name: value for name, value in vars(state).items() if name != "best_weights"}
        metadata = {"identity": json.dumps(self.identity), "at": json.dumps(numbers)}
        flat = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        write_atomically(self.folder / STATE_FILE, lambda path: save_file(flat, path, metadata))

    def can_be_resumed(self) -> bool:
        """Return whether there is an unfinished training with the same images and settings."""
        try:
            return self._find_differences(_read_state_file(self.folder)[0]) == []
        except CheckpointDamaged:  # or there is none
            return False

    def load(self) -> EpochState:
        """Restore modules, optimiser and generator, and return the rest of the state.

        Raises:
            BadSetting: There is no unfinished training, or it had other images or settings.
            CheckpointDamaged.
        """
        require_training_state(self.folder)
        metadata, tensors = _read_state_file(self.folder)
        if differences := self._find_differences(metadata):
            names = " and ".join(_IDENTITY_LABELS.get(name, name) for name in differences)
            raise BadSetting(
                f"The unfinished training in {self.folder} was started with other {names}. "
                "Give the same images and options, or leave out --resume to start again."
            )
        for name, module in self.modules.items():
            module.load_state_dict(_select_prefix(f"{name}.", tensors))
        _load_optimiser_state(self.optimiser, _select_prefix("optimiser.", tensors))
        self.generator.set_state(tensors["generator"])
        return EpochState(**json.loads(metadata["at"]), best_weights=_select_prefix("best.", tensors) or None)

    def _find_differences(self, metadata: dict[str, str]) -> list[str]:
        stored, expected = json.loads(metadata["identity"]), json.loads(json.dumps(self.identity))
        return [name for name, value in expected.items() if stored.get(name) != value]


def require_training_state(folder: Path) -> None:
    """Raise BadSetting if there is nothing to resume."""
    if not (folder / STATE_FILE).is_file():
        raise BadSetting(f"{folder} holds no unfinished training to resume. Leave out --resume.")


def _read_state_file(folder: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    path = folder / STATE_FILE
    try:
        with safe_open(path, "pt") as file:
            return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointDamaged(f"{path} can't be read ({error}). Leave out --resume to start again.") from None


def _select_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _load_optimiser_state(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, value_name = name.split(".", 1)
        weight = weights[int(index)]
        if tensor.shape == weight.shape:  # fused AdamW needs both in the same memory order
            tensor = torch.empty_like(weight).copy_(tensor)  # noqa: PLW2901
        state.setdefault(int(index), {})[value_name] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
