"""Exact copies: `simile dedup --tier bytes,pixels` on 5,000 files with byte copies, pixel copies and near misses.

    python -m benchmarks.dedup.exact --data DIR [--files 5000] [--photos FOLDER] [--seed 0] [--work DIR]

Images come from DIR (clothing-photos.tar as JPEG and as PNG, fashion-mnist.npz and mnist.npz as PNG), or from a folder
of photos. Of each image three of these copies are planted: byte copies in another folder and renamed ones; a JPEG with
another comment and EXIF around the same scan; a PNG with other compression and text, with an opaque alpha channel, as
lossless WebP, TIFF, BMP, rotated with an EXIF tag that undoes the rotation; and near misses: one value of one pixel
changed by 1, a half-transparent part, saved as JPEG. The pairs of each tier are compared with hashes of all files, and
of all upright images as Pillow alone decodes them, on white and on black. A pixel pair is a pair of two contents,
however many files have them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from benchmarks.common.runs import (
    add_photo_options,
    iterate_jpegs,
    make_parser,
    make_training_options,
    open_work_folder,
    parse_photo_options,
    read_array,
    simile,
)
from benchmarks.dedup.exact_copies import KINDS, MAKE, encode_as_png, open_image

COPIES = 3  # planted for each image
Pair = frozenset[str]


def main() -> None:
    """Plant the copies, run simile, and print precision and recall of both tiers."""
    parser = make_parser(__doc__, work=True)
    add_photo_options(parser)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--minutes", type=float, help="training time; the shipped encoder otherwise")
    options = parse_photo_options(parser)
    with open_work_folder(options.work) as work:
        run(options, work)


def run(options: argparse.Namespace, work: Path) -> None:
    """Run the benchmark in a work folder."""
    folder, home, output = work / "files", work / "home", work / "groups.json"
    if not folder.exists():
        kinds = plant(iterate_images(options.data, options.photos), folder, options.files, options.seed)
        print(", ".join(f"{count} {kind}" for kind, count in kinds.most_common()), flush=True)
    simile("index", folder, *make_training_options(options.minutes), home=home)
    simile("dedup", "--tier", "bytes,pixels", "--output", output, home=home)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    contents = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    images = {contents[str(path)]: hash_pixels(path) for path in files}
    groups = json.loads(output.read_text("utf-8"))["groups"]
    print(f"{len(files):,} files, {len(images):,} contents, {len(set(images.values())):,} images")
    print(f"{'tier':<8}{'pairs':>8}{'found':>8}{'precision':>11}{'recall':>9}")
    report("bytes", find_equal_pairs(contents), get_reported_pairs(groups, "bytes", "path"))
    report("pixels", find_equal_pairs(images), get_reported_pairs(groups, "pixels", "sha256"))


# Counting


def hash_pixels(path: Path) -> str:
    """Return a hash of the visible image: upright, on white and on black."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image).convert("RGBA")
        grounds = (Image.new("RGBA", upright.size, colour) for colour in ("white", "black"))
        pixels = [np.asarray(Image.alpha_composite(ground, upright).convert("RGB")) for ground in grounds]
    return hashlib.sha256(f"{upright.size}".encode() + b"".join(map(np.ndarray.tobytes, pixels))).hexdigest()


def find_equal_pairs(values: Mapping[str, Hashable]) -> set[Pair]:
    """Return the pairs of keys with the same value."""
    classes = defaultdict(list)
    for key, value in values.items():
        classes[value].append(key)
    return {frozenset(pair) for keys in classes.values() for pair in combinations(keys, 2)}


def get_reported_pairs(groups: Iterable[dict[str, Any]], tier: str, key: str) -> set[Pair]:
    """Return the pairs of members within the groups of a tier."""
    members = ([member[key] for member in group["members"]] for group in groups if group["tier"] == tier)
    return {frozenset(pair) for keys in members for pair in combinations(keys, 2)}


def report(tier: str, truth: set[Pair], reported: set[Pair]) -> None:
    """Print a row of the table, and up to five missed and wrong pairs."""
    right = len(truth & reported)
    precision, recall = right / max(1, len(reported)), right / max(1, len(truth))
    print(f"{tier:<8}{len(truth):>8,}{len(reported):>8,}{precision:>11.4f}{recall:>9.4f}", flush=True)
    for flaw, pairs in (("missed", truth - reported), ("wrong", reported - truth)):
        for pair in islice(pairs, 5):
            print(f"  {flaw}: {'  '.join(sorted(pair))}")


# Images


def iterate_images(data: Path | None, photos: Path | None) -> Iterator[tuple[str, bytes]]:
    """Yield suffix and content: photos, each second one as PNG, and a small image after each."""
    small: Iterator[tuple[str, bytes]] = iter(())
    if photos is not None:
        large = iterate_folder(photos)
    else:
        assert data is not None
        large = ((".jpg", content) for _, content in iterate_jpegs(data / "clothing-photos.tar", by_name=False))
        small = iterate_small_images(data)
    for number, (suffix, content) in enumerate(large):
        yield (suffix, content) if number % 2 and suffix == ".jpg" else (".png", convert_to_png(content))
        yield from islice(small, 1)
    yield from small


def iterate_folder(photos: Path) -> Iterator[tuple[str, bytes]]:
    """Yield suffix and content of the images in a folder."""
    for path in sorted(photos.rglob("*")):
        if path.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp"}:
            yield path.suffix.lower().replace("jpeg", "jpg"), path.read_bytes()


def convert_to_png(content: bytes) -> bytes:
    """Return a grey or RGB image as PNG; each format of the copies can store these modes."""
    image = open_image(content)
    return encode_as_png(image if image.mode in {"L", "RGB"} else image.convert("RGB"))


def iterate_small_images(data: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the test images of Fashion-MNIST and MNIST as PNG."""
    arrays = [read_array(data, name, "x_test") for name in ("fashion-mnist", "mnist")]
    for pixels in np.random.default_rng(0).permutation(np.concatenate(arrays)):
        yield ".png", encode_as_png(Image.fromarray(pixels))


def plant(images: Iterator[tuple[str, bytes]], folder: Path, count: int, seed: int) -> Counter[str]:
    """Write `count` files into subfolders; return how many there are of each kind."""
    random, kinds, written = np.random.default_rng(seed), Counter[str](), 0

    def write(suffix: str, content: bytes, name: str, subfolder: str = "") -> None:
        nonlocal written
        target = folder / (subfolder or str(int(random.integers(20))))
        target.mkdir(parents=True, exist_ok=True)
        (target / f"{name}{suffix}").write_bytes(content)
        written += 1

    for number, (suffix, content) in enumerate(images):
        write(suffix, content, f"{number:05d}")
        kinds["original"] += 1
        possible = [kind for kind, suffixes in KINDS.items() if suffix in suffixes]
        for kind in random.permutation(possible)[:COPIES].tolist():
            for new_suffix, new_content in MAKE[kind](suffix, content, random):
                if kind == "byte copies":
                    write(new_suffix, new_content, f"{number:05d}", subfolder="copies")
                else:
                    write(new_suffix, new_content, f"{int(random.integers(1 << 60)):x}")
                kinds[kind] += 1
        if written >= count:
            return kinds
    raise SystemExit(f"only {written} files could be made: give more images, or a smaller --files")


if __name__ == "__main__":
    main()
