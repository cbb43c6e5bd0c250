"""Results on the page: counts among the filters, groups, and a box on the query image."""

from __future__ import annotations

from typing import Any

from simile.core.settings import Settings
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home


def test_a_click_on_a_value_filters_the_collection_and_a_search(
    shared_home: Settings, shared_address: str, browser: Any
) -> None:
    with Catalogue(Home(shared_home.home)) as catalogue:
        for image_id in range(1, 8):
            catalogue.metadata.set_for_image(image_id, {"class": "an odd one" if image_id > 5 else "other"})
    page = browser.new_page()
    page.goto(f"{shared_address}/collection")
    page.click("details.filters summary")
    page.wait_for_selector(".facets a")
    assert page.locator(".facets a").all_inner_texts() == ["other 5", "an odd one 2"]
    page.click(".facets a >> nth=1")
    page.wait_for_url("**/collection?where=*")
    assert page.locator(".tile").count() == 2
    page.goto(f"{shared_address}/?image_id=1&distinct=true")
    page.click("details.filters summary")
    page.click(".facets a >> nth=0")
    page.wait_for_url("**where=*")
    assert page.locator(".tile").count() == 4 and "distinct=true" in page.url
    page.close()


def test_hits_are_shown_in_groups_and_the_choice_is_taken_back(
    shared_home: Settings, shared_address: str, browser: Any
) -> None:
    with Catalogue(Home(shared_home.home)) as catalogue:
        for image_id in (2, 3, 4):
            catalogue.metadata.set_for_image(image_id, {"kind": "many" if image_id < 4 else "single"})
    page = browser.new_page()
    page.goto(f"{shared_address}/?image_id=1")
    page.click("details.filters summary")
    page.wait_for_selector("#group-fields option", state="attached")
    assert "kind" in page.eval_on_selector_all("#group-fields option", "options => options.map((one) => one.value)")
    page.fill("[name=group_by]", "kind")
    page.click("[data-apply]")
    page.wait_for_url("**group_by=kind*")
    assert sorted(page.locator(".group h3").all_inner_texts()) == ["many 2 images", "single 1 image"]
    assert page.locator("#hits .tile").count() == 3
    page.click(".chips >> text=by kind")
    page.wait_for_url(f"{shared_address}/?image_id=1")
    page.close()


def test_a_box_is_drawn_on_the_query_image(shared_address: str, browser: Any) -> None:
    page = browser.new_page()
    page.goto(f"{shared_address}/?image_id=1")
    frame = page.locator("[data-boxes]").bounding_box()
    left, top, side = frame["x"], frame["y"], frame["width"]
    page.mouse.move(left + side / 4, top + side / 4)
    page.mouse.down()
    page.mouse.move(left + side / 2, top + side / 2)
    page.mouse.up()
    page.wait_for_url("**box=*")
    assert page.locator(".box rect").count() == 1 and "A part of the image" in page.inner_text(".pair")
    page.click(".chips >> text=a part of the image")
    page.wait_for_url(f"{shared_address}/?image_id=1")
    page.click("[data-boxes]")  # a click still opens the image
    page.wait_for_selector("dialog[open]")
    page.close()
