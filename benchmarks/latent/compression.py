"""How well do latents of few bytes stand for pictures, beside PCA, JPEG, WebP and AVIF?

    python -m benchmarks.latent.compression --data DIR --work WORK [--set fashion] [--minutes 9] [--pictures 300] [--plot PNG]

DIR holds fashion-mnist.npz and smiles.tar.gz. For each set and rate an encoder (recipe compression, the smaller the
variance, the more bytes) is trained on the training pictures alone; held-out ones are compressed to 16, 32 and 64 bytes
on average, as `simile compress --effort 40` does. PCA, fitted on 10,000 training pictures, goes through the same
quantiser, which takes the symbols that are cheapest in error and bits together, and the same coder. Of JPEG, WebP and
AVIF the bytes of a grey picture, their headers, are taken off. PSNR is the mean over pictures, SSIM over windows of
7 x 7. What the tables of each take, once for all pictures of an archive, is said beside it.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.decomposition import PCA

from benchmarks.common.simile_runs import encoder_of, simile
from benchmarks.latent.attributes import divide
from simile.explore.compression.archive import pack_tables
from simile.explore.compression.codec import compress_images, find_delta
from simile.explore.compression.quantization import FrequencyTables, LatentQuantiser
from simile.images.formats import Limits
from simile.images.rendering.line_chart import draw_line_chart
from simile.models.inference.encoder import TrainedEncoder

Pictures = NDArray[np.float64]  # (n, h, w) in [0, 1]
Point = tuple[float, float, float]  # bytes, PSNR, SSIM
LIMITS = Limits(200_000_000, 50_000_000)
BYTES = (16, 32, 64)
FITTED = 10_000  # pictures that PCA sees
# (numbers, variance of the Gaussian): the smaller the variance, the more bits the latent holds.
ENCODERS = {
    "fashion": {16: (128, 0.01), 32: (192, 0.004), 64: (256, 0.0014)},
    "smiles": {16: (192, 0.03), 32: (256, 0.02), 64: (256, 0.012)},
}
WIDTHS = {"fashion": 32, "smiles": 16}  # more steps in the same time for the larger pictures


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--work", type=Path, required=True, help="keeps pictures and homes, and goes on from them")
    options.add_argument("--set", choices=ENCODERS, action="append", help="both by default")
    options.add_argument("--minutes", type=float, default=9, help="of training for each encoder")
    options.add_argument("--pictures", type=int, default=300, help="held out")
    options.add_argument("--effort", type=int, default=40)
    options.add_argument("--plot", type=Path, help="of the last set")
    given = options.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    for name in given.set or ENCODERS:
        rows = measure(name, given)
        if given.plot is not None:
            series = {kind: [(size, psnr) for size, psnr, _ in points] for kind, points in rows.items()}
            drawn = draw_line_chart(series, title=name, x_label="bytes a picture", y_label="PSNR in dB")
            given.plot.write_bytes(drawn)


def measure(name: str, given: argparse.Namespace) -> dict[str, list[Point]]:
    train, held_out = folders(name, given)
    paths = sorted(held_out.rglob("*.*"))
    paths = paths[:: max(1, len(paths) // given.pictures)][: given.pictures]
    pictures = np.stack([grey(path) for path in paths])
    rows: dict[str, list[Point]] = {"simile": [], "PCA": []}
    print(f"\n{name}: {len(paths)} held-out pictures of {pictures.shape[2]} x {pictures.shape[1]}")
    pca = fitted(sorted(train.rglob("*.*")))
    components = 2 * pca.components_.size  # as float16
    for size in BYTES:
        encoder, weights = encoder_for(name, size, train, given)
        made = compress_images(
            encoder,
            [str(path) for path in paths],
            LIMITS,
            0,
            lambda *_: None,
            bytes_per_image=size,
            effort=given.effort,
        )
        seen = encoder.decode(made.quantiser.dequantise(made.symbols))
        top, left, height, width = encoder.preprocessing.content_box()
        used, tables = len(made.encode_latents()) / len(paths), len(pack_tables(made.quantiser, made.tables))
        rows["simile"].append((used, *quality(pictures, seen[:, 0, top : top + height, left : left + width])))
        note = f"  tables {tables / 1e3:.1f} kB, encoder and decoder {weights / 1e6:.1f} MB"
        print_row("simile", rows["simile"][-1], note)
        point, tables = by_pca(pca, pictures, size)
        rows["PCA"].append(point)
        print_row("PCA", point, f"  tables {tables / 1e3:.1f} kB, components {components / 1e6:.1f} MB")
    for kind, settings in (("JPEG", range(1, 60, 6)), ("WebP", range(0, 60, 6)), ("AVIF", range(0, 60, 6))):
        rows[kind] = [by_file(pictures, kind, setting) for setting in settings]
        print_row(kind, min(rows[kind], key=lambda row: abs(row[0] - 64)), "  nearest to 64 B, without headers")
    return rows


def print_row(kind: str, point: Point, note: str) -> None:
    used, psnr, ssim = point
    print(f"{kind:<8}{used:7.1f} B  PSNR {psnr:6.2f} dB  SSIM {ssim:.4f}{note}", flush=True)


def folders(name: str, given: argparse.Namespace) -> tuple[Path, Path]:
    """Training pictures and held-out ones."""
    folder = given.work / name
    if name == "smiles":
        divide(given.data / "smiles.tar.gz", folder, 0)
    elif not folder.exists():
        arrays = np.load(given.data / "fashion-mnist.npz")
        for part, key, count in (("train", "x_train", 60_000), ("test", "x_test", 2000)):
            (folder / part).mkdir(parents=True)
            pixels = arrays[key]  # read once: an .npz is unpacked anew each time that it is asked
            for row, at in enumerate(np.random.default_rng(0).permutation(len(pixels))[:count]):
                Image.fromarray(pixels[at]).save(folder / part / f"{row:05d}.png", compress_level=1)
    return folder / "train", folder / "test"


def encoder_for(name: str, size: int, train: Path, given: argparse.Namespace) -> tuple[TrainedEncoder, int]:
    """The encoder for so many bytes, and the bytes of its weights."""
    dims, variance = ENCODERS[name][size]
    home = given.work / f"{name}-{variance}-{dims}"
    if not (home / "catalogue.sqlite").exists():
        how = ["--recipe", "compression", "--latent-dim", dims, "--variance", variance, "--width", WIDTHS[name]]
        simile("train", train, *how, "--minutes", given.minutes, home=home)
    (weights,) = home.glob("encoders/[0-9a-f]*/weights.safetensors")
    return encoder_of(home), weights.stat().st_size


def grey(path: Path) -> NDArray[np.float64]:
    with Image.open(path) as image:
        return np.asarray(image.convert("L"), np.float64) / 255


def fitted(paths: list[Path]) -> PCA:
    chosen = np.random.default_rng(0).permutation(len(paths))[:FITTED]
    pictures = np.stack([grey(paths[at]).ravel() for at in chosen]).astype(np.float32)
    return PCA(min(512, pictures.shape[1]), svd_solver="randomized", random_state=0).fit(pictures)


def by_pca(pca: PCA, pictures: Pictures, size: float) -> tuple[Point, int]:
    """PCA through the same quantiser and coder, a step changes a picture by delta in each; and the tables' bytes."""
    codes = pca.transform(pictures.reshape(len(pictures), -1)).astype(np.float32)
    centre, even = np.zeros(codes.shape[1], np.float32), np.ones(codes.shape[1])

    def bytes_at(delta: float) -> float:
        symbols = LatentQuantiser.from_sensitivity(centre, even, delta).quantise(codes)
        return float(FrequencyTables.fit(symbols).count_bits(symbols).mean() / 8)

    quantiser = LatentQuantiser.from_sensitivity(centre, even, find_delta(bytes_at, size))
    symbols = quantiser.quantise(codes)
    seen = pca.inverse_transform(quantiser.dequantise(symbols)).reshape(pictures.shape)
    tables = FrequencyTables.fit(symbols)
    used = len(tables.encode(symbols)) / len(pictures)
    return (used, *quality(pictures, seen)), len(pack_tables(quantiser, tables))


def by_file(pictures: Pictures, kind: str, setting: int) -> Point:
    """Without headers, of a picture format at a quality."""
    flat = np.full(pictures.shape[1:], 128, np.uint8)
    headers = len(packed(flat, kind, setting))
    files = [packed(np.rint(one * 255).astype(np.uint8), kind, setting) for one in pictures]
    seen = np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("L"), np.float64) / 255 for data in files])
    return (float(np.mean([len(data) - headers for data in files])), *quality(pictures, seen))


def packed(pixels: NDArray[np.uint8], kind: str, setting: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, quality=setting)
    return file.getvalue()


def quality(pictures: Pictures, seen: NDArray[Any]) -> tuple[float, float]:
    """Mean PSNR in dB, and mean SSIM."""
    seen = np.clip(seen.astype(np.float64), 0, 1)
    errors = np.maximum(np.square(seen - pictures).mean(axis=(1, 2)), 1e-10)
    return float((-10 * np.log10(errors)).mean()), float(ssim(pictures, seen))


def ssim(one: Pictures, other: Pictures, side: int = 7) -> float:
    """Wang et al. 2004, uniform windows, constants for values in [0, 1]."""

    def window(values: Pictures) -> Pictures:
        windows = np.lib.stride_tricks.sliding_window_view(values, (side, side), axis=(1, 2))
        return np.asarray(windows.mean(axis=(3, 4)))

    a, b = window(one), window(other)
    aa, bb, ab = window(one * one) - a * a, window(other * other) - b * b, window(one * other) - a * b
    found = (2 * a * b + 1e-4) * (2 * ab + 9e-4) / ((a * a + b * b + 1e-4) * (aa + bb + 9e-4))
    return float(found.mean())


if __name__ == "__main__":
    main()
