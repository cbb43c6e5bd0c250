"""How smooth two latent spaces are: a plain autoencoder and a VAE, of one architecture, trained for as many steps.

    python -m benchmarks.latent.continuity --data DIR [--epochs 7] [--pairs 500] [--losses docs/latent-three-losses.png]

DIR holds mnist.npz. Both are trained on digits of the training set by the commands that a user types; the ways lead
between random pairs of test digits, which neither has seen. The table: medians of `simile continuity`
(explore/continuity.py), and how far the steps between the ends are from the nearest real digit, as a multiple of how
far the ends' reconstructions are: a judge that is neither of the two networks. --losses draws, by `simile evaluate
--picture losses`, what each term of the loss does to a latent of two dimensions.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.simile_runs import simile, write_pictures
from simile.core.settings import load_settings
from simile.explore.latent.interpolation import interpolate_path
from simile.explore.latent.smoothness import LatentContinuity, measure_continuity
from simile.images.formats import Pixels
from simile.search.searcher import Searcher

TRAINED, HELD_OUT, DRAWN = 20_000, 5000, 5000  # digits to train on, to walk between, and in the picture
STEPS = 16
COLUMNS = ("path", "jump", "strangeness", "of_ends", "of_fade", "returned")
Doubles = NDArray[np.float64]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--epochs", type=int, default=7, help="of training for each: a minute on a quiet core")
    options.add_argument("--latent-dim", type=int, default=32)
    options.add_argument("--pairs", type=int, default=500)
    options.add_argument("--losses", type=Path, help="also write the picture of the three losses there, as PNG")
    options.add_argument("--work", type=Path, help="keeps pictures and homes there, and goes on from them")
    given = options.parse_args()
    with np.load(given.data / "mnist.npz") as digits, tempfile.TemporaryDirectory() as scratch:
        work = given.work or Path(scratch)
        run(digits, given.epochs, given.latent_dim, given.pairs, work)
        if given.losses is not None:
            draw_losses(digits, work, given.losses)


def run(digits: np.lib.npyio.NpzFile, epochs: int, latent_dim: int, pairs: int, work: Path) -> None:
    train, held_out = work / "train", work / "held-out"
    real = drawn(digits["x_train"], TRAINED)
    write_pictures(train, real)
    write_pictures(held_out, drawn(digits["x_test"], HELD_OUT))
    rows = []
    for recipe in ("autoencoder", "vae"):
        home = work / recipe
        if not (home / "catalogue.sqlite").exists():
            size = ("--latent-dim", str(latent_dim), "--epochs", str(epochs))
            simile("train", train, "--recipe", recipe, *size, home=home)
            simile("index", held_out, home=home)
        rows.append(judged(home, recipe, pairs, real))
    print(f"{'medians':<14}" + "".join(f"{name:>13}" for name in COLUMNS) + f"{'to a real one':>15}")
    print("\n".join(rows))


def drawn(rows: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """So many rows; the same ones of the pictures and of their labels. The file has them sorted by class."""
    return rows[np.random.default_rng(0).choice(len(rows), count, replace=False)]


def judged(home: Path, recipe: str, pairs: int, real: Pixels) -> str:
    """One row of the table."""
    with Searcher(load_settings(home=home, device="cpu")) as searcher:
        found = measure_continuity(searcher, pairs, steps=STEPS)
        further = distances(searcher, found, real)
    figures = [0.0 if figure is None else figure[0] for figure in found.summarise().values()]
    return f"{recipe:<14}" + "".join(f"{value:>13.4f}" for value in figures) + f"{np.median(further):>15.4f}"


def distances(searcher: Searcher, found: LatentContinuity, real: Pixels) -> Doubles:
    """How far the steps between the ends are from the nearest of `real` (m, h, w), by how far the ends are: (n,)."""
    encoder, flat = searcher.get_encoder(), real.reshape(len(real), -1).astype(np.float32) / 255
    top, left, height, width = encoder.preprocessing.content_box()
    lengths, answers = np.square(flat).sum(1), []
    stored = searcher.catalogue.embeddings.get_many(found.pairs.ravel().tolist(), encoder.fingerprint)
    for one, other in found.pairs.tolist():
        way = interpolate_path(np.stack([stored[one].mu, stored[other].mu]), STEPS, found.interpolation)
        made = encoder.decode(way)[:, 0, top : top + height, left : left + width].reshape(STEPS, -1)
        squared = np.square(made).sum(1)[:, None] - 2 * made @ flat.T + lengths
        nearest = np.sqrt(np.maximum(squared.min(1), 0))
        answers.append(nearest[1:-1].mean() / nearest[[0, -1]].mean())
    return np.array(answers)


def draw_losses(digits: np.lib.npyio.NpzFile, work: Path, to: Path) -> None:
    """Latents of two dimensions with only reconstruction, only KL, and both: three trainings of a minute at most."""
    pictures, labels = drawn(digits["x_train"], DRAWN), drawn(digits["y_train"], DRAWN)
    for digit in range(10):
        write_pictures(work / "classes" / str(digit), pictures[labels == digit])
    simile(
        *("evaluate", work / "classes", "--picture", "losses", "--labels", "folders", "--limit", str(DRAWN)),
        *("--output", to),
        home=work / "none",
    )


if __name__ == "__main__":
    main()
