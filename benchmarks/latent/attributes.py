"""A smile: how well a direction learned on 80 % of the faces tells the other 20 % apart.

    python -m benchmarks.latent.attributes --data DIR --work DIR [--minutes 10] [--recipe NAME] [--splits 3] [--output PNG]

DIR holds smiles.tar.gz (grey faces of 64 x 64, in smiling/ and not-smiling/). For each split the encoder is trained on
the 80 % without labels, then the direction is learned on them; the AUC is that of the other 20 %. Splits are seeded and
stratified, copies byte for byte stay together. With --output: 16 held-out faces of the first split, from -3 to +3.
"""

from __future__ import annotations

import argparse
import hashlib
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from benchmarks.common.simile_runs import encoder_of, simile
from simile.explore.attributes.directions import AttributeExamples, learn_attribute
from simile.images.formats import Limits
from simile.images.loading.loader import read_arrays

SIDES = ("smiling", "not-smiling")
SHOWN = 16


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--work", type=Path, required=True, help="keeps pictures and homes, and goes on from them")
    options.add_argument("--minutes", type=float, default=10, help="of training for each split")
    options.add_argument("--recipe", default="perceptual")
    options.add_argument("--splits", type=int, default=3, choices=range(1, 6))
    options.add_argument("--output", type=Path, help="a sheet of faces; never publish it")
    given = options.parse_args()
    found = []
    for number in range(given.splits):
        folder = given.work / f"split{number}"
        divide(given.data / "smiles.tar.gz", folder, number)
        home = folder / given.recipe
        if not (home / "catalogue.sqlite").exists():
            minutes = str(given.minutes)
            simile("train", folder / "train", "--recipe", given.recipe, "--minutes", minutes, home=home)
            simile("index", folder / "test", home=home)
        found.append(measure(folder, home))
        print(f"split {number}: " + "  ".join(f"{name} {auc:.4f}" for name, auc in found[-1].items()), flush=True)
    for name in found[0]:
        values = [one[name] for one in found]
        print(f"{name:<10} {np.mean(values):.4f} ± {np.std(values):.4f}")
    if given.output is not None:
        draw(given.work / "split0", given.work / "split0" / given.recipe, given.output)


def divide(archive: Path, folder: Path, number: int) -> None:
    """Every face into train/ or test/, each with a folder for each side."""
    if folder.exists():
        return
    with tarfile.open(archive) as tar:
        members = [member for member in tar.getmembers() if member.isfile()]
        members.sort(key=lambda member: member.name)
        contents = [file.read() for member in members if (file := tar.extractfile(member)) is not None]
    sides = [Path(member.name).parent.name for member in members]
    groups = [hashlib.sha256(content).hexdigest() for content in contents]
    parts = StratifiedGroupKFold(5, shuffle=True, random_state=number).split(sides, sides, groups)
    held_out = set(next(iter(parts))[1].tolist())
    for row, (side, content) in enumerate(zip(sides, contents, strict=True)):
        target = folder / ("test" if row in held_out else "train") / side
        target.mkdir(parents=True, exist_ok=True)
        (target / f"{row:05d}.jpg").write_bytes(content)


def measure(folder: Path, home: Path) -> dict[str, float]:
    """The AUC of both directions on the held-out faces."""
    made = learn_attribute("smile", "", examples(folder / "train", home))
    asked = examples(folder / "test", home)
    directions = {"raw": made.raw, "whitened": made.whitened}
    return {
        name: float(roc_auc_score(asked.is_positive, asked.mu @ direction)) for name, direction in directions.items()
    }


def examples(folder: Path, home: Path) -> AttributeExamples:
    encoder = encoder_of(home)
    mus: list[NDArray[np.float32]] = []
    digests: list[str] = []
    counts = []
    for side in SIDES:
        read = read_arrays(sorted(map(str, (folder / side).iterdir())), encoder.preprocessing, Limits(), 0)
        mus.append(encoder.encode(read.images).mu)
        digests += read.digests
        counts.append(len(read.paths))
    return AttributeExamples(np.concatenate(mus), np.repeat([True, False], counts), digests)


def draw(folder: Path, home: Path, output: Path) -> None:
    """Faces of both sides in turns, by the commands that a user types."""
    if not list(home.glob("attributes/*/smile.npz")):
        train = folder / "train"
        simile("attribute", "learn", "smile", "--positive", train / SIDES[0], "--negative", train / SIDES[1], home=home)
    faces = [path for side in SIDES for path in sorted((folder / "test" / side).iterdir())[: SHOWN // 2]]
    simile("attribute", "sheet", "smile", *faces, "--strengths=-3..3", "--output", output, home=home)


if __name__ == "__main__":
    main()
