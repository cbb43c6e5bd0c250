"""Faces: what the plain VAE and two perceptual ones make of the same held-out faces, side by side in a picture.

    python -m benchmarks.training.faces --data DIR --output faces.png [--minutes 5] [--quick] [--work DIR]

DIR holds smiles.tar.gz (grey faces of 64 x 64). A fifth of them, by their content's hash, is held out. All train for
the same time with the same latent dimension: vae, the perceptual recipe (oriented gradients, asked of the latent), and
vae with multi-scale SSIM of the decoded picture. The table: squared error and SSIM of the reconstructions, and their
sharpness: the mean length of the gradient, as a share of the originals'.
"""

from __future__ import annotations

import argparse
import hashlib
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common.simile_runs import encoder_of, simile
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
SHOWN = 12
Floats = NDArray[np.float32]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--output", type=Path, required=True)
    options.add_argument("--minutes", type=float, default=5, help="of training for each")
    options.add_argument("--quick", action="store_true", help="a minute for each")
    options.add_argument("--work", type=Path, help="keeps pictures and homes there, and goes on from them")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run(given.data, given.output, 1 if given.quick else given.minutes, given.work or Path(scratch))


def run(data: Path, output: Path, minutes: float, work: Path) -> None:
    extract(data / "smiles.tar.gz", work)
    paths = sorted(map(str, (work / "test").iterdir()))
    decoded = {}
    for name, options in RUNS.items():
        if not (work / name / "catalogue.sqlite").exists():
            simile("train", work / "train", *options, "--minutes", str(minutes), home=work / name)
        encoder = encoder_of(work / name)
        pictures = read_arrays(paths, encoder.preprocessing, Limits(), 0).images
        decoded[name] = encoder.decode(encoder.encode(pictures).mu)
    originals = scale_to_unit(pictures)
    print(f"{'trained':<12}{'squared error':>15}{'SSIM':>8}{'sharpness':>11}")
    for name, seen in decoded.items():
        error = float(np.square(seen - originals).mean())
        alike = ssim(torch.from_numpy(seen), torch.from_numpy(originals)).mean().item()
        print(f"{name:<12}{error:>15.5f}{alike:>8.3f}{gradient(seen) / gradient(originals):>11.2f}")
    rows = [originals, *decoded.values()]
    chosen = np.linspace(0, len(originals) - 1, SHOWN).astype(int)
    shown = np.concatenate([np.rint(row[chosen] * 255).astype(np.uint8).transpose(0, 2, 3, 1) for row in rows])
    output.write_bytes(draw_image_grid(shown, SHOWN))
    print(f"{output}: above the originals, then {', then '.join(RUNS)}")


def extract(archive: Path, work: Path) -> None:
    """Every face into train/ or test/, copies of one content always into the same."""
    if (work / "train").exists():
        return
    for name in ("train", "test"):
        (work / name).mkdir(parents=True)
    with tarfile.open(archive) as tar:
        for number, member in enumerate(sorted(tar.getmembers(), key=lambda member: member.name)):
            file = tar.extractfile(member)
            if file is not None:
                content = file.read()
                part = "test" if hashlib.sha256(content).digest()[0] % 5 == 0 else "train"
                (work / part / f"{number:05d}.jpg").write_bytes(content)


def gradient(pictures: Floats) -> float:
    """Mean length of the gradient of (n, 1, S, S)."""
    down, right = np.gradient(pictures, axis=(2, 3))
    return float(np.hypot(down, right).mean())


if __name__ == "__main__":
    main()
