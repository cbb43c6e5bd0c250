"""The collection and its images as a person meets them: opened, described, added, forgotten."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from simile.core.settings import Settings, load_settings
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home
from tests.conftest import app_client
from tests.support.browser import drop_or_paste, loaded, opened, serving

REFUSED = ("status of 4", "status of 503")  # what chromium's console says of what is asked for here


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A page of a home of one's own, to change it."""
    with opened(browser, address, expected=REFUSED) as page:
        yield page


@pytest.fixture
def shared_page(browser: Any, shared_address: str) -> Iterator[Any]:
    """A page of the home that is shared, to look at it."""
    with opened(browser, shared_address, expected=REFUSED) as page:
        yield page


def of_service(address: str, path: str) -> Any:
    """What the API answers."""
    with urllib.request.urlopen(address + path) as answer:
        return json.load(answer)


def image_ids(page: Any) -> list[int]:
    """The ids of the images in the grid."""
    return [int(each.get_attribute("data-picture")) for each in page.locator("#hits a.frame").all()]


def open_sheet(page: Any, number: int) -> Any:
    """The sheet of that image of the grid."""
    page.locator("#hits a.frame").nth(number).click()
    sheet = page.locator("dialog.sheet[open]")
    sheet.wait_for()
    return sheet


def test_an_opened_image_shows_its_reconstruction_and_error_and_can_be_liked_or_not(shared_page: Any) -> None:
    page = shared_page
    page.goto("/?image_id=7")
    opened_id = image_ids(page)[1]
    sheet = open_sheet(page, 1)
    assert sheet.locator(".three img").count() == 4
    assert all(loaded(image) for image in sheet.locator(".three img").all())
    about = sheet.locator(".columns").inner_text()
    assert all(word in about for word in ("Uncertainty σ", "Reconstruction error", "32 × 32 pixels, PNG", "Added"))
    assert sheet.locator(".strip li").count() == 8
    assert page.evaluate("document.activeElement.id") == "picture-heading"
    assert page.url.endswith(f"/?image_id=7#picture-{opened_id}")
    sheet.locator(".strip a").first.click()
    page.wait_for_function("id => !location.hash.endsWith('-' + id)", arg=opened_id)
    page.go_back()
    page.wait_for_url(f"**#picture-{opened_id}")
    page.go_back()
    sheet.wait_for(state="hidden")
    assert page.url.endswith("/?image_id=7")
    open_sheet(page, 2).get_by_role("link", name="Less like this").click()
    page.get_by_role("heading", name="Like one image, unlike 1").wait_for()
    assert page.locator("dialog.sheet[open]").count() == 0


def test_the_address_of_an_opened_image_can_be_shared(shared_page: Any) -> None:
    page = shared_page
    page.goto("/?image_id=7#picture-9")
    page.locator("dialog.sheet[open] .panel[data-image='9']").wait_for()
    page.get_by_role("button", name="Close").click()
    page.locator("dialog.sheet").wait_for(state="hidden")
    assert page.url.endswith("/?image_id=7")
    page.goto("/pictures/9")
    assert page.locator("main .panel").count() == 1
    assert page.goto("/pictures/424242").status == 404
    assert page.get_by_role("heading", name="No such image").is_visible()


def test_the_metadata_of_an_image_can_be_changed_and_searched_for(page: Any, address: str) -> None:
    page.goto("/collection")
    image_id = image_ids(page)[0]
    sheet = open_sheet(page, 0)
    sheet.locator("summary", has_text="Edit").click()
    notes = sheet.get_by_label("One a line")
    notes.fill("no colon here")
    sheet.get_by_role("button", name="Save").click()
    sheet.get_by_text("has no name").wait_for()
    notes.fill("class: <b>seven</b>\nprice: 12.5\ncode: 007\nold:")
    sheet.get_by_role("button", name="Save").click()
    sheet.get_by_text("saved").wait_for()
    assert of_service(address, f"/v1/images/{image_id}")["metadata"] == {
        "class": "<b>seven</b>",
        "price": 12.5,
        "code": "007",
    }
    assert "<b>seven</b>" in sheet.locator(".metadata .table").inner_text()
    page.goto("/collection?where=price<13")
    assert image_ids(page) == [image_id]


def test_a_forgotten_image_is_gone_at_once(page: Any, address: str) -> None:
    page.goto("/?image_id=7")
    gone, following = image_ids(page)[3:5]
    sheet = open_sheet(page, 3)
    sheet.locator("summary", has_text="Forget").click()
    assert "Its file stays where it is" in sheet.locator(".delete").inner_text()
    sheet.get_by_role("button", name="Forget it").click()
    sheet.wait_for(state="hidden")
    assert image_ids(page)[3] == following and len(image_ids(page)) == 23
    assert of_service(address, "/v1/images")["total"] == 119
    assert page.goto(f"/pictures/{gone}").status == 404


def test_images_are_added_with_what_became_of_each(page: Any, address: str, tmp_path: Path) -> None:
    known = Path(of_service(address, "/v1/images/7")["path"])
    shutil.copy(known, tmp_path / "again.png")
    (tmp_path / "notes.png").write_text("dear diary")
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (40, 30), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"<i>new {number}.png")
    page.goto("/collection")
    page.set_input_files("#add", sorted(tmp_path.glob("*.png")))
    page.get_by_text("5 of 5 · 3 added · 1 there already · 1 refused").wait_for()
    assert "notes.png\nnot an image" in page.inner_text(".arrivals .refused")
    assert "is there already: image 7" in page.inner_text(".arrivals .known")
    page.wait_for_function("() => document.querySelector('.wide-bar h1').innerText.includes('123')")
    assert sorted(page.locator("#hits .name").all_inner_texts()[:3]) == [f"<i>new {n}.png" for n in range(3)]
    drop_or_paste(page, "drop", "again.png", known.read_bytes())
    page.get_by_text("1 of 1 · 0 added · 1 there already").wait_for()
    sheet = open_sheet(page, 0)
    sheet.locator("summary", has_text="Forget").click()
    assert "its file is deleted too" in sheet.locator(".delete").inner_text()


def test_the_collection_is_seen_page_by_page_and_by_what_is_least_like_the_rest(shared_page: Any) -> None:
    page = shared_page
    page.goto("/collection")
    assert image_ids(page) == list(range(120, 60, -1))
    page.get_by_role("link", name="Show more").click()
    page.wait_for_function("() => document.querySelectorAll('#hits li').length === 120")
    assert image_ids(page) == list(range(120, 0, -1)) and page.get_by_role("link", name="Show more").count() == 0
    page.get_by_role("link", name="Oldest").click()
    page.wait_for_url("**sort=id")
    assert image_ids(page)[:3] == [1, 2, 3]
    page.get_by_role("link", name="Least like the rest").click()
    page.locator("#hits li").first.wait_for()
    said = page.locator("#hits .distance").all_text_contents()
    far = [float(each.removeprefix("10th neighbour at ")) for each in said]
    assert far == sorted(far, reverse=True) and len(far) == 60
    page.locator(".filters summary").click()
    page.get_by_label("Pixels wide, at least").fill("33")
    page.get_by_role("button", name="Apply").click()
    page.get_by_text("No image matches these filters").wait_for()


def test_a_key_opens_what_it_may_and_the_way_out_is_on_every_page(browser: Any, home_with_digits: Settings) -> None:
    with Catalogue(Home(home_with_digits.home)) as catalogue:
        looker = catalogue.keys.create("a visitor", "search")[0].text
        keeper = catalogue.keys.create("the keeper", "admin")[0].text
    with serving(home_with_digits) as address, opened(browser, address, expected=REFUSED) as page:
        page.goto("/?image_id=7")
        page.wait_for_url("**/signin?next=*")
        page.get_by_label("Your key").fill("simile_wrong")
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("alert").wait_for()
        page.get_by_label("Your key").fill(looker)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/?image_id=7")
        assert page.locator("#hits li").count() == 24 and "a visitor" in page.inner_text(".session")
        page.goto("/collection")
        assert page.get_by_text("Add images").count() == 0
        assert page.get_by_role("link", name="Indexing").count() == 0
        sheet = open_sheet(page, 0)
        assert sheet.get_by_text("Forget this image").count() == 0 and sheet.get_by_text("Edit").count() == 0
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url("**/signin")
        page.goto("/collection")
        page.get_by_label("Your key").fill(keeper)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/collection")
        page.get_by_text("Add images").wait_for()
        catalogue_page = page.context.new_page()
        catalogue_page.goto("/jobs")
        catalogue_page.get_by_role("button", name="Sign out").click()
        catalogue_page.wait_for_url("**/signin")
        page.locator("#hits a.frame").first.click()  # the session has ended in the other tab
        page.wait_for_url("**/signin?next=*")


@pytest.mark.parametrize(
    ("address", "status", "reason"),
    [
        ("/collection?cursor=nonsense", 422, "cursor can&#39;t be"),
        ("/collection?sort=size", 422, "sort"),
        ("/collection?since=tomorrow", 422, "since can&#39;t be"),
        ("/pictures/0", 404, "is no image id"),
        ("/pictures/<script>", 404, "&lt;script&gt;"),
        ("/pictures/424242", 404, "There is no image 424242"),
    ],
)
def test_the_pages_errors_are_pages(shared_client: TestClient, address: str, status: int, reason: str) -> None:
    response = shared_client.get(address)
    assert (response.status_code, response.headers["content-type"]) == (status, "text/html; charset=utf-8")
    assert 'role="alert"' in response.text and reason in response.text


def test_pages_without_a_home_say_what_to_do(tmp_path: Path) -> None:
    with app_client(load_settings(home=tmp_path / "nothing yet")) as client:
        assert "simile index PHOTOS" in client.get("/collection").text
        assert client.get("/jobs").status_code == 200
        assert client.get("/pictures/1").status_code == 409
