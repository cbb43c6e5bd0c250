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
from simile.models.inference.parity import compare_outputs
from simile.models.inference.torch_compile import CompiledRuntime
from simile.models.networks.vae import Network

logger = logging.getLogger(__name__)

RUNTIME_SAMPLE_SIZE = 8  # inputs that a runtime is checked on
EAGER_INPUT_COUNT = 128  # inputs that torch has done by the time that a faster runtime has started (0.4 s)


class Runtime(Protocol):
    """Runs one network. Safe to use from several threads; an input's outputs don't depend on its neighbours."""

    @property
    def name(self) -> str:
        """Engine and precision, as noted in every row."""
        ...

    def run(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Outputs (n, …) for inputs (n, …), float32 and C-contiguous."""
        ...


class EncoderModule(nn.Module):
    """Pictures (n, C, S, S) to (mu, log sigma²), each (n, d), or to (mu,) without a variance."""

    is_searched = True  # by distance, so that a runtime has to keep nearest neighbours

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network.eval()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        mu, log_variance = self.network.encode(x)
        return (mu,) if log_variance is None else (mu, log_variance)


class DecoderModule(nn.Module):
    """z (n, d) to the mean picture (n, C, S, S) in [0, 1]."""

    is_searched = False

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network.eval()

    def forward(self, z: Tensor) -> tuple[Tensor, ...]:
        return (torch.sigmoid(self.network.decode(z)),)


class TorchRuntime:
    """Eager torch in float32, on any device."""

    name = "torch-fp32"

    def __init__(self, module: EncoderModule | DecoderModule, device: torch.device) -> None:
        self.module = module.eval()
        self._device = device

    def run(self, x: FloatArray) -> tuple[FloatArray, ...]:
        with torch.inference_mode():
            outputs = self.module(torch.from_numpy(np.require(x, np.float32, ["C", "W"])).to(self._device))
        return tuple(output.cpu().contiguous().numpy() for output in outputs)


@dataclass(frozen=True)
class RuntimeCandidate:
    """A faster runtime. `exact`: what is searched has to keep its nearest neighbours; bfloat16 is asked for by name."""

    name: str
    make: Callable[[nn.Module, Tensor], Runtime]
    exact: bool = True
    needs_bfloat16: bool = False


_OPENVINO = RuntimeCandidate("openvino-fp32", lambda module, sample: OpenvinoRuntime(module, sample, "fp32"))
_OPENVINO_BF16 = RuntimeCandidate(
    "openvino-bf16", lambda module, sample: OpenvinoRuntime(module, sample, "bf16"), exact=False, needs_bfloat16=True
)
_ONNXRUNTIME = RuntimeCandidate("onnxruntime-fp32", OnnxRuntime)
_COMPILED = RuntimeCandidate("compile-bf16", CompiledRuntime, exact=False, needs_bfloat16=True)

RUNTIME_CHOICES: dict[str, tuple[RuntimeCandidate, ...]] = {
    "auto": (_OPENVINO, _ONNXRUNTIME),
    "torch": (),
    "openvino": (_OPENVINO, _ONNXRUNTIME),
    "openvino-bf16": (_OPENVINO_BF16, _OPENVINO, _ONNXRUNTIME),
    "onnxruntime": (_ONNXRUNTIME, _OPENVINO),
    "compile": (_COMPILED, _OPENVINO_BF16, _OPENVINO, _ONNXRUNTIME),
}


def get_runtime_candidates(runtime_name: str, device: torch.device) -> tuple[RuntimeCandidate, ...]:
    """What to try before torch, in order. Raises BadSetting for a name that is not in CHOICES."""
    if runtime_name not in RUNTIME_CHOICES:
        raise BadSetting(f"runtime can't be {runtime_name!r}. Use {', '.join(RUNTIME_CHOICES)}.")
    return RUNTIME_CHOICES[runtime_name] if device.type == "cpu" else ()


def make_runtime(
    module: EncoderModule | DecoderModule, sample: FloatArray, runtime_name: str, device: torch.device
) -> Runtime:
    """The first of `candidates` that gives what torch gives on `sample` (n, …), n at least 2, or torch itself.

    Raises BadSetting for an unknown name.
    """
    eager = TorchRuntime(module, device)
    tried = get_runtime_candidates(runtime_name, device)
    expected = eager.run(sample) if tried else ()
    if not all(np.isfinite(output).all() for output in expected):
        return eager  # a broken network: there is nothing to agree with, and its caller says so
    refused: list[str] = []
    chosen: Runtime = eager
    for candidate in tried:
        made = _check_candidate(candidate, eager, sample, expected)
        if not isinstance(made, str):
            chosen = made
            break
        refused.append(f"{candidate.name} {made}")
    if refused:
        logger.warning("%s runs on %s: %s", type(module).__name__, chosen.name, "; ".join(refused))
    return chosen


def _check_candidate(
    candidate: RuntimeCandidate, eager: TorchRuntime, sample: FloatArray, expected: Sequence[FloatArray]
) -> Runtime | str:
    """The runtime, or why it can't be used."""
    if candidate.needs_bfloat16 and not has_fast_bfloat16(torch.device("cpu")):
        return "would be slow: this processor has no bfloat16 instructions"
    try:
        runtime = candidate.make(eager.module, torch.from_numpy(sample[:2]))
        together, first, others = (runtime.run(part) for part in (sample, sample[:1], sample[1:]))
    except ImportError as error:
        return f"is not installed ({error})"
    except Exception as error:  # converters raise anything; the log says it, the next candidate goes on  # noqa: BLE001
        return f"can't run it ({type(error).__name__}: {_get_first_line(error)})"
    apart = [np.concatenate(pair) for pair in zip(first, others, strict=True)]
    exact = candidate.exact and eager.module.is_searched
    refusals = (compare_outputs(expected, outputs).get_rejection_reason(exact) for outputs in (together, apart))
    return next((refusal for refusal in refusals if refusal), runtime)


def _get_first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")


class LazyRuntime:
    """Torch for the first inputs, then what `make_runtime` gives, made when it is needed.

    Starting a faster runtime takes about half a second: a command that embeds one picture is done before. A
    runtime that was asked for by name runs from the first input on, and so does any after `prepare`.
    """

    def __init__(
        self,
        module: EncoderModule | DecoderModule,
        sample: Callable[[], FloatArray],
        runtime_name: str,
        device: torch.device,
    ) -> None:
        self.eager = TorchRuntime(module, device)
        self._make_runtime: Callable[[], Runtime] = lambda: make_runtime(module, sample(), runtime_name, device)
        self._runtime: Runtime | None = None if get_runtime_candidates(runtime_name, device) else self.eager
        self._eager_inputs_left = EAGER_INPUT_COUNT if runtime_name == "auto" else 0
        self._lock = Lock()

    @property
    def name(self) -> str:
        """Of what ran last; before the first input, torch."""
        return (self._runtime or self.eager).name

    def run(self, x: FloatArray) -> tuple[FloatArray, ...]:
        if self._runtime is None:
            with self._lock:
                self._eager_inputs_left -= len(x)
        runtime = self.eager if self._runtime is None and self._eager_inputs_left >= 0 else self.start()
        return runtime.run(x)

    def start(self) -> Runtime:
        """Makes the runtime now: for a process that will be asked for one picture after another."""
        with self._lock:
            if self._runtime is None:
                self._runtime = self._make_runtime()
            return self._runtime
