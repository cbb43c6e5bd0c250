"""A network in ONNX Runtime on the CPU."""

from __future__ import annotations

import io
import warnings
from importlib import import_module

import torch
from torch import Tensor, nn

from simile.core.records import FloatArray

_ERRORS_ONLY = 3
_OPSET = 17


class OnnxRuntime:
    """Runs a module's graph with any number of inputs. Raises ImportError without onnxruntime or onnx."""

    name = "onnxruntime-fp32"

    def __init__(self, module: nn.Module, sample: Tensor) -> None:
        onnxruntime = import_module("onnxruntime")
        import_module("onnx")  # torch's exporter needs it, and says so in a stranger way
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        options.intra_op_num_threads = torch.get_num_threads()
        # Idle threads would keep the cores from those that decode pictures.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            _export_module(module, sample), options, providers=["CPUExecutionProvider"]
        )

    def run(self, x: FloatArray) -> tuple[FloatArray, ...]:
        return tuple(self._session.run(None, {"x": x}))


def _export_module(module: nn.Module, sample: Tensor) -> bytes:
    """The module in ONNX's format, with a free number of inputs."""
    with torch.no_grad():
        outputs = [f"output{position}" for position in range(len(module(sample)))]
    target = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the newer exporter takes longer and needs one more package
        torch.onnx.export(
            module,
            (sample,),
            target,  # type: ignore[arg-type]  # the exporter takes it, and no file is left
            dynamo=False,
            opset_version=_OPSET,
            input_names=["x"],
            output_names=outputs,
            dynamic_axes={name: {0: "n"} for name in ("x", *outputs)},
        )
    return target.getvalue()
