"""log p(x) of MNIST by importance sampling: a dense VAE and a residual convolutional one, trained by `simile train`.

    python -m benchmarks.training.mnist_likelihood --data DIR [--kind dense|residual] [--minutes 90] [--quick]

DIR holds mnist.npz (x_train (60000, 28, 28) uint8, x_test (10000, …)). Training draws each pixel as 0 or 1 in each step
(dynamic binarisation); the test images are binarised once, with a seed. The estimate is that of Burda et al. (arXiv
1509.00519), 5,000 samples an image: the dense network on all test images, the residual one on a seeded 500 of them.
--quick trains for a minute and uses fewer images and samples.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.common.runs import load_encoder, make_parser, open_work_folder, read_report, train_once, write_images
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
SCORED = {"dense": 10_000, "residual": 500}  # test images


def main() -> None:
    """Parse the options and run the benchmark."""
    parser = make_parser(__doc__, data=True, work=True)
    parser.add_argument("--kind", choices=OPTIONS, action="append", help="may be options twice; default: both")
    parser.add_argument("--minutes", type=float, default=90, help="maximum of training, for each")
    parser.add_argument("--epochs", type=int, default=2000, help="maximum of training, for each")
    parser.add_argument("--quick", action="store_true", help="a minute for each")
    options = parser.parse_args()
    with open_work_folder(options.work) as work:
        for kind in options.kind or OPTIONS:
            budget = ["--minutes", str(1 if options.quick else options.minutes), "--epochs", str(options.epochs)]
            run(kind, options.data, work, budget, quick=options.quick)


def run(kind: str, data: Path, work: Path, budget: list[str], *, quick: bool) -> None:
    """Train one network, and print its curve and scores."""
    arrays = np.load(data / "mnist.npz")
    for name in ("train", "test"):
        write_images(work / name, arrays[f"x_{name}"])
    home = work / kind
    common = ["--likelihood", "bernoulli", "--binarise", "--patience", "1000", *budget]
    train_once(home, work / "train", "--recipe", "vae", *OPTIONS[kind].split(), *common)
    report = read_report(home)
    epochs = report["epochs"]
    print(f"{kind}: {len(epochs)} epochs in {epochs[-1]['seconds'] / 60:.1f} minutes, the best {report['best_epoch']}")
    for epoch in epochs[:: max(1, len(epochs) // 12)]:
        print(f"  epoch {epoch['epoch']:>4}  validation ELBO {epoch['validation']['elbo']:.2f} nats")
    score(kind, home, arrays["x_test"], 100 if quick else SCORED[kind], 500 if quick else SAMPLES)


def score(kind: str, home: Path, images: np.ndarray, count: int, samples: int) -> None:
    """Print ELBO and log p(x) of test images."""
    encoder = load_encoder(home)
    rows = np.sort(np.random.default_rng(SEED).permutation(len(images))[:count])
    x = torch.from_numpy(scale_to_unit(pad_to_input(images[rows], encoder)))
    generator = torch.Generator().manual_seed(SEED)
    x = (torch.rand(x.shape, generator=generator) < x).float()
    box, started = encoder.preprocessing.content_box(), time.monotonic()
    bound = elbo(encoder.network, x, likelihood="bernoulli", generator=generator, samples=10, content_box=box)
    likelihood = importance_weighted_log_likelihood(
        encoder.network, x, likelihood="bernoulli", samples=samples, generator=generator, content_box=box
    )
    with torch.inference_mode():
        active = count_active_units(encoder.network.encode(x)[0])
    print(f"{'network':<10}{'images':>9}{'samples':>9}{'ELBO':>10}{'log p(x)':>10}{'std. error':>12}{'active':>8}")
    error = likelihood.std().item() / len(likelihood) ** 0.5
    figures = f"{bound.mean().item():>10.2f}{likelihood.mean().item():>10.2f}{error:>12.2f}{active:>8}"
    print(f"{kind:<10}{count:>9}{samples:>9}{figures}   ({time.monotonic() - started:.0f} s)\n", flush=True)


def pad_to_input(images: np.ndarray, encoder: TrainedEncoder) -> np.ndarray:
    """Return (n, 28, 28) uint8 as the network takes them, (n, S, S, 1)."""
    top, left, height, width = encoder.preprocessing.content_box()
    size = encoder.preprocessing.image_size
    below, right = size - height - top, size - width - left
    return np.pad(images, ((0, 0), (top, below), (left, right)), mode="edge")[..., None]


if __name__ == "__main__":
    main()
