"""A canvas and the operations of all compositions: textured shapes with light and shadow, letters, backgrounds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from simile.images.drawn.shapes import (
    Mask,
    Outline,
    draw_letters,
    draw_outline,
    draw_word,
    fill_outline,
    transform_outline,
)
from simile.images.drawn.textures import (
    GreyTexture,
    Random,
    colourise,
    draw_colour_map,
    draw_palette,
    draw_smooth_noise,
)

Colours = NDArray[np.float32]  # (h, w, 3), 0 to 255
MATERIALS = 10  # colour maps of an image
MIN_LIT_SIDE = 10  # pixels; smaller shapes have neither shadow nor relief, which would be invisible


class Painter:
    """An image in progress. `textures` may be shared by many images: each use has its own cut and colours."""

    def __init__(self, random: Random, size: int, textures: Sequence[GreyTexture]) -> None:
        self.random, self.size, self.textures = random, size, textures
        self.palette = draw_palette(random)
        self.canvas: Colours = np.zeros((size, size, 3), np.float32)
        # Few materials for the whole image; each gets its colours when it is first used.
        self._colour_maps: dict[int, NDArray[np.float32]] = {}
        # One direction of light for the whole image.
        self.light = random.uniform(0, math.tau)
        self.shadow_strength = random.uniform(0, 0.7) if random.random() < 0.6 else 0.0

    def pick_colour(self) -> NDArray[np.float32]:
        """Return a colour of the palette, slightly changed."""
        colour = self.palette[int(self.random.integers(len(self.palette)))] + self.random.normal(0, 12, 3)
        return np.asarray(np.clip(colour, 0, 255), np.float32)

    def make_fill(self, height: int, width: int, plain_rate: float = 0.25) -> Colours:
        """Return colours (height, width, 3): plain, a gradient, or a cut of a texture."""
        random, kind = self.random, self.random.random()
        if kind < plain_rate:
            return np.broadcast_to(self.pick_colour(), (height, width, 3))
        if kind < plain_rate + 0.15:
            return self.make_gradient(height, width)
        texture = self.textures[int(random.integers(len(self.textures)))]
        side, angle = len(texture), random.uniform(0, math.tau)
        scale = 2 ** random.uniform(-1.5, 0.7)  # texture pixels per canvas pixel, times a mirroring
        cos, sin = math.cos(angle) * scale, math.sin(angle) * scale
        matrix = np.array([[cos, -sin, random.uniform(0, side)], [sin, cos, random.uniform(0, side)]])
        if random.random() < 0.5:
            matrix[:, 0] *= -1
        cut = cv2.warpAffine(
            texture,
            matrix,
            (width, height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT,
        )
        return colourise(cut, self._pick_colour_map())

    def _pick_colour_map(self) -> NDArray[np.float32]:
        number = int(self.random.integers(MATERIALS))
        if number not in self._colour_maps:
            self._colour_maps[number] = draw_colour_map(self.random, self.palette)
        return self._colour_maps[number]

    def make_gradient(self, height: int, width: int) -> Colours:
        """Return a gradient (height, width, 3) between two colours, along a line or around a centre."""
        first, second = self.pick_colour(), self.pick_colour()
        angle = self.random.uniform(0, math.tau)
        y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        if self.random.random() < 0.3:
            centre = self.random.uniform(-1, 1, 2)
            share = np.hypot(x - centre[0], y - centre[1]) / 2
        else:
            share = (x * math.cos(angle) + y * math.sin(angle) + 1.4) / 2.8
        return np.asarray(first + np.clip(share, 0, 1)[:, :, None] * (second - first), np.float32)

    def fill_background(self, plain_rate: float = 0.3) -> None:
        """Cover the canvas."""
        self.canvas = np.array(self.make_fill(self.size, self.size, plain_rate))

    def paint_mask(self, mask: Mask, left: int, top: int, fill: Colours | None = None, *, solid: bool = False) -> None:
        """Paint a mask (h, w) with its corner at (left, top), with a shadow and light."""
        size, (height, width) = self.size, mask.shape
        rows = slice(max(0, top), min(size, top + height))
        columns = slice(max(0, left), min(size, left + width))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return
        cut = mask[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        height, width = cut.shape
        fill = self.make_fill(height, width) if fill is None else fill[: cut.shape[0], : cut.shape[1]]
        if not solid and min(height, width) >= MIN_LIT_SIDE:
            if self.shadow_strength:
                self._paint_shadow(cut, rows.start, columns.start)
            if self.random.random() < 0.4:
                fill = fill * self._make_relief(cut)[:, :, None]
        alpha = cut[:, :, None] * np.float32(1 / 255)
        target = self.canvas[rows, columns]
        target += alpha * (fill - target)

    def _paint_shadow(self, mask: Mask, top: int, left: int) -> None:
        distance = self.random.uniform(0.01, 0.06) * self.size
        blurred = cv2.GaussianBlur(mask, (0, 0), max(0.6, distance * self.random.uniform(0.3, 1.2)))
        y, x = top + round(math.sin(self.light) * distance), left + round(math.cos(self.light) * distance)
        rows = slice(max(0, y), min(self.size, y + mask.shape[0]))
        columns = slice(max(0, x), min(self.size, x + mask.shape[1]))
        cut = blurred[rows.start - y : max(0, rows.stop - y), columns.start - x : max(0, columns.stop - x)]
        if cut.size:
            self.canvas[rows, columns] *= 1 - np.float32(self.shadow_strength / 255) * cut[:, :, None]

    def _make_relief(self, mask: Mask) -> NDArray[np.float32]:
        """Return factors (h, w): the shape as a pillow, a folded cloth or a tilted plane under the light."""
        height, width = mask.shape
        kind = self.random.random()
        if kind < 0.45:
            surface = cv2.GaussianBlur(
                mask.astype(np.float32), (0, 0), max(1.0, self.random.uniform(0.05, 0.25) * min(height, width))
            )
            surface *= np.float32(self.random.uniform(0.05, 0.25) * min(height, width) / 255 * 2)
        elif kind < 0.75:
            noise = draw_smooth_noise(self.random, max(height, width), self.random.uniform(1.5, 6), 2)[:height, :width]
            surface = noise * np.float32(self.random.uniform(0.05, 0.3) * max(height, width))
        else:
            slope = self.random.uniform(-0.8, 0.8, 2)
            y, x = np.ogrid[-0.5 : 0.5 : height * 1j, -0.5 : 0.5 : width * 1j]
            return np.asarray(np.clip(1 + slope[0] * x + slope[1] * y, 0.2, 1.8), np.float32)
        slope_y, slope_x = np.gradient(surface) if min(height, width) > 1 else (surface, surface)
        light = slope_x * math.cos(self.light) + slope_y * math.sin(self.light)
        return np.asarray(np.clip(1 - light, 0.25, 1.7), np.float32)

    def paint_outline(self, outline: Outline, fill: Colours | None = None, *, solid: bool = False) -> None:
        """Paint the inside of an outline in pixels of the canvas."""
        low = np.maximum(np.floor(outline.min(0)).astype(int) - 1, -2)
        high = np.minimum(np.ceil(outline.max(0)).astype(int) + 2, self.size + 2)
        width, height = (high - low).tolist()
        if width < 2 or height < 2:
            return
        self.paint_mask(fill_outline(outline - low, height, width), int(low[0]), int(low[1]), fill, solid=solid)

    def paint_shape(self, centre: NDArray[np.float64], radius: float, outline: Outline | None = None) -> None:
        """Paint a random shape around a position in pixels."""
        outline = draw_outline(self.random) if outline is None else outline
        self.paint_outline(transform_outline(outline, centre, radius, self.random.uniform(0, math.tau)))

    def paint_text(self, left: float, top: float, height: int, words: int, colour: NDArray[np.float32]) -> None:
        """Write some words on one line."""
        text = " ".join(draw_word(self.random) for _ in range(words))
        mask = draw_letters(self.random, text, height)
        fill = np.broadcast_to(colour, (*mask.shape, 3))
        self.paint_mask(mask, round(left), round(top), fill, solid=True)
