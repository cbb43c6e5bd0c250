"""Chromium through playwright, and the times between its frames."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
from numpy.typing import NDArray

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
LONG_FRAME = 50.0  # milliseconds
RECORD = """() => {
    window.frames_ = [];
    let last = performance.now();
    const tick = (now) => {
        window.frames_.push(now - last);
        last = now;
        window.ticking = requestAnimationFrame(tick);
    };
    window.ticking = requestAnimationFrame(tick);
}"""
STOP = "() => { cancelAnimationFrame(window.ticking); return window.frames_.slice(2); }"
Milliseconds = NDArray[np.float64]


def open_browser(playwright: Any) -> Any:
    """Start a new Chromium."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    return playwright.chromium.launch(executable_path=chromium, args=FLAGS)


def start_recording(page: Any) -> None:
    """Record the time of each frame from now on."""
    page.evaluate(RECORD)


def stop_recording(page: Any) -> Milliseconds:
    """Return the times between the recorded frames."""
    return np.array(page.evaluate(STOP))


def format_frames(frames: Milliseconds) -> str:
    """Return median, 95th percentile and maximum in ms, and the number of long frames."""
    return (
        f"median {np.median(frames):5.1f} ms  95th {np.percentile(frames, 95):5.1f}  "
        f"longest {frames.max():5.1f}  over {LONG_FRAME:.0f} ms: {(frames > LONG_FRAME).sum()} of {len(frames)}"
    )
