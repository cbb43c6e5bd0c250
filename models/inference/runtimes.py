"""What runs a network, apart from what is fed to it (encoder.py).

    name            runs as           where
    torch           torch-fp32        everywhere; what every other is checked against
    openvino        openvino-fp32     CPU
    openvino-bf16   openvino-bf16     CPU with bfloat16 instructions; about 1 % of nearest neighbours change
    onnxruntime     onnxruntime-fp32  CPU, where onnxruntime and onnx are installed
    compile         compile-bf16      CPU with bfloat16 instructions and a C++ compiler
    auto            the first of openvino, onnxruntime and torch that is there and exact

A runtime is checked once, when it is made, by agreement.py; one that is missing or too coarse gives way to the next
of its row in CHOICES, which ends in torch, and one line in the log says why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from simile.core.errors import BadSetting
from simile.core.records import FloatArray
from simile.models.inference.devices import has_fast_bfloat16
from simile.models.inference.onnx import OnnxRuntime
from simile.models.inference.openvino import OpenvinoRuntime
from simile.models.inference.parity import compare
from simile.models.inference.torch_compile import CompiledRuntime
from simile.models.networks.vae import Network

logger = logging.getLogger(__name__)

SAMPLE = 8  # inputs that a runtime is checked on
EAGER_FIRST = 128  # inputs that torch has done by the time that a faster runtime has started (0.4 s)


class Runtime(Protocol):
    """Runs one network. Safe to use from several threads; an input's outputs don't depend on its neighbours."""

    @property
    def name(self) -> str:
        """Engine and precision, as noted in every row."""
        ...

    def run(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Outputs (n, …) for inputs (n, …), float32 and C-contiguous."""
        ...


class Encoding(nn.Module):
    """Pictures (n, C, S, S) to (mu, log sigma²), each (n, d), or to (mu,) without a variance."""

    searched = True  # by distance, so that a runtime has to keep nearest neighbours

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network.eval()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        mu, log_variance = self.network.encode(x)
        return (mu,) if log_variance is None else (mu, log_variance)


class Decoding(nn.Module):
    """z (n, d) to the mean picture (n, C, S, S) in [0, 1]."""

    searched = False

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network.eval()

    def forward(self, z: Tensor) -> tuple[Tensor, ...]:
        return (torch.sigmoid(self.network.decode(z)),)


class TorchRuntime:
    """Eager torch in float32, on any device."""

    name = "torch-fp32"

    def __init__(self, module: Encoding | Decoding, device: torch.device) -> None:
        self.module = module.eval()
        self._device = device

    def run(self, x: FloatArray) -> tuple[FloatArray, ...]:
        with torch.inference_mode():
            outputs = self.module(torch.from_numpy(np.require(x, np.float32, ["C", "W"])).to(self._device))
        return tuple(output.cpu().contiguous().numpy() for output in outputs)


@dataclass(frozen=True)
class Candidate:
    """A faster runtime. `exact`: what is searched has to keep its nearest neighbours; bfloat16 is asked for by name."""

    name: str
    make: Callable[[nn.Module, Tensor], Runtime]
    exact: bool = True
    bfloat16: bool = False


_OPENVINO = Candidate("openvino-fp32", lambda module, sample: OpenvinoRuntime(module, sample, "fp32"))
_OPENVINO_BF16 = Candidate(
    "openvino-bf16", lambda module, sample: OpenvinoRuntime(module, sample, "bf16"), exact=False, bfloat16=True
)
_ONNXRUNTIME = Candidate("onnxruntime-fp32", OnnxRuntime)
_COMPILED = Candidate("compile-bf16", CompiledRuntime, exact=False, bfloat16=True)

CHOICES: dict[str, tuple[Candidate, ...]] = {
    "auto": (_OPENVINO, _ONNXRUNTIME),
    "torch": (),
    "openvino": (_OPENVINO, _ONNXRUNTIME),
    "openvino-bf16": (_OPENVINO_BF16, _OPENVINO, _ONNXRUNTIME),
    "onnxruntime": (_ONNXRUNTIME, _OPENVINO),
    "compile": (_COMPILED, _OPENVINO_BF16, _OPENVINO, _ONNXRUNTIME),
}


def candidates(wanted: str, device: torch.device) -> tuple[Candidate, ...]:
    """What to try before torch, in order. Raises BadSetting for a name that is not in CHOICES."""
    if wanted not in CHOICES:
        raise BadSetting(f"runtime can't be {wanted!r}. Use {', '.join(CHOICES)}.")
    return CHOICES[wanted] if device.type == "cpu" else ()


def make_runtime(module: Encoding | Decoding, sample: FloatArray, wanted: str, device: torch.device) -> Runtime:
    """The first of `candidates` that gives what torch gives on `sample` (n, …), n at least 2, or torch itself.

    Raises BadSetting for an unknown name.
    """
    eager = TorchRuntime(module, device)
    tried = candidates(wanted, device)
    expected = eager.run(sample) if tried else ()
    if not all(np.isfinite(output).all() for output in expected):
        return eager  # a broken network: there is nothing to agree with, and its caller says so
    refused: list[str] = []
    chosen: Runtime = eager
    for candidate in tried:
        made = _checked(candidate, eager, sample, expected)
        if not isinstance(made, str):
            chosen = made
            break
        refused.append(f"{candidate.name} {made}")
    if refused:
        logger.warning("%s runs on %s: %s", type(module).__name__, chosen.name, "; ".join(refused))
    return chosen


def _checked(
    candidate: Candidate, eager: TorchRuntime, sample: FloatArray, expected: Sequence[FloatArray]
) -> Runtime | str:
    """The runtime, or why it can't be used."""
    if candidate.bfloat16 and not has_fast_bfloat16(torch.device("cpu")):
        return "would be slow: this processor has no bfloat16 instructions"
    try:
        runtime = candidate.make(eager.module, torch.from_numpy(sample[:2]))
        together, first, others = (runtime.run(part) for part in (sample, sample[:1], sample[1:]))
    except ImportError as error:
        return f"is not installed ({error})"
    except Exception as error:  # noqa: BLE001  # converters raise anything; the log says it, the next candidate goes on
        return f"can't run it ({type(error).__name__}: {_first_line(error)})"
    apart = [np.concatenate(pair) for pair in zip(first, others, strict=True)]
    exact = candidate.exact and eager.module.searched
    refusals = (compare(expected, outputs).refusal(exact) for outputs in (together, apart))
    return next((refusal for refusal in refusals if refusal), runtime)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")


class RuntimeOnDemand:
    """Torch for the first inputs, then what `make_runtime` gives, made when it is needed.

    Starting a faster runtime takes about half a second: a command that embeds one picture is done before. A
    runtime that was asked for by name runs from the first input on, and so does any after `prepare`.
    """

    def __init__(
        self, module: Encoding | Decoding, sample: Callable[[], FloatArray], wanted: str, device: torch.device
    ) -> None:
        self.eager = TorchRuntime(module, device)
        self._make: Callable[[], Runtime] = lambda: make_runtime(module, sample(), wanted, device)
        self._made: Runtime | None = None if candidates(wanted, device) else self.eager
        self._left = EAGER_FIRST if wanted == "auto" else 0
        self._lock = Lock()

    @property
    def name(self) -> str:
        """Of what ran last; before the first input, torch."""
        return (self._made or self.eager).name

    def run(self, x: FloatArray) -> tuple[FloatArray, ...]:
        if self._made is None:
            with self._lock:
                self._left -= len(x)
        runtime = self.eager if self._made is None and self._left >= 0 else self.prepare()
        return runtime.run(x)

    def prepare(self) -> Runtime:
        """Makes the runtime now: for a process that will be asked for one picture after another."""
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made
