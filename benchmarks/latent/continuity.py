"""Smoothness of two latent spaces: a plain autoencoder and a VAE with one architecture and equal steps.

    python -m benchmarks.latent.continuity --data DIR [--epochs 7] [--pairs 500] [--losses docs/latent-three-losses.png]

DIR holds mnist.npz. Both are trained on digits of the training set; the paths connect random pairs of test digits,
which neither has seen. The table shows medians of `simile continuity`, and the distance of the steps between the ends
to the nearest real digit, divided by that of the reconstructions of the ends: a measure that depends on neither
network. --losses draws the effect of each term of the loss on a latent space of two dimensions (`simile evaluate
--picture losses`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.runs import draw_rows, make_parser, open_work_folder, simile, train_once, write_images
from simile.core.settings import load_settings
from simile.explore.latent.interpolation import interpolate_path
from simile.explore.latent.smoothness import LatentContinuity, measure_continuity
from simile.images.formats import Pixels
from simile.search.searcher import Searcher

TRAINED, HELD_OUT, DRAWN = 20_000, 5000, 5000  # digits to train on, to connect by paths, and to draw
STEPS = 16
COLUMNS = ("path", "jump", "strangeness", "of_ends", "of_fade", "returned")
Doubles = NDArray[np.float64]


def main() -> None:
    """Parse the options and run the benchmark."""
    parser = make_parser(__doc__, data=True, work=True)
    parser.add_argument("--epochs", type=int, default=7, help="of training, a minute for each on a quiet core")
    parser.add_argument("--latent-dim", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--losses", type=Path, help="also draw the three losses, as PNG")
    options = parser.parse_args()
    with np.load(options.data / "mnist.npz") as digits, open_work_folder(options.work) as work:
        run(digits, options.epochs, options.latent_dim, options.pairs, work)
        if options.losses is not None:
            draw_losses(digits, work, options.losses)


def run(digits: np.lib.npyio.NpzFile, epochs: int, latent_dim: int, pairs: int, work: Path) -> None:
    """Train both encoders and print the table."""
    train, held_out = work / "train", work / "held-out"
    real = draw_rows(digits["x_train"], TRAINED, np.random.default_rng(0))
    write_images(train, real)
    write_images(held_out, draw_rows(digits["x_test"], HELD_OUT, np.random.default_rng(0)))
    rows = []
    for recipe in ("autoencoder", "vae"):
        home = work / recipe
        size = ("--latent-dim", latent_dim, "--epochs", epochs)
        train_once(home, train, "--recipe", recipe, *size, indexed=held_out)
        rows.append(measure(home, recipe, pairs, real))
    print(f"{'medians':<14}" + "".join(f"{name:>13}" for name in COLUMNS) + f"{'to a real one':>15}")
    print("\n".join(rows))


def measure(home: Path, recipe: str, pairs: int, real: Pixels) -> str:
    """Return a row of the table."""
    with Searcher(load_settings(home=home, device="cpu")) as searcher:
        result = measure_continuity(searcher, pairs, steps=STEPS)
        distances = measure_distances(searcher, result, real)
    figures = [0.0 if figure is None else figure[0] for figure in result.summarise().values()]
    return f"{recipe:<14}" + "".join(f"{value:>13.4f}" for value in figures) + f"{np.median(distances):>15.4f}"


def measure_distances(searcher: Searcher, result: LatentContinuity, real: Pixels) -> Doubles:
    """Return the distances of the steps to the nearest of `real` (m, h, w), divided by those of the ends: (n,)."""
    encoder, flat = searcher.get_encoder(), real.reshape(len(real), -1).astype(np.float32) / 255
    top, left, height, width = encoder.preprocessing.content_box()
    lengths, ratios = np.square(flat).sum(1), []
    stored = searcher.catalogue.embeddings.get_many(result.pairs.ravel().tolist(), encoder.fingerprint)
    for first, second in result.pairs.tolist():
        path = interpolate_path(np.stack([stored[first].mu, stored[second].mu]), STEPS, result.interpolation)
        decoded = encoder.decode(path)[:, 0, top : top + height, left : left + width].reshape(STEPS, -1)
        squared = np.square(decoded).sum(1)[:, None] - 2 * decoded @ flat.T + lengths
        nearest = np.sqrt(np.maximum(squared.min(1), 0))
        ratios.append(nearest[1:-1].mean() / nearest[[0, -1]].mean())
    return np.array(ratios)


def draw_losses(digits: np.lib.npyio.NpzFile, work: Path, output: Path) -> None:
    """Draw latents of two dimensions with reconstruction only, KL only, and both; each trains for a minute at most."""
    images, labels = (draw_rows(digits[name], DRAWN, np.random.default_rng(0)) for name in ("x_train", "y_train"))
    for digit in range(10):
        write_images(work / "classes" / str(digit), images[labels == digit])
    simile(
        *("evaluate", work / "classes", "--picture", "losses", "--labels", "folders", "--limit", str(DRAWN)),
        *("--output", output),
        home=work / "none",
    )


if __name__ == "__main__":
    main()
