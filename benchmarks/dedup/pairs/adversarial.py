"""Pairs in which the wrong file looks better: what `simile dedup` would remove, and whether `undo` restores every byte.

    python -m benchmarks.dedup.pairs.adversarial (--data DIR | --photos FOLDER) [--pairs 40] [--homes 10] [--seed 0]

For each of some 60 kinds, pairs of two files are made of a photo or a scene: a grey PNG of a colour JPEG, a JPEG of
quality 5 inside a TIFF, an enlarged file, a file that lost its profile, two invoices with other amounts, and so on.
Each kind names the files that a plan may remove; all others must stay. `simile index` and `simile dedup --plan` run
on all pairs, then `apply --move-to` and `undo`. The pairs are shared out among --homes, because all documents are near
each other: in one home, 3,900 files need 260,000 comparisons. The homes use one encoder. The table counts by kind:
pairs that were found as copies, files in the plan, and wrong removals. The exit code is the number of errors: files in
a plan that must stay (both, if a plan takes both files of a pair), and files that differ after `undo`.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import struct
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageCms, ImageDraw, ImageEnhance, ImageFilter

from benchmarks.common.runs import (
    add_photo_options,
    get_encoder_folder,
    list_photos,
    make_parser,
    make_training_options,
    open_work_folder,
    parse_photo_options,
    simile,
)
from benchmarks.dedup.pairs.scenes import SCENES
from simile.images import decoding  # noqa: F401  # registers the HEIF plugin
from simile.images.distortions import distort

Random = np.random.Generator
Files = dict[str, bytes]  # by the end of the file's name
Maker = Callable[[Image.Image, bytes, Random], Files]
MAX_SIDE = 900


def main() -> None:
    """Make the pairs, run the commands and print the table."""
    parser = make_parser(__doc__, work=True)
    add_photo_options(parser)
    parser.add_argument("--pairs", type=int, default=40, help="pairs of each kind")
    parser.add_argument("--homes", type=int, default=10, help="homes that share the pairs")
    parser.add_argument("--minutes", type=float, help="training time; the shipped encoder otherwise")
    parser.add_argument("--threshold", type=float, help="of `simile dedup`; a large one compares more pairs")
    options = parse_photo_options(parser)
    with open_work_folder(options.work) as work:
        sys.exit(run(options, work))


def run(options: argparse.Namespace, work: Path) -> int:
    """Return the number of errors."""
    images = work / "images"
    if not images.exists():
        photos = list_photos(options, work, "clothing-photos.tar", "clothing-2695.tar")
        for number in range(options.homes):
            (images / str(number)).mkdir(parents=True)
        tasks = [(kind, number) for number in range(options.pairs) for kind in [*KINDS, *SCENES]]
        folders = [images / str(number % options.homes) for _, number in tasks]
        with ProcessPoolExecutor() as pool:
            list(pool.map(partial(write_pair, photos, options.seed), folders, tasks, range(len(tasks)), chunksize=16))
    counts = Counts()
    different: list[str] = []
    homes = [work / f"home-{number}" for number in range(options.homes)]
    for number, home in enumerate(homes):
        folder, plan, gone = images / str(number), work / f"plan-{number}.json", work / f"gone-{number}"
        before = hash_files(folder)
        encoder = ["--encoder", get_encoder_folder(homes[0])] if number else make_training_options(options.minutes)
        simile("index", folder, *encoder, home=home)
        threshold = [] if options.threshold is None else ["--threshold", options.threshold]
        simile("dedup", "--plan", plan, "--output", work / "groups.json", *threshold, home=home)
        counts.add(folder, work / "groups.json", plan)
        simile("dedup", "apply", plan, "--move-to", gone, home=home)
        counts.moved += sum(path.is_file() for path in gone.rglob("*"))
        simile("dedup", "undo", home=home)
        after = hash_files(folder)
        different += [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
        counts.files += len(before)
    counts.print_table()
    print(f"apply moved {counts.moved:,} files; after undo {len(different)} of {counts.files:,} differ {different[:3]}")
    return len(counts.wrong_names) + len(different)


def write_pair(photos: list[Path], seed: int, folder: Path, task: tuple[str, int], row: int) -> None:
    """Write the files of a pair as KIND-NUMBER-NAME."""
    kind, number = task
    random = np.random.default_rng((seed, row))
    if kind in SCENES:
        chosen = [photos[(7 * row + step) % len(photos)] for step in range(8)]
        backgrounds = [Image.open(path).convert("RGB") for path in chosen]
        for own in (1, 2):
            shared = np.random.default_rng((seed, row, 3))
            scene = SCENES[kind](shared, np.random.default_rng((seed, row, own)), backgrounds)
            scene.save(folder / f"{kind}-{number:03d}-{own}.jpg", quality=int(random.integers(80, 96)))
        return
    data = photos[row % len(photos)].read_bytes()
    image = Image.open(io.BytesIO(data)).convert("RGB")
    if max(image.size) > MAX_SIDE:
        image.thumbnail((MAX_SIDE, MAX_SIDE))
        data = encode(image, "JPEG", quality=92)
    _, make = KINDS[kind]
    for suffix, content in make(image, data, random).items():
        (folder / f"{kind}-{number:03d}-{suffix}").write_bytes(content)


def hash_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file, by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


class Counts:
    """What was found and planned, by kind."""

    def __init__(self) -> None:
        self.pairs, self.found, self.planned, self.wrong = (
            Counter[str](),
            Counter[str](),
            Counter[str](),
            Counter[str](),
        )
        self.wrong_names: list[str] = []
        self.files = self.moved = 0

    def add(self, folder: Path, groups: Path, plan: Path) -> None:
        """Count the pairs of a home."""
        removed = {Path(line["path"]).name for line in json.loads(plan.read_text("utf-8"))["removals"]}
        members = [
            {Path(m["path"]).name for m in group["members"]}
            for group in json.loads(groups.read_text("utf-8"))["groups"]
        ]
        pairs: dict[tuple[str, str], list[str]] = {}
        for path in sorted(folder.iterdir()):
            kind, number, _ = split_name(path.name)
            pairs.setdefault((kind, number), []).append(path.name)
        for (kind, _), files in pairs.items():
            gone = [name for name in files if name in removed]
            may_go = KINDS[kind][0] if kind in KINDS else ()
            bad = [name for name in gone if split_name(name)[2] not in may_go]
            bad = bad or (gone if len(gone) == len(files) else [])
            self.pairs[kind] += 1
            self.found[kind] += any(len(group & set(files)) > 1 for group in members)
            self.planned[kind] += len(gone)
            self.wrong[kind] += len(bad)
            self.wrong_names += bad

    def print_table(self) -> None:
        """Print the counts."""
        columns = self.pairs, self.found, self.planned, self.wrong
        print(f"{'':22}{'pairs':>7}{'found':>7}{'in the plan':>13}{'wrong':>7}")
        for kind in sorted(self.pairs):
            pairs, found, planned, wrong = (column[kind] for column in columns)
            print(f"{kind:22}{pairs:7}{found:7}{planned:13}{wrong:7}")
        pairs, found, planned, wrong = (column.total() for column in columns)
        print(f"{'all':22}{pairs:7}{found:7}{planned:13}{wrong:7}")
        for name in self.wrong_names[:40]:
            print(f"wrong: {name}")


def split_name(name: str) -> tuple[str, str, str]:
    """Return kind, number and suffix of a file's name."""
    kind, number, suffix = name.split("-", 2)
    return kind, number, suffix


# How the pairs are made


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    """Return the bytes of an image file."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def beside(suffix: str, change: Callable[[Image.Image, Random], Image.Image], format: str, **options: Any) -> Maker:
    """Return a maker of the photo as it is, and a changed one in a format."""

    def make(image: Image.Image, data: bytes, random: Random) -> Files:
        return {"original.jpg": data, suffix: encode(change(image, random), format, **options)}

    return make


def same(image: Image.Image, _: Random) -> Image.Image:
    """Return the image."""
    return image


def altered(kind: str) -> Callable[[Image.Image, Random], Image.Image]:
    """Return a function that alters an image in one of the ways of `simile evaluate`."""
    return lambda image, random: Image.fromarray(distort(np.asarray(image), kind, random))


def scaled(factor: float) -> Callable[[Image.Image, Random], Image.Image]:
    """Return a function that scales an image."""
    return lambda image, _: image.resize((round(image.width * factor), round(image.height * factor)))


def lit(factor: float) -> Callable[[Image.Image, Random], Image.Image]:
    """Return a function that changes the brightness of an image."""
    return lambda image, _: ImageEnhance.Brightness(image).enhance(factor)


def make_lossy_original(suffix: str, format: str, quality: int) -> Maker:
    """Return a maker of an original in this format, and of its export as JPEG."""

    def make(image: Image.Image, _: bytes, __: Random) -> Files:
        original = encode(image, format, quality=quality)
        shown = Image.open(io.BytesIO(original)).convert("RGB")
        return {suffix: original, "export.jpg": encode(shown, "JPEG", quality=92)}

    return make


def make_recompressed(image: Image.Image, _: bytes, random: Random) -> Files:
    """Make a good JPEG, and a PNG of a bad JPEG."""
    bad = Image.open(io.BytesIO(encode(image, "JPEG", quality=int(random.integers(10, 31)))))
    return {"original.jpg": encode(image, "JPEG", quality=92), "copy.png": encode(bad.convert("RGB"), "PNG")}


def make_twice_compressed(image: Image.Image, _: bytes, random: Random) -> Files:
    """Make a JPEG of quality 97 of a bad JPEG."""
    bad = Image.open(io.BytesIO(encode(image, "JPEG", quality=int(random.integers(10, 31)))))
    return {"original.jpg": encode(image, "JPEG", quality=90), "copy.jpg": encode(bad, "JPEG", quality=97)}


def make_profile_lost(image: Image.Image, _: bytes, __: Random) -> Files:
    """Make a PNG with a profile that exchanges red and green, and a BMP without it."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = profile.replace(b"rXYZ", b"____").replace(b"gXYZ", b"rXYZ").replace(b"____", b"gXYZ")
    return {"original.png": encode(image, "PNG", icc_profile=swapped), "lost.bmp": encode(image, "BMP")}


def make_deep(image: Image.Image, _: bytes, random: Random) -> Files:
    """Make a PNG of 16 bits, and a TIFF of 8."""
    deep = np.asarray(image)[:, :, ::-1].astype(np.uint16) * 256 + random.integers(0, 256, (*image.size[::-1], 3))
    data = cv2.imencode(".png", deep.astype(np.uint16))[1].tobytes()
    return {"original.png": data, "preview.tif": encode(Image.open(io.BytesIO(data)).convert("RGB"), "TIFF")}


def make_pages(image: Image.Image, _: bytes, __: Random) -> Files:
    """Make a TIFF with two pages, and a PNG of the first."""
    pages = encode(image, "TIFF", save_all=True, append_images=[image.rotate(180)])
    return {"original.tif": pages, "first.png": encode(image, "PNG")}


def make_animation(image: Image.Image, _: bytes, __: Random) -> Files:
    """Make an animated WebP without loss, and a PNG of its first frame."""
    small = image.resize((200, 200))
    frames = encode(small, "WEBP", save_all=True, append_images=[small.rotate(90)], lossless=True)
    return {"original.webp": frames, "first.png": encode(small, "PNG")}


def make_two_images(image: Image.Image, _: bytes, __: Random) -> Files:
    """Make an MPO with two images, and a JPEG of the first."""
    both = encode(image, "MPO", save_all=True, append_images=[image.rotate(180)], quality=90)
    return {"original.mpo.jpg": both, "first.jpg": encode(image, "JPEG", quality=90)}


def make_transparent(image: Image.Image, _: bytes, __: Random) -> Files:
    """Make a PNG with a transparent corner, and one on white."""
    clear = image.convert("RGBA")
    alpha = Image.new("L", image.size, 255)
    ImageDraw.Draw(alpha).ellipse((0, 0, image.width // 4, image.height // 4), 0)
    clear.putalpha(alpha)
    flat = Image.new("RGB", image.size, "white")
    flat.paste(image, mask=alpha)
    return {"original.png": encode(clear, "PNG"), "flat.png": encode(flat, "PNG")}


def make_raw(image: Image.Image, data: bytes, _: Random) -> Files:
    """Make a camera's raw file with a preview of 160 x 120, and the camera's JPEG."""
    preview = image.resize((160, 120)).tobytes()
    pixels = (np.asarray(image.convert("L")).astype("<u2") * 200).tobytes()
    width, height = image.size

    def directory(entries: list[tuple[int, int, int, int]]) -> bytes:
        packed = struct.pack("<H", len(entries))
        for tag, kind, count, value in entries:
            value_format = "<HH" if kind == 3 and count == 1 else "<I"
            values = (value, 0) if value_format == "<HH" else (value,)
            packed += struct.pack("<HHI", tag, kind, count) + struct.pack(value_format, *values)
        return packed + bytes(4)

    bits = 8 + 2 + 12 * 11 + 4
    sub = bits + 6
    first_at = sub + 2 + 12 * 10 + 4
    second_at = first_at + len(preview)
    first = [
        *[(254, 4, 1, 1), (256, 4, 1, 160), (257, 4, 1, 120), (258, 3, 3, bits), (259, 3, 1, 1), (262, 3, 1, 2)],
        *[(273, 4, 1, first_at), (277, 3, 1, 3), (278, 4, 1, 120), (279, 4, 1, len(preview)), (330, 4, 1, sub)],
    ]
    second = [
        *[(254, 4, 1, 0), (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 16), (259, 3, 1, 1)],
        *[(262, 3, 1, 32803), (273, 4, 1, second_at), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, len(pixels))],
    ]
    raw = b"II*\0" + struct.pack("<I", 8) + directory(first) + struct.pack("<HHH", 8, 8, 8) + directory(second)
    return {"original.nef": raw + preview + pixels, "camera.jpg": data}


def make_bilevel(image: Image.Image, data: bytes, _: Random) -> Files:
    """Make a fax of the photo."""
    return {"original.jpg": data, "fax.tif": encode(image.convert("1"), "TIFF", compression="group4")}


def make_subsampled(image: Image.Image, _: bytes, __: Random) -> Files:
    """Make a JPEG with all colours, and one with a quarter of them."""
    good = encode(image, "JPEG", quality=90, subsampling=0)
    return {"original.jpg": good, "fewer.jpg": encode(image, "JPEG", quality=90, subsampling=2)}


def make_same_pixels(image: Image.Image, _: bytes, __: Random) -> Files:
    """Make a lossy WebP, and a PNG with its pixels: either may go, but not both."""
    original = encode(image, "WEBP", quality=80)
    shown = Image.open(io.BytesIO(original)).convert("RGB")
    return {"original.webp": original, "copy.png": encode(shown, "PNG")}


def make_filled_form(_: Image.Image, __: bytes, random: Random) -> Files:
    """Make a form, and the same one with a signature."""
    seed = int(random.integers(1 << 30))
    blank = SCENES["invoice"](np.random.default_rng(seed), np.random.default_rng(seed), [])
    signed = blank.copy()
    draw = ImageDraw.Draw(signed)
    points = [(700 + 14 * step, 1640 + int(random.integers(-30, 30))) for step in range(20)]
    draw.line(points, (20, 30, 120), 5, "curve")
    return {"signed.jpg": encode(signed, "JPEG", quality=80), "blank.png": encode(blank, "PNG")}


# By kind: the suffixes of files that a plan may remove, and the maker. A kind's name has no hyphen.
KINDS: dict[str, tuple[tuple[str, ...], Maker]] = {
    "grey png": (("grey.png",), beside("grey.png", altered("grey"), "PNG")),
    "grey jpeg": (("grey.jpg",), beside("grey.jpg", altered("grey"), "JPEG", quality=98)),
    "jpeg in tiff": (("bad.tif",), beside("bad.tif", same, "TIFF", compression="jpeg", quality=5)),
    "16 colours": (("few.png",), beside("few.png", lambda image, _: image.quantize(16), "PNG")),
    "gif": (("few.gif",), beside("few.gif", lambda image, _: image.quantize(64), "GIF")),
    "enlarged png": (("large.png",), beside("large.png", scaled(2), "PNG")),
    "enlarged jpeg": (("large.jpg",), beside("large.jpg", scaled(1.5), "JPEG", quality=95)),
    "reduced png": (("small.png",), beside("small.png", scaled(0.5), "PNG")),
    "png of a bad jpeg": (("copy.png",), make_recompressed),
    "jpeg of a bad jpeg": (("copy.jpg",), make_twice_compressed),
    "jpeg again": (("copy.jpg",), beside("copy.jpg", same, "JPEG", quality=100)),
    "heic original": (("export.jpg",), make_lossy_original("original.heic", "HEIF", 50)),
    "avif original": (("export.jpg",), make_lossy_original("original.avif", "AVIF", 50)),
    "webp original": (("export.jpg",), make_lossy_original("original.webp", "WEBP", 70)),
    "webp of a jpeg": (("copy.webp",), beside("copy.webp", same, "WEBP", quality=90)),
    "heic of a jpeg": (("copy.heic",), beside("copy.heic", same, "HEIF", quality=90)),
    "same pixels": (("copy.png", "original.webp"), make_same_pixels),
    "blurred": (("soft.png",), beside("soft.png", lambda image, _: image.filter(ImageFilter.GaussianBlur(2)), "PNG")),
    "noisy": (("noisy.png",), beside("noisy.png", altered("noise"), "PNG")),
    "sharpened": (("sharp.png",), beside("sharp.png", altered("sharpen"), "PNG")),
    "too bright": (
        ("bright.png",),
        beside("bright.png", lit(1.9), "PNG"),
    ),
    "too dark": (
        ("dark.png",),
        beside("dark.png", lit(0.25), "PNG"),
    ),
    "other colours": (("colours.png",), beside("colours.png", altered("colour"), "PNG")),
    "sepia": (("sepia.png",), beside("sepia.png", altered("sepia"), "PNG")),
    "posterised": (("poster.png",), beside("poster.png", altered("posterise"), "PNG")),
    "pixelated": (("blocks.png",), beside("blocks.png", altered("pixelate"), "PNG")),
    "vignette": (("corners.png",), beside("corners.png", altered("vignette"), "PNG")),
    "gamma": (("gamma.png",), beside("gamma.png", altered("gamma"), "PNG")),
    "cropped": (("part.png",), beside("part.png", altered("crop-60"), "PNG")),
    "turned": (("turned.png",), beside("turned.png", altered("turn-5"), "PNG")),
    "perspective": (("tilted.png",), beside("tilted.png", altered("perspective"), "PNG")),
    "mirrored": (("mirror.png",), beside("mirror.png", altered("mirror"), "PNG")),
    "with text": (("text.png",), beside("text.png", altered("text"), "PNG")),
    "with a sticker": (("sticker.png",), beside("sticker.png", altered("sticker"), "PNG")),
    "with a watermark": (("mark.png",), beside("mark.png", altered("watermark"), "PNG")),
    "with a border": (("border.png",), beside("border.png", altered("border"), "PNG")),
    "screenshot": (("screen.png",), beside("screen.png", altered("screenshot"), "PNG")),
    "profile lost": (("lost.bmp",), make_profile_lost),
    "16 bits": (("preview.tif",), make_deep),
    "two pages": (("first.png",), make_pages),
    "animation": (("first.png",), make_animation),
    "two images": (("first.jpg",), make_two_images),
    "transparent": (("flat.png",), make_transparent),
    "raw": (("camera.jpg",), make_raw),
    "fax": (("fax.tif",), make_bilevel),
    "fewer colours": (("fewer.jpg",), make_subsampled),
    "signed": (("blank.png",), make_filled_form),
}

if __name__ == "__main__":
    main()
