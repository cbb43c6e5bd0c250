"""How fast and how exact each runtime is, against eager torch in float32, in one run.

    python -m benchmarks.search.runtimes [--encoder FOLDER | --architecture convolutional] [--photos DIR] [--compile]

Without --encoder a network with seeded weights is measured: pictures 3x64x64, and 1.7 million parameters in the
convolutional encoder. Without --photos the pictures are smooth random ones. Repeats of the runtimes take turns, so that
whatever else the machine does falls on all of them; the ratio is the median of the repeats' ratios.

start: seconds until a runtime has been imported, made and checked (an import counts where it comes first). moved: the
furthest that a vector moved, over the median distance between two of them. same neighbour: of up to 1,000 of the
pictures, those whose nearest other picture is the same with both runtimes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from simile.core.records import FloatArray
from simile.images.formats import Limits
from simile.images.loading.loader import read_arrays
from simile.images.sources.sources import walk_sources
from simile.images.transforms import scale_to_unit
from simile.models.inference.devices import has_fast_bfloat16
from simile.models.inference.encoder import TrainedEncoder
from simile.models.inference.parity import compare_outputs, make_smooth_images
from simile.models.inference.runtimes import (
    RUNTIME_SAMPLE_SIZE,
    DecoderModule,
    EncoderModule,
    Runtime,
    TorchRuntime,
    get_runtime_candidates,
    make_runtime,
)
from simile.models.networks.architecture import Architecture
from simile.models.networks.vae import Network
from simile.store.index.metric import make_index_vectors

CPU = torch.device("cpu")
BATCH, SINGLES, QUERIES, MOST_PICTURES = 256, 40, 1000, 10_000
NAMES = ("torch", "openvino", "openvino-bf16", "onnxruntime")


@dataclass
class Row:
    """One runtime, and the seconds that batches and single pictures took."""

    runtime: Runtime
    start: float
    batches: list[float] = field(default_factory=list)
    singles: list[float] = field(default_factory=list)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--encoder", type=Path, help="folder of a trained encoder")
    options.add_argument("--architecture", default="convolutional", help="of a network with seeded weights")
    options.add_argument("--photos", type=Path)
    options.add_argument("--compile", action="store_true", help="torch.compile too: takes a minute and a C++ compiler")
    options.add_argument("--threads", type=int, default=0, help="of each runtime [default: torch's choice]")
    options.add_argument("--repeats", type=int, default=12)
    given = options.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    network, indexed, x = load(given.encoder, given.architecture, given.photos)
    names = (*NAMES, "compile") if given.compile else NAMES
    bfloat16 = "with" if has_fast_bfloat16(CPU) else "without"
    print(f"{len(x)} pictures {x.shape[1:]}, {torch.get_num_threads()} threads, {bfloat16} bfloat16 instructions")

    encoding = EncoderModule(network)
    print(f"\nencoding: {count_parameters(network.encoder)} parameters")
    report(encoding, x, names, given.repeats, indexed)
    if network.architecture.decoder:
        mu = np.concatenate([TorchRuntime(encoding, CPU).run(x[part])[0] for part in parts(len(x))])
        print("\ndecoding")
        report(DecoderModule(network), mu, names, given.repeats)


def load(
    folder: Path | None, architecture: str, photos: Path | None
) -> tuple[Network, Callable[[FloatArray], FloatArray], FloatArray]:
    """Network, from mu to vectors as indexed, and pictures (n, C, S, S) in [0, 1]."""
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
    paths = [file.path for file in walk_sources([photos]).files][:MOST_PICTURES]
    return encoder.network, indexed, scale_to_unit(read_arrays(paths, spec, Limits(), 0).images)


def report(
    module: EncoderModule | DecoderModule,
    inputs: FloatArray,
    names: tuple[str, ...],
    repeats: int,
    indexed: Callable[[FloatArray], FloatArray] | None = None,
) -> None:
    """One table. `indexed`: from the first output to the vectors that a search compares."""
    rows = [row for row in (start(module, inputs[:RUNTIME_SAMPLE_SIZE], name) for name in names) if row is not None]
    for _ in range(repeats):
        for row in rows:
            measure(row, inputs)
    chosen = make_runtime(module, inputs[:RUNTIME_SAMPLE_SIZE], "auto", CPU).name
    eager = rows[0]
    expected = outputs(eager.runtime, inputs)
    print(
        f"{'runtime':<18}{'pictures/s':>11}{'ratio':>7}{'one, ms':>9}{'ratio':>7}{'cosine':>11}{'difference':>12}"
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


def start(module: EncoderModule | DecoderModule, sample: FloatArray, name: str) -> Row | None:
    """The runtime, even where it is not exact enough to be chosen; None where it is missing."""
    began = time.perf_counter()
    if name == "torch":
        return Row(TorchRuntime(module, CPU), 0.0)
    try:
        runtime = get_runtime_candidates(name, CPU)[0].make(module, torch.from_numpy(sample[:2]))
    except ImportError as error:
        print(f"left out: {name} ({error})")
        return None
    compare_outputs(TorchRuntime(module, CPU).run(sample), runtime.run(sample))  # as it is checked before it is used
    return Row(runtime, time.perf_counter() - began)


def measure(row: Row, inputs: FloatArray) -> None:
    batch, single = np.resize(inputs, (BATCH, *inputs.shape[1:])), inputs[:1].copy()
    time.sleep(0.02)  # until threads of the runtime before have come to rest
    row.runtime.run(single)
    for _ in range(SINGLES):
        began = time.perf_counter()
        row.runtime.run(single)
        row.singles.append(time.perf_counter() - began)
    began = time.perf_counter()
    row.runtime.run(batch)
    row.batches.append(time.perf_counter() - began)


def ratio(eager: list[float], fast: list[float]) -> float:
    """How many times faster: the median over repeats of the ratio within one repeat."""
    return float(np.median(np.array(eager) / np.array(fast)))


def outputs(runtime: Runtime, inputs: FloatArray) -> FloatArray:
    """The first output for all inputs, one row each."""
    found = [runtime.run(inputs[part])[0] for part in parts(len(inputs))]
    return np.concatenate(found).reshape(len(inputs), -1)


def same_neighbour(eager: FloatArray, fast: FloatArray) -> float:
    """Share of up to QUERIES pictures that have the same nearest other picture."""
    queries = np.random.default_rng(0).permutation(len(eager))[:QUERIES]
    return float((nearest(eager, queries) == nearest(fast, queries)).mean())


def nearest(vectors: FloatArray, queries: NDArray[np.intp]) -> NDArray[np.intp]:
    """Rows of `vectors` (n, d) that are nearest to those of `queries`, themselves left out."""
    base = vectors.astype(np.float64)
    distances = np.square(base).sum(1) - 2 * base[queries] @ base.T  # (queries, n), less what a row has in common
    distances[np.arange(len(queries)), queries] = np.inf
    found: NDArray[np.intp] = distances.argmin(1)
    return found


def count_parameters(module: torch.nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in module.parameters()):,}"


def parts(count: int) -> list[slice]:
    return [slice(first, first + BATCH) for first in range(0, count, BATCH)]


if __name__ == "__main__":
    main()
