"""Rows without images, drawn from the aggregate posterior of a trained VAE.

For each row, (mu, sigma) of an image is drawn with a seed; z = mu + sigma * noise is the mean of the new row, with the
same sigma. Rows are stored through the catalogue, as the indexing job does.

    python -m benchmarks.common.synthetic_rows HOME POSTERIOR ROWS SEED [BATCH]     adds rows to a home with an encoder
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.runs import get_encoder_folder, load_encoder, simile, write_images
from simile.core.records import FileStat
from simile.search.encoder_registry import import_encoder
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import NewImage
from simile.store.database.schema import upgrade_schema
from simile.store.home import Home

BATCH = 5000
Floats = NDArray[np.float32]


def make_posterior(
    data: Path, work: Path, images: int = 60_000, minutes: float = 1, encoder_home: Path | None = None
) -> Path:
    """Write mu and sigma (n, d) of Fashion-MNIST images, and their classes (n,), to a file.

    Args:
        data: Folder with fashion-mnist.npz.
        work: Folder for the file, the images and the trained encoder.
        images: Number of images to train on and to embed.
        minutes: Training time of the VAE.
        encoder_home: A home whose encoder is used; without it a VAE is trained on the images.
    """
    file = work / "posterior.npz"
    if not file.exists():
        with np.load(data / "fashion-mnist.npz") as arrays:
            # A permutation, because the file is sorted by class.
            order = np.random.default_rng(0).permutation(len(arrays["x_train"]))[:images]
            write_images(work / "images", arrays["x_train"][order])
            labels = arrays["y_train"][order]
        home = encoder_home or work / "trained"
        if encoder_home is None:
            simile("train", work / "images", "--recipe", "vae", "--minutes", minutes, home=home)
        folder = get_encoder_folder(home)
        simile("embed", work / "images", "--encoder", folder, "--output", work / "embedded.npz", home=home)
        with np.load(work / "embedded.npz") as embedded:
            np.savez(file, mu=embedded["mu"], sigma=embedded["sigma"], labels=labels)
    return file


def make_empty_home(root: Path, encoder_home: Path) -> Home:
    """Make a home without images that uses the encoder of another home."""
    home, encoder = Home(root), load_encoder(encoder_home)
    upgrade_schema(home)
    with Catalogue(home) as catalogue:
        import_encoder(home, catalogue, encoder, encoder_home / "encoders" / encoder.fingerprint)
        catalogue.encoders.activate(encoder.fingerprint)
    return home


def draw_latents(
    posterior: Path, count: int, seed: int, size: int = BATCH
) -> Iterator[tuple[NDArray[np.int64], Floats, Floats]]:
    """Yield batches of classes (m,), z (m, d) and log variance (m, d)."""
    with np.load(posterior) as arrays:
        mu, sigma, labels = arrays["mu"], arrays["sigma"], arrays["labels"]
    generator = np.random.default_rng(seed)
    for start in range(0, count, size):
        rows = generator.integers(0, len(mu), min(size, count - start))
        noise = generator.standard_normal((len(rows), mu.shape[1]), dtype=np.float32)
        yield labels[rows], mu[rows] + sigma[rows] * noise, 2 * np.log(sigma[rows])


def add_rows(root: Path, posterior: Path, count: int, seed: int, batch: int = BATCH) -> None:
    """Store rows as the indexing job does. The class is stored as the width, for filters that depend on the content."""
    with Catalogue(Home(root)) as catalogue:
        encoder, number = catalogue.get_state().active_encoder, 0
        assert encoder is not None
        for labels, z, log_variances in draw_latents(posterior, count, seed, batch):
            images = []
            for label, mu, log_variance in zip(labels.tolist(), z, log_variances, strict=True):
                number += 1
                images.append(
                    NewImage(
                        sha256=f"{seed:032x}{number:032x}",
                        size=number,
                        format="png",
                        width=1 + label,
                        height=28,
                        file=FileStat(get_path(seed, number), number, number),
                        mu=mu,
                        log_variance=log_variance,
                    )
                )
            catalogue.images.add_batch(images, encoder, "synthetic")


def get_path(seed: int, number: int) -> str:
    """Return the path that a row has in the catalogue; there is no file."""
    return f"/synthetic/{seed}/{number % 100:02}/{number}.png"


if __name__ == "__main__":
    home_root, posterior_file, rows, with_seed, *batch_size = sys.argv[1:]
    add_rows(Path(home_root), Path(posterior_file), int(rows), int(with_seed), int((batch_size or [BATCH])[0]))
