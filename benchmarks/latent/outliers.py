"""Strangers hidden in a collection: 100 MNIST digits among 5,000 Fashion-MNIST pictures, and the other way round.

    python -m benchmarks.latent.outliers --data DIR [--seeds 3] [--minutes 1.5] [--work DIR]

DIR holds mnist.npz and fashion-mnist.npz. The encoder is trained on the mixed 5,100 without labels, by the commands
that a user types. The table: the area under the ROC curve (the chance that a stranger is ranked before another one) of
`simile outliers`, of its three signals alone, of the error as it is, and of the raw likelihood (log p(x), 32 samples).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from benchmarks.common.simile_runs import simile, write_pictures
from simile.core.settings import load_settings
from simile.explore.latent.measurements import measure_images
from simile.explore.outliers.detector import find_outliers
from simile.images.formats import Pixels
from simile.images.loading.loader import read_arrays
from simile.images.transforms import scale_to_unit
from simile.models.inference.encoder import TrainedEncoder
from simile.models.losses.likelihood import importance_weighted_log_likelihood
from simile.search.searcher import Searcher

USUAL, STRANGE, SAMPLES = 5000, 100, 32
COLUMNS = ("outliers", "reconstruction", "distance", "density", "raw error", "raw likelihood", "first 100")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--minutes", type=float, default=1.5, help="of training for each")
    options.add_argument("--work", type=Path, help="keeps pictures and homes there, and goes on from them")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run(given.data, given.seeds, given.minutes, given.work or Path(scratch))


def run(data: Path, seeds: int, minutes: float, work: Path) -> None:
    sets = {name: np.load(data / f"{name}.npz")["x_train"] for name in ("mnist", "fashion-mnist")}
    rows: list[str] = []
    for usual, strange in (("fashion-mnist", "mnist"), ("mnist", "fashion-mnist")):
        found = []
        for seed in range(seeds):
            home = indexed(work / f"{strange}-in-{usual}-{seed}", sets[usual], sets[strange], seed, minutes)
            found.append(judged(home))
            rows.append(row(f"{strange} in {usual}, seed {seed}", found[-1]))
        mean = {name: float(np.mean([one[name] for one in found])) for name in COLUMNS}
        rows.append(row(f"{strange} in {usual}, mean", mean))
    print(f"{'':<36}" + "".join(f"{name:>16}" for name in COLUMNS))
    print("\n".join(rows))


def indexed(work: Path, usual: Pixels, strange: Pixels, seed: int, minutes: float) -> Path:
    """A home of the mixed pictures, trained on them."""
    random, home = np.random.default_rng(seed), work / "home"
    write_pictures(work / "photos" / "usual", usual[random.choice(len(usual), USUAL, replace=False)])
    write_pictures(work / "photos" / "strange", strange[random.choice(len(strange), STRANGE, replace=False)])
    if not (home / "catalogue.sqlite").exists():
        simile("train", work / "photos", "--minutes", str(minutes), "--seed", str(seed), home=home)
        simile("index", work / "photos", home=home)
    return home


def judged(home: Path) -> dict[str, float]:
    """The areas, and how many of the first 100 are strangers."""
    with Searcher(load_settings(home=home, device="cpu")) as searcher:
        _, found = find_outliers(searcher, STRANGE, lambda *_: None)
        records = searcher.catalogue.images.get_many(found.ids.tolist())
        paths = [records[image_id].paths[0] for image_id in found.ids.tolist()]
        encoder = searcher.get_encoder()
        error = measure_images(searcher, found.ids, lambda *_: None).error
        pictures = read_arrays(paths, encoder.preprocessing, searcher.limits, 0).images
    is_strange = np.array([Path(path).parent.name == "strange" for path in paths])
    signals = {
        "outliers": found.scores,
        **found.ranks,
        "raw error": error,
        "raw likelihood": surprise(encoder, pictures),
    }
    areas = {name: float(roc_auc_score(is_strange, values)) for name, values in signals.items()}
    return areas | {"first 100": float(is_strange[np.argsort(-found.scores)[:STRANGE]].sum())}


def surprise(encoder: TrainedEncoder, pictures: Pixels) -> NDArray[np.float64]:
    """-log p(x) of pictures (n, S, S, C), (n,) in nats."""
    found = importance_weighted_log_likelihood(
        encoder.network,
        torch.from_numpy(scale_to_unit(pictures)),
        likelihood="gaussian",
        samples=SAMPLES,
        generator=torch.Generator().manual_seed(0),
        content_box=encoder.preprocessing.content_box(),
    )
    return -found.numpy()


def row(name: str, found: dict[str, float]) -> str:
    return f"{name:<36}" + "".join(f"{found[one]:>16.4f}" for one in COLUMNS[:-1]) + f"{found[COLUMNS[-1]]:>16.0f}"


if __name__ == "__main__":
    main()
