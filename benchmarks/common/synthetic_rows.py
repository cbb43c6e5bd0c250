"""Rows without pictures, as many as a benchmark needs: drawn from a trained VAE's aggregate posterior.

A picture's (mu, sigma) is drawn with a seed, and z = mu + sigma * noise stands as the mu of a new row, with the same
sigma. Rows are stored through the catalogue, as the indexing job does.

    python -m benchmarks.common.synthetic_rows HOME POSTERIOR ROWS SEED [BATCH]     adds rows to a home that has an encoder
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.simile_runs import encoder_of, simile, write_pictures
from simile.core.records import FileStat
from simile.search.encoder_registry import import_encoder
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import NewImage
from simile.store.database.schema import upgrade_schema
from simile.store.home import Home

BATCH = 5000
Floats = NDArray[np.float32]


def aggregate_posterior(
    data: Path, work: Path, pictures: int = 60_000, minutes: float = 1, home: Path | None = None
) -> Path:
    """A file of mu and sigma (n, d) of pictures, and their classes (n,), by a VAE that was trained on them.

    `data` holds fashion-mnist.npz. Another home's encoder is taken if `home` is given.
    """
    file = work / "posterior.npz"
    if not file.exists():
        with np.load(data / "fashion-mnist.npz") as arrays:
            order = np.random.default_rng(0).permutation(len(arrays["x_train"]))[:pictures]  # sorted by class
            write_pictures(work / "pictures", arrays["x_train"][order])
            labels = arrays["y_train"][order]
        trained = home or work / "trained"
        if home is None:
            simile("train", work / "pictures", "--recipe", "vae", "--minutes", str(minutes), home=trained)
        folder = next(trained.glob("encoders/[0-9a-f]*"))
        simile("embed", work / "pictures", "--encoder", folder, "--output", work / "embedded.npz", home=trained)
        with np.load(work / "embedded.npz") as embedded:
            np.savez(file, mu=embedded["mu"], sigma=embedded["sigma"], labels=labels)
    return file


def made_home(root: Path, trained: Path) -> Home:
    """An empty home with the trained encoder in use."""
    home, encoder = Home(root), encoder_of(trained)
    upgrade_schema(home)
    with Catalogue(home) as catalogue:
        import_encoder(home, catalogue, encoder, trained / "encoders" / encoder.fingerprint)
        catalogue.encoders.activate(encoder.fingerprint)
    return home


def drawn(
    posterior: Path, count: int, seed: int, size: int = BATCH
) -> Iterator[tuple[NDArray[np.int64], Floats, Floats]]:
    """(classes (m,), z (m, d), log variance (m, d)) in batches."""
    with np.load(posterior) as arrays:
        mu, sigma, labels = arrays["mu"], arrays["sigma"], arrays["labels"]
    generator = np.random.default_rng(seed)
    for start in range(0, count, size):
        rows = generator.integers(0, len(mu), min(size, count - start))
        noise = generator.standard_normal((len(rows), mu.shape[1]), dtype=np.float32)
        yield labels[rows], mu[rows] + sigma[rows] * noise, 2 * np.log(sigma[rows])


def add_rows(root: Path, posterior: Path, count: int, seed: int, batch: int = BATCH) -> None:
    """Stores rows as the indexing job does. The class shows as the width, for filters that depend on the content."""
    with Catalogue(Home(root)) as catalogue:
        encoder, number = catalogue.get_state().active_encoder, 0
        assert encoder is not None
        for labels, z, log_variance in drawn(posterior, count, seed, batch):
            pictures = []
            for label, mu, variance in zip(labels.tolist(), z, log_variance, strict=True):
                number += 1
                name = f"{seed:032x}{number:032x}"
                facts = FileStat(path_of(seed, number), number, number)
                pictures.append(
                    NewImage(
                        sha256=name,
                        size=number,
                        format="png",
                        width=1 + label,
                        height=28,
                        file=facts,
                        mu=mu,
                        log_variance=variance,
                    )
                )
            catalogue.images.add_batch(pictures, encoder, "synthetic")


def path_of(seed: int, number: int) -> str:
    """Where the file of a row would be."""
    return f"/synthetic/{seed}/{number % 100:02}/{number}.png"


if __name__ == "__main__":
    home_root, posterior_file, rows, with_seed, *batch_size = sys.argv[1:]
    add_rows(Path(home_root), Path(posterior_file), int(rows), int(with_seed), int((batch_size or [BATCH])[0]))
