"""Draw images: the same seed gives the same images, in any number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from simile.core.errors import WorkersFailed
from simile.images.drawn.compositions import COMPOSITIONS
from simile.images.drawn.painter import Painter
from simile.images.drawn.textures import GreyTexture, Random, draw_smooth_noise, draw_texture, to_pixels
from simile.images.formats import Pixels
from simile.images.loading.fork_server import WorkerLost
from simile.images.loading.worker_pool import WorkerPool

BLOCK_SIZE = 64  # images that share textures, and that one process draws
TEXTURES_PER_BLOCK = 20
TEXTURE_SIDE = 160
GREY_RATE = 0.06


def draw_images(count: int, size: int, seed: int, workers: WorkerPool) -> Iterator[Pixels]:
    """Yield images (size, size, 3), one after another.

    Raises:
        WorkersFailed: A worker process was lost.
    """
    blocks = -(-count // BLOCK_SIZE)
    for number, block in enumerate(workers.map(partial(draw_block, size=size, seed=seed), range(blocks))):
        if isinstance(block, WorkerLost):
            raise WorkersFailed(f"The process that drew images was lost: {block.reason}. Free some memory.")
        yield from block[: count - number * BLOCK_SIZE]


def draw_block(number: int, size: int, seed: int) -> Pixels:
    """Return the images (BLOCK_SIZE, size, size, 3) of one block.

    Args:
        number: Of the block, from 0.
        size: Side of the images in pixels.
        seed: Of all random numbers; equal values give equal images on the same machine.
    """
    random = np.random.default_rng([seed, number])
    textures = [draw_texture(random, TEXTURE_SIDE) for _ in range(TEXTURES_PER_BLOCK)]
    return np.stack([draw_image(random, size, textures) for _ in range(BLOCK_SIZE)])


def draw_image(random: Random, size: int, textures: list[GreyTexture]) -> Pixels:
    """Return one image (size, size, 3): a composition, with the effects of light and a camera."""
    painter = Painter(random, size, textures)
    weights = np.array([weight for _, weight in COMPOSITIONS])
    composition, _ = COMPOSITIONS[int(random.choice(len(COMPOSITIONS), p=weights / weights.sum()))]
    composition(painter)
    canvas = _focus(painter.canvas, random)
    canvas = _light(canvas, random)
    if random.random() < GREY_RATE:
        canvas = np.repeat(canvas @ np.array([[0.299], [0.587], [0.114]], np.float32), 3, 2)
    return to_pixels(canvas)


def _focus(canvas: NDArray[np.float32], random: Random) -> NDArray[np.float32]:
    """Blur the image, or all except a band or the centre, as if they were in focus."""
    size, kind = len(canvas), random.random()
    if kind > 0.35:
        return canvas
    blurred = np.asarray(cv2.GaussianBlur(canvas, (0, 0), random.uniform(0.004, 0.03) * size), np.float32)
    if kind < 0.1:
        return blurred
    y, x = np.ogrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    position = random.uniform(-0.7, 0.7)
    distance = np.abs(y - position) if kind < 0.25 else np.hypot(x, y)
    share = np.clip(distance * random.uniform(0.8, 2), 0, 1)[:, :, None].astype(np.float32)
    return canvas + share * (blurred - canvas)


def _light(canvas: NDArray[np.float32], random: Random) -> NDArray[np.float32]:
    """Apply uneven light, a colour cast, the exposure and the grain of a camera."""
    size = len(canvas)
    if random.random() < 0.4:
        light = draw_smooth_noise(random, size, random.uniform(0.5, 3)) * random.uniform(0.3, 1.4)
        canvas = canvas * np.clip(1 + light, 0.2, 2).astype(np.float32)[:, :, None]
    if random.random() < 0.4:
        canvas = canvas * random.uniform(0.8, 1.2, 3).astype(np.float32)
    if random.random() < 0.4:
        gamma = np.float32(np.exp(random.normal(0, 0.35)))
        canvas = np.float32(255) * (np.clip(canvas, 0, 255) / np.float32(255)) ** gamma
    if random.random() < 0.3:
        canvas = canvas + random.normal(0, random.uniform(1, 8), (size, size, 1)).astype(np.float32)
    return np.asarray(canvas, np.float32)
