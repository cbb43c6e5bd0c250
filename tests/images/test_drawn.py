"""Images that are drawn by code alone."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from simile.core.errors import WorkersFailed
from simile.images.drawn import generator
from simile.images.drawn.compositions import COMPOSITIONS, Composition
from simile.images.drawn.generator import BLOCK_SIZE, draw_block, draw_images
from simile.images.drawn.painter import Painter
from simile.images.drawn.textures import draw_texture
from simile.images.formats import Pixels
from simile.images.loading.worker_pool import WorkerPool


@pytest.fixture(scope="module")
def images() -> Pixels:
    with WorkerPool(2) as workers:
        return np.stack(list(draw_images(BLOCK_SIZE + 8, 48, 7, workers)))


def test_a_seed_gives_the_same_bytes_in_any_process(images: Pixels) -> None:
    assert images.shape == (BLOCK_SIZE + 8, 48, 48, 3) and images.dtype == np.uint8
    assert np.array_equal(images[:BLOCK_SIZE], draw_block(0, 48, 7))
    assert np.array_equal(images[BLOCK_SIZE:], draw_block(1, 48, 7)[:8])
    assert not np.array_equal(images[:BLOCK_SIZE], draw_block(0, 48, 8))


def test_all_images_differ_and_use_colours_and_contrast(images: Pixels) -> None:
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)
    values = images.astype(np.float32)
    assert np.median(values.std(axis=(1, 2, 3))) > 20
    assert np.median(np.ptp(values.mean(axis=(1, 2)), axis=1)) > 10  # red, green and blue differ
    grey = (np.ptp(values, axis=3) < 1).all(axis=(1, 2)).mean()
    assert 0 < grey < 0.3


def test_their_spectra_fall_as_those_of_photographs_do(images: Pixels) -> None:
    """Photographs have amplitudes near 1/f, so a slope of -1 in logarithms (Field, 1987)."""
    grey = images.mean(axis=3)
    amplitude = np.abs(np.fft.fft2(grey - grey.mean(axis=(1, 2), keepdims=True))).mean(axis=0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(48), np.fft.fftfreq(48)))
    used = (frequency > 0.04) & (frequency < 0.4)
    slope, _ = np.polyfit(np.log(frequency[used]), np.log(amplitude[used]), 1)
    assert -2.0 < slope < -0.7


@pytest.mark.parametrize("paint", [paint for paint, _ in COMPOSITIONS], ids=lambda paint: paint.__name__)
def test_each_composition_fills_any_canvas(paint: Composition) -> None:
    for seed in range(6):
        random = np.random.default_rng(seed)
        painter = Painter(random, int(random.integers(16, 100)), [draw_texture(random, 64) for _ in range(3)])
        paint(painter)
        assert painter.canvas.shape == (painter.size, painter.size, 3) and np.isfinite(painter.canvas).all()
        assert painter.canvas.std() > 0.5


def test_a_lost_process_is_an_error_and_no_missing_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with WorkerPool(1, seconds=0.05) as workers, pytest.raises(WorkersFailed, match="drew images"):
        list(draw_images(BLOCK_SIZE, 256, 0, workers))


def test_drawing_needs_no_fixed_number_of_threads() -> None:
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        single = generator.draw_block(3, 32, 1)
    finally:
        cv2.setNumThreads(threads)
    assert np.array_equal(single, generator.draw_block(3, 32, 1))
