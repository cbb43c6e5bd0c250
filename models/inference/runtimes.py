"""The device and the runtimes that execute a network (encoder.py prepares their inputs).

    name            runs as           where
    torch           torch-fp32        everywhere; the reference for all others
    openvino        openvino-fp32     CPU
    openvino-bf16   openvino-bf16     CPU with bfloat16 instructions; about 1 % of nearest neighbours change
    onnxruntime     onnxruntime-fp32  CPU, if onnxruntime and onnx are installed
    compile         compile-bf16      CPU with bfloat16 instructions and a C++ compiler
    auto            the first of openvino, onnxruntime and torch that is installed and exact

A runtime is checked once, when it is made (parity.py). If it is missing or not accurate enough, the next one of its
row in `RUNTIME_CHOICES` is tried, at last torch, and a line in the log gives the reason.
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
from simile.models.inference.engines import CompiledRuntime, OnnxRuntime, OpenvinoRuntime
from simile.models.inference.parity import compare_outputs
from simile.models.networks.vae import Network

logger = logging.getLogger(__name__)

RUNTIME_SAMPLE_SIZE = 8  # inputs for the check of a runtime
EAGER_INPUT_COUNT = 128  # torch processes so many inputs in the time that a faster runtime takes to start (0.4 s)


def select_device(name: str) -> torch.device:
    """Return the device for `auto`, `cpu`, `cuda` or `cuda:N`. Raises BadSetting if it does not exist."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BadSetting(f"device can't be {name!r}. Use auto, cpu or cuda.") from None
    if device.type not in ("cpu", "cuda"):
        raise BadSetting(f"device can't be {name!r}. Use auto, cpu or cuda.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        gpus = torch.cuda.device_count()
        raise BadSetting(f"device {name!r} is not there: torch sees {gpus} GPUs. Use --device auto.")
    if device.type == "cuda":
        # Equal losses after a resume, and the same vector for an image alone and in a batch.
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = False  # TF32 has 10 bits of precision, and is the default for convolutions
    return device


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether the hardware multiplies bfloat16 itself; emulation is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


class Runtime(Protocol):
    """Runs one network. Thread-safe; the outputs for an input do not depend on the other inputs of the batch."""

    @property
    def name(self) -> str:
        """Engine and precision, as stored with every vector."""
        ...

    def run(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Return outputs (n, …) for inputs (n, …), float32 and C-contiguous."""
        ...


class NetworkModule(nn.Module):
    """Half of a network, with outputs that are a tuple of tensors."""

    is_searched = False  # by distance, so that a runtime must keep nearest neighbours

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network.eval()


class EncoderModule(NetworkModule):
    """Images (n, C, S, S) to (mu, log sigma²), each (n, d), or to (mu,) without a variance."""

    is_searched = True

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs without None."""
        mu, log_variance = self.network.encode(x)
        return (mu,) if log_variance is None else (mu, log_variance)


class DecoderModule(NetworkModule):
    """z (n, d) to the mean image (n, C, S, S) in [0, 1]."""

    def forward(self, z: Tensor) -> tuple[Tensor, ...]:
        """Return the mean image as a tuple of one."""
        return (torch.sigmoid(self.network.decode(z)),)


class TorchRuntime:
    """Eager torch in float32, on any device."""

    name = "torch-fp32"

    def __init__(self, module: NetworkModule, device: torch.device) -> None:
        self.module = module.eval()
        self._device = device

    def run(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Return the outputs for inputs (n, …)."""
        with torch.inference_mode():
            outputs = self.module(torch.from_numpy(np.require(x, np.float32, ["C", "W"])).to(self._device))
        return tuple(output.cpu().contiguous().numpy() for output in outputs)


@dataclass(frozen=True)
class RuntimeCandidate:
    """A faster runtime that can be tried."""

    name: str
    make: Callable[[nn.Module, Tensor], Runtime]
    exact: bool = True  # an encoder must keep its nearest neighbours; False for bfloat16, which a user must choose
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
    """Return the runtimes to try before torch, in order. Raises BadSetting if the name is not in `RUNTIME_CHOICES`."""
    if runtime_name not in RUNTIME_CHOICES:
        raise BadSetting(f"runtime can't be {runtime_name!r}. Use {', '.join(RUNTIME_CHOICES)}.")
    return RUNTIME_CHOICES[runtime_name] if device.type == "cpu" else ()


def make_runtime(module: NetworkModule, sample: FloatArray, runtime_name: str, device: torch.device) -> Runtime:
    """Return the first candidate with outputs that agree with torch's, or torch itself. Raises BadSetting.

    Args:
        sample: Inputs (n, …) for the check, n at least 2.
        runtime_name: A key of `RUNTIME_CHOICES`.
        device: Only a CPU has other runtimes than torch.
    """
    eager = TorchRuntime(module, device)
    candidates = get_runtime_candidates(runtime_name, device)
    expected = eager.run(sample) if candidates else ()
    if not all(np.isfinite(output).all() for output in expected):
        return eager  # a broken network: nothing to compare with, and the caller reports it
    rejections: list[str] = []
    runtime: Runtime = eager
    for candidate in candidates:
        result = _check_candidate(candidate, eager, sample, expected)
        if not isinstance(result, str):
            runtime = result
            break
        rejections.append(f"{candidate.name} {result}")
    if rejections:
        logger.warning("%s runs on %s: %s", type(module).__name__, runtime.name, "; ".join(rejections))
    return runtime


def _check_candidate(
    candidate: RuntimeCandidate, eager: TorchRuntime, sample: FloatArray, expected: Sequence[FloatArray]
) -> Runtime | str:
    """Return the runtime, or the reason why it can't be used."""
    if candidate.needs_bfloat16 and not has_fast_bfloat16(torch.device("cpu")):
        return "would be slow: this processor has no bfloat16 instructions"
    try:
        runtime = candidate.make(eager.module, torch.from_numpy(sample[:2]))
        together, first, others = (runtime.run(part) for part in (sample, sample[:1], sample[1:]))
    except ImportError as error:
        return f"is not installed ({error})"
    except Exception as error:  # noqa: BLE001  # converters raise errors of any type
        first_line = next(iter(str(error).strip().splitlines()), "")
        return f"can't run it ({type(error).__name__}: {first_line})"
    separate = [np.concatenate(pair) for pair in zip(first, others, strict=True)]
    exact = candidate.exact and eager.module.is_searched
    reasons = (compare_outputs(expected, outputs).get_rejection_reason(exact) for outputs in (together, separate))
    return next((reason for reason in reasons if reason), runtime)


class LazyRuntime:
    """Uses torch for the first inputs, then the runtime of `make_runtime`, which is made when it is needed.

    A faster runtime takes about half a second to start: a command that embeds a single image is done earlier. A
    runtime that the user chose by name runs from the first input on, and so does any runtime after `start`.
    """

    def __init__(
        self,
        module: NetworkModule,
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
        """Name of the runtime in use; before the first input, torch."""
        return (self._runtime or self.eager).name

    def run(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Return the outputs for inputs (n, …)."""
        if self._runtime is None:
            with self._lock:
                self._eager_inputs_left -= len(x)
        runtime = self.eager if self._runtime is None and self._eager_inputs_left >= 0 else self.start()
        return runtime.run(x)

    def start(self) -> Runtime:
        """Make the runtime now: for a process that will encode many images one by one."""
        with self._lock:
            if self._runtime is None:
                self._runtime = self._make_runtime()
            return self._runtime
