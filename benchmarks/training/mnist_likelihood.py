"""log p(x) of MNIST by importance sampling: a dense VAE and a residual convolutional one, trained by `simile train`.

    python -m benchmarks.training.mnist_likelihood --data DIR [--kind dense|residual] [--minutes 90] [--quick] [--work DIR]

DIR holds mnist.npz (x_train (60000, 28, 28) uint8, x_test (10000, …)). Training draws each pixel anew as 0 or 1 every
time (dynamic binarisation); the test pictures are binarised once, with a seed. The estimate is that of Burda et al.
(arXiv 1509.00519), 5,000 samples a picture: the dense network on all test pictures, the residual one on a seeded 500
of them. --quick trains for a minute and takes fewer pictures and samples.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.common.simile_runs import encoder_of, report_of, simile, write_pictures
from simile.images.transforms import scale_to_unit
from simile.models.inference.encoder import TrainedEncoder
from simile.models.losses.elbo import count_active_units
from simile.models.losses.likelihood import elbo, importance_weighted_log_likelihood

SAMPLES, SEED = 5000, 0
OPTIONS = {
    "dense": "--architecture dense --image-size 28 --latent-dim 50 --batch-size 64 --learning-rate 2e-3 "
    "--kl-warmup-steps 20000",  # without the warm-up only 15 of the 50 dimensions are ever used
    "residual": "--architecture residual --width 16 --latent-dim 32 --batch-size 64",
}
SCORED = {"dense": 10_000, "residual": 500}  # test pictures


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--kind", choices=OPTIONS, action="append", help="may be given twice; default: both")
    options.add_argument("--minutes", type=float, default=90, help="of training at most, each")
    options.add_argument("--epochs", type=int, default=2000, help="of training at most, each")
    options.add_argument("--quick", action="store_true", help="two minutes for each")
    options.add_argument("--work", type=Path, help="keeps pictures and homes there, and goes on from them")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for kind in given.kind or OPTIONS:
            budget = ["--minutes", str(1 if given.quick else given.minutes), "--epochs", str(given.epochs)]
            run(kind, given.data, given.work or Path(scratch), budget, quick=given.quick)


def run(kind: str, data: Path, work: Path, budget: list[str], *, quick: bool) -> None:
    arrays = np.load(data / "mnist.npz")
    for name in ("train", "test"):
        write_pictures(work / name, arrays[f"x_{name}"])
    home = work / kind
    if not (home / "catalogue.sqlite").exists():
        common = ["--likelihood", "bernoulli", "--binarise", "--patience", "1000", *budget]
        simile("train", work / "train", "--recipe", "vae", *OPTIONS[kind].split(), *common, home=home)
    report = report_of(home)
    epochs = report["epochs"]
    print(f"{kind}: {len(epochs)} epochs in {epochs[-1]['seconds'] / 60:.1f} minutes, the best {report['best_epoch']}")
    for epoch in epochs[:: max(1, len(epochs) // 12)]:
        print(f"  epoch {epoch['epoch']:>4}  validation ELBO {epoch['validation']['elbo']:.2f} nats")
    score(kind, home, arrays["x_test"], 100 if quick else SCORED[kind], 500 if quick else SAMPLES)


def score(kind: str, home: Path, pictures: np.ndarray, count: int, samples: int) -> None:
    encoder = encoder_of(home)
    rows = np.sort(np.random.default_rng(SEED).permutation(len(pictures))[:count])
    x = torch.from_numpy(scale_to_unit(padded(pictures[rows], encoder)))
    generator = torch.Generator().manual_seed(SEED)
    x = (torch.rand(x.shape, generator=generator) < x).float()
    box, started = encoder.preprocessing.content_box(), time.monotonic()
    bound = elbo(encoder.network, x, likelihood="bernoulli", generator=generator, samples=10, content_box=box)
    found = importance_weighted_log_likelihood(
        encoder.network, x, likelihood="bernoulli", samples=samples, generator=generator, content_box=box
    )
    with torch.inference_mode():
        active = count_active_units(encoder.network.encode(x)[0])
    print(f"{'network':<10}{'pictures':>9}{'samples':>9}{'ELBO':>10}{'log p(x)':>10}{'std. error':>12}{'active':>8}")
    error = found.std().item() / len(found) ** 0.5
    figures = f"{bound.mean().item():>10.2f}{found.mean().item():>10.2f}{error:>12.2f}{active:>8}"
    print(f"{kind:<10}{count:>9}{samples:>9}{figures}   ({time.monotonic() - started:.0f} s)\n", flush=True)


def padded(pictures: np.ndarray, encoder: TrainedEncoder) -> np.ndarray:
    """(n, 28, 28) uint8 as the network takes them, (n, S, S, 1)."""
    top, left, height, width = encoder.preprocessing.content_box()
    size = encoder.preprocessing.image_size
    below, right = size - height - top, size - width - left
    return np.pad(pictures, ((0, 0), (top, below), (left, right)), mode="edge")[..., None]


if __name__ == "__main__":
    main()
