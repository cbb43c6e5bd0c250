"""The map of 50,000 Fashion-MNIST pictures in a real Chromium: first paint, frames while it is moved, a picture.

    python -m benchmarks.latent.map --data DIR [--count 50000] [--minutes 2] [--layout pca] [--work DIR] [--picture map.jpg]

DIR holds fashion-mnist.npz. Trained, indexed and laid out by the commands that a user types, then served by `simile
serve` and opened at 1280 x 800. First paint: from the navigation to the first points on the screen, with the stored
layout, in a fresh browser. Frames: the times between callbacks of requestAnimationFrame while a pointer drags the plane
to and fro for some seconds, at four distances; it needs a machine with nothing else to do, and says how many of them
were long.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

from benchmarks.common.simile_runs import served, simile
from simile.images.encoding import encode_png

CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
DISTANCES = ((0, "all in sight"), (1, "a cluster"), (3, "a third of it"), (9, "a ninth of it"))
SECONDS = 6.0
LONG = 50.0  # milliseconds

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
FIRST = """() => ({
    seen: performance.getEntriesByName("map seen")[0].startTime,
    document: performance.getEntriesByType("navigation")[0].responseEnd,
    points: performance.getEntriesByType("resource").find((one) => one.name.includes("/points")).responseEnd,
})"""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--count", type=int, default=50_000)
    options.add_argument("--minutes", type=float, default=2.0, help="of training")
    options.add_argument("--layout", default="pca", help="pca, tsne or umap")
    options.add_argument("--work", type=Path, help="keeps pictures and home there, and goes on from them")
    options.add_argument("--picture", type=Path, help="a .png or .jpg of the page")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = laid_out(given.data, given.work or Path(scratch), given.count, given.minutes, given.layout)
        with served(home) as address, sync_playwright() as playwright:
            look(playwright, f"{address}/map?layout={given.layout}", given.picture)


def laid_out(data: Path, work: Path, count: int, minutes: float, layout: str) -> Path:
    """A home with so many pictures, in folders by class, and its map."""
    folder, home = work / "pictures", work / "home"
    if not home.exists():
        write(folder, data, count)
        simile("train", folder, "--minutes", str(minutes), home=home)
        simile("index", folder, home=home)
    simile("map", "--layout", layout, home=home)
    return home


def write(folder: Path, data: Path, count: int) -> None:
    stored = np.load(data / "fashion-mnist.npz")
    pictures, labels = stored["x_train"], stored["y_train"]
    for name in CLASSES:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for row in np.random.default_rng(0).permutation(len(pictures))[:count]:
        (folder / CLASSES[labels[row]] / f"{row:05d}.png").write_bytes(encode_png(pictures[row]))


def look(playwright: Any, address: str, picture: Path | None) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    for attempt in range(3):
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(address)
        page.wait_for_function("() => performance.getEntriesByName('map seen').length > 0")
        at = page.evaluate(FIRST)
        print(f"first paint {attempt + 1}: {at['seen']:.0f} ms (page {at['document']:.0f}, points {at['points']:.0f})")
        if attempt < 2:
            browser.close()
    for nearer, name in DISTANCES:
        frames = moved(page, nearer)
        print(
            f"{name:<16} median {np.median(frames):5.1f} ms  95th {np.percentile(frames, 95):5.1f}  "
            f"longest {frames.max():5.1f}  over {LONG:.0f} ms: {(frames > LONG).sum()} of {len(frames)}"
        )
    if picture is not None:
        photograph(page, picture)
    browser.close()
    print(f"{os.cpu_count()} processors, no graphics card")


def moved(page: Any, nearer: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Milliseconds between frames while the plane is dragged to and fro, after its thumbnails have come."""
    approach(page, nearer)
    page.evaluate(RECORD)
    page.mouse.move(450, 420)
    page.mouse.down()
    began = time.monotonic()
    while (passed := time.monotonic() - began) < SECONDS:
        page.mouse.move(450 + 160 * np.sin(2 * passed), 420 + 110 * np.sin(3 * passed))
    frames = page.evaluate(STOP)
    page.mouse.up()
    return np.array(frames)


def approach(page: Any, nearer: int) -> None:
    """Has all in sight, or the third largest cluster, so many times nearer than all of it; waits for the thumbnails."""
    page.get_by_role("button", name="All").click()
    if nearer:
        page.locator("button[data-cluster]").nth(2).click()
        page.get_by_role("button", name="Clear").click()
        page.mouse.move(494, 425)  # the middle of the plane
        for _ in range(round(np.log(nearer) / 0.16)):
            page.mouse.wheel(0, -100)
            page.wait_for_timeout(30)
    page.mouse.move(2, 2)
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(1500)


def photograph(page: Any, picture: Path) -> None:
    """The page as a person sees it, side by side: all of the map, and a part of it from near."""
    page.get_by_label("Colour").select_option("label:folder")
    shots = []
    for nearer in (0, 3):
        approach(page, nearer)
        shots.append(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
    both = Image.new("RGB", (2 * shots[0].width, shots[0].height))
    for place, shot in enumerate(shots):
        both.paste(shot, (place * shot.width, 0))
    both.resize((1800, round(1800 * both.height / both.width)), Image.Resampling.LANCZOS).save(picture, quality=84)
    print(f"written: {picture}")


if __name__ == "__main__":
    main()
