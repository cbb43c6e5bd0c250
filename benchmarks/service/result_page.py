"""A search with 1,000 hits on the page, in a real Chromium: first paint, and scrolling through all hits.

    python -m benchmarks.service.result_page --home HOME [--hits 1000] [--image-id 7] [--picture page.png]

HOME is an indexed home whose images are still in their place; a copy is used. `simile serve` answers, at 1280 x 800 and
as a phone with 390 x 844. First paint and complete: from the navigation to the first pixels of content and to the end
of loading, in new browsers; the time of the document is that of the server. Frames: the times between callbacks of
requestAnimationFrame while a mouse wheel scrolls from the first hit to the last, with thumbnails that load when they
become visible. It needs a machine without other load.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from benchmarks.common.browser import Milliseconds, format_frames, open_browser, start_recording, stop_recording
from benchmarks.common.runs import make_parser
from benchmarks.common.serving import serve_address

SHAPES: dict[str, dict[str, Any]] = {
    "desk": {"viewport": {"width": 1280, "height": 800}},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
}
OPENINGS = 3
WHEEL_STEP = 100  # pixels
WHEEL_PAUSE = 0.03  # seconds between two steps: fast scrolling
LOADING_TIMES = """() => {
    const [page] = performance.getEntriesByType("navigation");
    return {
        document: page.responseEnd,
        paint: performance.getEntriesByName("first-contentful-paint")[0].startTime,
        complete: page.domComplete,
        sent: page.transferSize,
        size: page.decodedBodySize,
    };
}"""
THUMBNAILS = """() => {
    const loaded = performance.getEntriesByType("resource").filter((entry) => entry.name.includes("/thumbnail"));
    return [loaded.length, loaded.reduce((sum, entry) => sum + entry.encodedBodySize, 0)];
}"""


def main() -> None:
    """Measure the page in each shape."""
    parser = make_parser(__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--hits", type=int, default=1000)
    parser.add_argument("--image-id", type=int, default=7, help="image that is searched for")
    parser.add_argument("--picture", type=Path, help="write a .png of the desk page, scrolled to its middle")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        shutil.copytree(options.home, home)
        with serve_address(home) as address, sync_playwright() as playwright:
            page_address = f"{address}/?image_id={options.image_id}&limit={options.hits}"
            for name, shape in SHAPES.items():
                measure(playwright, name, page_address, shape, options.picture if name == "desk" else None)
    print(f"{os.cpu_count()} processors, no graphics card")


def measure(playwright: Any, name: str, address: str, shape: dict[str, Any], screenshot: Path | None) -> None:
    """Open the page in new browsers, and scroll through the last one."""
    for attempt in range(OPENINGS):
        browser = open_browser(playwright)
        page = browser.new_context(**shape).new_page()
        page.add_init_script("performance.setResourceTimingBufferSize(10000)")  # the default is 250 entries
        page.goto(address, wait_until="load")
        times = page.evaluate(LOADING_TIMES)
        print(
            f"{name:<6} opening {attempt + 1}: document {times['document']:5.0f} ms  "
            f"first paint {times['paint']:5.0f}  complete {times['complete']:5.0f}  "
            f"{times['sent'] / 1e6:.2f} MB sent, {times['size'] / 1e6:.2f} MB uncompressed"
        )
        if attempt < OPENINGS - 1:
            browser.close()
    frames = scroll(page)
    count, size = page.evaluate(THUMBNAILS)
    hits = page.locator("#hits li").count()
    print(f"{name:<6} scrolling: {format_frames(frames)}; {hits} hits, {count} thumbnails of {size / 1e6:.2f} MB")
    if screenshot is not None:
        page.evaluate("() => scrollTo(0, document.body.scrollHeight / 2)")
        page.wait_for_load_state("networkidle")
        page.screenshot(path=screenshot)
    browser.close()


def scroll(page: Any) -> Milliseconds:
    """Scroll from the top to the end; return the times between frames."""
    page.wait_for_load_state("networkidle")
    page.mouse.move(200, 400)
    start_recording(page)
    while not page.evaluate("() => innerHeight + scrollY >= document.documentElement.scrollHeight - 2"):
        for _ in range(10):
            page.mouse.wheel(0, WHEEL_STEP)
            time.sleep(WHEEL_PAUSE)
    return stop_recording(page)


if __name__ == "__main__":
    main()
