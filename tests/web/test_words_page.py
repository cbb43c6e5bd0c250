"""A search by words on the page: suggestions, words mixed with an image, words that are not known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simile.core.settings import Settings
from simile.search.searcher import Searcher
from tests.models.external.colour_home import EACH, make_colour_home
from tests.support.browser import layout_problems, loaded, opened, serving


@pytest.fixture(scope="module")
def tagged_home(shared_home: Settings) -> Settings:
    """Half of the images are tagged `wide boat`, the others `dark`, by the direction in which the vectors vary most."""
    with Searcher(shared_home) as searcher:
        embeddings = searcher.catalogue.embeddings.get_many(range(1, 121), searcher.get_encoder().fingerprint)
        mu = np.stack([embeddings[image_id].mu for image_id in range(1, 121)])
        position = (mu - mu.mean(0)) @ np.linalg.svd(mu - mu.mean(0))[2][0]
        for image_id, is_far in enumerate(position > np.median(position), 1):
            searcher.catalogue.metadata.set_for_image(image_id, {"tags": "wide boat" if is_far else "dark"})
    return shared_home


@pytest.fixture
def page(browser: Any, tagged_home: Settings) -> Iterator[Any]:
    with serving(tagged_home) as address, opened(browser, address, expected=["status of 422"]) as page:
        yield page


def read_scores(page: Any) -> list[float]:
    return [float(text.split()[-1]) for text in page.locator("#hits .distance").all_inner_texts()]


def test_words_are_suggested_while_typing_and_answered(page: Any, tagged_home: Settings) -> None:
    page.goto("/")
    box = page.get_by_label("Or by words")
    box.press_sequentially("-dark bo")
    page.locator("#known-words option").nth(1).wait_for(state="attached")
    options = page.eval_on_selector_all("#known-words option", "all => all.map((option) => option.value)")
    assert set(options) == {"-dark boat", "-dark wide boat"}
    box.fill("wide boat -dark")
    box.press("Enter")
    page.wait_for_url("**/?text=wide+boat+-dark")
    scores = read_scores(page)
    assert len(scores) == 24 and scores == sorted(scores, reverse=True) and scores[0] > 0.9
    words = page.get_by_role("list", name="Words of the search").inner_text()
    assert "wide boat learned from 60 images" in words and "without dark" in words
    assert loaded(page.locator("#hits img").first)
    assert page.get_by_label("Or by words").input_value() == "wide boat -dark"
    with Searcher(tagged_home) as searcher:
        first = Path(searcher.by_text("wide boat -dark").hits[0].path).name
    assert page.locator("#hits .name").first.inner_text() == first
    # A hit joins the words.
    page.locator(".tile").nth(2).hover()
    page.locator("[data-step=more]").nth(2).click()
    page.wait_for_url("**image_id=*text=wide*")
    assert page.locator(".asked.like img").count() == 1
    assert read_scores(page) == sorted(read_scores(page), reverse=True)
    # The start page names words once they are learned.
    page.goto("/")
    assert page.locator(".known-words a").all_inner_texts() == ["dark", "wide boat"]
    assert layout_problems(page) == []


def test_words_narrow_an_uploaded_image_which_is_sent_again(page: Any, tagged_home: Settings) -> None:
    with Searcher(tagged_home) as searcher:
        image = Path(searcher.get_image(7).paths[0])
    page.goto("/")
    page.set_input_files("#file", image)
    page.locator("#hits li").first.wait_for()
    page.get_by_label("With these words").fill("dark")
    page.get_by_role("button", name="Search", exact=True).click()
    page.get_by_role("list", name="Words of the search").wait_for()
    assert page.inner_text("h1") == f"“dark”, {image.name}"
    assert page.locator(".asked.like img").count() == 1
    page.get_by_label("With these words").fill("")
    page.get_by_role("button", name="Search", exact=True).click()
    page.locator(".pair").wait_for()
    assert page.inner_text("h1") == image.name


def test_an_unknown_word_is_named_and_stays_in_the_box(page: Any) -> None:
    page.goto("/?text=dark+velvet")
    assert "The word 'velvet' is not known here." in page.inner_text(".problem")
    assert page.get_by_label("Or by words").input_value() == "dark velvet"
    page.goto("/?text=dark&limit=8")
    assert layout_problems(page) == []


def test_an_encoder_with_a_text_tower_reads_any_text(browser: Any, tmp_path: Path) -> None:
    settings = make_colour_home(tmp_path)
    with serving(settings) as address, opened(browser, address) as page:
        page.goto("/")
        page.get_by_label("Or by words").fill("something very red")
        page.get_by_role("button", name="Search", exact=True).click()
        page.wait_for_url("**/?text=something+very+red")
        names = page.locator("#hits .name").all_inner_texts()
        assert [name.split("-")[0] for name in names[:EACH]] == ["red"] * EACH
        assert page.inner_text("h1") == "“something very red”"
        bars = [float(bar.get_attribute("width")) for bar in page.locator("#hits .reach").all()]
        assert bars == sorted(bars) and bars[-1] == 100
        assert layout_problems(page) == []
        # An image joins the text.
        page.goto("/?text=blue")
        page.goto(page.locator("#hits [data-step=more]").first.get_attribute("href").replace("text=blue", "text=red"))
        assert page.inner_text("h1").startswith("“red”, blue-")
        names = page.locator("#hits .name").all_inner_texts()
        assert [name.split("-")[0] for name in names[:EACH]] == ["purple"] * EACH
