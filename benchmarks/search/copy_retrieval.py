"""Altered copies of photos, searched among 1,000: the invariant recipe beside hashes, pixels and PCA.

    python -m benchmarks.search.copy_retrieval --data DIR [--recipe invariant …] [--minutes 10] [--seed 0] [--quick]

DIR holds clothing-photos.tar. 1,000 of its photos, drawn with the seed, are the collection: `simile train` sees them
and nothing else, no labels. Of 250 of them 18 kinds of altered copies are made, and each of the 4,500 is searched among
the 1,000 with the code of `simile evaluate`; then the same for kinds of alteration that training was not made for.
Reconstructions: squared error of the decoder's mean at z = mu, against a PCA of the same dimension fitted on the 1,000,
on the 1,000 and on the photos left over.
"""

from __future__ import annotations

import argparse
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from benchmarks.common.simile_runs import simile
from simile.core.settings import load_settings
from simile.evaluation import copy_retrieval
from simile.evaluation.baselines import EmbeddingMethod, EncoderMethod, PerceptualHash
from simile.evaluation.dataset import ImageReader
from simile.evaluation.job import Evaluation, EvaluationRequest, evaluate
from simile.evaluation.neighbours import find_nearest
from simile.images.distortions import HELD_OUT_DISTORTION_KINDS
from simile.images.formats import Limits
from simile.images.loading.loader import read_arrays
from simile.images.transforms import scale_to_unit
from simile.models.inference.encoder import TrainedEncoder

COLLECTION, ORIGINALS = 1000, 250


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--recipe", action="append", help="may be given several times; default: invariant")
    options.add_argument("--minutes", type=float, default=10, help="of training at most, for each recipe")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--quick", action="store_true", help="a minute of training for each recipe")
    options.add_argument("--work", type=Path, help="keeps photos and home there, and goes on from them")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        minutes = 1 if given.quick else given.minutes
        run(given.data, given.recipe or ["invariant"], minutes, given.seed, given.work or Path(scratch))


def run(data: Path, recipes: list[str], minutes: float, seed: int, work: Path) -> None:
    photos = work / f"seed-{seed}"
    extract(data / "clothing-photos.tar", photos, seed)
    home = photos / "home"
    trained = {path.parent for path in home.glob("encoders/[0-9a-f]*/encoder.json")}
    for recipe in recipes[len(trained) :]:
        options = ["--recipe", recipe, "--minutes", str(minutes), "--seed", str(seed)]
        simile("train", photos / "collection", *options, home=home)
    request = EvaluationRequest(copies=ORIGINALS, samples=0, limit=COLLECTION, seed=seed)
    found = evaluate(load_settings(home=home), [photos / "collection"], request, lambda *_: None)
    print(f"{'vectors':<14}{'recall@1':>10}{'muAP':>8}{'recall at precision 0.99':>26}")
    for row in found.rows:
        show(row.name, [row.metrics[key] for key in ("copy_recall", "micro_ap", "recall_at_precision")])
    unlisted(found, seed)
    for row in found.rows:
        if row.encoder is not None:
            print(f"\n{row.name}, recall@1 by kind:", ", ".join(f"{k} {v:.2f}" for k, v in row.copies_by_kind.items()))
    reconstructions(found, photos)


def show(name: str, figures: list[float]) -> None:
    print(f"{name:<14}{figures[0]:>10.4f}{figures[1]:>8.4f}{figures[2]:>26.4f}", flush=True)


def extract(archive: Path, photos: Path, seed: int) -> None:
    """1,000 photos into collection/, the others into others/."""
    if photos.exists():
        return
    with tarfile.open(archive) as tar:
        members = sorted((m for m in tar.getmembers() if m.name.endswith(".jpg")), key=lambda m: m.name)
        chosen = set(np.random.default_rng(seed).permutation(len(members))[:COLLECTION].tolist())
        for number, member in enumerate(members):
            folder = photos / ("collection" if number in chosen else "others")
            folder.mkdir(parents=True, exist_ok=True)
            file = tar.extractfile(member)
            assert file is not None
            (folder / Path(member.name).name).write_bytes(file.read())


def unlisted(found: Evaluation, seed: int) -> None:
    """The same search with copies of kinds that the list of 18 does not have."""
    material = found.benchmark_data
    assert material.planted_copies is not None
    rows = np.unique(material.planted_copies.originals)
    specs = tuple(material.dataset.arrays)
    reading = ImageReader(Limits(), 0, specs)
    planted = copy_retrieval.plant_copies(
        material.dataset.paths, rows, reading, seed, lambda *_: None, HELD_OUT_DISTORTION_KINDS
    )
    identity = np.unique(material.dataset.digests, return_inverse=True)[1]
    print(f"\nkinds that the list does not have ({', '.join(HELD_OUT_DISTORTION_KINDS)}):")
    for method in found.methods:
        if not isinstance(method, EncoderMethod | PerceptualHash):
            continue
        scores = score(method, found, planted, identity, seed)
        show(method.name, [scores.recall, scores.micro_ap, scores.recall_at_precision])


def score(
    method: EmbeddingMethod,
    found: Evaluation,
    planted: copy_retrieval.PlantedCopies,
    identity: NDArray[np.int64],
    seed: int,
) -> copy_retrieval.CopyScores:
    base = method.embed(found.benchmark_data.dataset.arrays[method.preprocessing])
    asked = method.embed(planted.arrays[method.preprocessing])
    return copy_retrieval.score_copies(
        find_nearest(base, asked, copy_retrieval.COPY_CANDIDATES), planted, identity, seed
    )


def reconstructions(found: Evaluation, photos: Path) -> None:
    print(f"\n{'squared error':<24}{'numbers':>9}{'collection':>12}{'other photos':>14}")
    for method in found.methods:
        encoder = method.encoder
        if encoder is None or not encoder.has_decoder:
            continue
        seen, others = (flat_pixels(encoder, photos / name) for name in ("collection", "others"))
        pca = PCA(encoder.latent_dim, random_state=0).fit(seen[1])
        fitted = [float(np.square(pca.inverse_transform(pca.transform(x)) - x).mean()) for _, x in (seen, others)]
        decoded = [
            float(np.square(encoder.decode(encoder.encode(p).mu).reshape(x.shape) - x).mean())
            for p, x in (seen, others)
        ]
        for name, errors in ((f"PCA-{encoder.latent_dim}", fitted), (method.name, decoded)):
            print(f"{name:<24}{encoder.latent_dim:>9}{errors[0]:>12.5f}{errors[1]:>14.5f}", flush=True)


def flat_pixels(encoder: TrainedEncoder, folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """As the network takes them, (n, S, S, C), and flat in [0, 1], (n, C·S·S)."""
    pictures = read_arrays(sorted(map(str, folder.iterdir())), encoder.preprocessing, Limits(), 0).images
    return pictures, scale_to_unit(pictures).reshape(len(pictures), -1)


if __name__ == "__main__":
    main()
