"""The engines of external models: which one is used, and what an error says."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from simile.core.errors import BadSetting
from simile.core.records import FloatArray
from simile.models.external import runtimes
from simile.models.external.inspection import build_external_network, make_architecture, make_sample
from simile.models.external.preprocess import parse_preprocessing
from simile.models.external.runtimes import ExternalRuntime, make_external_runtime, make_openvino_model
from simile.models.inference.runtimes import Runtime
from simile.models.networks.external import ExternalModel
from tests.models.external import model_files as models

PREPROCESSING = parse_preprocessing(models.PREPROCESS, "test", "#ffffff")
SAMPLE = make_sample(PREPROCESSING)


class OtherEngine:
    """Stands for ONNX Runtime: gives what OpenVINO gives, moved by `error`."""

    name = "onnxruntime-fp32"

    def __init__(self, runtime: Runtime, error: float) -> None:
        self._runtime, self._error = runtime, error

    def run(self, x: FloatArray) -> tuple[FloatArray, ...]:
        (output,) = self._runtime.run(x)
        return (output + self._error * np.arange(len(x), dtype=np.float32)[:, None],)


def make_model(file: Path) -> ExternalModel:
    model = build_external_network(make_architecture("onnx", PREPROCESSING, 3, "vectors"), file.read_bytes())
    assert isinstance(model.encoder.trunk, ExternalModel)
    return model.encoder.trunk


@pytest.mark.parametrize(
    ("error", "wanted", "used"),
    [
        (0.0, "auto", "openvino-fp32"),
        (1e-7, "auto", "openvino-fp32"),
        (0.1, "auto", "onnxruntime-fp32"),
        (0.0, "onnxruntime", "onnxruntime-fp32"),
    ],
)
def test_openvino_is_used_only_if_it_keeps_the_neighbours_of_onnx_runtime(
    error: float,
    wanted: str,
    used: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = make_model(models.onnx_file(tmp_path / "a.onnx"))
    monkeypatch.setattr(runtimes, "_make_onnx_model", lambda model: OtherEngine(make_openvino_model(model), error))
    with caplog.at_level(logging.WARNING):
        runtime = ExternalRuntime(model, lambda: SAMPLE, wanted)
        assert runtime.name == used
    assert ("openvino-fp32 differs from onnxruntime-fp32" in caplog.text) == (error == 0.1)
    assert runtime.run(SAMPLE[:3])[0].shape == (3, 3)


def test_an_engine_that_is_missing_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_missing(_: ExternalModel) -> Runtime:
        raise ImportError

    model = make_model(models.onnx_file(tmp_path / "a.onnx", [models.node("Steal", ["colour"], ["vectors"])]))
    monkeypatch.setattr(runtimes, "_make_onnx_model", is_missing)
    with pytest.raises(BadSetting, match=r"openvino can't load it .*pip install 'simile\[onnxruntime\]'"):
        make_external_runtime(model, SAMPLE, "auto")
