"""Distorted copies of photos, searched for among 1,000: encoders compared with hashes, pixels and PCA.

    python -m benchmarks.search.copy_retrieval --data DIR [--recipe invariant …] [--adapt 3 …] [--minutes 10] [--seed 0]

DIR holds clothing-photos.tar, or --photos is a folder. 1,000 photos, drawn with the seed, are the collection. The
shipped encoder is measured without any training. With --recipe, an encoder with new weights is trained on the
collection, without labels; with --adapt, the shipped encoder is adapted to it for so many minutes. 18 kinds of
distorted copies are made of 250 photos, and each of the 4,500 copies is searched for among the 1,000 with the code of
`simile evaluate`; then the same with 18 held-out kinds of distortion, and with six hard ones. Reconstructions: squared
error of the decoder's mean at z = mu and of a PCA of the same dimension fitted on the 1,000, on the 1,000 and on the
other photos.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from benchmarks.common.runs import iterate_jpegs, make_parser, open_work_folder, simile
from simile.core.settings import load_settings
from simile.evaluation import copy_retrieval
from simile.evaluation.baselines import EmbeddingMethod, EncoderMethod, PerceptualHash
from simile.evaluation.dataset import ImageReader
from simile.evaluation.job import Evaluation, EvaluationRequest, evaluate
from simile.evaluation.neighbours import find_nearest
from simile.images.distortions import HARD_DISTORTION_KINDS, HELD_OUT_DISTORTION_KINDS
from simile.images.formats import Limits
from simile.images.loading.loader import read_arrays
from simile.images.sources.sources import walk_sources
from simile.images.transforms import scale_to_unit
from simile.models.inference.encoder import TrainedEncoder

COLLECTION, ORIGINALS = 1000, 250


def main() -> None:
    """Parse the options and run the benchmark."""
    parser = make_parser(__doc__, work=True)
    parser.add_argument("--data", type=Path, help="folder with clothing-photos.tar")
    parser.add_argument("--photos", type=Path, help="a folder of photos instead")
    parser.add_argument("--recipe", action="append", default=[], help="trained with new weights; may be repeated")
    parser.add_argument("--adapt", action="append", default=[], help="minutes of adaptation; may be repeated")
    parser.add_argument("--minutes", type=float, default=10, help="maximum training time for each recipe")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if (options.data is None) == (options.photos is None):
        parser.error("give --data or --photos")
    trainings = [["--from", "none", "--recipe", recipe, "--minutes", options.minutes] for recipe in options.recipe]
    trainings += [["--from", "shipped", "--minutes", minutes] for minutes in options.adapt]
    with open_work_folder(options.work) as work:
        run(options.photos or options.data / "clothing-photos.tar", trainings, options.seed, work)


def run(source: Path, trainings: list[list[object]], seed: int, work: Path) -> None:
    photos = work / f"seed-{seed}"
    extract(source, photos, seed)
    home = photos / "home"
    trained = {path.parent for path in home.glob("encoders/[0-9a-f]*/encoder.json")}
    for training in trainings[len(trained) :]:
        simile("train", photos / "collection", *training, "--seed", seed, home=home)
    request = EvaluationRequest(copies=ORIGINALS, samples=0, limit=COLLECTION, seed=seed)
    result = evaluate(load_settings(home=home), [photos / "collection"], request, lambda *_: None)
    print(f"{'vectors':<14}{'recall@1':>10}{'muAP':>8}{'recall at precision 0.99':>26}")
    for row in result.rows:
        print_row(row.name, [row.metrics[key] for key in ("copy_recall", "micro_ap", "recall_at_precision")])
    score_other_kinds("held-out", HELD_OUT_DISTORTION_KINDS, result, seed)
    score_other_kinds("hard", HARD_DISTORTION_KINDS, result, seed)
    for row in result.rows:
        if row.encoder is not None:
            print(f"\n{row.name}, recall@1 by kind:", ", ".join(f"{k} {v:.2f}" for k, v in row.copies_by_kind.items()))
    measure_reconstructions(result, photos)


def print_row(name: str, figures: list[float]) -> None:
    """Print a row of the table."""
    print(f"{name:<14}{figures[0]:>10.4f}{figures[1]:>8.4f}{figures[2]:>26.4f}", flush=True)


def extract(source: Path, photos: Path, seed: int) -> None:
    """Write 1,000 photos of an archive or a folder to collection/, the others to others/."""
    if photos.exists():
        return
    if source.is_dir():
        files = [(file.path, Path(file.path).read_bytes()) for file in walk_sources([source]).files]
    else:
        files = list(iterate_jpegs(source))
    drawn = set(np.random.default_rng(seed).permutation(len(files))[:COLLECTION].tolist())
    for number, (name, content) in enumerate(files):
        folder = photos / ("collection" if number in drawn else "others")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / Path(name).name).write_bytes(content)


def score_other_kinds(title: str, kinds: tuple[str, ...], result: Evaluation, seed: int) -> None:
    """Print the scores of a search with other kinds of distortion."""
    benchmark_data = result.benchmark_data
    assert benchmark_data.planted_copies is not None
    rows = np.unique(benchmark_data.planted_copies.originals)
    specs = tuple(benchmark_data.dataset.arrays)
    reader = ImageReader(Limits(), 0, specs)
    planted = copy_retrieval.plant_copies(benchmark_data.dataset.paths, rows, reader, seed, lambda *_: None, kinds)
    identity = np.unique(benchmark_data.dataset.digests, return_inverse=True)[1]
    print(f"\n{title} kinds of distortion ({', '.join(kinds)}):")
    for method in result.methods:
        if not isinstance(method, EncoderMethod | PerceptualHash):
            continue
        scores = score(method, result, planted, identity, seed)
        print_row(method.name, [scores.recall, scores.micro_ap, scores.recall_at_precision])


def score(
    method: EmbeddingMethod,
    result: Evaluation,
    planted: copy_retrieval.PlantedCopies,
    identity: NDArray[np.int64],
    seed: int,
) -> copy_retrieval.CopyScores:
    """Search for the copies among the originals."""
    base = method.embed(result.benchmark_data.dataset.arrays[method.preprocessing])
    queries = method.embed(planted.arrays[method.preprocessing])
    return copy_retrieval.score_copies(
        find_nearest(base, queries, copy_retrieval.COPY_CANDIDATES), planted, identity, seed
    )


def measure_reconstructions(result: Evaluation, photos: Path) -> None:
    """Print squared errors of the decoder and of a PCA."""
    print(f"\n{'squared error':<24}{'numbers':>9}{'collection':>12}{'other photos':>14}")
    for method in result.methods:
        encoder = method.encoder
        if encoder is None or not encoder.has_decoder:
            continue
        collection, others = (read_pixels(encoder, photos / name) for name in ("collection", "others"))
        pca = PCA(encoder.latent_dim, random_state=0).fit(collection[1])
        fitted = [float(np.square(pca.inverse_transform(pca.transform(x)) - x).mean()) for _, x in (collection, others)]
        decoded = [
            float(np.square(encoder.decode(encoder.encode(p).mu).reshape(x.shape) - x).mean())
            for p, x in (collection, others)
        ]
        for name, errors in ((f"PCA-{encoder.latent_dim}", fitted), (method.name, decoded)):
            print(f"{name:<24}{encoder.latent_dim:>9}{errors[0]:>12.5f}{errors[1]:>14.5f}", flush=True)


def read_pixels(encoder: TrainedEncoder, folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return images as the network takes them, (n, S, S, C), and flat in [0, 1], (n, C·S·S)."""
    images = read_arrays(sorted(map(str, folder.iterdir())), encoder.preprocessing, Limits(), 0).images
    return images, scale_to_unit(images).reshape(len(images), -1)


if __name__ == "__main__":
    main()
