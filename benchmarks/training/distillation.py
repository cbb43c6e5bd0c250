"""Neighbours and reconstructions with a teacher, without one, and of the teacher: Fashion-MNIST.

    python -m benchmarks.training.distillation --data DIR [--minutes 3] [--teacher-minutes 5] [--work DIR]

DIR holds fashion-mnist.npz. The teacher is a ResNet-18 of torchvision, trained on the labels of other training images
than those that simile gets: `simile encoders add` takes its weights, and `simile train --teacher` its neighbours. Both
trainings of simile have the same images, recipe, seed and minutes, and no labels.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from benchmarks.common.runs import make_parser, open_work_folder, read_array, simile, write_images
from simile.evaluation.neighbours import compute_label_scores, find_nearest
from simile.images.formats import DEFAULT_LIMITS, Pixels
from simile.images.loading.loader import read_arrays
from simile.models.inference.encoder import TrainedEncoder
from simile.models.networks.backbones import import_torchvision
from simile.search.encoder_registry import find_encoder
from simile.store.home import Home
from simile.store.index.metric import make_index_vectors

TEACHER_IMAGES, IMAGES, QUERIES = 20_000, 10_000, 2_000
SIDE = 32  # of the teacher's input
PREPROCESS = {
    "size": SIDE, "fit": "stretch", "resampling": "bilinear", "order": "rgb", "range": [0, 1],
    "mean": [0.5, 0.5, 0.5], "deviation": [0.5, 0.5, 0.5],
}  # fmt: skip
NEIGHBOURS = 10
TIMED_IMAGES, TIMED_RUNS = 256, 5

Rows = NDArray[np.int64]


def main() -> None:
    """Parse the options and run the benchmark."""
    parser = make_parser(__doc__, data=True, work=True)
    parser.add_argument("--minutes", type=float, default=3, help="of each training of simile")
    parser.add_argument("--teacher-minutes", type=float, default=5, help="of the training of the teacher")
    parser.add_argument("--recipe", default="perceptual")
    parser.add_argument("--weight", type=float, help="--teacher-weight, instead of the recipe's")
    options = parser.parse_args()
    with open_work_folder(options.work) as work:
        run(options, work)


@dataclass(frozen=True, kw_only=True)
class Images:
    """The searched images and the queries: folders of files named by row, and their labels."""

    base: Path
    base_labels: NDArray[np.int64]
    queries: Path
    query_labels: NDArray[np.int64]


def run(options: argparse.Namespace, work: Path) -> None:
    """Train the teacher and two encoders, and print the table."""
    data = options.data
    order = np.random.default_rng(0).permutation(60_000)
    of_teacher, of_base = order[:TEACHER_IMAGES], order[TEACHER_IMAGES : TEACHER_IMAGES + IMAGES]
    pixels, labels = read_array(data, "fashion-mnist", "x_train"), read_labels(data, "y_train")
    images = Images(
        base=work / "images",
        base_labels=labels[of_base],
        queries=work / "queries",
        query_labels=read_labels(data, "y_test")[:QUERIES],
    )
    write_images(images.base, pixels[of_base])
    write_images(images.queries, read_array(data, "fashion-mnist", "x_test")[:QUERIES])
    home = Home(work / "home")
    if not home.root.exists():
        train_teacher(pixels[of_teacher], labels[of_teacher], options.teacher_minutes, work / "teacher.safetensors")
        (work / "preprocess.json").write_text(json.dumps(PREPROCESS))
        simile(
            *("encoders", "add", work / "teacher.safetensors", "--architecture", "resnet18", "--name", "teacher"),
            *("--preprocess", work / "preprocess.json"),
            home=home.root,
        )
    weight = [] if options.weight is None else ["--teacher-weight", options.weight]
    same = ["--recipe", options.recipe, "--minutes", options.minutes, "--from", "none"]
    encoders = {"teacher": "teacher"}
    for name, others in (("without teacher", []), ("with teacher", ["--teacher", "teacher", *weight])):
        before = {path.name for path in home.encoders.iterdir()}
        simile("train", images.base, *same, *others, home=home.root)
        (encoders[f"{options.recipe}, {name}"],) = {path.name for path in home.encoders.iterdir()} - before
    print(f"{'encoder':<28}{'numbers':>8}{'precision@10':>14}{'vote of 5':>11}{'overlap':>9}{'MSE':>9}{'ms/image':>10}")
    neighbours = None
    for name, reference in encoders.items():
        nearest = report(name, find_encoder(home, reference, "cpu"), images, neighbours)
        neighbours = nearest if neighbours is None else neighbours


def read_labels(data: Path, name: str) -> NDArray[np.int64]:
    """Return labels of Fashion-MNIST."""
    return read_array(data, "fashion-mnist", name).astype(np.int64)


def train_teacher(images: NDArray[np.uint8], labels: NDArray[np.int64], minutes: float, file: Path) -> None:
    """Train a ResNet-18 on labels, with shifts and mirrors, and write its weights."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # more are slower on a busy machine
    network: nn.Module = import_torchvision().models.resnet18(num_classes=10)
    network.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=0.05)
    random, started, step = np.random.default_rng(0), time.monotonic(), 0
    while (share := (time.monotonic() - started) / (60 * minutes)) < 1:
        rows = random.choice(len(images), 64, replace=False)
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * max(0.01, 1 - share)
        x = prepare(images[rows])
        if step % 2:
            x = x.flip(3)
        loss = F.cross_entropy(network(x), torch.from_numpy(labels[rows]), label_smoothing=0.1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        step += 1
    print(f"teacher: {step} steps, loss {loss.item():.3f}", flush=True)
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, file)


def prepare(images: NDArray[np.uint8]) -> torch.Tensor:
    """Return grey images (n, 28, 28) as the teacher receives them, (n, 3, SIDE, SIDE)."""
    x = torch.from_numpy(images)[:, None].float() / 255
    return ((F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True) - 0.5) / 0.5).expand(-1, 3, -1, -1)


def report(name: str, encoder: TrainedEncoder, images: Images, teacher: Rows | None) -> Rows:
    """Print a row of the table, and return the rows of the nearest images of each query.

    Args:
        teacher: What this function returned for the teacher.
    """
    preprocessing = encoder.preprocessing
    base, queries = (
        read_arrays(sorted(map(str, folder.glob("*.png"))), preprocessing, DEFAULT_LIMITS, 1).images
        for folder in (images.base, images.queries)
    )
    mu = encoder.encode(queries).mu
    vectors = [make_index_vectors(x, encoder.index_dims, encoder.metric) for x in (encoder.encode(base).mu, mu)]
    scores = compute_label_scores(vectors[0], images.base_labels, vectors[1], images.query_labels)
    nearest = find_nearest(vectors[0], vectors[1], NEIGHBOURS).rows
    overlap = "—"
    if teacher is not None:
        shared = [len(np.intersect1d(*pair)) for pair in zip(nearest, teacher, strict=True)]
        overlap = f"{np.mean(shared) / NEIGHBOURS:.3f}"
    errors = encoder.compute_errors(queries, mu)
    error = "—" if errors is None else f"{errors.mean():.4f}"
    seconds = min(time_encoding(encoder, queries[:TIMED_IMAGES]) for _ in range(TIMED_RUNS))
    print(
        f"{name:<28}{vectors[0].shape[1]:>8}{scores.precision.mean():>14.4f}{scores.vote.mean():>11.4f}{overlap:>9}"
        f"{error:>9}{1000 * seconds / TIMED_IMAGES:>10.3f}",
        flush=True,
    )
    return nearest


def time_encoding(encoder: TrainedEncoder, images: Pixels) -> float:
    """Return the seconds that one call takes."""
    started = time.perf_counter()
    encoder.encode(images)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
