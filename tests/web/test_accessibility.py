"""Every page, at the size of a phone and of a desk, light and dark: axe finds nothing, nothing scrolls sideways."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home
from tests.conftest import Copies
from tests.support.browser import drop_or_paste, needs_browser, opened, serving

axe_core = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")

OTHER = {"light": "dark", "dark": "light"}
CONTRAST = "() => axe.run({ runOnly: ['color-contrast'] }).then((found) => found.violations)"  # all that colours change
SIZES = {"desk": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}


def goes_to(address: str) -> Callable[[Any, Path], None]:
    return lambda page, _: page.goto(address)


def upload(page: Any, photos: Path) -> None:
    page.goto("/")
    page.set_input_files("#file", [photos / "camera/00.png", photos / "camera/01.png"])
    page.locator("#hits").wait_for()


def bad_upload(page: Any, photos: Path) -> None:
    page.goto("/")
    drop_or_paste(page, "drop", "long_name_without_any_break" * 7 + ".png", b"no picture")
    page.locator(".problem").wait_for()


def filters(page: Any, photos: Path) -> None:
    page.goto("/?image_id=1&min_width=2&where=class!=" + "long" * 30)
    page.locator(".filters summary").click()


def sheet(page: Any, photos: Path) -> None:
    page.goto("/?image_id=1#picture-2")
    page.locator("dialog.sheet[open] .strip img").first.wait_for()
    page.locator(".metadata summary").click()
    page.locator(".delete summary").click()


def least_alike(page: Any, photos: Path) -> None:
    page.goto("/collection?sort=unlike")
    page.locator("[data-retry]").wait_for(state="detached", timeout=60_000)  # until then it loads itself anew


def adding(page: Any, photos: Path) -> None:
    page.goto("/collection")
    page.set_input_files("#add", [photos / "camera/00.png", Path(__file__)])
    page.get_by_text("2 of 2").wait_for()


def keys(page: Any, photos: Path) -> None:
    page.goto("/")
    page.keyboard.press("?")


PAGES: dict[str, Callable[[Any, Path], None]] = {
    "start": goes_to("/"),
    "results": goes_to("/?image_id=1"),
    "likes": goes_to("/?positive_id=1&positive_id=2&negative_id=3"),
    "nothing found": goes_to("/?image_id=1&min_width=5000"),
    "upload": upload,
    "bad upload": bad_upload,
    "filters": filters,
    "keys": keys,
    "sheet": sheet,
    "picture": goes_to("/pictures/3"),
    "no picture": goes_to("/pictures/424242"),
    "collection": goes_to("/collection"),
    "least alike": least_alike,
    "adding": adding,
    "jobs": goes_to("/jobs"),
    "duplicates": goes_to("/duplicates?tier=near"),
    "same bytes": goes_to("/duplicates?tier=bytes"),
}


def told(name: str, violations: list[dict[str, Any]]) -> list[tuple[str, str, list[str]]]:
    """What axe found: where, which rule, and the elements."""
    return [(name, one["id"], [node["html"] for node in one["nodes"]]) for one in violations]


@needs_browser
@pytest.mark.parametrize(("size", "scheme"), [("desk", "light"), ("phone", "dark")])
def test_axe_finds_nothing_and_nothing_scrolls_sideways(browser: Any, copies: Copies, size: str, scheme: str) -> None:
    axe, found = axe_core.Axe(), []
    settings = copies.settings.model_copy(update={"roots": f"photos={copies.photos}"})
    shape = {"viewport": SIZES[size], "color_scheme": scheme, "reduced_motion": "reduce"}
    touch = {"has_touch": True, "is_mobile": True} if size == "phone" else {}
    with serving(settings) as address, opened(browser, address, expected=["status of 4"], **shape, **touch) as page:
        for name, go in PAGES.items():
            go(page, copies.photos)
            page.wait_for_load_state("networkidle")
            found += told(name, axe.run(page).response["violations"])
            if (width := page.evaluate("document.documentElement.scrollWidth")) != SIZES[size]["width"]:
                found.append((name, "scrolls sideways", [str(width)]))
            page.emulate_media(color_scheme=OTHER[scheme])
            found += told(f"{name}, {OTHER[scheme]}", page.evaluate(CONTRAST))
            page.emulate_media(color_scheme=scheme)
    assert not found, found


@needs_browser
def test_axe_finds_nothing_on_the_way_in(browser: Any, copies: Copies) -> None:
    with Catalogue(Home(copies.settings.home)) as catalogue:
        key = catalogue.keys.create("a visitor", "write")[0].text
    with serving(copies.settings) as address, opened(browser, address, expected=["status of 4"]) as page:
        page.goto("/")
        page.get_by_label("Your key").fill("wrong")
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("alert").wait_for()
        assert axe_core.Axe().run(page).response["violations"] == []
        page.get_by_label("Your key").fill(key)
        page.get_by_role("button", name="Sign in").click()
        page.locator(".session").wait_for()
        assert axe_core.Axe().run(page).response["violations"] == []
