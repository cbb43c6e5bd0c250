"""Outlines of shapes, their masks, and letters."""

from __future__ import annotations

import math
import string
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from simile.images.drawn.textures import Random

Outline = NDArray[np.float64]  # (k, 2), around the origin, within a circle of radius 1
Mask = NDArray[np.uint8]  # (h, w), 0 to 255

SUBPIXEL_BITS = 4  # OpenCV draws at sixteenths of a pixel
_CHARACTERS = string.ascii_letters + string.digits + "&@#%?!"
_SYLLABLES = [
    "al",
    "be",
    "cor",
    "da",
    "en",
    "fi",
    "ga",
    "hu",
    "in",
    "jo",
    "ka",
    "lum",
    "mi",
    "no",
    "or",
    "pa",
    "qui",
    "ra",
    "si",
    "ta",
    "un",
    "ve",
    "wo",
    "xi",
    "yo",
    "za",
]


def draw_outline(random: Random) -> Outline:
    """Return the outline of a random shape."""
    outline = _OUTLINES[int(random.integers(len(_OUTLINES)))](random)
    if random.random() < 0.3:  # symmetric, as many things are
        half = outline[outline[:, 0] >= 0]
        if len(half) > 2:
            outline = np.concatenate([half, half[::-1] * [-1, 1]])
    outline = outline * [1, random.uniform(0.3, 1)]
    return np.asarray(outline / max(1e-6, float(np.abs(outline).max())), np.float64)


def transform_outline(outline: Outline, centre: NDArray[np.float64], radius: float, angle: float) -> Outline:
    """Scale, rotate and move an outline; the result is in pixels."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.asarray(outline @ np.array([[cos, sin], [-sin, cos]]) * radius + centre, np.float64)


def fill_outline(outline: Outline, height: int, width: int) -> Mask:
    """Return the mask (height, width) of an outline in pixels, with smooth edges."""
    mask = np.zeros((height, width), np.uint8)
    points = np.round(outline * (1 << SUBPIXEL_BITS)).astype(np.int32)
    cv2.fillPoly(mask, [points], 255, cv2.LINE_AA, SUBPIXEL_BITS)
    return mask


def stroke_outline(outline: Outline, height: int, width: int, thickness: int, *, closed: bool) -> Mask:
    """Return the mask (height, width) of a line along an outline in pixels."""
    mask = np.zeros((height, width), np.uint8)
    points = np.round(outline * (1 << SUBPIXEL_BITS)).astype(np.int32)
    cv2.polylines(mask, [points], closed, 255, thickness, cv2.LINE_AA, SUBPIXEL_BITS)
    return mask


def draw_curve(random: Random) -> Outline:
    """Return an open smooth curve."""
    steps = np.cumsum(random.normal(size=(int(random.integers(3, 7)), 2)), 0)
    t, knots = np.linspace(0, 1, 24), np.linspace(0, 1, len(steps))
    curve = np.stack([np.interp(t, knots, steps[:, axis]) for axis in range(2)], 1)
    kernel = np.ones(5) / 5
    padded = np.pad(curve, ((2, 2), (0, 0)), mode="edge")
    curve = np.stack([np.convolve(padded[:, axis], kernel, "valid") for axis in range(2)], 1)
    curve -= curve.mean(0)
    return np.asarray(curve / max(1e-6, float(np.abs(curve).max())), np.float64)


def draw_letters(random: Random, text: str, height: int) -> Mask:
    """Return the mask of a text in Pillow's own font (Aileron, CC0), in some cases bold or slanted."""
    font = ImageFont.load_default(max(6, height))
    left, top, right, bottom = font.getbbox(text, stroke_width=1)
    image = Image.new("L", (max(1, int(right - left)) + 2, max(1, int(bottom - top)) + 2))
    stroke = 1 if random.random() < 0.3 else 0
    ImageDraw.Draw(image).text((1 - left, 1 - top), text, 255, font, stroke_width=stroke)
    mask = np.asarray(image)
    if random.random() < 0.2:
        slant = np.array([[1, -random.uniform(0.1, 0.4), 0.2 * mask.shape[0]], [0, 1, 0]])
        mask = cv2.warpAffine(mask, slant, (mask.shape[1] + mask.shape[0] // 3, mask.shape[0]))
    return np.asarray(mask, np.uint8)


def draw_word(random: Random) -> str:
    """Return a short word or number."""
    if random.random() < 0.25:
        return str(int(10 ** random.uniform(0, 5)))
    word = "".join(random.choice(_SYLLABLES, int(random.integers(1, 4))))
    return str(random.choice([word, word.upper(), word.capitalize()]))


def draw_character(random: Random) -> str:
    """Return a letter, a digit or a sign."""
    return _CHARACTERS[int(random.integers(len(_CHARACTERS)))]


def _draw_ellipse(_: Random) -> Outline:
    return _to_points(np.linspace(0, math.tau, 40, endpoint=False), np.ones(40))


def _draw_blob(random: Random) -> Outline:
    """Return a closed curve with a short Fourier series as its radius."""
    angles = np.linspace(0, math.tau, 64, endpoint=False)
    orders = np.arange(2, int(random.integers(4, 12)))
    amplitudes = random.normal(0, random.uniform(0.1, 0.5), len(orders)) / orders**0.7
    radius = 1 + (
        amplitudes[:, None] * np.cos(orders[:, None] * angles + random.uniform(0, math.tau, (len(orders), 1)))
    ).sum(0)
    return _to_points(angles, np.maximum(radius, 0.1))


def _draw_polygon(random: Random) -> Outline:
    """Return three to nine corners at random angles and distances."""
    count = int(random.integers(3, 10))
    return _to_points(np.sort(random.uniform(0, math.tau, count)), random.uniform(random.choice([0.3, 0.8]), 1, count))


def _draw_star(random: Random) -> Outline:
    """Return a star, a flower or a gear."""
    points = int(random.integers(3, 16))
    angles = np.linspace(0, math.tau, 2 * points, endpoint=False)
    return _to_points(angles, np.where(np.arange(2 * points) % 2, random.uniform(0.25, 0.9), 1.0))


def _draw_rectangle(random: Random) -> Outline:
    """Return a rectangle, in some cases with rounded corners."""
    if random.random() < 0.5:
        return np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], np.float64)
    angles = np.linspace(0, math.tau, 48, endpoint=False)
    power = random.uniform(0.2, 0.6)  # of a superellipse
    cos, sin = np.cos(angles), np.sin(angles)
    return np.stack([np.sign(cos) * np.abs(cos) ** power, np.sign(sin) * np.abs(sin) ** power], 1)


def _draw_assembly(random: Random) -> Outline:
    """Return the hull-like outline of a body with limbs, as of a garment, a tool or an animal."""
    angles = np.linspace(0, math.tau, 96, endpoint=False)
    radius = np.full(96, random.uniform(0.3, 0.6))
    for _ in range(int(random.integers(2, 7))):
        centre, width, length = random.uniform(0, math.tau), random.uniform(0.08, 0.5), random.uniform(0.3, 1)
        distance = np.abs((angles - centre + math.pi) % math.tau - math.pi)
        radius = np.maximum(radius, length / (1 + (distance / width) ** 6))
    return _to_points(angles, radius)


def _to_points(angles: NDArray[np.float64], radius: NDArray[np.float64]) -> Outline:
    return np.stack([np.cos(angles) * radius, np.sin(angles) * radius], 1)


_OUTLINES: tuple[Callable[[Random], Outline], ...] = (
    _draw_ellipse,
    _draw_blob,
    _draw_blob,
    _draw_polygon,
    _draw_star,
    _draw_rectangle,
    _draw_assembly,
)
