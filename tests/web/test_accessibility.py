"""Every page, at the size of a phone and of a desk, light and dark: axe finds nothing, nothing scrolls sideways."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home
from tests.conftest import Copies
from tests.support.browser import DESK, drop_or_paste, layout_problems, opened, serving, violations


def goes_to(address: str) -> Callable[[Any, Path], None]:
    return lambda page, _: page.goto(address)


def upload(page: Any, photos: Path) -> None:
    page.goto("/")
    page.set_input_files("#file", [photos / "camera/00.png", photos / "camera/01.png"])
    page.locator("#hits").wait_for()


def bad_upload(page: Any, photos: Path) -> None:
    page.goto("/")
    drop_or_paste(page, "drop", "long_name_without_any_break" * 7 + ".png", b"no image")
    page.locator(".problem").wait_for()


def filters(page: Any, photos: Path) -> None:
    page.goto("/?image_id=1&limit=8&min_width=2&where=class!=" + "long" * 30)
    page.locator(".filters summary").click()


def sheet(page: Any, photos: Path) -> None:
    page.goto("/?image_id=1&limit=8#picture-2")
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
    "results": goes_to("/?image_id=1&limit=8"),
    "likes": goes_to("/?positive_id=1&positive_id=2&negative_id=3&limit=8"),
    "nothing found": goes_to("/?image_id=1&min_width=5000"),
    "upload": upload,
    "bad upload": bad_upload,
    "filters": filters,
    "keys": keys,
    "sheet": sheet,
    "image": goes_to("/pictures/3"),
    "no image": goes_to("/pictures/424242"),
    "collection": goes_to("/collection"),
    "least alike": least_alike,
    "adding": adding,
    "jobs": goes_to("/jobs"),
    "quality": goes_to("/quality"),
    "duplicates": goes_to("/duplicates?tier=near"),
    "same bytes": goes_to("/duplicates?tier=bytes"),
}


def test_axe_finds_nothing_and_nothing_scrolls_sideways(browser: Any, copies: Copies) -> None:
    found = {}
    settings = copies.settings.model_copy(update={"roots": f"photos={copies.photos}"})
    look = {"viewport": DESK, "reduced_motion": "reduce"}
    with serving(settings) as address, opened(browser, address, expected=["status of 4"], **look) as page:
        for name, go in PAGES.items():
            go(page, copies.photos)
            if problems := layout_problems(page):
                found[name] = problems
    assert not found


def test_a_long_command_wraps_on_a_phone(browser: Any, copies: Copies, tmp_path: Path) -> None:
    """A box that scrolls sideways would need to be reached with the keyboard."""
    home = tmp_path / ("a folder with a long name " * 6) / "home"
    home.parent.mkdir()
    settings = copies.settings.model_copy(update={"home": copies.settings.home.rename(home)})
    with serving(settings) as address, opened(browser, address) as page:
        page.goto("/jobs")
        page.locator("pre").wait_for()
        assert layout_problems(page) == []


def test_axe_finds_nothing_on_the_way_in(browser: Any, copies: Copies) -> None:
    with Catalogue(Home(copies.settings.home)) as catalogue:
        key = catalogue.keys.create("a visitor", "write")[0].text
    with serving(copies.settings) as address, opened(browser, address, expected=["status of 4"]) as page:
        page.goto("/")
        page.get_by_label("Your key").fill("wrong")
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("alert").wait_for()
        assert violations(page) == []
        page.get_by_label("Your key").fill(key)
        page.get_by_role("button", name="Sign in").click()
        page.locator(".session").wait_for()
        assert violations(page) == []
