"""Compositions, from dead leaves to documents: each paints on the canvas of a `Painter`."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

from simile.images.drawn.painter import Colours, Painter
from simile.images.drawn.shapes import (
    Outline,
    draw_character,
    draw_curve,
    draw_letters,
    draw_outline,
    stroke_outline,
    transform_outline,
)
from simile.images.drawn.textures import draw_function_system, draw_smooth_noise

Composition = Callable[[Painter], None]


def paint_leaves(painter: Painter) -> None:
    """Paint shapes over shapes, with radii as in a dead leaves model: probability ∝ 1/r³ (Lee et al., 2001)."""
    random, size = painter.random, painter.size
    painter.fill_background()
    count = int(2 ** random.uniform(2.5, 6.4))
    smallest = size * 2 ** random.uniform(-5.5, -3)
    radii = np.sort(np.minimum(smallest / np.sqrt(1 - random.random(count)), 0.6 * size))[::-1]
    outlines = [draw_outline(random) for _ in range(int(random.integers(1, 6)))]
    for radius in radii if random.random() < 0.5 else random.permutation(radii):
        centre = random.uniform(-0.1, 1.1, 2) * size
        painter.paint_shape(centre, radius, outlines[int(random.integers(len(outlines)))])


def paint_object(painter: Painter) -> None:
    """Paint an object of a few parts on a quiet background, as in the photograph of a product."""
    random, size = painter.random, painter.size
    if random.random() < 0.4:
        painter.canvas[:] = random.uniform(200, 255)
    else:
        painter.fill_background(0.4)
    centre = size * (0.5 + random.normal(0, 0.07, 2))
    radius, angle = size * random.uniform(0.25, 0.52), random.normal(0, 0.4)
    body = draw_outline(random)
    painter.paint_outline(transform_outline(body, centre, radius, angle))
    for _ in range(int(random.integers(0, 9))):  # parts, half of them in pairs
        part, offset = draw_outline(random), random.uniform(-0.6, 0.6, 2)
        part_radius, part_angle = radius * 2 ** random.uniform(-4, -1), random.uniform(0, math.tau)
        sides = (1, -1) if random.random() < 0.5 else (1,)
        fill = painter.make_fill(size, size) if len(sides) == 2 else None
        for side in sides:
            turned = transform_outline(np.array([[offset[0] * side, offset[1]]]), centre, radius, angle)[0]
            painter.paint_outline(transform_outline(part * [side, 1], turned, part_radius, part_angle * side), fill)
    if random.random() < 0.25:
        height = int(radius * random.uniform(0.12, 0.4))
        painter.paint_text(centre[0] - radius / 2, centre[1] - height, height, 1, painter.pick_colour())


def paint_landscape(painter: Painter) -> None:
    """Paint a sky and layers of ground that become nearer, with things on them."""
    random, size = painter.random, painter.size
    painter.canvas = np.array(painter.make_gradient(size, size))
    if random.random() < 0.6:
        clouds = np.clip(draw_smooth_noise(random, size, random.uniform(1, 5), 4) * random.uniform(1, 4), 0, 1)
        painter.canvas += clouds[:, :, None] * (random.uniform(150, 255) - painter.canvas)
    layers = int(random.integers(1, 6))
    horizons = np.sort(random.uniform(0.2, 1.0, layers)) * size
    haze, haze_colour = random.uniform(0, 0.8), painter.canvas[size // 2, size // 2].copy()
    for layer, horizon in enumerate(horizons):
        roughness = random.uniform(0, 0.25) * size
        ridge = draw_smooth_noise(random, size, random.uniform(1, 10), int(random.integers(1, 6)))[0] * roughness * 3
        depth = np.arange(size, dtype=np.float32)[:, None] - (horizon + ridge[None])
        mask = (np.clip(depth + 0.5, 0, 1) * 255).astype(np.uint8)
        fill = painter.make_fill(size, size)
        fill = fill + haze * (1 - (layer + 1) / layers) * (haze_colour - fill)
        painter.paint_mask(mask, 0, 0, fill, solid=True)
        for _ in range(int(random.integers(0, 5))):
            x, radius = random.uniform(0, size), size * 2 ** random.uniform(-4.5, -2) * (layer + 1) / layers * 2
            painter.paint_shape(np.array([x, horizon + random.uniform(-1, 1) * radius]), radius)


def paint_room(painter: Painter) -> None:
    """Paint a floor, walls and furniture in perspective."""
    random, size = painter.random, painter.size
    left, top = random.uniform(0.05, 0.45, 2) * size
    right, bottom = random.uniform(0.55, 0.95, 2) * size
    inner = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    outer = np.array([(0, 0), (size, 0), (size, size), (0, size)]) + np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    for side in range(4):
        other = (side + 1) % 4
        corners = np.array([outer[side], outer[other], inner[other], inner[side]])
        painter.paint_outline(corners, _make_perspective_fill(painter, corners), solid=True)
    painter.paint_outline(inner)
    for _ in range(int(random.integers(1, 12))):
        y = random.uniform(0.3, 1.0)
        radius = size * 2 ** random.uniform(-4, -1.5) * (0.4 + y)
        painter.paint_shape(np.array([random.uniform(0, size), y * size]), radius)


def _make_perspective_fill(painter: Painter, corners: Outline) -> Colours:
    """Return a fill in perspective, mapped to the corners; it starts at the corner of their bounding box."""
    low = np.maximum(np.floor(corners.min(0)).astype(int) - 1, 0)
    size = painter.size
    square = np.array([(0, 0), (size, 0), (size, size), (0, size)], np.float32)
    matrix = cv2.getPerspectiveTransform(square, (corners - low).astype(np.float32))
    fill = np.array(painter.make_fill(size, size))
    return np.asarray(cv2.warpPerspective(fill, matrix, (size, size), borderMode=cv2.BORDER_REFLECT), np.float32)


def paint_document(painter: Painter) -> None:
    """Paint lines of text, rules, tables, bars and figures on paper or on a screen."""
    random, size = painter.random, painter.size
    dark = random.random() < 0.2
    paper = random.uniform(10, 60) if dark else random.uniform(215, 255)
    painter.canvas[:] = paper + random.normal(0, 6, 3)
    ink = np.full(3, 235 if dark else random.uniform(0, 90), np.float32)
    y, margin = random.uniform(0.02, 0.15) * size, random.uniform(0.03, 0.15) * size
    while y < 0.97 * size:
        kind, height = random.random(), size * 2 ** random.uniform(-4.5, -2.6)
        if kind < 0.55:
            height = height * random.choice([0.6, 1, 1.8])
            for _ in range(int(random.integers(1, 5))):
                indent = margin * random.choice([1, 1, 2, 4])
                painter.paint_text(indent, y, int(height), int(random.integers(1, 8)), ink)
                y += 1.3 * height
        elif kind < 0.7:
            box = np.array([(margin, y), (size - margin, y), (size - margin, y + height), (margin, y + height)])
            painter.paint_outline(box, solid=True)
        elif kind < 0.85:  # a table or a bar chart
            height *= 2.5
            columns = int(random.integers(2, 12))
            for column in range(columns):
                x = margin + column * (size - 2 * margin) / columns
                bar = height * random.uniform(0.1, 1)
                corners = [(x, y + height - bar), (x + 0.7 * (size - 2 * margin) / columns, y + height)]
                painter.paint_outline(
                    _to_rectangle(*corners), np.broadcast_to(painter.pick_colour(), (size, size, 3)), solid=True
                )
        else:
            height *= 3
            x = random.uniform(margin, size / 2)
            painter.paint_outline(_to_rectangle((x, y), (x + random.uniform(0.2, 0.9) * size, y + height)), solid=True)
        y += height + random.uniform(0.01, 0.08) * size


def _to_rectangle(first: tuple[float, float], second: tuple[float, float]) -> Outline:
    return np.array([first, (second[0], first[1]), second, (first[0], second[1])], np.float64)


def paint_lines(painter: Painter) -> None:
    """Paint curves and outlines: line art, wires, branches, sketches."""
    random, size = painter.random, painter.size
    painter.fill_background(0.7)
    shared_colour = painter.pick_colour() if random.random() < 0.6 else None
    thickness = int(random.integers(1, 5))
    for _ in range(int(2 ** random.uniform(1, 5.5))):
        closed = random.random() < 0.4
        outline = draw_outline(random) if closed else draw_curve(random)
        radius, centre = size * 2 ** random.uniform(-4, -0.5), random.uniform(0, 1, 2) * size
        transformed = transform_outline(outline, centre, radius, random.uniform(0, math.tau))
        mask = stroke_outline(transformed, size, size, thickness, closed=closed)
        colour = painter.pick_colour() if shared_colour is None else shared_colour
        painter.paint_mask(mask, 0, 0, np.broadcast_to(colour, (size, size, 3)), solid=True)


def paint_letters(painter: Painter) -> None:
    """Paint large letters, words and signs: posters, labels, covers."""
    random, size = painter.random, painter.size
    painter.fill_background()
    for _ in range(int(random.integers(0, 6))):
        painter.paint_shape(random.uniform(0, 1, 2) * size, size * 2 ** random.uniform(-3, -1))
    for _ in range(int(random.integers(1, 9))):
        height = int(size * 2 ** random.uniform(-3.5, -0.5))
        if random.random() < 0.5:
            mask = draw_letters(random, draw_character(random), height)
            painter.paint_mask(mask, *(random.uniform(-0.1, 0.9, 2) * size).astype(int).tolist())
        else:
            x, y = random.uniform(-0.05, 0.6, 2) * size
            painter.paint_text(x, y, min(height, size // 4), int(random.integers(1, 3)), painter.pick_colour())


def paint_texture(painter: Painter) -> None:
    """Cover the canvas with one or two textures."""
    random, size = painter.random, painter.size
    painter.fill_background(0)
    if random.random() < 0.5:
        share = np.clip(draw_smooth_noise(random, size, random.uniform(1, 4), 2) * random.uniform(2, 20) + 0.5, 0, 1)
        painter.canvas += share[:, :, None] * (painter.make_fill(size, size, 0.1) - painter.canvas)


def paint_fractal(painter: Painter) -> None:
    """Paint one to three fractals of iterated function systems."""
    random, size = painter.random, painter.size
    painter.fill_background(0.7)
    for _ in range(int(random.integers(1, 4))):
        side = int(size * random.uniform(0.4, 1.2))
        density = draw_function_system(random, side)
        mask = np.clip(density / max(float(np.percentile(density, 97)), 1e-6) * 255, 0, 255).astype(np.uint8)
        painter.paint_mask(mask, *random.integers(-side // 4, size - side // 2, 2).tolist(), solid=True)


def paint_face(painter: Painter) -> None:
    """Paint a schematic head: hair, face, eyes, mouth, in some cases glasses or a hat."""
    random, size = painter.random, painter.size
    painter.fill_background()
    centre, radius = size * (0.5 + random.normal(0, 0.06, 2)), size * random.uniform(0.25, 0.45)
    tilt, aspect = random.normal(0, 0.12), random.uniform(0.65, 0.95)
    angles = np.linspace(0, math.tau, 40, endpoint=False)
    oval = np.stack([np.cos(angles) * aspect, np.sin(angles)], 1)

    def paint(x: float, y: float, outline: Outline, scale: float) -> None:
        position = transform_outline(np.array([[x, y]]), centre, radius, tilt)[0]
        painter.paint_outline(transform_outline(outline, position, radius * scale, tilt))

    paint(0, 1.6, np.array([(-1.5, 1), (-1.2, -0.5), (1.2, -0.5), (1.5, 1)]), 1.0)  # shoulders
    paint(0, -0.15, oval * [random.uniform(1, 1.35), random.uniform(1, 1.25)], 1.0)  # hair behind
    skin = np.array([random.uniform(110, 255), random.uniform(80, 210), random.uniform(60, 190)], np.float32)
    painter.palette[0] = skin
    position = transform_outline(np.zeros((1, 2)), centre, radius, tilt)[0]
    painter.paint_outline(transform_outline(oval, position, radius, tilt), np.broadcast_to(skin, (size, size, 3)))
    if random.random() < 0.7:  # hair in front
        fringe = oval[(oval[:, 1] < -random.uniform(0.1, 0.7))]
        if len(fringe) > 2:
            paint(0, 0, fringe * 1.05, 1.0)
    eye = random.uniform(0.06, 0.14)
    for side in (-1, 1):
        paint(side * 0.36 * aspect, -0.1, oval * [1.5, random.uniform(0.5, 1)], eye)
        paint(side * 0.36 * aspect, -0.1, oval, eye * 0.5)
    paint(0, 0.2, np.array([(-0.5, 0.6), (0, -1), (0.5, 0.6)]), random.uniform(0.1, 0.2))  # nose
    bend = random.uniform(-0.3, 0.5)  # of the mouth: below zero it points down
    x = np.linspace(-1, 1, 12)
    mouth = np.concatenate([np.stack([x, -bend * x**2 - 0.15], 1), np.stack([x[::-1], -bend * x[::-1] ** 2 + 0.15], 1)])
    paint(0, 0.55, mouth, random.uniform(0.2, 0.4))


def paint_collage(painter: Painter) -> None:
    """Paint a grid of other compositions."""
    random, size = painter.random, painter.size
    painter.fill_background(0.8)
    columns, rows = (int(count) for count in random.integers(1, 4, 2))
    gap = random.choice([0, 0.02, 0.06]) * size
    for column in range(columns):
        for row in range(rows):
            width, height = (size - gap) / columns - gap, (size - gap) / rows - gap
            side = max(16, int(max(width, height)))
            tile = Painter(random, side, painter.textures)
            _SIMPLE_COMPOSITIONS[int(random.integers(len(_SIMPLE_COMPOSITIONS)))](tile)
            left, top = gap + column * (width + gap), gap + row * (height + gap)
            box = _to_rectangle((left, top), (left + width, top + height))
            painter.paint_outline(box, np.pad(tile.canvas, ((1, 4), (1, 4), (0, 0)), mode="edge"), solid=True)


def paint_many(painter: Painter) -> None:
    """Paint many things of one kind in rows or at random: a shelf, a crowd, a keyboard."""
    random, size = painter.random, painter.size
    painter.fill_background(0.5)
    outline = draw_outline(random)
    count = int(random.integers(2, 8))
    radius, disorder = size / count * random.uniform(0.3, 0.6), random.choice([0.0, 0.1, 0.5]) * size / count
    for row in range(count):
        for column in range(count):
            if random.random() < 0.1:
                continue
            centre = (np.array([column, row]) + 0.5) * size / count + random.normal(0, 1, 2) * disorder
            shape = outline if random.random() < 0.8 else draw_outline(random)
            painter.paint_outline(transform_outline(shape, centre, radius, random.normal(0, 0.1)))


_SIMPLE_COMPOSITIONS: tuple[Composition, ...] = (
    paint_leaves,
    paint_object,
    paint_landscape,
    paint_letters,
    paint_texture,
)
COMPOSITIONS: tuple[tuple[Composition, float], ...] = (  # with their relative frequency
    (paint_leaves, 4),
    (paint_object, 4),
    (paint_landscape, 2),
    (paint_room, 2),
    (paint_document, 1.5),
    (paint_lines, 1),
    (paint_letters, 1),
    (paint_texture, 1.5),
    (paint_fractal, 0.7),
    (paint_face, 1.5),
    (paint_collage, 1),
    (paint_many, 1.5),
)
