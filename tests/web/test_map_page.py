"""The page of the map in a real browser: it draws, moves, selects, leads on, and says the same in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from simile.core.settings import Settings
from simile.explore.arrays import ignore_progress
from simile.explore.map.map import MapSettings, make_map, measure_reconstruction_errors
from simile.explore.map.view import make_map_view
from simile.search.searcher import Searcher
from tests.support.browser import DESK, PHONE, layout_problems, opened, serving

READS = ["willReadFrequently"]  # what Chromium says of a canvas that these tests read


@pytest.fixture(scope="module")
def mapped(shared_home: Settings) -> Iterator[str]:
    """Where a service of 120 digits runs whose map was made, with errors and a label `kind`."""
    with Searcher(shared_home) as searcher:
        view = make_map_view(searcher, make_map(searcher, MapSettings(count=5), ignore_progress))
        measure_reconstruction_errors(searcher, view.ids, ignore_progress)
        for image_id in range(1, 121):
            searcher.catalogue.metadata.set_for_image(image_id, {"kind": "odd" if image_id % 2 else "even"})
    with serving(shared_home) as address:
        yield address


def open_map(page: Any, address: str = "/map") -> None:
    page.goto(address)
    page.wait_for_selector(".loading", state="detached")
    drawn(page)


def drawn(page: Any) -> int:
    """How many pixels of the plane are not the ground, once some are."""
    page.wait_for_function(f"() => ({COUNT})() > 100")
    return int(page.evaluate(COUNT))


COUNT = """() => {
    const canvas = document.querySelector("canvas");
    const words = new Uint32Array(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer);
    return words.reduce((count, word) => count + (word !== words[0]), 0);
}"""

# Two frames later: what was asked for has been drawn.
FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"

# A pixel of some dot, in the page's own pixels.
DOT = """() => {
    const canvas = document.querySelector("canvas");
    const words = new Uint32Array(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer);
    const at = words.findIndex((word, place) => word !== words[0] && words[place + 2 * canvas.width] !== words[0]);
    const box = canvas.getBoundingClientRect();
    const ratio = canvas.width / box.width;
    return [box.left + (at % canvas.width) / ratio, box.top + (Math.floor(at / canvas.width) + 2) / ratio];
}"""


def test_the_map_is_drawn_and_a_click_leads_to_the_image_and_back(browser: Any, mapped: str) -> None:
    with opened(browser, mapped, expected=READS, viewport=DESK) as page:
        open_map(page)
        page.wait_for_function(
            "() => performance.getEntriesByType('resource').some((one) => one.name.includes('/tiles/0'))"
        )
        page.locator("canvas").focus()
        page.keyboard.press("+")
        page.wait_for_function("() => location.hash.length > 4")
        page.get_by_role("button", name="All").click()
        page.evaluate(FRAMES)
        x, y = page.evaluate(DOT)
        page.mouse.move(x, y)
        page.locator(".tip span").get_by_text("Image").wait_for()
        said = page.locator(".tip span").inner_text()
        page.mouse.click(x, y)
        page.wait_for_url("**/pictures/*")
        assert f"Image {page.url.rpartition('/')[2]}," in said
        page.go_back()
        page.wait_for_selector(".loading", state="detached")


def test_dragging_moves_the_plane_and_with_shift_selects(browser: Any, mapped: str) -> None:
    with opened(browser, mapped, expected=READS, viewport=DESK) as page:
        open_map(page)
        box = page.locator("canvas").bounding_box()
        corners = (box["x"] + 8, box["y"] + 8), (box["x"] + box["width"] - 8, box["y"] + box["height"] - 8)
        page.keyboard.down("Shift")
        page.mouse.move(*corners[0])
        page.mouse.down()
        page.mouse.move(*corners[1], steps=4)
        page.mouse.up()
        page.keyboard.up("Shift")
        heading = page.locator(".chosen h2")
        heading.wait_for()
        assert heading.inner_text() == "120 selected, 60 shown here"
        assert page.locator(".some a").count() == 60
        like = urlsplit(page.locator("[data-like]").get_attribute("href"))
        assert like.path == "/" and len(parse_qs(like.query)["positive_id"]) == 32
        page.get_by_role("button", name="Clear").click()
        heading.wait_for(state="hidden")
        before = page.evaluate("() => location.hash")
        page.mouse.move(*corners[0])
        page.mouse.down()
        page.mouse.move(corners[0][0] + 200, corners[0][1] + 90, steps=4)
        page.mouse.up()
        page.wait_for_function("(before) => location.hash !== before", arg=before)


def test_keys_do_all_that_a_pointer_does_and_say_what_lies_in_the_middle(browser: Any, mapped: str) -> None:
    with opened(browser, mapped, expected=READS, viewport=DESK) as page:
        open_map(page)
        page.locator("canvas").focus()
        for key in ("+", "+", "ArrowLeft", "ArrowUp", "-", "0"):
            page.keyboard.press(key)
        page.wait_for_function("() => document.querySelector('[data-spoken]').textContent.startsWith('Image ')")
        said = page.locator("[data-spoken]").inner_text()
        page.keyboard.press("s")
        page.locator(".chosen h2").get_by_text("120 selected").wait_for()
        page.keyboard.press("Escape")
        page.locator(".chosen").wait_for(state="hidden")
        page.keyboard.press("Enter")
        page.wait_for_url("**/pictures/*")
        assert f"Image {page.url.rpartition('/')[2]}," in said


def test_colours_are_explained_and_stand_in_the_address(browser: Any, mapped: str) -> None:
    with opened(browser, mapped, expected=READS, viewport=DESK) as page:
        open_map(page)
        page.get_by_role("button", name="Images").click()
        colour = page.get_by_label("Colour")
        colour.select_option("error")
        page.locator(".legend").get_by_text("reconstructed well").wait_for()
        assert "colour=error" in page.url
        colour.select_option("label:kind")
        page.locator(".names li").first.wait_for()
        assert [one.strip() for one in page.locator(".names li").all_inner_texts()] == ["even", "odd"]
        assert page.evaluate(INKS) == 2
        open_map(page, "/map?colour=label:kind")
        assert colour.input_value() == "label:kind"
        page.locator("button[data-cluster]").first.click()
        page.locator(".chosen h2").get_by_text("selected").wait_for()


# How many colours many pixels have, but for the ground's.
INKS = """() => {
    const canvas = document.querySelector("canvas");
    const words = new Uint32Array(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer);
    const counts = new Map();
    for (const word of words) counts.set(word, (counts.get(word) ?? 0) + 1);
    return [...counts.values()].filter((count) => count > 200).length - 1;
}"""


def test_a_finger_selects_with_a_button_on_a_phone(browser: Any, mapped: str) -> None:
    with opened(browser, mapped, expected=READS, viewport=PHONE, has_touch=True) as page:
        open_map(page)
        page.get_by_role("button", name="Select").click()
        box = page.locator("canvas").bounding_box()
        page.mouse.move(box["x"] + 8, box["y"] + 8)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] - 8, box["y"] + box["height"] - 8, steps=3)
        page.mouse.up()
        page.locator(".chosen h2").get_by_text("120 selected").wait_for()
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


def test_without_a_script_the_clusters_are_listed(browser: Any, mapped: str) -> None:
    with opened(browser, mapped, java_script_enabled=False) as page:
        page.goto("/map")
        assert page.locator(".clusters li").count() == 5
        assert not page.locator("canvas").is_visible()
        page.locator(".clusters a").first.click()
        assert "/pictures/" in page.url


def test_the_page_waits_for_the_map_and_shows_it(browser: Any, address: str) -> None:
    with opened(browser, address, viewport=DESK, expected=["503", *READS]) as page:
        page.goto("/map")
        page.get_by_text("is being computed").wait_for()
        page.wait_for_selector("canvas", timeout=60_000)
        page.wait_for_selector(".loading", state="detached")
        assert drawn(page) > 100


def test_axe_finds_nothing_on_the_map(browser: Any, mapped: str) -> None:
    with opened(browser, mapped, expected=READS, viewport=DESK) as page:
        open_map(page, "/map?colour=density")
        page.locator("canvas").focus()
        page.keyboard.press("s")
        page.locator(".chosen a.frame").first.wait_for()
        assert layout_problems(page) == []
        other = page.context.new_page()
        other.goto("/map?layout=tsne")
        assert layout_problems(other) == []
