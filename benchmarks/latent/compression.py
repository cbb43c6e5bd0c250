"""Images compressed to few bytes of latent vectors, compared with PCA, JPEG, WebP and AVIF.

    python -m benchmarks.latent.compression --data DIR --work WORK [--set fashion] [--images 300] [--plot PNG]

DIR holds fashion-mnist.npz and smiles.tar.gz. For each set and rate an encoder (recipe compression; a smaller variance
gives more bytes) is trained on the training images alone; held-out images are compressed to 16, 32 and 64 bytes on
average, as `simile compress --effort 40` does. PCA, fitted on 10,000 training images, uses the same quantiser, which
chooses the symbols with the least error and bits together, and the same coder. From JPEG, WebP and AVIF files the size
of a uniform grey image is subtracted, which is that of the headers. PSNR is the mean over images, SSIM over windows of
7 x 7. The size of the tables, which an archive has once for all images, is printed too.
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

from benchmarks.common.runs import load_encoder, make_parser, simile
from benchmarks.latent.attributes import split_faces
from simile.explore.compression.archive import pack_tables
from simile.explore.compression.codec import compress_images, find_delta
from simile.explore.compression.quantization import FrequencyTables, LatentQuantiser
from simile.images.formats import Limits
from simile.images.rendering.line_chart import draw_line_chart
from simile.models.inference.encoder import TrainedEncoder

Images = NDArray[np.float64]  # (n, h, w) in [0, 1]
Point = tuple[float, float, float]  # bytes, PSNR, SSIM
LIMITS = Limits(200_000_000, 50_000_000)
BYTES = (16, 32, 64)
FITTED = 10_000  # images that PCA is fitted on
# (numbers, variance of the Gaussian): the smaller the variance, the more bits the latent vector has.
ENCODERS = {
    "fashion": {16: (128, 0.01), 32: (192, 0.004), 64: (256, 0.0014)},
    "smiles": {16: (192, 0.03), 32: (256, 0.02), 64: (256, 0.012)},
}
WIDTHS = {"fashion": 32, "smiles": 16}  # more steps in the same time for the larger images


def main() -> None:
    """Parse the options and run the benchmark."""
    parser = make_parser(__doc__, data=True)
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps images and homes for the next run")
    parser.add_argument("--set", choices=ENCODERS, action="append", help="may be repeated [default: both]")
    parser.add_argument("--minutes", type=float, default=9, help="training time for each encoder")
    parser.add_argument("--images", type=int, default=300, help="number of held-out images")
    parser.add_argument("--effort", type=int, default=40)
    parser.add_argument("--plot", type=Path, help="chart of the last set")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    for name in options.set or ENCODERS:
        rows = measure(name, options)
        if options.plot is not None:
            series = {kind: [(size, psnr) for size, psnr, _ in points] for kind, points in rows.items()}
            drawn = draw_line_chart(series, title=name, x_label="bytes a image", y_label="PSNR in dB")
            options.plot.write_bytes(drawn)


def measure(name: str, options: argparse.Namespace) -> dict[str, list[Point]]:
    """Measure all methods on one set; return their points."""
    train, held_out = prepare_folders(name, options)
    paths = sorted(held_out.rglob("*.*"))
    paths = paths[:: max(1, len(paths) // options.images)][: options.images]
    images = np.stack([read_grey(path) for path in paths])
    rows: dict[str, list[Point]] = {"simile": [], "PCA": []}
    print(f"\n{name}: {len(paths)} held-out images of {images.shape[2]} x {images.shape[1]}")
    pca = fit_pca(sorted(train.rglob("*.*")))
    components = 2 * pca.components_.size  # as float16
    for size in BYTES:
        encoder, weights = train_encoder(name, size, train, options)
        compressed = compress_images(
            encoder,
            [str(path) for path in paths],
            LIMITS,
            0,
            lambda *_: None,
            bytes_per_image=size,
            effort=options.effort,
        )
        decoded = encoder.decode(compressed.quantiser.dequantise(compressed.symbols))
        top, left, height, width = encoder.preprocessing.content_box()
        used, tables = (
            len(compressed.encode_latents()) / len(paths),
            len(pack_tables(compressed.quantiser, compressed.tables)),
        )
        rows["simile"].append((used, *measure_quality(images, decoded[:, 0, top : top + height, left : left + width])))
        note = f"  tables {tables / 1e3:.1f} kB, encoder and decoder {weights / 1e6:.1f} MB"
        print_row("simile", rows["simile"][-1], note)
        point, tables = compress_with_pca(pca, images, size)
        rows["PCA"].append(point)
        print_row("PCA", point, f"  tables {tables / 1e3:.1f} kB, components {components / 1e6:.1f} MB")
    for kind, settings in (("JPEG", range(1, 60, 6)), ("WebP", range(0, 60, 6)), ("AVIF", range(0, 60, 6))):
        rows[kind] = [compress_with_format(images, kind, setting) for setting in settings]
        print_row(kind, min(rows[kind], key=lambda row: abs(row[0] - 64)), "  nearest to 64 B, without headers")
    return rows


def print_row(kind: str, point: Point, note: str) -> None:
    """Print a row of the table."""
    used, psnr, ssim = point
    print(f"{kind:<8}{used:7.1f} B  PSNR {psnr:6.2f} dB  SSIM {ssim:.4f}{note}", flush=True)


def prepare_folders(name: str, options: argparse.Namespace) -> tuple[Path, Path]:
    """Write the images; return the folders of training and held-out images."""
    folder = options.work / name
    if name == "smiles":
        split_faces(options.data / "smiles.tar.gz", folder, 0)
    elif not folder.exists():
        arrays = np.load(options.data / "fashion-mnist.npz")
        for part, key, count in (("train", "x_train", 60_000), ("test", "x_test", 2000)):
            (folder / part).mkdir(parents=True)
            pixels = arrays[key]  # read once: an .npz file is unpacked at each access
            for row, source in enumerate(np.random.default_rng(0).permutation(len(pixels))[:count]):
                Image.fromarray(pixels[source]).save(folder / part / f"{row:05d}.png", compress_level=1)
    return folder / "train", folder / "test"


def train_encoder(name: str, size: int, train: Path, options: argparse.Namespace) -> tuple[TrainedEncoder, int]:
    """Return the encoder for a number of bytes, and the size of its weights."""
    dims, variance = ENCODERS[name][size]
    home = options.work / f"{name}-{variance}-{dims}"
    if not (home / "catalogue.sqlite").exists():
        training = ["--recipe", "compression", "--latent-dim", dims, "--variance", variance, "--width", WIDTHS[name]]
        simile("train", train, *training, "--minutes", options.minutes, home=home)
    (weights,) = home.glob("encoders/[0-9a-f]*/weights.safetensors")
    return load_encoder(home), weights.stat().st_size


def read_grey(path: Path) -> NDArray[np.float64]:
    """Read an image as grey values in [0, 1], (h, w)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L"), np.float64) / 255


def fit_pca(paths: list[Path]) -> PCA:
    """Fit a PCA on some of the images."""
    rows = np.random.default_rng(0).permutation(len(paths))[:FITTED]
    images = np.stack([read_grey(paths[row]).ravel() for row in rows]).astype(np.float32)
    return PCA(min(512, images.shape[1]), svd_solver="randomized", random_state=0).fit(images)


def compress_with_pca(pca: PCA, images: Images, size: float) -> tuple[Point, int]:
    """Compress with PCA and the same quantiser and coder; return the point, and the size of the tables."""
    codes = pca.transform(images.reshape(len(images), -1)).astype(np.float32)
    centre, equal = np.zeros(codes.shape[1], np.float32), np.ones(codes.shape[1])

    def get_bytes(delta: float) -> float:
        symbols = LatentQuantiser.from_sensitivity(centre, equal, delta).quantise(codes)
        return float(FrequencyTables.fit(symbols).count_bits(symbols).mean() / 8)

    quantiser = LatentQuantiser.from_sensitivity(centre, equal, find_delta(get_bytes, size))
    symbols = quantiser.quantise(codes)
    decoded = pca.inverse_transform(quantiser.dequantise(symbols)).reshape(images.shape)
    tables = FrequencyTables.fit(symbols)
    used = len(tables.encode(symbols)) / len(images)
    return (used, *measure_quality(images, decoded)), len(pack_tables(quantiser, tables))


def compress_with_format(images: Images, kind: str, setting: int) -> Point:
    """Compress with an image format at a quality; headers do not count."""
    flat = np.full(images.shape[1:], 128, np.uint8)
    headers = len(encode(flat, kind, setting))
    files = [encode(np.rint(image * 255).astype(np.uint8), kind, setting) for image in images]
    decoded = np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("L"), np.float64) / 255 for data in files])
    return (float(np.mean([len(data) - headers for data in files])), *measure_quality(images, decoded))


def encode(pixels: NDArray[np.uint8], kind: str, setting: int) -> bytes:
    """Encode in a format at a quality."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, quality=setting)
    return file.getvalue()


def measure_quality(images: Images, decoded: NDArray[Any]) -> tuple[float, float]:
    """Return mean PSNR in dB, and mean SSIM."""
    decoded = np.clip(decoded.astype(np.float64), 0, 1)
    errors = np.maximum(np.square(decoded - images).mean(axis=(1, 2)), 1e-10)
    return float((-10 * np.log10(errors)).mean()), float(ssim(images, decoded))


def ssim(first: Images, second: Images, side: int = 7) -> float:
    """Return SSIM by Wang et al. 2004, with uniform windows and the constants for values in [0, 1]."""

    def window(values: Images) -> Images:
        windows = np.lib.stride_tricks.sliding_window_view(values, (side, side), axis=(1, 2))
        return np.asarray(windows.mean(axis=(3, 4)))

    a, b = window(first), window(second)
    aa, bb, ab = window(first * first) - a * a, window(second * second) - b * b, window(first * second) - a * b
    values = (2 * a * b + 1e-4) * (2 * ab + 9e-4) / ((a * a + b * b + 1e-4) * (aa + bb + 9e-4))
    return float(values.mean())


if __name__ == "__main__":
    main()
