"""Copies that are exact: the same bytes, the same pixels, and traps beside them, in 5,000 files.

    python -m benchmarks.dedup.exact --data DIR [--files 5000] [--photos FOLDER] [--seed 0] [--work DIR]

Pictures from DIR (clothing-photos.tar as JPEG and as PNG, fashion-mnist.npz and mnist.npz as PNG), or from a folder of
photos. Of each, three of these are planted: a byte copy in another folder, a renamed one; a JPEG with another comment
and EXIF around the same scan; a PNG packed otherwise, with text, with an opaque alpha channel, as lossless WebP, TIFF,
BMP, turned with an EXIF tag that turns it back; and traps: one value of one pixel changed by 1, a part made half
transparent, saved as JPEG. `simile index` and `simile dedup --tier bytes,pixels`; then pairs of each tier against the
hashes of all files, and of all upright pictures as Pillow alone decodes them, on white and on black. A pixel pair is
one of two contents, however often each lies there as a file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tarfile
import tempfile
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from benchmarks.common.simile_runs import simile
from benchmarks.dedup.exact_copies import KINDS, MAKE, as_png, opened

EACH = 3  # planted beside each picture
Pair = frozenset[str]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path)
    options.add_argument("--photos", type=Path, help="a folder of photos instead")
    options.add_argument("--files", type=int, default=5000)
    options.add_argument("--minutes", type=float, default=0.5, help="of training")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--work", type=Path, help="keeps files and home there, and goes on from them")
    given = options.parse_args()
    if (given.data is None) == (given.photos is None):
        options.error("give --data or --photos")
    with tempfile.TemporaryDirectory() as scratch:
        run(given, given.work or Path(scratch))


def run(given: argparse.Namespace, work: Path) -> None:
    folder, home, output = work / "files", work / "home", work / "groups.json"
    if not folder.exists():
        kinds = plant(sources(given.data, given.photos), folder, given.files, given.seed)
        print(", ".join(f"{count} {kind}" for kind, count in kinds.most_common()), flush=True)
    simile("index", folder, "--minutes", str(given.minutes), home=home)
    simile("dedup", "--tier", "bytes,pixels", "--output", output, home=home)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    contents = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    pictures = {contents[str(path)]: shown(path) for path in files}
    groups = json.loads(output.read_text("utf-8"))["groups"]
    print(f"{len(files):,} files, {len(pictures):,} contents, {len(set(pictures.values())):,} pictures")
    print(f"{'tier':<8}{'pairs':>8}{'found':>8}{'precision':>11}{'recall':>9}")
    tell("bytes", equal_pairs(contents), found_pairs(groups, "bytes", "path"))
    tell("pixels", equal_pairs(pictures), found_pairs(groups, "pixels", "sha256"))


# Counting


def shown(path: Path) -> str:
    """A hash of what a person sees: upright, on white and on black."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        colour = upright.convert("RGBA")
        grounds = (Image.new("RGBA", colour.size, ground) for ground in ("white", "black"))
        pixels = [np.asarray(Image.alpha_composite(ground, colour).convert("RGB")) for ground in grounds]
    return hashlib.sha256(f"{colour.size}".encode() + b"".join(map(np.ndarray.tobytes, pixels))).hexdigest()


def equal_pairs(values: Mapping[str, Hashable]) -> set[Pair]:
    """Pairs of keys with the same value."""
    classes = defaultdict(list)
    for key, value in values.items():
        classes[value].append(key)
    return {frozenset(pair) for keys in classes.values() for pair in combinations(keys, 2)}


def found_pairs(groups: Iterable[dict[str, Any]], tier: str, key: str) -> set[Pair]:
    """Pairs of members within groups of a tier."""
    members = ([member[key] for member in group["members"]] for group in groups if group["tier"] == tier)
    return {frozenset(pair) for keys in members for pair in combinations(keys, 2)}


def tell(tier: str, truth: set[Pair], found: set[Pair]) -> None:
    right = len(truth & found)
    precision, recall = right / max(1, len(found)), right / max(1, len(truth))
    print(f"{tier:<8}{len(truth):>8,}{len(found):>8,}{precision:>11.4f}{recall:>9.4f}", flush=True)
    for what, pairs in (("missed", truth - found), ("wrong", found - truth)):
        for pair in islice(pairs, 5):
            print(f"  {what}: {'  '.join(sorted(pair))}")


# Pictures


def sources(data: Path | None, photos: Path | None) -> Iterator[tuple[str, bytes]]:
    """(suffix, content) of pictures: photos as they are, every second one as PNG, small ones between them."""
    large = folder_of(photos) if photos is not None else packed(data)  # type: ignore[arg-type]
    tiny = iter(()) if data is None else small(data)
    for number, (suffix, content) in enumerate(large):
        yield (suffix, content) if number % 2 and suffix == ".jpg" else (".png", as_png(plain(opened(content))))
        yield from islice(tiny, 1)
    yield from tiny


def folder_of(photos: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(photos.rglob("*")):
        if path.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp"}:
            yield path.suffix.lower().replace("jpeg", "jpg"), path.read_bytes()


def plain(image: Image.Image) -> Image.Image:
    """Grey or RGB, as every format here can hold it."""
    return image if image.mode in {"L", "RGB"} else image.convert("RGB")


def packed(data: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(data / "clothing-photos.tar") as tar:
        for member in tar:
            file = tar.extractfile(member) if member.name.endswith(".jpg") else None
            if file is not None:
                yield ".jpg", file.read()


def small(data: Path) -> Iterator[tuple[str, bytes]]:
    arrays = [np.load(data / f"{name}.npz")["x_test"] for name in ("fashion-mnist", "mnist")]
    for pixels in np.random.default_rng(0).permutation(np.concatenate(arrays)):
        yield ".png", as_png(Image.fromarray(pixels))


def plant(pictures: Iterator[tuple[str, bytes]], folder: Path, count: int, seed: int) -> Counter[str]:
    """Writes `count` files into some folders, and says how many of each kind."""
    random, kinds, written = np.random.default_rng(seed), Counter[str](), 0

    def write(suffix: str, content: bytes, name: str, under: str = "") -> None:
        nonlocal written
        into = folder / (under or str(int(random.integers(20))))
        into.mkdir(parents=True, exist_ok=True)
        (into / f"{name}{suffix}").write_bytes(content)
        written += 1

    for number, (suffix, content) in enumerate(pictures):
        write(suffix, content, f"{number:05d}")
        kinds["original"] += 1
        fitting = [kind for kind, suffixes in KINDS.items() if suffix in suffixes]
        for kind in random.permutation(fitting)[:EACH].tolist():
            for made, changed in MAKE[kind](suffix, content, random):
                if kind == "byte copies":
                    write(made, changed, f"{number:05d}", under="copies")
                else:
                    write(made, changed, f"{int(random.integers(1 << 60)):x}")
                kinds[kind] += 1
        if written >= count:
            return kinds
    raise SystemExit(f"{written} files could be made: give more pictures, or a smaller --files")


if __name__ == "__main__":
    main()
