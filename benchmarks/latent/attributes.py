"""The attribute smile: how well a direction learned on 80 % of the faces separates the other 20 %.

    python -m benchmarks.latent.attributes --data DIR --work DIR [--minutes 10] [--recipe NAME] [--output PNG]

DIR holds smiles.tar.gz (grey faces of 64 x 64, in smiling/ and not-smiling/). For each split the encoder is trained on
the 80 % without labels, then the direction is learned on them; the AUC is measured on the other 20 %. Splits are seeded
and stratified, and byte copies are in one part. --output draws 16 held-out faces of the first split, from -3 to +3.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from benchmarks.common.runs import iterate_jpegs, load_encoder, make_parser, simile, train_once
from simile.explore.attributes.directions import AttributeExamples, learn_attribute
from simile.images.formats import Limits
from simile.images.loading.loader import read_arrays

SIDES = ("smiling", "not-smiling")
FACES = 16


def main() -> None:
    """Parse the options and run the benchmark."""
    parser = make_parser(__doc__, data=True)
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps images and homes for the next run")
    parser.add_argument("--minutes", type=float, default=10, help="training time for each split")
    parser.add_argument("--recipe", default="perceptual")
    parser.add_argument("--splits", type=int, default=3, choices=range(1, 6))
    parser.add_argument("--output", type=Path, help="a sheet of faces; never publish it")
    options = parser.parse_args()
    results = []
    for number in range(options.splits):
        folder = options.work / f"split{number}"
        split_faces(options.data / "smiles.tar.gz", folder, number)
        home = folder / options.recipe
        arguments = ("--recipe", options.recipe, "--minutes", options.minutes)
        train_once(home, folder / "train", *arguments, indexed=folder / "test")
        results.append(measure(folder, home))
        print(f"split {number}: " + "  ".join(f"{name} {auc:.4f}" for name, auc in results[-1].items()), flush=True)
    for name in results[0]:
        values = [result[name] for result in results]
        print(f"{name:<10} {np.mean(values):.4f} ± {np.std(values):.4f}")
    if options.output is not None:
        draw(options.work / "split0", options.work / "split0" / options.recipe, options.output)


def split_faces(archive: Path, folder: Path, number: int) -> None:
    """Write all faces to train/ and test/, each with a folder for each side."""
    if folder.exists():
        return
    names, contents = zip(*iterate_jpegs(archive), strict=True)
    sides = [Path(name).parent.name for name in names]
    groups = [hashlib.sha256(content).hexdigest() for content in contents]
    parts = StratifiedGroupKFold(5, shuffle=True, random_state=number).split(sides, sides, groups)
    held_out = set(next(iter(parts))[1].tolist())
    for row, (side, content) in enumerate(zip(sides, contents, strict=True)):
        target = folder / ("test" if row in held_out else "train") / side
        target.mkdir(parents=True, exist_ok=True)
        (target / f"{row:05d}.jpg").write_bytes(content)


def measure(folder: Path, home: Path) -> dict[str, float]:
    """Return the AUC of both directions on the held-out faces."""
    attribute = learn_attribute("smile", "", read_examples(folder / "train", home))
    test = read_examples(folder / "test", home)
    directions = {"raw": attribute.raw, "whitened": attribute.whitened}
    return {name: float(roc_auc_score(test.is_positive, test.mu @ direction)) for name, direction in directions.items()}


def read_examples(folder: Path, home: Path) -> AttributeExamples:
    """Encode the faces of both sides."""
    encoder = load_encoder(home)
    mus: list[NDArray[np.float32]] = []
    digests: list[str] = []
    counts = []
    for side in SIDES:
        loaded = read_arrays(sorted(map(str, (folder / side).iterdir())), encoder.preprocessing, Limits(), 0)
        mus.append(encoder.encode(loaded.images).mu)
        digests += loaded.digests
        counts.append(len(loaded.paths))
    return AttributeExamples(np.concatenate(mus), np.repeat([True, False], counts), digests)


def draw(folder: Path, home: Path, output: Path) -> None:
    """Draw faces of both sides with `simile attribute`."""
    if not list(home.glob("attributes/*/smile.npz")):
        train = folder / "train"
        simile("attribute", "learn", "smile", "--positive", train / SIDES[0], "--negative", train / SIDES[1], home=home)
    faces = [path for side in SIDES for path in sorted((folder / "test" / side).iterdir())[: FACES // 2]]
    simile("attribute", "sheet", "smile", *faces, "--strengths=-3..3", "--output", output, home=home)


if __name__ == "__main__":
    main()
