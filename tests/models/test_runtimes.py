"""Runtimes: what runs a network, checked against eager torch."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from simile.core.errors import BadSetting
from simile.core.records import FloatArray
from simile.models.inference.parity import MAX_DISPLACEMENT, RuntimeParity, compare_outputs, make_smooth_images
from simile.models.inference.runtimes import (
    EAGER_INPUT_COUNT,
    RUNTIME_SAMPLE_SIZE,
    DecoderModule,
    EncoderModule,
    LazyRuntime,
    TorchRuntime,
    get_runtime_candidates,
    has_fast_bfloat16,
    make_runtime,
)
from simile.models.networks.architecture import Architecture
from simile.models.networks.vae import Network

CPU = torch.device("cpu")
FAST_BFLOAT16 = has_fast_bfloat16(CPU)
KINDS = ("convolutional", "residual", "dense")


def network(kind: str = "convolutional", variational: bool = True) -> Network:
    torch.manual_seed(0)
    sizes = {"image_size": 28, "channels": 1, "latent_dim": 8, "width": 8}
    return Network(Architecture(**sizes, kind=kind, variational=variational)).eval()


def images(count: int) -> FloatArray:
    return make_smooth_images(count, 1, 28)


@pytest.mark.parametrize("kind", KINDS)
def test_openvino_encodes_as_torch_does_in_batches_of_any_size(kind: str) -> None:
    module = EncoderModule(network(kind))
    eager, fast = TorchRuntime(module, CPU), make_runtime(module, images(RUNTIME_SAMPLE_SIZE), "openvino", CPU)
    assert fast.name == "openvino-fp32"
    for count in (40, 1, 3, 40):
        expected, found = eager.run(images(count)), fast.run(images(count))
        assert [output.shape for output in found] == [(count, 8), (count, 8)]
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_allclose(other, one, rtol=0, atol=1e-5 * float(np.abs(one).max()))


def test_an_encoder_without_a_variance_has_one_output() -> None:
    module = EncoderModule(network(variational=False))
    fast = make_runtime(module, images(RUNTIME_SAMPLE_SIZE), "openvino", CPU)
    assert [output.shape for output in fast.run(images(5))] == [(5, 8)]


@pytest.mark.parametrize("kind", KINDS)
def test_openvino_decodes_as_torch_does(kind: str) -> None:
    module = DecoderModule(network(kind))
    z = np.random.default_rng(0).standard_normal((RUNTIME_SAMPLE_SIZE, 8)).astype(np.float32)
    fast = make_runtime(module, z, "openvino", CPU)
    assert fast.name == "openvino-fp32"
    (found,), (expected,) = fast.run(z[:5]), TorchRuntime(module, CPU).run(z[:5])
    assert found.shape == (5, 1, 28, 28)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_onnxruntime_encodes_and_decodes_as_torch_does() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    z = np.random.default_rng(0).standard_normal((RUNTIME_SAMPLE_SIZE, 8)).astype(np.float32)
    for module, sample in ((EncoderModule(network()), images(RUNTIME_SAMPLE_SIZE)), (DecoderModule(network()), z)):
        fast = make_runtime(module, sample, "onnxruntime", CPU)
        assert fast.name == "onnxruntime-fp32"
        for part in (sample, sample[:1], sample[:3]):
            for one, other in zip(TorchRuntime(module, CPU).run(part), fast.run(part), strict=True):
                np.testing.assert_allclose(other, one, rtol=0, atol=1e-5 * float(np.abs(one).max()))


@pytest.mark.skipif(not FAST_BFLOAT16, reason="this processor has no bfloat16 instructions")
def test_bfloat16_is_used_where_it_is_asked_for_and_only_there() -> None:
    module = EncoderModule(network())
    coarse = make_runtime(module, images(RUNTIME_SAMPLE_SIZE), "openvino-bf16", CPU)
    assert coarse.name == "openvino-bf16"
    sample = images(RUNTIME_SAMPLE_SIZE)
    agreement = compare_outputs(TorchRuntime(module, CPU).run(sample), coarse.run(sample))
    assert agreement.get_rejection_reason(exact=False) is None
    assert agreement.displacement > MAX_DISPLACEMENT  # it would not keep nearest neighbours
    assert all(not candidate.needs_bfloat16 for candidate in get_runtime_candidates("auto", CPU))


def test_an_image_alone_and_in_a_batch_get_the_same_vector_every_time() -> None:
    fast = make_runtime(EncoderModule(network()), images(RUNTIME_SAMPLE_SIZE), "openvino", CPU)
    together, again = fast.run(images(20))[0], fast.run(images(20))[0]
    alone = np.concatenate([fast.run(images(20)[row : row + 1])[0] for row in range(20)])
    np.testing.assert_array_equal(together, again)
    assert np.abs(alone - together).max() <= 1e-5 * np.abs(together).max()


def test_many_threads_get_what_one_gets() -> None:
    fast = make_runtime(EncoderModule(network()), images(RUNTIME_SAMPLE_SIZE), "openvino", CPU)
    batches = [images(40)[start : start + 1 + start % 5] for start in range(30)]
    expected = [fast.run(batch)[0] for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        for one, other in zip(expected, pool.map(lambda batch: fast.run(batch)[0], batches * 4), strict=False):
            np.testing.assert_allclose(other, one, rtol=0, atol=1e-5)


@pytest.mark.parametrize("wanted", ["torch", "openvino"])
def test_outputs_are_kept_when_the_next_batch_runs_and_inputs_may_be_read_only(wanted: str) -> None:
    fast = make_runtime(EncoderModule(network()), images(RUNTIME_SAMPLE_SIZE), wanted, CPU)
    first, second = images(2)[:1].copy(), images(2)[1:]
    first.flags.writeable = False
    found = fast.run(first)[0]
    kept = found.copy()
    fast.run(second)
    np.testing.assert_array_equal(found, kept)


class AloneOtherwise(EncoderModule):
    """Gives an image that is alone another vector: a branch that a traced graph does not have."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        mu, log_variance = super().forward(x)
        return (mu + 1, log_variance) if len(x) == 2 else (mu, log_variance)


def test_a_runtime_that_gives_something_else_gives_way_to_torch_with_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        fast = make_runtime(AloneOtherwise(network()), images(RUNTIME_SAMPLE_SIZE), "auto", CPU)
    assert fast.name == "torch-fp32"
    (line,) = caplog.messages
    assert "runs on torch-fp32: openvino-fp32 differs from eager torch by" in line


class Unconvertible(EncoderModule):
    """Leaves torch in the middle, which no traced graph can."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.special.bessel_j0(output) for output in super().forward(x))


def test_a_network_that_can_not_be_converted_runs_on_torch(caplog: pytest.LogCaptureFixture) -> None:
    fast = make_runtime(Unconvertible(network()), images(RUNTIME_SAMPLE_SIZE), "openvino", CPU)
    assert fast.name == "torch-fp32"
    assert "openvino-fp32 can't run it" in caplog.messages[0]


def test_a_package_that_is_not_there_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for package in ("openvino", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, None)
    fast = make_runtime(EncoderModule(network()), images(RUNTIME_SAMPLE_SIZE), "auto", CPU)
    assert fast.name == "torch-fp32"
    (line,) = caplog.messages
    assert "openvino-fp32 is not installed" in line and "onnxruntime-fp32 is not installed" in line


class Cancelling(EncoderModule):
    """A large number is added and taken away again: float32 has digits to spare for it, bfloat16 has not."""

    def __init__(self, of: Network) -> None:
        super().__init__(of)
        self.add, self.subtract = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
        with torch.no_grad():
            self.add.weight.copy_(torch.eye(8))
            self.add.bias.fill_(10)
            self.subtract.weight.copy_(torch.eye(8) - torch.ones(8, 8) / 8)
            self.subtract.bias.zero_()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.subtract(torch.relu(self.add(super().forward(x)[0]))),)


@pytest.mark.skipif(not FAST_BFLOAT16, reason="this processor has no bfloat16 instructions")
def test_where_bfloat16_is_too_coarse_the_same_engine_runs_in_float32(caplog: pytest.LogCaptureFixture) -> None:
    fast = make_runtime(Cancelling(network()), images(RUNTIME_SAMPLE_SIZE), "openvino-bf16", CPU)
    assert fast.name == "openvino-fp32"
    (line,) = caplog.messages
    assert "runs on openvino-fp32: openvino-bf16" in line


@pytest.mark.skipif(not FAST_BFLOAT16, reason="this processor has no bfloat16 instructions")
def test_without_a_compiler_nothing_is_compiled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    fast = make_runtime(EncoderModule(network()), images(RUNTIME_SAMPLE_SIZE), "compile", CPU)
    assert fast.name == "openvino-bf16"
    (line,) = caplog.messages
    assert "torch.compile needs a C++ compiler" in line


def test_a_broken_network_stays_with_torch_and_keeps_its_nan() -> None:
    broken = network()
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    fast = make_runtime(EncoderModule(broken), images(RUNTIME_SAMPLE_SIZE), "auto", CPU)
    assert fast.name == "torch-fp32"
    assert np.isnan(fast.run(images(2))[0]).any()


def test_an_unknown_runtime_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(BadSetting, match=r"runtime can't be 'tensorrt'. Use auto, torch, openvino, openvino-bf16"):
        LazyRuntime(EncoderModule(network()), lambda: images(RUNTIME_SAMPLE_SIZE), "tensorrt", CPU)


def test_on_a_gpu_torch_runs_the_network() -> None:
    assert get_runtime_candidates("auto", torch.device("cuda")) == ()
    assert get_runtime_candidates("torch", CPU) == ()


def on_demand(wanted: str) -> LazyRuntime:
    return LazyRuntime(EncoderModule(network()), lambda: images(RUNTIME_SAMPLE_SIZE), wanted, CPU)


def test_torch_runs_the_first_images_and_a_faster_runtime_the_others() -> None:
    runtime = on_demand("auto")
    names = []
    for count in (1, EAGER_INPUT_COUNT - 1, 1, 1):
        runtime.run(np.resize(images(1), (count, 1, 28, 28)))
        names.append(runtime.name)
    assert names == ["torch-fp32", "torch-fp32", "openvino-fp32", "openvino-fp32"]


def test_a_runtime_that_was_prepared_or_asked_for_runs_from_the_first_image_on() -> None:
    prepared, asked = on_demand("auto"), on_demand("openvino")
    assert asked.name == "torch-fp32"  # nothing ran yet, and nothing was made
    prepared.start()
    for runtime in (prepared, asked):
        runtime.run(images(1))
        assert runtime.name == "openvino-fp32"


def test_threads_that_come_first_make_one_runtime() -> None:
    runtime = on_demand("openvino")
    with ThreadPoolExecutor(8) as pool:
        made = set(map(id, pool.map(lambda _: runtime.start(), range(16))))
    assert len(made) == 1


SCRIPT = """
import sys, warnings
warnings.simplefilter("error")
import torch
from simile.models.inference.parity import make_smooth_images
from simile.models.networks.architecture import Architecture; from simile.models.networks.vae import Network
from simile.models.inference.runtimes import EncoderModule, make_runtime
module = EncoderModule(Network(Architecture(image_size=28, channels=1, latent_dim=8, width=8)))
assert make_runtime(module, make_smooth_images(4, 1, 28), "openvino", torch.device("cpu")).name == "openvino-fp32"
assert not [name for name in sys.modules if "telemetry" in name and "openvino" in name]
"""


@pytest.mark.real_processes
def test_openvino_reports_nothing_says_nothing_and_leaves_no_file(tmp_path: Path) -> None:
    """Importing it as usual writes ~/intel and sends an event to a statistics server."""
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PYTHONPATH": str(root / "src")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.rglob("*")) == []


DROPPED = """
import gc, signal, threading
import torch
from simile.models.inference.engines import OpenvinoRuntime
runtimes = [OpenvinoRuntime(torch.nn.Sequential(torch.nn.Linear(4, 3)).eval(), torch.zeros(2, 4), "fp32") for _ in "ab"]
caught = []
signal.signal(signal.SIGINT, lambda number, frame: caught.append(number))
def drop():
    while runtimes:
        runtimes.pop(0)  # in the order in which they were made
        gc.collect()
{drop}
signal.raise_signal(signal.SIGINT)
print(caught == [signal.SIGINT])
"""


@pytest.mark.parametrize("drop", ["drop()", "thread = threading.Thread(target=drop); thread.start(); thread.join()"])
def test_a_signal_reaches_a_process_that_has_dropped_its_openvino_runtimes(drop: str) -> None:
    """The plugin frees the signal stack of the thread that loaded it: Ctrl-C ended the demo with SIGSEGV."""
    root = Path(__file__).resolve().parents[2]
    code = DROPPED.format(drop=drop)
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_agreement_is_measured_as_its_limits_are_meant() -> None:
    eager = np.array([[1.0, 0.0], [0.0, 2.0]], dtype=np.float32)
    moved = eager + np.array([[0.0, 0.0], [0.0, 0.1]], dtype=np.float32)
    found = compare_outputs([eager], [moved])
    assert found.difference == pytest.approx(0.05)  # 0.1 of 2
    assert found.cosine == pytest.approx(1.0)
    assert found.displacement == pytest.approx(0.1 / 5**0.5)
    turned = compare_outputs([eager], [np.array([[0.0, 1.0], [0.0, 2.0]], dtype=np.float32)])
    assert turned.cosine == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("agreement", "exact", "reason"),
    [
        (RuntimeParity(0.019, 0.99991, 0.01), False, None),
        (RuntimeParity(0.019, 0.99991, 0.01), True, "moves vectors"),
        (RuntimeParity(0.021, 1.0, 0.0), False, "differs"),
        (RuntimeParity(0.0, 0.99989, 0.0), False, "cosine"),
        (RuntimeParity(float("nan"), float("nan"), float("nan")), False, "differs"),
    ],
)
def test_limits_refuse_what_is_beyond_them(agreement: RuntimeParity, exact: bool, reason: str | None) -> None:
    found = agreement.get_rejection_reason(exact)
    assert found is None if reason is None else reason in (found or "")


def test_smooth_images_are_images_and_always_the_same() -> None:
    first, second = make_smooth_images(6, 3, 32), make_smooth_images(6, 3, 32)
    np.testing.assert_array_equal(first, second)
    assert 0 <= first.min() < 0.2 and 0.8 < first.max() <= 1
    steps = np.abs(np.diff(first, axis=3)).mean()
    assert steps < 0.3 * first.std()  # neighbouring pixels are alike
