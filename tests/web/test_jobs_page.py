"""Indexing as a person watches it on the page: begun, seen to go on, stopped, and what could not be read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from simile.core.settings import Settings
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home
from tests.support.browser import DESK, PHONE, layout_problems, opened, scrolls_sideways, serving, violations

PATIENCE = 60_000  # ms: a job is a process of its own that begins by loading the network


@pytest.fixture
def settings(trained_home: Settings, digits: Path) -> Settings:
    """A home with an encoder and nothing indexed; 120 images and 2 files that are none may be indexed as `photos`."""
    (digits / "notes.png").write_text("dear diary")
    (digits / "<i>empty.jpg").touch()
    return trained_home.model_copy(update={"roots": f"photos={digits},scans={digits / 'scans'}", "workers": 1})


@contextmanager
def jobs_page(browser: Any, address: str) -> Iterator[Any]:
    """The page of jobs, which is never loaded anew and by its end has passed axe."""
    with opened(browser, address, expected=["status of 409"], reduced_motion="reduce", viewport=DESK) as page:
        page.goto("/jobs")
        page.evaluate("window.sameDocument = true")
        yield page
        assert page.evaluate("window.sameDocument") is True
        assert [*violations(page), *scrolls_sideways(page, DESK["width"])] == []


def begin(page: Any, root: str = "photos") -> Any:
    """The card of a job that was just begun by the button."""
    page.get_by_label("Folder").select_option(root)
    page.get_by_role("button", name="Index it").click()
    card = page.locator("li.job").first
    # A job without its folder may fail before the page shows that it is running.
    card.locator(".state", has_text=re.compile("Running|Failed") if root == "scans" else "Running").wait_for()
    return card


def ends(card: Any, state: str) -> None:
    """Waits until the job is over, and has ended like this."""
    card.locator(".state", has_text=state).wait_for(timeout=PATIENCE)


def test_a_job_is_begun_watched_and_tells_what_it_set_aside(browser: Any, settings: Settings) -> None:
    home = Home(settings.home)
    with serving(settings) as address, jobs_page(browser, address) as page:
        page.get_by_text("No folder was indexed from here yet").wait_for()
        with home.lock("a test"), Catalogue(home) as catalogue:  # the job waits, so that nothing is over too soon
            card = begin(page)
            bar = page.get_by_role("progressbar", name="Progress of photos")
            assert bar.get_attribute("value") is None
            for done in (40, 80):
                values = {"done": done, "total": 122, "per_second": 20.0, "seconds_left": 2.1, "failed": 1}
                catalogue.jobs.update(1, stage="indexing", **values)
                card.get_by_text(f"Indexing · {done} of 122 · 20 a second · about 2 s left · 1 set aside").wait_for()
                assert bar.evaluate("bar => [bar.value, bar.max]") == [done, 122]
            assert page.get_by_role("button", name="Index it").is_disabled()
        ends(card, "Finished")
        assert card.locator(".words").inner_text().startswith("120 new")
        page.locator("[role=status]", has_text="photos: Finished, 120 new").wait_for(state="attached")
        card.get_by_text("2 files set aside").click()
        card.locator(".failures li").nth(1).wait_for()
        set_aside = card.locator(".failures").inner_text()
        assert "notes.png\nnot an image" in set_aside and "<i>empty.jpg\n" in set_aside
        assert page.get_by_role("button", name="Index it").is_enabled()
        page.get_by_role("link", name="Look at the collection").wait_for()
        other = page.context.new_page()
        other.goto("/jobs")
        other.get_by_text("2 files set aside").click()
        other.locator(".failures li").nth(1).wait_for()
        assert layout_problems(other) == []


def test_a_job_is_stopped_and_another_follows(browser: Any, settings: Settings) -> None:
    home = Home(settings.home)
    with serving(settings) as address, jobs_page(browser, address) as page:
        with home.lock("a test"):
            card = begin(page)
            card.get_by_role("button", name="Stop").press("Enter")
            ends(card, "Stopped")
            assert page.evaluate("document.activeElement.textContent") == "photos"
            assert "was stopped" in card.inner_text() and card.get_by_role("button").count() == 0
        failing = begin(page, "scans")
        ends(failing, "Failed")
        assert page.get_by_label("Folder").input_value() == "scans"
        assert "scans does not exist" in failing.inner_text()
        assert page.locator("li.job").count() == 2


def test_a_long_path_in_a_message_does_not_widen_the_page(browser: Any, settings: Settings) -> None:
    with Catalogue(Home(settings.home)) as catalogue:
        job = catalogue.jobs.add("photos", prune=False)
        catalogue.jobs.finish(job.id, "failed", f"/{'verylongfolder' * 8}/image.png does not exist", None)
    with serving(settings) as address, opened(browser, address, viewport=PHONE) as page:
        page.goto("/jobs")
        page.locator("li.job", has_text="does not exist").wait_for()
        assert scrolls_sideways(page, PHONE["width"]) == []


def test_a_job_that_another_one_began_is_seen_without_loading_the_page_anew(browser: Any, settings: Settings) -> None:
    home = Home(settings.home)
    with serving(settings) as address, jobs_page(browser, address) as page, home.lock("a test"):
        other = page.context.new_page()
        other.goto("/jobs")
        begin(other)
        page.get_by_role("button", name="Index it").click()  # the page did not know yet
        page.get_by_text("only one job runs at a time").wait_for()
        page.locator("li.job .state", has_text="Running").wait_for()
        other.get_by_role("button", name="Stop").click()
        ends(page.locator("li.job"), "Stopped")
