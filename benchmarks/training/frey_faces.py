"""The 2-dimensional manifold of the Frey faces as a grid, as in arXiv 1312.6114, figure 4.

    python -m benchmarks.training.frey_faces --data DIR --output manifold.png [--minutes 3] [--quick] [--work DIR]

DIR holds frey-faces.npz (images (1965, 28, 20) uint8, the frames of a video in order). The last tenth of the frames is
held out; neighbouring frames are too similar to hold out single ones.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.common.runs import make_parser, open_work_folder, read_report, simile, train_once, write_images


def main() -> None:
    """Parse the options and run the benchmark."""
    parser = make_parser(__doc__, data=True, work=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--quick", action="store_true", help="a minute of training")
    options = parser.parse_args()
    with open_work_folder(options.work) as work:
        run(options.data, options.output, 1 if options.quick else options.minutes, work)


def run(data: Path, output: Path, minutes: float, work: Path) -> None:
    """Train an encoder with two dimensions and draw its manifold."""
    images = np.load(data / "frey-faces.npz")["images"]
    write_images(work / "train", images[: len(images) * 9 // 10])
    home = work / "home"
    train_once(home, work / "train", "--recipe", "vae", "--latent-dim", 2, "--minutes", minutes)
    report = read_report(home)
    print(f"epoch {report['best_epoch']}: {report['best']['validation']}")
    encoder = ["--encoder", report["fingerprint"]]
    simile("evaluate", work / "train", "--picture", "manifold", *encoder, "--output", output, home=home)


if __name__ == "__main__":
    main()
