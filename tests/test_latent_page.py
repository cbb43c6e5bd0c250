"""The page of the latent space in a real browser: mixed, pushed, walked, made, searched from; and without a script."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from browsing import needs_browser, opened, serving
from fastapi.testclient import TestClient

from core.settings import Settings
from explore import attribute_files
from explore.aggregate import aggregate_of
from explore.attributes import Examples, learn
from explore.traversal import reach_of
from search.searcher import Searcher
from service.app import create_app

DESK = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}


@pytest.fixture
def digits_home(home_with_digits: Settings) -> Settings:
    """120 digits, and an attribute `late`: the second half of them."""
    with Searcher(home_with_digits) as searcher:
        everything = aggregate_of(searcher)
        examples = Examples(everything.mu, everything.ids > 60, [str(one) for one in everything.ids.tolist()])
        attribute_files.save(searcher.home, learn("late", everything.encoder.fingerprint, examples))
    return home_with_digits


@pytest.fixture
def latent(digits_home: Settings) -> Iterator[str]:
    with serving(digits_home) as address:
        yield address


def shown(page: Any) -> str:
    """The picture that is made, once nothing is under way any more."""
    page.locator('.latent[aria-busy="false"]').wait_for()
    return str(page.locator("[data-made]").get_attribute("src"))


def move(page: Any, name: str, value: str) -> str:
    """What is shown after a slider was moved there."""
    with page.expect_response("**/v1/latents"):
        page.get_by_label(name, exact=False).first.fill(value)
    return shown(page)


@needs_browser
def test_sliders_make_pictures_and_the_address_says_where_one_is(browser: Any, latent: str) -> None:
    with opened(browser, latent, viewport=DESK) as page:
        page.goto("/latent?a=3&b=9")
        first = shown(page)
        mixed = move(page, "Mix", "0.9")
        pushed = move(page, "late", "2")
        walked = move(page, "Dimension", "-2")
        assert len({first, mixed, pushed, walked}) == 4
        page.wait_for_function("() => location.search.includes('attr.late=2')")
        said = parse_qs(urlsplit(page.url).query)
        assert said["a"] == ["3"] and said["share"] == ["0.9"] and any(name.startswith("dim.") for name in said)
        page.reload()
        assert shown(page) == walked
        page.get_by_text("nearest to it:").wait_for(state="attached")
        page.get_by_role("button", name="Reset").click()
        page.wait_for_function("() => !location.search.includes('attr')")
        page.get_by_role("button", name="Undo").click()
        page.wait_for_function("() => location.search.includes('attr.late=2')")
        assert shown(page) == walked


@needs_browser
def test_pictures_are_chosen_uploaded_made_and_searched_from(browser: Any, latent: str, digits_home: Settings) -> None:
    with Searcher(digits_home) as searcher:
        file = Path(searcher.image(7).paths[0])
    with opened(browser, latent, viewport=PHONE, has_touch=True, is_mobile=True) as page:
        page.goto("/latent?a=3&b=9&share=0")
        assert page.locator("[data-near] a").first.get_attribute("href") == "/pictures/3"
        with page.expect_response("**/v1/latents"):
            page.locator("[data-choose]").nth(4).click()
        page.wait_for_function("() => !location.search.includes('a=3')")
        page.set_input_files("[data-upload=a]", file)
        page.locator("[data-near] a[href='/pictures/7']").wait_for()
        page.get_by_role("button", name="Make twelve").click()
        page.locator("[data-new] button").nth(11).wait_for()
        page.locator("[data-new] button").first.click()
        page.get_by_text("made picture 1", exact=True).wait_for()
        page.get_by_role("button", name="Search from here").click()
        page.locator("[data-found] li").nth(40).wait_for()
        assert page.get_by_text("no part of the address").is_visible()
        with page.expect_download() as saved:
            page.get_by_role("button", name="Morph as GIF").click()
        assert saved.value.path().read_bytes().startswith(b"GIF8")


@needs_browser
def test_a_dimension_that_the_address_moves_has_a_slider(browser: Any, latent: str, digits_home: Settings) -> None:
    with Searcher(digits_home) as searcher:
        last = reach_of(searcher).order[-1]
    with opened(browser, latent, viewport=DESK) as page:
        page.goto(f"/latent?a=3&b=9&dim.{last}=2.5")
        shown(page)
        assert f"dim.{last}=2.5" in page.url
        assert page.get_by_label(f"Dimension {last}").input_value() == "2.5"


@needs_browser
def test_the_way_to_a_hit_is_a_slider_in_its_panel(browser: Any, latent: str) -> None:
    with opened(browser, latent, viewport=DESK) as page:
        page.goto("/?image_id=3")
        page.locator("#hits a[data-picture]").nth(2).click()
        slider = page.get_by_role("slider", name="Between the search and this picture")
        slider.wait_for()
        half = page.locator(".between img").get_attribute("src")
        slider.fill("1")
        page.get_by_text("100 % of the way").wait_for()
        assert page.locator(".between img").get_attribute("src") != half


@needs_browser
@pytest.mark.parametrize(("viewport", "scheme"), [(DESK, "dark"), (PHONE, "light")])
def test_axe_finds_nothing_and_nothing_scrolls_sideways(
    browser: Any, latent: str, viewport: dict[str, int], scheme: str
) -> None:
    axe_core = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    with opened(browser, latent, viewport=viewport, color_scheme=scheme, reduced_motion="reduce") as page:
        page.goto("/latent")
        shown(page)
        found = axe_core.Axe().run(page).response["violations"]
        assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_without_a_script_it_is_a_form(digits_home: Settings) -> None:
    with TestClient(create_app(digits_home)) as client:
        page = client.get("/latent", params={"a": 3, "b": 9, "share": 0, "attr.late": 1})
        assert page.status_code == 200 and "data:image/png;base64," in page.text
        assert 'name="attr.late"' in page.text and 'name="share"' in page.text
        for params, status in (
            ({"a": "x"}, 422),
            ({"a": 4242}, 404),
            ({"share": "nan"}, 422),
            ({"attr.nobody": 1}, 422),
            ({"dim.99": 1}, 422),
            ({"dim.x": 1}, 422),
        ):
            refused = client.get("/latent", params=params)
            assert refused.status_code == status and "That did not work" in refused.text, params


def test_without_a_decoder_it_says_so_and_still_finds(digits_home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with TestClient(create_app(digits_home)) as client:
        client.get("/readyz")
        monkeypatch.setattr(client.app.state.door.open().encoder(), "has_decoder", False)  # type: ignore[attr-defined]
        page = client.get("/latent", params={"a": 3, "b": 9, "share": 0})
        assert page.status_code == 200 and "has no decoder" in page.text and "/pictures/3" in page.text


def test_an_empty_home_says_what_to_do(trained_home: Settings) -> None:
    with TestClient(create_app(trained_home)) as client:
        assert "Nothing is indexed yet" in client.get("/latent").text
