"""A search with 1,000 hits as a person meets it in a real Chromium: first paint, and scrolling through all of them.

    python -m benchmarks.service.result_page --home HOME [--hits 1000] [--image-id 7] [--picture page.png]

HOME is an indexed home, its pictures where they were; a copy is used, and it stays as it is. `simile serve` answers,
at 1280 x 800 and as a phone with 390 x 844. First paint and complete: from the navigation to the first pixels of
content and to the end of the document's loading, in fresh browsers; the document alone is what the server took for it.
Frames: the times between callbacks of requestAnimationFrame while a wheel turns from the first hit to the last, with
thumbnails coming as they come into sight. It needs a machine with nothing else to do, and says how many frames were
long.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import sync_playwright

from benchmarks.common.simile_runs import served
from benchmarks.latent.map import LONG, RECORD, STOP

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
SHAPES: dict[str, dict[str, Any]] = {
    "desk": {"viewport": {"width": 1280, "height": 800}},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
}
OPENINGS = 3
NOTCH = 100  # pixels a turn of the wheel
PAUSE = 0.03  # seconds between two of them: a hurried reader
OPENED = """() => {
    const [page] = performance.getEntriesByType("navigation");
    return {
        document: page.responseEnd,
        seen: performance.getEntriesByName("first-contentful-paint")[0].startTime,
        complete: page.domComplete,
        sent: page.transferSize,
        size: page.decodedBodySize,
    };
}"""
PICTURES = """() => {
    const got = performance.getEntriesByType("resource").filter((one) => one.name.includes("/thumbnail"));
    return [got.length, got.reduce((sum, one) => sum + one.encodedBodySize, 0)];
}"""
Milliseconds = NDArray[np.float64]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--home", type=Path, required=True)
    options.add_argument("--hits", type=int, default=1000)
    options.add_argument("--image-id", type=int, default=7, help="what is searched for")
    options.add_argument("--picture", type=Path, help="a .png of the page at a desk, scrolled to its middle")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch) / "home"
        shutil.copytree(given.home, home)
        with served(home) as address, sync_playwright() as playwright:
            asked = f"{address}/?image_id={given.image_id}&limit={given.hits}"
            for name, shape in SHAPES.items():
                look(playwright, name, asked, shape, given.picture if name == "desk" else None)
    print(f"{os.cpu_count()} processors, no graphics card")


def look(playwright: Any, name: str, asked: str, shape: dict[str, Any], picture: Path | None) -> None:
    """Opens it a few times in fresh browsers, and scrolls through the last one."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    for attempt in range(OPENINGS):
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_context(**shape).new_page()
        page.add_init_script("performance.setResourceTimingBufferSize(10000)")  # or it forgets all but 250
        page.goto(asked, wait_until="load")
        at = page.evaluate(OPENED)
        print(
            f"{name:<6} opening {attempt + 1}: document {at['document']:5.0f} ms  first paint {at['seen']:5.0f}  "
            f"complete {at['complete']:5.0f}  {at['sent'] / 1e6:.2f} MB sent, {at['size'] / 1e6:.2f} MB unpacked"
        )
        if attempt < OPENINGS - 1:
            browser.close()
    frames = scrolled(page)
    count, size = page.evaluate(PICTURES)
    print(
        f"{name:<6} scrolling: median {np.median(frames):5.1f} ms  95th {np.percentile(frames, 95):5.1f}  "
        f"longest {frames.max():5.1f}  over {LONG:.0f} ms: {(frames > LONG).sum()} of {len(frames)}; "
        f"{page.locator('#hits li').count()} hits, {count} thumbnails of {size / 1e6:.2f} MB"
    )
    if picture is not None:
        page.evaluate("() => scrollTo(0, document.body.scrollHeight / 2)")
        page.wait_for_load_state("networkidle")
        page.screenshot(path=picture)
    browser.close()


def scrolled(page: Any) -> Milliseconds:
    """Milliseconds between frames from the top to the end."""
    page.wait_for_load_state("networkidle")
    page.mouse.move(200, 400)
    page.evaluate(RECORD)
    while not page.evaluate("() => innerHeight + scrollY >= document.documentElement.scrollHeight - 2"):
        for _ in range(10):
            page.mouse.wheel(0, NOTCH)
            time.sleep(PAUSE)
    return np.array(page.evaluate(STOP))


if __name__ == "__main__":
    main()
