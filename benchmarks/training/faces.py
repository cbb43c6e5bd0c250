"""Reconstructions of held-out faces by the plain VAE and two perceptual ones, side by side in one image.

    python -m benchmarks.training.faces --data DIR --output faces.png [--minutes 5] [--quick] [--work DIR]

DIR holds smiles.tar.gz (grey faces of 64 x 64). A fifth of them, by the hash of the content, is held out. All train for
the same time with the same latent dimension: vae, the perceptual recipe (oriented gradients, predicted from the latent
vector), and vae with multi-scale SSIM of the decoded image. The table shows squared error and SSIM of the
reconstructions, and their sharpness: the mean length of the gradient, as a share of the originals'.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common.runs import iterate_jpegs, load_encoder, make_parser, open_work_folder, train_once
from simile.images.formats import Limits
from simile.images.loading.loader import read_arrays
from simile.images.rendering.sheets import draw_image_grid
from simile.images.transforms import scale_to_unit
from simile.models.losses.ssim import ssim

RUNS = {
    "vae": ["--recipe", "vae"],
    "perceptual": ["--recipe", "perceptual"],
    "ms-ssim": ["--recipe", "vae", "--features", "ms-ssim"],
}
FACES = 12
Floats = NDArray[np.float32]


def main() -> None:
    """Parse the options and run the benchmark."""
    parser = make_parser(__doc__, data=True, work=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=5, help="training time for each")
    parser.add_argument("--quick", action="store_true", help="a minute for each")
    options = parser.parse_args()
    with open_work_folder(options.work) as work:
        run(options.data, options.output, 1 if options.quick else options.minutes, work)


def run(data: Path, output: Path, minutes: float, work: Path) -> None:
    """Train the encoders, print the table and draw the faces."""
    extract(data / "smiles.tar.gz", work)
    paths = sorted(map(str, (work / "test").iterdir()))
    decoded = {}
    for name, options in RUNS.items():
        train_once(work / name, work / "train", *options, "--minutes", minutes)
        encoder = load_encoder(work / name)
        images = read_arrays(paths, encoder.preprocessing, Limits(), 0).images
        decoded[name] = encoder.decode(encoder.encode(images).mu)
    originals = scale_to_unit(images)
    print(f"{'trained':<12}{'squared error':>15}{'SSIM':>8}{'sharpness':>11}")
    for name, images in decoded.items():
        error = float(np.square(images - originals).mean())
        similarity = ssim(torch.from_numpy(images), torch.from_numpy(originals)).mean().item()
        sharpness = measure_sharpness(images) / measure_sharpness(originals)
        print(f"{name:<12}{error:>15.5f}{similarity:>8.3f}{sharpness:>11.2f}")
    rows = [originals, *decoded.values()]
    columns = np.linspace(0, len(originals) - 1, FACES).astype(int)
    faces = np.concatenate([np.rint(row[columns] * 255).astype(np.uint8).transpose(0, 2, 3, 1) for row in rows])
    output.write_bytes(draw_image_grid(faces, FACES))
    print(f"{output}: first row: originals, then {', then '.join(RUNS)}")


def extract(archive: Path, work: Path) -> None:
    """Write all faces to train/ and test/; copies of one content are in one part."""
    if (work / "train").exists():
        return
    for name in ("train", "test"):
        (work / name).mkdir(parents=True)
    for number, (_, content) in enumerate(iterate_jpegs(archive)):
        part = "test" if hashlib.sha256(content).digest()[0] % 5 == 0 else "train"
        (work / part / f"{number:05d}.jpg").write_bytes(content)


def measure_sharpness(images: Floats) -> float:
    """Return the mean length of the gradient of images (n, 1, S, S)."""
    down, right = np.gradient(images, axis=(2, 3))
    return float(np.hypot(down, right).mean())


if __name__ == "__main__":
    main()
