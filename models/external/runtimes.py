"""Run external models: an ONNX graph in ONNX Runtime or OpenVINO, an OpenVINO graph, or a plug-in.

ONNX Runtime is the reference for ONNX, as torch is for simile's own networks: where both engines are installed,
OpenVINO is used if its vectors agree (models/inference/parity.py). All of them run on the CPU, except plug-ins.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Lock

import numpy as np

from simile.core.errors import BadSetting, NotFinite
from simile.core.records import FloatArray
from simile.models.external.onnx_file import read_onnx
from simile.models.external.plugins import PluginRuntime
from simile.models.inference.engines import OnnxModel, OpenvinoModel, shared_core
from simile.models.inference.parity import compare_outputs
from simile.models.inference.runtimes import Runtime
from simile.models.networks.external import ExternalModel

log = logging.getLogger(__name__)

INSTALL_HINT = "pip install 'simile[onnxruntime]'"
_NOT_INSTALLED = "onnxruntime is not installed"
_LENGTH_BYTES = 8  # before the XML of an OpenVINO graph, which its weights follow


class ExternalRuntime:
    """Runs an external model. It is loaded with the first input, or by `start`. Thread-safe."""

    def __init__(self, model: ExternalModel, sample: Callable[[], FloatArray], runtime_name: str) -> None:
        self._make: Callable[[], Runtime] = lambda: make_external_runtime(model, sample(), runtime_name)
        self._runtime: Runtime | None = None
        self._lock = Lock()

    @property
    def name(self) -> str:
        """Name of the runtime."""
        return self.start().name

    @property
    def eager(self) -> Runtime:
        """The runtime itself: there is no other."""
        return self.start()

    def run(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Return the vectors (n, d) for inputs (n, C, S, S)."""
        (output,) = self.start().run(x)
        return (to_vectors(output, len(x)),)

    def start(self) -> Runtime:
        """Load the model now. Raises BadSetting if no engine can."""
        with self._lock:
            if self._runtime is None:
                self._runtime = self._make()
            return self._runtime


def to_vectors(output: FloatArray, count: int) -> FloatArray:
    """Return an output (n, d) or (n, d, 1, 1) as vectors (n, d), float32. Raises BadSetting for another shape."""
    if output.ndim < 2 or len(output) != count or any(side != 1 for side in output.shape[2:]):
        raise BadSetting(
            f"The output has the shape {output.shape} for {count} images. It must be one vector for each image: export "
            "the network with its pooling, or name another output."
        )
    return np.ascontiguousarray(output.reshape(count, -1), np.float32)


def make_external_runtime(model: ExternalModel, sample: FloatArray, runtime_name: str) -> Runtime:
    """Load a model.

    Args:
        sample: Inputs (n, C, S, S) for the comparison of two engines.
        runtime_name: "onnxruntime" leaves out the comparison; "openvino" and the others have no other meaning.

    Raises:
        BadSetting: No engine can load it.
    """
    if model.kind == "plugin":
        return PluginRuntime(model)
    runtimes: list[Runtime] = []
    failures: list[str] = []
    makers: list[tuple[str, Callable[[ExternalModel], Runtime]]] = [("openvino", make_openvino_model)]
    if model.kind == "onnx":
        read_onnx(model.get_bytes(), "The encoder's graph")
        makers.insert(0, ("onnxruntime", _make_onnx_model))
    for name, make in makers:
        try:
            runtimes.append(make(model))
        except ImportError:
            failures.append(_NOT_INSTALLED if name == "onnxruntime" else f"{name} is not installed")
        except Exception as error:  # noqa: BLE001  # engines raise errors of any type
            failures.append(f"{name} can't load it ({get_first_line(error)})")
    if not runtimes:
        hint = f" Another engine: {INSTALL_HINT}." if _NOT_INSTALLED in failures else ""
        raise BadSetting(f"No engine can run the encoder: {'; '.join(failures)}.{hint}")
    reference = runtimes[0]
    if len(runtimes) == 1 or runtime_name == "onnxruntime":
        return reference
    faster = runtimes[1]
    reason = get_disagreement(reference, faster, sample)
    if reason:
        log.warning("the external encoder runs on %s: %s %s", reference.name, faster.name, reason)
    return reference if reason else faster


def get_disagreement(reference: Runtime, faster: Runtime, sample: FloatArray) -> str | None:
    """Return why the vectors of the second runtime are not those of the first; None if they are."""
    try:
        expected, found = (to_vectors(runtime.run(sample)[0], len(sample)) for runtime in (reference, faster))
    except Exception as error:  # noqa: BLE001  # engines raise errors of any type
        return f"can't run it ({get_first_line(error)})"
    if not np.isfinite(expected).all():
        raise NotFinite("The external encoder gave NaN or infinity. Export it again.")
    return compare_outputs([expected], [found]).get_rejection_reason(True, reference.name)


def make_openvino_model(model: ExternalModel) -> OpenvinoModel:
    """Load an ONNX or OpenVINO graph in OpenVINO. Raises ImportError, RuntimeError."""
    core, content = shared_core(), model.get_bytes()
    if model.kind == "openvino":
        start = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
        return OpenvinoModel(core.read_model(content[_LENGTH_BYTES:start], content[start:]), output=0)
    graph = core.read_model(content)
    names = [port.get_names() for port in graph.outputs]
    return OpenvinoModel(graph, output=next(position for position, known in enumerate(names) if model.entry in known))


def pack_openvino(xml: bytes, weights: bytes) -> bytes:
    """Return the content of an external model of the kind openvino."""
    return len(xml).to_bytes(_LENGTH_BYTES, "little") + xml + weights


def get_first_line(error: Exception) -> str:
    """Return the message of an engine's error, without the places in its source."""
    lines = [line.strip() for line in str(error).splitlines()]
    messages = [line for line in lines if line and not line.startswith(("Exception from", "Check '", "Summary"))]
    return " ".join(messages[:2])[:300] or type(error).__name__


def _make_onnx_model(model: ExternalModel) -> OnnxModel:
    return OnnxModel(model.get_bytes(), model.entry)
