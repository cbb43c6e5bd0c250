"""The map of 50,000 Fashion-MNIST images in a real Chromium: first paint, frames while it is dragged, a screenshot.

    python -m benchmarks.latent.map --data DIR [--count 50000] [--minutes 2] [--layout pca] [--picture map.jpg]

DIR holds fashion-mnist.npz. The images are trained on, indexed and laid out by simile's commands, then served by
`simile serve` and opened at 1280 x 800. First paint: from the navigation to the first points on the screen, with the
stored layout, in a new browser. Frames: the times between callbacks of requestAnimationFrame while a pointer drags the
map for some seconds, at four zoom levels. It needs a machine without other load.
"""

from __future__ import annotations

import io
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

from benchmarks.common.browser import Milliseconds, format_frames, open_browser, start_recording, stop_recording
from benchmarks.common.runs import make_parser, open_work_folder, simile
from benchmarks.common.serving import serve_address
from simile.images.encoding import encode_png

CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
ZOOM_LEVELS = ((0, "all in sight"), (1, "a cluster"), (3, "a third of it"), (9, "a ninth of it"))
SECONDS = 6.0

PAINT_TIMES = """() => ({
    seen: performance.getEntriesByName("map seen")[0].startTime,
    document: performance.getEntriesByType("navigation")[0].responseEnd,
    points: performance.getEntriesByType("resource").find((entry) => entry.name.includes("/points")).responseEnd,
})"""


def main() -> None:
    """Parse the options and run the benchmark."""
    parser = make_parser(__doc__, data=True, work=True)
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--minutes", type=float, default=2.0, help="training time")
    parser.add_argument("--layout", default="pca", help="pca, tsne or umap")
    parser.add_argument("--picture", type=Path, help="write a .png or .jpg of the page")
    options = parser.parse_args()
    with open_work_folder(options.work) as work:
        home = make_home(options.data, work, options.count, options.minutes, options.layout)
        with serve_address(home) as address, sync_playwright() as playwright:
            measure(playwright, f"{address}/map?layout={options.layout}", options.picture)


def make_home(data: Path, work: Path, count: int, minutes: float, layout: str) -> Path:
    """Make a home with images in folders by class, and its map."""
    folder, home = work / "images", work / "home"
    if not home.exists():
        write_classes(folder, data, count)
        simile("train", folder, "--minutes", str(minutes), home=home)
        simile("index", folder, home=home)
    simile("map", "--layout", layout, home=home)
    return home


def write_classes(folder: Path, data: Path, count: int) -> None:
    """Write images into a folder for each class."""
    stored = np.load(data / "fashion-mnist.npz")
    images, labels = stored["x_train"], stored["y_train"]
    for name in CLASSES:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for row in np.random.default_rng(0).permutation(len(images))[:count]:
        (folder / CLASSES[labels[row]] / f"{row:05d}.png").write_bytes(encode_png(images[row]))


def measure(playwright: Any, address: str, image: Path | None) -> None:
    """Open the map in new browsers, and drag it in the last one."""
    for attempt in range(3):
        browser = open_browser(playwright)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(address)
        page.wait_for_function("() => performance.getEntriesByName('map seen').length > 0")
        times = page.evaluate(PAINT_TIMES)
        details = f"page {times['document']:.0f}, points {times['points']:.0f}"
        print(f"first paint {attempt + 1}: {times['seen']:.0f} ms ({details})")
        if attempt < 2:
            browser.close()
    for zoom, name in ZOOM_LEVELS:
        print(f"{name:<16} {format_frames(drag(page, zoom))}")
    if image is not None:
        write_screenshot(page, image)
    browser.close()
    print(f"{os.cpu_count()} processors, no graphics card")


def drag(page: Any, zoom: int) -> Milliseconds:
    """Drag the map after its thumbnails have loaded; return the times between frames."""
    set_zoom(page, zoom)
    start_recording(page)
    page.mouse.move(450, 420)
    page.mouse.down()
    started = time.monotonic()
    while (passed := time.monotonic() - started) < SECONDS:
        page.mouse.move(450 + 160 * np.sin(2 * passed), 420 + 110 * np.sin(3 * passed))
    frames = stop_recording(page)
    page.mouse.up()
    return frames


def set_zoom(page: Any, zoom: int) -> None:
    """Show the whole map (0), or the third largest cluster at a zoom; wait for the thumbnails."""
    page.get_by_role("button", name="All").click()
    if zoom:
        page.locator("button[data-cluster]").nth(2).click()
        page.get_by_role("button", name="Clear").click()
        page.mouse.move(494, 425)  # the middle of the map
        for _ in range(round(np.log(zoom) / 0.16)):
            page.mouse.wheel(0, -100)
            page.wait_for_timeout(30)
    page.mouse.move(2, 2)
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(1500)


def write_screenshot(page: Any, image: Path) -> None:
    """Write the whole map and a part of it, side by side."""
    page.get_by_label("Colour").select_option("label:folder")
    shots = []
    for zoom in (0, 3):
        set_zoom(page, zoom)
        shots.append(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
    both = Image.new("RGB", (2 * shots[0].width, shots[0].height))
    for column, shot in enumerate(shots):
        both.paste(shot, (column * shot.width, 0))
    both.resize((1800, round(1800 * both.height / both.width)), Image.Resampling.LANCZOS).save(image, quality=84)
    print(f"written: {image}")


if __name__ == "__main__":
    main()
