"""A network in OpenVINO on the CPU."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from threading import Lock
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from simile.core.records import FloatArray

_CONVERSION_TOOL = "openvino.tools.ovc"
_core: Any = None
_making_core = Lock()


class OpenvinoRuntime:
    """Runs a module's graph with any number of inputs. Raises ImportError without openvino."""

    def __init__(self, module: nn.Module, sample: Tensor, precision: Literal["fp32", "bf16"]) -> None:
        core = shared_core()
        self.name = f"openvino-{precision}"
        settings = {
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],  # its own choice may be bf16
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # or two processes sit on the same core
        }
        compiled = core.compile_model(_convert_module(module, sample), "CPU", settings)
        self._output_count = len(compiled.outputs)
        self._request = compiled.create_infer_request()
        self._lock = Lock()  # a request holds one set of inputs and outputs

    def run(self, x: FloatArray) -> tuple[FloatArray, ...]:
        with self._lock:
            found = self._request.infer([x], share_inputs=True)  # outputs are copies
            return tuple(found[position] for position in range(self._output_count))


def shared_core() -> Any:
    """The only `openvino.Core` of the process, which is kept until the process ends. Raises ImportError.

    A core's CPU plugin gives the thread that loads it an alternate signal stack, and frees that memory with the core.
    Where another thread drops the core, or two cores are dropped in the order in which they were made, the kernel
    would still write the next signal's frame to the freed address: Ctrl-C then ends the process with SIGSEGV.
    """
    global _core  # one for each process  # noqa: PLW0603
    openvino = import_openvino()
    with _making_core:
        if _core is None:
            _core = openvino.Core()
        return _core


def import_openvino() -> ModuleType:
    """The package without its conversion tool: importing that reports to a statistics server on the network."""
    if "openvino" not in sys.modules and _CONVERSION_TOOL not in sys.modules:
        sys.modules[_CONVERSION_TOOL] = None  # type: ignore[assignment]  # makes its import raise ImportError
        try:
            return import_module("openvino")  # which goes on without it
        finally:
            del sys.modules[_CONVERSION_TOOL]
    return import_module("openvino")


def _convert_module(module: nn.Module, sample: Tensor) -> object:
    """OpenVINO's model of `module`, with a free number of inputs."""
    frontend = import_module("openvino.frontend").FrontEndManager().load_by_framework("pytorch")
    decoders = import_module("openvino.frontend.pytorch.ts_decoder")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing is deprecated, but export takes two seconds to do the same
        traced = torch.jit.trace(module, sample, check_trace=False)  # type: ignore[no-untyped-call]
        decoder = decoders.TorchScriptPythonDecoder(traced)
        loaded = frontend.load(decoder)  # does not keep `decoder` alive, and needs it
        model = frontend.convert(loaded)
    model.reshape({0: [-1, *sample.shape[1:]]})
    return model
