"""Outliers in a collection: 100 MNIST digits among 5,000 Fashion-MNIST images, and the other way round.

    python -m benchmarks.latent.outliers --data DIR [--seeds 3] [--minutes 1.5] [--work DIR]

DIR holds mnist.npz and fashion-mnist.npz. The encoder is trained on the mixed 5,100 images without labels. The table
shows the area under the ROC curve (the probability that an outlier ranks before another image) of `simile outliers`, of
its three signals alone, of the raw error, and of the raw likelihood (log p(x), 32 samples).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from benchmarks.common.runs import draw_rows, make_parser, open_work_folder, train_once, write_images
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
    """Parse the options and run the benchmark."""
    parser = make_parser(__doc__, data=True, work=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=1.5, help="training time for each")
    options = parser.parse_args()
    with open_work_folder(options.work) as work:
        run(options.data, options.seeds, options.minutes, work)


def run(data: Path, seeds: int, minutes: float, work: Path) -> None:
    """Measure both mixtures with all seeds, and print the table."""
    sets = {name: np.load(data / f"{name}.npz")["x_train"] for name in ("mnist", "fashion-mnist")}
    rows: list[str] = []
    for usual, strange in (("fashion-mnist", "mnist"), ("mnist", "fashion-mnist")):
        results = []
        for seed in range(seeds):
            home = make_home(work / f"{strange}-in-{usual}-{seed}", sets[usual], sets[strange], seed, minutes)
            results.append(measure(home))
            rows.append(format_row(f"{strange} in {usual}, seed {seed}", results[-1]))
        mean = {name: float(np.mean([result[name] for result in results])) for name in COLUMNS}
        rows.append(format_row(f"{strange} in {usual}, mean", mean))
    print(f"{'':<36}" + "".join(f"{name:>16}" for name in COLUMNS))
    print("\n".join(rows))


def make_home(work: Path, usual: Pixels, strange: Pixels, seed: int, minutes: float) -> Path:
    """Make a home of the mixed images, with an encoder trained on them."""
    random, home = np.random.default_rng(seed), work / "home"
    write_images(work / "photos" / "usual", draw_rows(usual, USUAL, random))
    write_images(work / "photos" / "strange", draw_rows(strange, STRANGE, random))
    photos = work / "photos"
    train_once(home, photos, "--minutes", minutes, "--seed", seed, indexed=photos)
    return home


def measure(home: Path) -> dict[str, float]:
    """Return the areas, and the number of outliers among the first 100."""
    with Searcher(load_settings(home=home, device="cpu")) as searcher:
        _, outliers = find_outliers(searcher, STRANGE, lambda *_: None)
        records = searcher.catalogue.images.get_many(outliers.ids.tolist())
        paths = [records[image_id].paths[0] for image_id in outliers.ids.tolist()]
        encoder = searcher.get_encoder()
        error = measure_images(searcher, outliers.ids, lambda *_: None).error
        images = read_arrays(paths, encoder.preprocessing, searcher.limits, 0).images
    is_strange = np.array([Path(path).parent.name == "strange" for path in paths])
    signals = {
        "outliers": outliers.scores,
        **outliers.ranks,
        "raw error": error,
        "raw likelihood": measure_surprise(encoder, images),
    }
    areas = {name: float(roc_auc_score(is_strange, values)) for name, values in signals.items()}
    return areas | {"first 100": float(is_strange[np.argsort(-outliers.scores)[:STRANGE]].sum())}


def measure_surprise(encoder: TrainedEncoder, images: Pixels) -> NDArray[np.float64]:
    """Return -log p(x) of images (n, S, S, C), (n,) in nats."""
    likelihood = importance_weighted_log_likelihood(
        encoder.network,
        torch.from_numpy(scale_to_unit(images)),
        likelihood="gaussian",
        samples=SAMPLES,
        generator=torch.Generator().manual_seed(0),
        content_box=encoder.preprocessing.content_box(),
    )
    return -likelihood.numpy()


def format_row(name: str, result: dict[str, float]) -> str:
    """Return a row of the table."""
    return (
        f"{name:<36}" + "".join(f"{result[column]:>16.4f}" for column in COLUMNS[:-1]) + f"{result[COLUMNS[-1]]:>16.0f}"
    )


if __name__ == "__main__":
    main()
