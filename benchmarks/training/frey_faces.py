"""The 2-dimensional manifold of the Frey faces as a grid, as in arXiv 1312.6114, figure 4.

    python -m benchmarks.training.frey_faces --data DIR --output manifold.png [--minutes 3] [--quick] [--work DIR]

DIR holds frey-faces.npz (images (1965, 28, 20) uint8, the frames of a video in order). The last tenth of the frames is
left out; frames side by side are too alike to hold out single ones.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.common.simile_runs import report_of, simile, write_pictures


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--output", type=Path, required=True)
    options.add_argument("--minutes", type=float, default=3)
    options.add_argument("--quick", action="store_true", help="a minute of training")
    options.add_argument("--work", type=Path, help="keeps pictures and home there, and goes on from them")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run(given.data, given.output, 1 if given.quick else given.minutes, given.work or Path(scratch))


def run(data: Path, output: Path, minutes: float, work: Path) -> None:
    images = np.load(data / "frey-faces.npz")["images"]
    write_pictures(work / "train", images[: len(images) * 9 // 10])
    home = work / "home"
    if not (home / "catalogue.sqlite").exists():
        simile("train", work / "train", "--recipe", "vae", "--latent-dim", "2", "--minutes", str(minutes), home=home)
    report = report_of(home)
    print(f"epoch {report['best_epoch']}: {report['best']['validation']}")
    encoder = ["--encoder", report["fingerprint"]]
    simile("evaluate", work / "train", "--picture", "manifold", *encoder, "--output", output, home=home)


if __name__ == "__main__":
    main()
