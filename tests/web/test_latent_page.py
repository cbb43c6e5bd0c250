"""The page of the latent space in a real browser: mixed, pushed, walked, made, searched from; and without a script."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from fastapi.testclient import TestClient

from simile.core.settings import Settings
from simile.explore.attributes.directions import AttributeExamples, learn_attribute
from simile.explore.latent.aggregate_posterior import load_aggregate_posterior
from simile.explore.latent.traversal import measure_latent_range
from simile.search import attributes
from simile.search.searcher import Searcher
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home
from tests.conftest import app_client
from tests.support.browser import DESK, PHONE, layout_problems, opened, serving


@pytest.fixture(scope="module")
def latent_home(shared_home: Settings) -> Settings:
    """120 digits, and an attribute `late`: the second half of them."""
    with Searcher(shared_home) as searcher:
        everything = load_aggregate_posterior(searcher)
        examples = AttributeExamples(everything.mu, everything.ids > 60, [str(one) for one in everything.ids.tolist()])
        attributes.save_attribute(searcher.home, learn_attribute("late", everything.encoder.fingerprint, examples))
    return shared_home


@pytest.fixture(scope="module")
def latent(latent_home: Settings) -> Iterator[str]:
    with serving(latent_home) as address:
        yield address


def shown(page: Any) -> str:
    """The image that is made, once nothing is under way any more."""
    page.locator('.latent[aria-busy="false"]').wait_for()
    return str(page.locator("[data-made]").get_attribute("src"))


def move(page: Any, name: str, value: str) -> str:
    """What is shown after a slider was moved there."""
    with page.expect_response("**/v1/latents"):
        page.get_by_label(name, exact=False).first.fill(value)
    return shown(page)


def test_sliders_make_images_and_the_address_says_where_one_is(browser: Any, latent: str) -> None:
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


def test_images_are_chosen_uploaded_made_and_searched_from(browser: Any, latent: str, latent_home: Settings) -> None:
    with Searcher(latent_home) as searcher:
        file = Path(searcher.get_image(7).paths[0])
    with opened(browser, latent, viewport=PHONE, has_touch=True, is_mobile=True) as page:
        page.goto("/latent?a=3&b=9&share=0")
        assert page.locator("[data-near] a").first.get_attribute("href") == "/pictures/3"
        with page.expect_response("**/v1/latents"):
            page.locator("[data-choose]").nth(4).click()
        page.wait_for_function("() => !location.search.includes('a=3')")
        page.set_input_files("[data-upload=a]", file)
        page.locator("[data-near] a[href='/pictures/7']").wait_for()
        page.get_by_role("button", name="Generate twelve").click()
        page.locator("[data-new] button").nth(11).wait_for()
        page.locator("[data-new] button").first.click()
        page.get_by_text("generated image 1 of seed", exact=False).wait_for()
        page.get_by_role("button", name="Search with this").click()
        page.locator("[data-found] li").nth(40).wait_for()
        assert page.get_by_text("not saved in the address").is_visible()
        with page.expect_download() as saved:
            page.get_by_role("button", name="Morph as GIF").click()
        assert saved.value.path().read_bytes().startswith(b"GIF8")


def test_a_dimension_that_the_address_moves_has_a_slider(browser: Any, latent: str, latent_home: Settings) -> None:
    with Searcher(latent_home) as searcher:
        last = measure_latent_range(searcher).activity_order[-1]
    with opened(browser, latent, viewport=DESK) as page:
        page.goto(f"/latent?a=3&b=9&dim.{last}=2.5")
        shown(page)
        assert f"dim.{last}=2.5" in page.url
        assert page.get_by_label(f"Dimension {last}").input_value() == "2.5"


def test_the_way_to_a_hit_is_a_slider_in_its_panel(browser: Any, latent: str) -> None:
    with opened(browser, latent, viewport=DESK) as page:
        page.goto("/?image_id=3")
        page.locator("#hits a[data-picture]").nth(2).click()
        slider = page.get_by_role("slider", name="Between the search and this image")
        slider.wait_for()
        half = page.locator(".between img").get_attribute("src")
        slider.fill("1")
        page.get_by_text("100 % of the way").wait_for()
        assert page.locator(".between img").get_attribute("src") != half


def test_an_attribute_is_learned_from_marked_images_pushed_and_forgotten(browser: Any, latent: str) -> None:
    with opened(browser, latent, expected=["status of 409"], viewport=PHONE, reduced_motion="reduce") as page:
        page.goto("/latent?a=3&b=9&attr.late=1")
        page.locator("#learn summary").click()
        candidates = page.locator("[data-candidates] button")
        candidates.nth(47).wait_for()
        learn = page.get_by_role("button", name="Learn it")
        page.get_by_label("Name", exact=True).fill("Tall one")
        for number in range(10):
            candidates.nth(number).click()
        assert learn.is_disabled()
        page.get_by_role("button", name="without it", exact=True).click()
        candidates.nth(20).click()
        candidates.nth(21).click()
        candidates.nth(21).click()  # taken back
        page.get_by_text("1 of at least 10").wait_for()
        page.get_by_role("button", name="Show more like those with it").click()
        page.wait_for_function("() => !document.querySelector('[data-candidates] [data-side=with]')")
        page.get_by_role("button", name="Mark all others here as without it").click()
        assert page.locator("[data-marked=with] li").count() == 10
        page.get_by_label("Name", exact=True).press("Enter")
        page.get_by_text("tall-one was learned from 10 with it and").wait_for()
        assert re.search(r"held-out images: AUC [01]\.\d\d ± 0\.\d\d", page.locator("[data-learned]").inner_text())
        assert page.get_by_label("late", exact=False).first.input_value() == "1"
        pushed = move(page, "tall-one", "2")
        page.wait_for_function("() => location.search.includes('attr.tall-one=2')")
        page.reload()
        assert shown(page) == pushed
        page.locator("#learn summary").click()
        gone = page.locator("[data-known] li", has_text="tall-one").get_by_role("button")
        gone.click()
        gone.click()
        page.get_by_text("tall-one was removed").wait_for()
        page.wait_for_function("() => !location.search.includes('tall-one') && location.search.includes('attr.late=1')")


def test_only_a_key_that_may_write_learns(browser: Any, home_with_digits: Settings) -> None:
    with Catalogue(Home(home_with_digits.home)) as catalogue:
        keys = {scope: catalogue.keys.create(f"may {scope}", scope)[0].text for scope in ("search", "write")}
    with serving(home_with_digits) as address:
        for scope, sections in (("search", 0), ("write", 1)):
            with opened(browser, address) as page:
                page.goto("/latent")
                page.get_by_label("Your key").fill(keys[scope])
                page.get_by_role("button", name="Sign in").click()
                shown(page)
                assert page.get_by_text("Learn an attribute").count() == sections


def test_a_seed_makes_the_same_images_again_and_what_is_kept_stays_for_the_tab(browser: Any, latent: str) -> None:
    def dozen() -> list[str]:
        page.locator("[data-new] button").nth(11).wait_for()
        page.get_by_text("seed 77; click one").wait_for()
        return [str(one.get_attribute("src")) for one in page.locator("[data-new] img").all()]

    with opened(browser, latent, viewport=DESK) as page:
        page.goto("/latent?a=3&b=9")
        first = shown(page)
        page.get_by_label("Seed").fill("77")
        page.get_by_role("button", name="Generate twelve").click()
        made = dozen()
        page.wait_for_function("() => location.search.includes('seed=77')")
        page.get_by_role("button", name="Keep", exact=True).click()
        page.locator("[data-new] button").nth(3).click()
        page.get_by_text("generated image 4 of seed 77", exact=True).wait_for()
        shown(page)
        page.keyboard.press("k")
        page.reload()
        assert dozen() == made
        kept = page.locator("[data-kept] li")
        assert kept.count() == 2 and kept.first.locator("img").get_attribute("src") == first
        kept.first.get_by_title("Continue from this image").click()
        page.get_by_text("kept image 1", exact=True).wait_for()
        page.get_by_role("button", name="Remove kept image 1").click()
        assert kept.count() == 1
        other = page.context.new_page()
        other.goto(page.url)
        shown(other)
        assert other.locator("[data-kept] li").count() == 0


def test_axe_finds_nothing_and_nothing_scrolls_sideways(browser: Any, latent: str) -> None:
    with opened(browser, latent, viewport=DESK, reduced_motion="reduce") as page:
        page.goto("/latent?seed=7")
        shown(page)
        page.locator("[data-new] button").nth(11).wait_for()
        page.get_by_role("button", name="Keep", exact=True).click()
        page.locator("#learn summary").click()
        page.locator("[data-candidates] button").first.click()
        page.get_by_role("button", name="Mark all others here as without it").click()
        assert layout_problems(page) == []


@pytest.fixture(scope="module")
def client(latent_home: Settings) -> Iterator[TestClient]:
    with app_client(latent_home) as client:
        yield client


def test_without_a_script_it_is_a_form(client: TestClient) -> None:
    page = client.get("/latent", params={"a": 3, "b": 9, "share": 0, "attr.late": 1})
    assert page.status_code == 200 and "data:image/png;base64," in page.text
    assert 'name="attr.late"' in page.text and 'name="share"' in page.text


@pytest.mark.parametrize(
    ("params", "status"),
    [
        ({"a": "x"}, 422),
        ({"a": 4242}, 404),
        ({"share": "nan"}, 422),
        ({"attr.nobody": 1}, 422),
        ({"dim.99": 1}, 422),
        ({"dim.x": 1}, 422),
    ],
)
def test_a_form_that_makes_no_sense_is_refused(client: TestClient, params: dict[str, Any], status: int) -> None:
    refused = client.get("/latent", params=params)
    assert refused.status_code == status and "That did not work" in refused.text


def test_without_a_decoder_it_says_so_and_still_finds(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    client.get("/readyz")
    monkeypatch.setattr(client.app.state.searcher_provider.get_searcher().get_encoder(), "has_decoder", False)  # type: ignore[attr-defined]
    page = client.get("/latent", params={"a": 3, "b": 9, "share": 0})
    assert page.status_code == 200 and "has no decoder" in page.text and "/pictures/3" in page.text


def test_an_empty_home_says_what_to_do(trained_home: Settings) -> None:
    with app_client(trained_home) as client:
        assert "Nothing is indexed yet" in client.get("/latent").text
