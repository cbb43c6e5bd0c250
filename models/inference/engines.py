"""Inference engines for the CPU: OpenVINO, ONNX Runtime and torch.compile. Each runs one module's graph.

`run` takes any number n of inputs (n, …) and returns the outputs (n, …), all float32.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import warnings
from collections.abc import Mapping
from importlib import import_module
from threading import Lock
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from simile.core.errors import BadSetting
from simile.core.records import FloatArray

_ONNX_ERRORS_ONLY = 3
_ONNX_OPSET = 17
_COMPILERS = ("g++", "clang++")
_CONVERSION_TOOL = "openvino.tools.ovc"
_core: Any = None
_core_lock = Lock()


class OpenvinoModel:
    """Runs a model that OpenVINO has read or converted."""

    def __init__(self, model: Any, precision: Literal["fp32", "bf16"] = "fp32", output: int | None = None) -> None:
        """Compile the model; `output` is the only one that is returned, None for all."""
        self.name = f"openvino-{precision}"
        settings = {
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],  # the default may be bf16
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # otherwise two processes use the same core
        }
        compiled = shared_core().compile_model(model, "CPU", settings)
        self._outputs = range(len(compiled.outputs)) if output is None else (output,)
        self._request = compiled.create_infer_request()
        self._lock = Lock()  # a request holds one set of inputs and outputs

    def run(self, x: FloatArray | Mapping[str, NDArray[Any]]) -> tuple[FloatArray, ...]:
        """Return the outputs for inputs (n, …), the only one or all by name."""
        inputs: Any = dict(x) if isinstance(x, Mapping) else [x]
        with self._lock:
            outputs = self._request.infer(inputs, share_inputs=True)  # outputs are copies
            return tuple(outputs[position] for position in self._outputs)


class OpenvinoRuntime(OpenvinoModel):
    """Runs a module in OpenVINO. Raises ImportError if openvino is not installed."""

    def __init__(self, module: nn.Module, sample: Tensor, precision: Literal["fp32", "bf16"]) -> None:
        super().__init__(convert_to_openvino(module, sample), precision)


def shared_core() -> Any:
    """Return the only `openvino.Core` of the process, which is kept until the process ends. Raises ImportError.

    A core's CPU plugin gives the thread that loads it an alternate signal stack, and frees that memory with the core.
    If another thread deletes the core, or two cores are deleted in the order in which they were made, the kernel still
    writes the next signal's frame to the freed address: Ctrl-C then ends the process with SIGSEGV.
    """
    global _core  # noqa: PLW0603  # one per process
    openvino = import_openvino()
    with _core_lock:
        if _core is None:
            _core = openvino.Core()
        return _core


def import_openvino() -> ModuleType:
    """Import openvino without its conversion tool, which reports to a statistics server on the network."""
    if "openvino" not in sys.modules and _CONVERSION_TOOL not in sys.modules:
        sys.modules[_CONVERSION_TOOL] = None  # type: ignore[assignment]  # makes its import raise ImportError
        try:
            return import_module("openvino")  # which ignores that error
        finally:
            del sys.modules[_CONVERSION_TOOL]
    return import_module("openvino")


def convert_to_openvino(module: nn.Module, sample: Tensor) -> Any:
    """Return OpenVINO's model of `module`, with a free number of inputs. Raises ImportError."""
    import_openvino()
    frontend = import_module("openvino.frontend").FrontEndManager().load_by_framework("pytorch")
    decoders = import_module("openvino.frontend.pytorch.ts_decoder")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing is deprecated, but export takes two seconds to do the same
        traced = torch.jit.trace(module, sample, check_trace=False)  # type: ignore[no-untyped-call]
        decoder = decoders.TorchScriptPythonDecoder(traced)
        loaded = frontend.load(decoder)  # `decoder` must stay alive until convert() has run
        model = frontend.convert(loaded)
    model.reshape({0: [-1, *sample.shape[1:]]})
    return model


class OnnxModel:
    """Runs an ONNX graph with one input in ONNX Runtime. Raises ImportError if onnxruntime is not installed."""

    name = "onnxruntime-fp32"

    def __init__(self, graph: bytes, output: str | None = None) -> None:
        """Load the graph; `output` is the only one that is returned, None for all."""
        onnxruntime = import_module("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ONNX_ERRORS_ONLY
        options.intra_op_num_threads = torch.get_num_threads()
        # Idle threads that spin would take the cores from the processes that decode images.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._outputs = None if output is None else [output]

    def run(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Return the outputs for inputs (n, …)."""
        return tuple(self._session.run(self._outputs, {self._input: x}))


class OnnxRuntime(OnnxModel):
    """Runs a module in ONNX Runtime. Raises ImportError if onnxruntime or onnx is not installed."""

    def __init__(self, module: nn.Module, sample: Tensor) -> None:
        import_module("onnx")  # torch's exporter needs it, and its own message about that is confusing
        import_module("onnxruntime")
        super().__init__(_export_to_onnx(module, sample))


def _export_to_onnx(module: nn.Module, sample: Tensor) -> bytes:
    """Return the module in ONNX format, with a free number of inputs."""
    with torch.no_grad():
        outputs = [f"output{position}" for position in range(len(module(sample)))]
    target = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the newer exporter takes longer and needs another package
        torch.onnx.export(
            module,
            (sample,),
            target,  # type: ignore[arg-type]  # the exporter accepts it, and no file is written
            dynamo=False,
            opset_version=_ONNX_OPSET,
            input_names=["x"],
            output_names=outputs,
            dynamic_axes={name: {0: "n"} for name in ("x", *outputs)},
        )
    return target.getvalue()


class CompiledRuntime:
    """Runs a module with frozen weights in bfloat16, compiled by torch: the fastest, after a minute of compilation.

    torch caches compiled code (TORCHINDUCTOR_CACHE_DIR), so that the next start is faster. Raises BadSetting without a
    C++ compiler.
    """

    name = "compile-bf16"

    def __init__(self, module: nn.Module, sample: Tensor) -> None:
        if not any(shutil.which(name) for name in (os.environ.get("CXX", _COMPILERS[0]), *_COMPILERS)):
            raise BadSetting("torch.compile needs a C++ compiler. Install g++, or set SIMILE_RUNTIME to openvino.")
        self._lock = Lock()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler warns about its own internals
            self._compiled = torch.compile(module, dynamic=True, options={"freezing": True})
            for count in (len(sample), 1):  # it makes one program for a single input and another for all other numbers
                self.run(sample[:count].numpy())

    def run(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Return the outputs for inputs (n, …)."""
        with self._lock, torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = self._compiled(torch.from_numpy(np.require(x, np.float32, ["C", "W"])))
        return tuple(output.float().contiguous().numpy() for output in outputs)
