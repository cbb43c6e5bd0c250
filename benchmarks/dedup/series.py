"""Planted series: does `simile dedup` find shots that follow each other, and which of them does it propose to keep?

    python -m benchmarks.dedup.series --data DIR | --photos DIR [--bursts 200] [--frames 5] [--seed 0]

Each burst has one sharp frame of a photo, and frames of it that are blurred as by the lens or by motion. All frames are
shifted, exposed differently, saved as JPEG of quality 90, and taken half a second to three seconds apart. Beside the
bursts lie as many other photos, which the same camera took between them, seconds after the last frame of a burst.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from benchmarks.common.runs import (
    SIMILE,
    add_photo_options,
    list_photos,
    make_parser,
    open_work_folder,
    parse_photo_options,
    simile,
)

MARGIN = 12  # pixels by which frames are shifted at most
SHARP = "sharp"  # in the name of the frame that was not blurred

Pixels = NDArray[np.uint8]


def main() -> None:
    """Parse the options, write the frames, find the series and print the counts."""
    parser = make_parser(__doc__, work=True)
    add_photo_options(parser)
    parser.add_argument("--bursts", type=int, default=200)
    parser.add_argument("--frames", type=int, default=5, help="of each burst")
    options = parse_photo_options(parser)
    with open_work_folder(options.work) as work:
        photos = list_photos(options, work, "clothing-photos.tar")
        write_bursts(work / "shots", photos[: 2 * options.bursts], options.frames, np.random.default_rng(options.seed))
        simile("index", work / "shots", home=work / "home")
        simile("dedup", "--tier", "series", home=work / "home")
        print_counts(find_series(work / "home"), options.bursts, options.frames)


def write_bursts(folder: Path, photos: list[Path], frames: int, random: np.random.Generator) -> None:
    """Write a burst of every first photo and the second one as it is, in the order of their times."""
    folder.mkdir()
    taken = datetime(2026, 5, 1, 9)
    for number, (photo, other) in enumerate(zip(photos[::2], photos[1::2], strict=True)):
        pixels = np.asarray(Image.open(photo).convert("RGB"))
        for position, (kind, frame) in enumerate(make_frames(pixels, frames, random)):
            save(frame, folder / f"{number:04}-{position}-{kind}.jpg", taken)
            taken += timedelta(seconds=random.uniform(0.5, 3))
        save(np.asarray(Image.open(other).convert("RGB")), folder / f"{number:04}-other.jpg", taken)
        taken += timedelta(seconds=random.uniform(0.5, 3))


def make_frames(pixels: Pixels, count: int, random: np.random.Generator) -> Iterator[tuple[str, Pixels]]:
    """Yield kind and pixels of the frames of a burst; one of them is sharp."""
    kinds = [SHARP, *random.choice(["lens", "motion"], count - 1).tolist()]
    for kind in random.permutation(kinds).tolist():
        blurred = blur(pixels, kind, random)
        exposed = np.clip(blurred * random.uniform(0.85, 1.15), 0, 255).astype(np.uint8)
        top, left = random.integers(0, 2 * MARGIN + 1, 2)
        height, width = (length - 2 * MARGIN for length in pixels.shape[:2])
        yield kind, exposed[top : top + height, left : left + width]


def blur(pixels: Pixels, kind: str, random: np.random.Generator) -> Pixels:
    """Blur by 0.8 to 3 pixels, in all directions or in one; a sharp frame stays as it is."""
    if kind == "lens":
        return np.asarray(cv2.GaussianBlur(pixels, (0, 0), random.uniform(0.8, 3)), np.uint8)
    if kind == "motion":
        length, angle = int(random.integers(3, 12)), random.uniform(0, np.pi)
        kernel = np.zeros((length, length), np.float32)
        reach = (length - 1) / 2 * np.array([np.cos(angle), np.sin(angle)])
        start, end = (tuple(np.round(sign * reach + (length - 1) / 2).astype(int).tolist()) for sign in (-1, 1))
        cv2.line(kernel, start, end, 1.0)
        return np.asarray(cv2.filter2D(pixels, -1, kernel / kernel.sum()), np.uint8)
    return pixels


def save(pixels: Pixels, path: Path, taken: datetime) -> None:
    """Save a JPEG with a camera and the time, to the millisecond."""
    exif = Image.Exif()
    exif[ExifTags.Base.Model] = "Camera"
    exif.get_ifd(ExifTags.IFD.Exif).update(
        {
            ExifTags.Base.DateTimeOriginal: f"{taken:%Y:%m:%d %H:%M:%S}",
            ExifTags.Base.SubsecTimeOriginal: f"{taken.microsecond // 1000:03}",
        }
    )
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, quality=90, exif=exif)


def find_series(home: Path) -> list[list[str]]:
    """Return the file names of each series, the proposed one first."""
    command = [SIMILE, "dedup", "--last", "--tier", "series", "--json", "--home", str(home)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [[Path(member["path"]).name for member in group["members"]] for group in json.loads(done.stdout)["series"]]


def print_counts(series: list[list[str]], bursts: int, frames: int) -> None:
    """Print how many frames were found, what else is in the series, and which frames were proposed."""
    found: dict[str, list[str]] = {}  # the largest series with frames of each burst
    false_members = 0
    for names in series:
        counts = {burst: sum(is_frame(name, burst) for name in names) for burst in {name[:4] for name in names}}
        burst = max(counts, key=lambda burst: counts[burst])
        false_members += len(names) - counts[burst]
        if counts[burst] > len(found.get(burst, ())):
            found[burst] = names
    members = sum(is_frame(name, burst) for burst, names in found.items() for name in names)
    proposed = sum(SHARP in names[0] for names in found.values())
    print(f"series found    {len(found):,} of {bursts:,}")
    print(f"frames found    {members:,} of {bursts * frames:,}")
    print(f"false members   {false_members:,} of {sum(map(len, series)):,}")
    print(f"sharpest kept   {proposed:,} of {len(found):,} ({proposed / max(1, len(found)):.1%})")


def is_frame(name: str, burst: str) -> bool:
    """Return whether the file is a frame of the burst."""
    return name.startswith(burst) and "other" not in name


if __name__ == "__main__":
    main()
