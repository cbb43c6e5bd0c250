"""Grey textures from random numbers, and colour maps for them.

Most images of the world have amplitude spectra near 1/f, few colours, and structure at every scale; the textures here
have these properties in very different forms, because for pretraining diversity counts more than realism (Baradad et
al., "Learning to See by Looking at Noise", arXiv 2106.05963, and "Separating Knowledge and Perception with Procedural
Data", arXiv 2508.11697). Iterated function systems follow Kataoka et al., "Pre-training without Natural Images"
(arXiv 2101.08515).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from simile.images.formats import Pixels

Field = NDArray[np.float32]  # (s, s)
GreyTexture = NDArray[np.uint8]  # (s, s)
Random = np.random.Generator

NETWORK_HIDDEN_UNITS = 12
_LEVELS = np.linspace(0, 1, 256)
CHAOS_POINTS, CHAOS_STEPS = 400, 60  # points of an iterated function system that move together, and their steps


_ACTIVATIONS: tuple[Callable[[Field], Field], ...] = (np.sin, np.tanh, np.abs, lambda x: np.exp(-np.square(x)))


def draw_texture(random: Random, size: int) -> GreyTexture:
    """Return a grey texture (size, size) uint8 that uses all levels."""
    field = _FIELDS[int(random.integers(len(_FIELDS)))](random, size)
    if random.random() < 0.35:
        field = _warp(field, random)
    if random.random() < 0.2:  # a second texture, added or in its dark areas
        other = _rescale(_FIELDS[int(random.integers(len(_FIELDS)))](random, size))
        field = _rescale(field)
        field = field + other if random.random() < 0.5 else np.where(field < np.float32(0.5), field, other)
    return (_rescale(field) * 255).astype(np.uint8)


def draw_colour_map(random: Random, palette: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 256 colours (256, 3), 0 to 255, that lead through two to four colours of the palette (k, 3)."""
    count = int(random.integers(2, 5))
    colours = palette[random.integers(len(palette), size=count)]
    if random.random() < 0.4:  # shades of one colour, as of one material
        colours = colours[:1] * random.uniform(0.35, 1.3, (count, 1)).astype(np.float32)
    contrast = np.float32(random.beta(2, 1.5))
    colours = colours.mean(0) + contrast * (colours - colours.mean(0))
    stops = np.sort(random.random(count))
    # Position of each level between two stops.
    above = np.clip(np.searchsorted(stops, _LEVELS), 1, count - 1)
    share = np.clip((_LEVELS - stops[above - 1]) / (stops[above] - stops[above - 1] + 1e-6), 0, 1)[:, None]
    mixed = colours[above - 1] + share * (colours[above] - colours[above - 1])
    return np.asarray(np.clip(mixed, 0, 255), np.float32)


def draw_palette(random: Random) -> NDArray[np.float32]:
    """Return a palette (k, 3), 0 to 255: a few hues, mostly pale or dark, with black or white in some palettes."""
    count = int(random.integers(3, 8))
    hues = (random.random() + random.normal(0, random.choice([0.03, 0.1, 0.5]), count)) % 1.0
    low, high = (1.2, 3.5) if random.random() < 0.7 else (3.0, 1.5)
    saturation = random.beta(low, high, count)
    value = random.beta(1.4, 1.1, count)
    hsv = np.stack([hues * 360, saturation, value], 1).astype(np.float32)[None]
    palette = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0] * 255
    if random.random() < 0.4:
        palette[0] = random.choice([6, 128, 248])
    return np.asarray(palette, np.float32)


def draw_smooth_noise(random: Random, size: int, cells: float, octaves: int = 1, gain: float = 0.5) -> Field:
    """Return noise (size, size) that interpolates random values on grids; each octave has twice as many cells."""
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        side = min(size, int(cells * 2**octave) + 2)
        grid = random.random((side, side), np.float32) - np.float32(0.5)
        total += np.float32(gain**octave) * cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
    return total


def _rescale(field: Field) -> Field:
    low, high = np.percentile(field[::2, ::2], (1, 99))
    scaled: Field = np.clip((field - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)
    return scaled


def _warp(field: Field, random: Random) -> Field:
    """Move every position by smooth noise."""
    size = len(field)
    cells, distance = random.uniform(1, 6), random.uniform(0.05, 0.4) * size
    y, x = np.indices((size, size), np.float32)
    x, y = (axis + np.float32(distance) * draw_smooth_noise(random, size, cells) for axis in (x, y))
    return np.asarray(cv2.remap(field, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT), np.float32)


def _make_axes(random: Random, size: int) -> tuple[Field, Field]:
    """Return coordinates (s, s) along two rotated axes, in shares of the size."""
    angle = random.uniform(0, math.tau)
    y, x = np.indices((size, size), np.float32) / np.float32(size) - np.float32(0.5)
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def _draw_spectrum_noise(random: Random, size: int) -> Field:
    """Return noise with an amplitude spectrum of 1/f^a, possibly longer in one direction."""
    v, u = np.meshgrid(np.fft.fftfreq(size), np.fft.rfftfreq(size), indexing="ij")
    angle, stretch = random.uniform(0, math.pi), random.choice([1.0, random.uniform(1, 8)])
    along, across = u * math.cos(angle) + v * math.sin(angle), (v * math.cos(angle) - u * math.sin(angle)) * stretch
    amplitude = np.maximum(np.hypot(along, across), 1 / size) ** -random.uniform(0.5, 2.2)
    amplitude[0, 0] = 0
    phase = np.exp(1j * math.tau * random.random(amplitude.shape))
    return np.fft.irfft2(amplitude * phase, (size, size)).astype(np.float32)


def _draw_fractal_noise(random: Random, size: int) -> Field:
    """Return smooth noise of several octaves, in some textures with ridges or steps."""
    field = draw_smooth_noise(random, size, random.uniform(1, 8), int(random.integers(2, 6)), random.uniform(0.4, 0.8))
    kind = random.random()
    if kind < 0.3:
        return np.abs(field)
    return np.sin(field * random.uniform(6, 30)).astype(np.float32) if kind < 0.5 else field


def _draw_cells(random: Random, size: int) -> Field:
    """Return distances to the nearest of some points, or one level for each point's cell (Worley, 1996)."""
    count = int(2 ** random.uniform(2.5, 8.5))
    free = np.ones((size, size), np.uint8)
    free[tuple(random.integers(0, size, (2, count)))] = 0
    distances, labels = cv2.distanceTransformWithLabels(free, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    if random.random() < 0.5:
        return np.asarray(distances, np.float32)
    levels = random.random(int(labels.max()) + 1, np.float32)[labels]
    return np.asarray(levels - np.float32(0.02) * distances, np.float32)


def _draw_waves(random: Random, size: int) -> Field:
    """Return stripes, checks, dots or rings, with soft or hard edges."""
    along, across = _make_axes(random, size)
    frequency = np.float32(math.tau * 2 ** random.uniform(1, 5.5))
    kind = int(random.integers(5))
    first = np.sin(along * frequency)
    second = np.sin(across * frequency * np.float32(random.choice([1.0, 0.5, 0.2])))
    if kind == 0:
        field = first
    elif kind == 1:
        field = first * second
    elif kind == 2:
        field = np.maximum(first, second)
    elif kind == 3:
        centre = random.uniform(-0.6, 0.6, 2).astype(np.float32)
        field = np.sin(np.hypot(along - centre[0], across - centre[1]) * frequency)
    else:
        field = first + second
    if random.random() < 0.5:
        field = np.tanh((field - random.uniform(-0.7, 0.7)) * random.uniform(2, 20))
    return np.asarray(field, np.float32)


def _draw_coordinate_network(random: Random, size: int) -> Field:
    """Return the output of a small random network of coordinates (Stanley, 2007)."""
    half = size // 2
    x, y = _make_axes(random, half)
    values = np.stack([x, y, np.hypot(x, y), np.ones_like(x)], -1).reshape(-1, 4) * np.float32(random.uniform(1, 8))
    for _ in range(int(random.integers(2, 5))):
        weights = random.normal(0, 1.6 / math.sqrt(values.shape[1]), (values.shape[1], NETWORK_HIDDEN_UNITS))
        activation = _ACTIVATIONS[int(random.integers(len(_ACTIVATIONS)))]
        values = activation(values @ weights.astype(np.float32))
    field = (values @ random.normal(0, 1, NETWORK_HIDDEN_UNITS).astype(np.float32)).reshape(half, half)
    return np.asarray(cv2.resize(field, (size, size), interpolation=cv2.INTER_CUBIC), np.float32)


def _draw_strokes(random: Random, size: int) -> Field:
    """Return many short lines: fur, grass, hatching, fabric."""
    field = np.full((size, size), 128, np.uint8)
    count = int(2 ** random.uniform(5, 10))
    direction, spread = random.uniform(0, math.tau), random.choice([0.05, 0.3, 3.0])
    angles = direction + spread * random.normal(size=count)
    lengths = size * 2 ** random.uniform(-5, -1.5) * random.uniform(0.5, 1.5, count)
    starts = random.uniform(-0.05, 1.05, (count, 2)) * size
    ends = starts + lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    levels, widths = random.integers(0, 256, count), random.integers(1, int(random.integers(2, 6)), count)
    for start, end, level, width in zip(starts.astype(int), ends.astype(int), levels, widths, strict=True):
        cv2.line(field, start, end, int(level), int(width), cv2.LINE_AA)
    return field.astype(np.float32)


def _draw_small_leaves(random: Random, size: int) -> Field:
    """Return ellipses over ellipses, with radii as in a dead leaves model: probability ∝ 1/r³ (Lee et al., 2001)."""
    field = np.full((size, size), 128, np.uint8)
    count = int(2 ** random.uniform(5, 10))
    smallest = size / 80
    radii = np.minimum(smallest / np.sqrt(1 - random.random(count) * 0.997), size / 3)
    centres = random.uniform(0, size, (count, 2))
    elongation, angles = random.uniform(0.4, 1, count), random.uniform(0, 180, count)
    levels = random.integers(0, 256, count)
    for centre, radius, ratio, angle, level in zip(centres, radii, elongation, angles, levels, strict=True):
        axes = max(1, round(radius)), max(1, round(radius * ratio))
        cv2.ellipse(field, (int(centre[0]), int(centre[1])), axes, angle, 0, 360, int(level), cv2.FILLED, cv2.LINE_AA)
    return field.astype(np.float32)


def draw_function_system(random: Random, size: int) -> Field:
    """Return the density of points that random affine maps move: a fern, a spiral, dust."""
    count = int(random.integers(2, 5))
    # Rotations with singular values below 1 contract, so the points stay bounded.
    angles = random.uniform(0, math.tau, (2, count))
    turns = [np.moveaxis(np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]), -1, 0) for a in angles]
    singular = random.uniform(0.25, 0.95, (count, 2, 1)) * np.eye(2)
    linear, offset = turns[0] @ singular @ turns[1], random.uniform(-1, 1, (count, 2))
    choices = random.integers(count, size=(CHAOS_STEPS, CHAOS_POINTS))
    points = np.zeros((CHAOS_POINTS, 2))
    visited = []
    for step, choice in enumerate(choices):
        points = np.einsum("nij,nj->ni", linear[choice], points) + offset[choice]
        if step >= CHAOS_STEPS // 4:
            visited.append(points)
    every = np.concatenate(visited)
    low, high = np.percentile(every, (1, 99), axis=0)
    scale = (size - 1) / np.maximum(high - low, 1e-6)
    cells = np.clip((every - low) * scale, 0, size - 1).astype(np.int64)
    density = np.bincount(cells[:, 1] * size + cells[:, 0], minlength=size * size).reshape(size, size)
    field = np.log1p(density).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(field, (0, 0), random.uniform(0.5, 1.5)), np.float32)


_FIELDS: tuple[Callable[[Random, int], Field], ...] = (
    _draw_spectrum_noise,
    _draw_fractal_noise,
    _draw_cells,
    _draw_waves,
    _draw_coordinate_network,
    _draw_strokes,
    _draw_small_leaves,
    draw_function_system,
)


def colourise(texture: GreyTexture, colour_map: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the colours (h, w, 3) of a grey texture (h, w)."""
    return np.asarray(colour_map[texture], np.float32)


def to_pixels(canvas: NDArray[np.float32]) -> Pixels:
    """Round a canvas (h, w, 3), 0 to 255."""
    return np.asarray(np.clip(canvas + 0.5, 0, 255), np.uint8)
