"""Pictures with enough going on to be photographs to a computer: shapes, lines and grain, from a seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageDraw, ImageFilter

Pixels = NDArray[np.uint8]


def scene(seed: int, width: int = 240, height: int = 320) -> Pixels:
    """(height, width, 3): shapes of many sizes over a slope of colour, with some grain."""
    random = np.random.default_rng([seed, 77])
    image = Image.new("RGB", (width, height), _colour(random))
    draw_shapes(image, random, 60, 0.02, 0.3)
    grain = random.normal(0, 6, (height, width, 1))
    return np.clip(np.asarray(image.filter(ImageFilter.GaussianBlur(0.6))) + grain, 0, 255).astype(np.uint8)


def on_bed(garment: int, bed: int = 0, width: int = 240, height: int = 320) -> Pixels:
    """A garment of its own pattern in the middle of a bed: two garments on one bed share more than half."""
    pixels = scene(bed + 1000, width, height).copy()
    top, left, bottom, right = height // 5, width // 5, height * 4 // 5, width * 4 // 5
    pixels[top:bottom, left:right] = scene(garment + 2000, right - left, bottom - top)
    return pixels


def draw_shapes(image: Image.Image, random: np.random.Generator, count: int, least: float, most: float) -> None:
    """Ellipses, boxes and lines; least, most: their size as a share of the shorter side."""
    draw = ImageDraw.Draw(image)
    for _ in range(count):
        across, down = random.uniform(least, most, 2) * min(image.size)
        x, y = random.uniform(-0.1, 1.0, 2) * image.size
        box = (x, y, x + across, y + down)
        kind = random.integers(3)
        if kind == 0:
            draw.ellipse(box, _colour(random), _colour(random))
        elif kind == 1:
            draw.rectangle(box, _colour(random), _colour(random))
        else:
            draw.line(box, _colour(random), int(random.integers(1, 5)))


def _colour(random: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(level) for level in random.integers(20, 236, 3))
    return red, green, blue


SRGB, LAB = (ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes() for name in ("sRGB", "LAB"))
FAULTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(6)),
    "dark": lambda image: image.point(lambda level: level * 0.15),
    "bright": lambda image: image.point(lambda level: 200 + level * 0.2),
    "flat": lambda image: Image.new("RGB", image.size, "#7f8f6f"),
    "odd-aspect": lambda image: image.resize((320, 60)),
    "odd-size": lambda image: image.resize((30, 40)),
}  # by the name of the issue that each has


def write_faulty_images(folder: Path) -> None:
    """40 good images, one with each fault, one with each colour profile, and a truncated file."""
    images = [Image.fromarray(scene(number, 120, 160)) for number in range(41 + len(FAULTS))]
    for number in range(40):
        images[number].save(folder / f"good-{number:02}.png")
    for image, (name, change) in zip(images[40:], FAULTS.items(), strict=False):
        change(image).save(folder / f"{name}.png")
    images[-1].save(folder / "srgb.jpg", icc_profile=SRGB)
    images[-1].rotate(90, expand=True).save(folder / "wrong-profile.png", icc_profile=LAB)
    data = (folder / "good-00.png").read_bytes()
    (folder / "truncated.png").write_bytes(data[: len(data) // 2])
