"""Speed and accuracy of each runtime, compared with eager torch in float32 in one run.

    python -m benchmarks.search.runtimes [--encoder FOLDER | --architecture convolutional] [--photos DIR] [--compile]

Without --encoder a network with seeded weights is measured: images 3x64x64, and 1.7 million parameters in the
convolutional encoder. Without --photos the images are smooth random ones. The runtimes take turns, so that other load
affects all of them; the ratio is the median of the ratios within each repeat.

start: seconds until a runtime is imported, made and checked (an import counts only the first time). moved: the largest
displacement of a vector, divided by the median distance between two vectors. same neighbour: the share of up to 1,000
images whose nearest other image is the same with both runtimes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common.runs import make_parser
from simile.core.records import FloatArray
from simile.images.formats import Limits
from simile.images.loading.loader import read_arrays
from simile.images.sources.sources import walk_sources
from simile.images.transforms import scale_to_unit
from simile.models.inference.encoder import TrainedEncoder
from simile.models.inference.parity import compare_outputs, make_smooth_images
from simile.models.inference.runtimes import (
    RUNTIME_SAMPLE_SIZE,
    DecoderModule,
    EncoderModule,
    Runtime,
    TorchRuntime,
    get_runtime_candidates,
    has_fast_bfloat16,
    make_runtime,
)
from simile.models.networks.architecture import Architecture
from simile.models.networks.vae import Network
from simile.store.index.metric import make_index_vectors

CPU = torch.device("cpu")
BATCH, SINGLES, QUERIES, MOST_IMAGES = 256, 40, 1000, 10_000
NAMES = ("torch", "openvino", "openvino-bf16", "onnxruntime")


@dataclass
class RuntimeTimes:
    """One runtime, and its seconds for batches and single images."""

    runtime: Runtime
    start: float
    batches: list[float] = field(default_factory=list)
    singles: list[float] = field(default_factory=list)


def main() -> None:
    """Parse the options and run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--encoder", type=Path, help="folder of a trained encoder")
    parser.add_argument("--architecture", default="convolutional", help="of a network with seeded weights")
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--compile", action="store_true", help="also torch.compile: needs a minute and a C++ compiler")
    parser.add_argument("--threads", type=int, default=0, help="of each runtime [default: torch's choice]")
    parser.add_argument("--repeats", type=int, default=12)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    network, indexed, x = load(options.encoder, options.architecture, options.photos)
    names = (*NAMES, "compile") if options.compile else NAMES
    bfloat16 = "with" if has_fast_bfloat16(CPU) else "without"
    print(f"{len(x)} images {x.shape[1:]}, {torch.get_num_threads()} threads, {bfloat16} bfloat16 instructions")

    encoding = EncoderModule(network)
    print(f"\nencoding: {count_parameters(network.encoder)} parameters")
    report(encoding, x, names, options.repeats, indexed)
    if network.architecture.decoder:
        mu = np.concatenate([TorchRuntime(encoding, CPU).run(x[part])[0] for part in make_slices(len(x))])
        print("\ndecoding")
        report(DecoderModule(network), mu, names, options.repeats)


def load(
    folder: Path | None, architecture: str, photos: Path | None
) -> tuple[Network, Callable[[FloatArray], FloatArray], FloatArray]:
    """Return network, function from mu to indexed vectors, and images (n, C, S, S) in [0, 1]."""
    if folder is None:
        torch.manual_seed(0)
        network = Network(Architecture(image_size=64, channels=3, latent_dim=128, kind=architecture)).eval()
        return network, lambda mu: mu, make_smooth_images(1024, 3, 64)
    encoder = TrainedEncoder.load(folder, "cpu")
    spec = encoder.preprocessing

    def indexed(mu: FloatArray) -> FloatArray:
        return make_index_vectors(mu, encoder.index_dims, encoder.metric)

    if photos is None:
        return encoder.network, indexed, make_smooth_images(1024, spec.channels, spec.image_size)
    paths = [file.path for file in walk_sources([photos]).files][:MOST_IMAGES]
    return encoder.network, indexed, scale_to_unit(read_arrays(paths, spec, Limits(), 0).images)


def report(
    module: EncoderModule | DecoderModule,
    inputs: FloatArray,
    names: tuple[str, ...],
    repeats: int,
    indexed: Callable[[FloatArray], FloatArray] | None = None,
) -> None:
    """Print a table. `indexed` turns the first output into the vectors that a search compares."""
    rows = [row for row in (start(module, inputs[:RUNTIME_SAMPLE_SIZE], name) for name in names) if row is not None]
    for _ in range(repeats):
        for row in rows:
            measure(row, inputs)
    chosen = make_runtime(module, inputs[:RUNTIME_SAMPLE_SIZE], "auto", CPU).name
    eager = rows[0]
    expected = outputs(eager.runtime, inputs)
    print(
        f"{'runtime':<18}{'images/s':>11}{'ratio':>7}{'one, ms':>9}{'ratio':>7}{'cosine':>11}{'difference':>12}"
        f"{'moved':>9}{'same neighbour':>16}{'start, s':>10}"
    )
    for row in rows:
        found = outputs(row.runtime, inputs)
        agreement = compare_outputs([expected], [found])
        moved = "" if indexed is None else f"{agreement.displacement:.1e}"
        same = "" if indexed is None else f"{same_neighbour(indexed(expected), indexed(found)):.1%}"
        print(
            f"{row.runtime.name + (' *' if row.runtime.name == chosen else ''):<18}"
            f"{BATCH / np.median(row.batches):>11,.0f}{ratio(eager.batches, row.batches):>7.1f}"
            f"{1000 * np.median(row.singles):>9.2f}{ratio(eager.singles, row.singles):>7.1f}"
            f"{agreement.cosine:>11.7f}{agreement.difference:>12.1e}{moved:>9}"
            f"{same:>16}{row.start:>10.2f}",
            flush=True,
        )
    print("* chosen by `auto`")


def start(module: EncoderModule | DecoderModule, sample: FloatArray, name: str) -> RuntimeTimes | None:
    """Start a runtime, even if it is too inexact to be chosen by `auto`; return None if it is not installed."""
    started = time.perf_counter()
    if name == "torch":
        return RuntimeTimes(TorchRuntime(module, CPU), 0.0)
    try:
        runtime = get_runtime_candidates(name, CPU)[0].make(module, torch.from_numpy(sample[:2]))
    except ImportError as error:
        print(f"not installed: {name} ({error})")
        return None
    compare_outputs(TorchRuntime(module, CPU).run(sample), runtime.run(sample))  # `make_runtime` also checks it
    return RuntimeTimes(runtime, time.perf_counter() - started)


def measure(row: RuntimeTimes, inputs: FloatArray) -> None:
    """Time single images and a batch once."""
    batch, single = np.resize(inputs, (BATCH, *inputs.shape[1:])), inputs[:1].copy()
    time.sleep(0.02)  # until the threads of the previous runtime are idle
    row.runtime.run(single)
    for _ in range(SINGLES):
        started = time.perf_counter()
        row.runtime.run(single)
        row.singles.append(time.perf_counter() - started)
    started = time.perf_counter()
    row.runtime.run(batch)
    row.batches.append(time.perf_counter() - started)


def ratio(eager: list[float], fast: list[float]) -> float:
    """Return how many times faster it is: the median of the ratios within each repeat."""
    return float(np.median(np.array(eager) / np.array(fast)))


def outputs(runtime: Runtime, inputs: FloatArray) -> FloatArray:
    """Return the first output for all inputs, one row each."""
    found = [runtime.run(inputs[part])[0] for part in make_slices(len(inputs))]
    return np.concatenate(found).reshape(len(inputs), -1)


def same_neighbour(eager: FloatArray, fast: FloatArray) -> float:
    """Return the share of up to QUERIES images whose nearest other image is the same."""
    queries = np.random.default_rng(0).permutation(len(eager))[:QUERIES]
    return float((nearest(eager, queries) == nearest(fast, queries)).mean())


def nearest(vectors: FloatArray, queries: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the rows of `vectors` (n, d) nearest to the rows `queries`, without the queries."""
    base = vectors.astype(np.float64)
    distances = (
        np.square(base).sum(1) - 2 * base[queries] @ base.T
    )  # (queries, n), without the constant term of each row
    distances[np.arange(len(queries)), queries] = np.inf
    found: NDArray[np.intp] = distances.argmin(1)
    return found


def count_parameters(module: torch.nn.Module) -> str:
    """Return the formatted number of parameters."""
    return f"{sum(parameter.numel() for parameter in module.parameters()):,}"


def make_slices(count: int) -> list[slice]:
    """Return slices of BATCH rows."""
    return [slice(first, first + BATCH) for first in range(0, count, BATCH)]


if __name__ == "__main__":
    main()
