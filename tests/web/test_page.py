"""The page of searches as a person meets it: chromium, a real server, a real home."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from simile.core.settings import Settings
from simile.search.searcher import Searcher
from simile.service.app import create_app
from tests.support.browser import drop_or_paste, loaded, opened

REFUSED = ("status of 4", "ERR_INTERNET_DISCONNECTED")  # what chromium's console says of what is asked for here


@pytest.fixture
def page(browser: Any, shared_address: str) -> Iterator[Any]:
    with opened(browser, shared_address, expected=REFUSED) as page:
        yield page


@pytest.fixture(scope="module")
def one_digit(shared_home: Settings) -> Path:
    """An image that is also indexed: its own first hit."""
    with Searcher(shared_home) as searcher:
        return Path(searcher.get_image(7).paths[0])


def names(page: Any) -> list[str]:
    """What the hits are called, the nearest first."""
    return [str(each) for each in page.locator("#hits .name").all_inner_texts()]


def test_a_chosen_file_is_shown_with_its_reconstruction_and_hits(page: Any, one_digit: Path) -> None:
    page.goto("/")
    page.set_input_files("#file", one_digit)
    page.locator("#hits li").first.wait_for()
    assert page.locator(".pair img").count() == 2
    assert all(loaded(image) for image in page.locator(".pair img").all())
    assert "Reconstruction error" in page.inner_text(".facts") and "Uncertainty σ" in page.inner_text(".facts")
    assert page.locator("#hits li").count() == 24
    assert names(page)[0] == one_digit.name
    assert page.title() == f"{one_digit.name} – simile"
    assert page.evaluate("document.activeElement.id") == "query-heading"
    assert page.locator("#hits .frame img").first.evaluate("img => getComputedStyle(img).imageRendering") == "pixelated"


def test_every_hit_has_a_distance_as_a_bar_a_score_and_a_reconstruction_at_the_press_of_a_key(page: Any) -> None:
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.goto("/?image_id=7")
    bars = [float(each.get_attribute("width")) for each in page.locator("#hits .reach").all()]
    assert bars == sorted(bars) and bars[-1] == 100 and len(bars) == 24
    text = page.locator("#hits .distance").first.inner_text()
    assert "score 0." in text and "±" in text
    seen = page.locator("#hits .seen").nth(1)
    assert not seen.is_visible() and not any("reconstruction" in url for url in requested)
    page.keyboard.press("m")
    assert seen.is_visible() and loaded(seen)
    page.get_by_label("Show reconstructions").focus()
    page.keyboard.press("Space")
    assert not seen.is_visible()


def test_a_hit_is_searched_by_and_back_leads_back(page: Any, one_digit: Path) -> None:
    page.goto("/")
    page.set_input_files("#file", one_digit)
    page.locator("#hits li").nth(1).hover()
    name = names(page)[1]
    page.get_by_role("link", name=f"Find images similar to {name}").click()
    page.wait_for_url("**/?image_id=*")
    assert page.inner_text("h1") == name
    page.get_by_role("link", name="Show more").click()
    page.wait_for_url("**limit=48*")
    assert page.locator("#hits li").count() == 48
    assert page.evaluate("document.activeElement === document.querySelectorAll('#hits a.frame')[24]")
    page.go_back()
    page.get_by_role("heading", name=one_digit.name).wait_for()
    page.go_back()
    page.get_by_role("heading", name="Or try one of these").wait_for()


def test_an_example_is_searched_with_one_click(page: Any) -> None:
    page.goto("/")
    assert page.locator(".examples a").count() == 12
    assert all(loaded(image) for image in page.locator(".examples img").all())
    page.locator(".examples a").nth(3).click()
    page.locator("#hits li").first.wait_for()


def test_an_image_can_be_dropped_or_pasted(page: Any, one_digit: Path) -> None:
    page.goto("/")
    for kind, name in (("drop", "снимок.png"), ("paste", "вставка.png")):
        drop_or_paste(page, kind, name, one_digit.read_bytes())
        page.get_by_role("heading", name=name).wait_for()
        assert page.locator("#hits li").count() == 24


def test_several_images_are_searched_by_what_they_have_in_common(page: Any, one_digit: Path) -> None:
    page.goto("/")
    others = sorted(one_digit.parent.iterdir())[20:22]
    page.set_input_files("#file", [one_digit, *others])
    page.get_by_role("heading", name="Like 3 images together").wait_for()
    assert [each.get_attribute("alt") for each in page.locator(".asked img").all()] == [
        one_digit.name,
        *(other.name for other in others),
    ]
    assert loaded(page.locator(".middle img"))
    page.get_by_role("link", name=f"Leave out {others[0].name}").click()
    page.get_by_role("heading", name="Like 2 images together").wait_for()
    page.get_by_role("link", name=f"Leave out {others[1].name}").click()
    page.get_by_role("heading", name=one_digit.name).wait_for()
    page.go_back()
    page.go_back()
    page.get_by_role("heading", name="Like 3 images together").wait_for()


def test_likes_and_dislikes_are_clicked_together_and_taken_back(page: Any) -> None:
    page.goto("/?image_id=7")
    first = names(page)[0]
    page.locator("#hits li").first.hover()
    page.get_by_role("link", name=f"More like {first}").click()
    page.get_by_role("heading", name="Like 2 images together").wait_for()
    assert first not in names(page)
    page.locator("#hits li").first.hover()
    page.get_by_role("link", name="Less like ").first.click()
    page.get_by_role("heading", name="Like 2 images together, unlike 1").wait_for()
    shared = page.url
    assert "positive_id=7&positive_id=" in shared and "negative_id=" in shared
    before = names(page)
    page.goto("/")
    page.goto(shared)  # the address is all that is needed
    assert names(page) == before
    page.locator(".unlike .forget").click()
    page.get_by_role("heading", name="Like 2 images together").wait_for()
    page.locator(".like .forget").nth(1).click()
    page.wait_for_url("**/?image_id=7")


def test_an_upload_keeps_its_image_while_likes_and_filters_come_and_go(page: Any, one_digit: Path) -> None:
    page.goto("/")
    page.set_input_files("#file", one_digit)
    page.locator("#hits li").nth(2).hover()
    page.locator("#hits [data-step=more]").nth(2).click()
    page.get_by_role("heading", name="Like 2 images together").wait_for()
    assert page.locator(".asked img").first.get_attribute("alt") == one_digit.name
    page.keyboard.press("f")
    page.get_by_label("Pixels wide, at least").fill("33")
    page.get_by_role("button", name="Apply").click()
    page.get_by_text("No image matches these filters").wait_for()
    assert page.locator(".asked img").count() == 2
    page.get_by_role("link", name="at least 33 wide").click()
    page.locator("#hits li").first.wait_for()
    page.get_by_role("link", name="Show more").click()
    page.wait_for_function("() => document.querySelectorAll('#hits li').length === 48")
    page.go_back()
    page.get_by_text("No image matches these filters").wait_for()


def test_filters_narrow_a_search_down_in_an_address_that_can_be_shared(page: Any) -> None:
    page.goto("/?image_id=7")
    nearest = (page.locator("#hits .distance").nth(3).text_content() or "").split()[1]  # painted or not yet
    page.locator(".filters summary").click()
    page.get_by_label("Distance, at most").fill(nearest)
    page.get_by_label("Format").select_option("png")
    page.get_by_label("Condition").fill("nobody = knows")
    page.get_by_role("button", name="Apply").click()
    page.wait_for_url("**where=nobody*")
    assert "under=" not in page.url and "min_width=" not in page.url
    page.get_by_role("link", name="nobody = knows").click()
    page.locator("#hits li").first.wait_for()
    assert 1 <= page.locator("#hits li").count() <= 4
    page.locator(".chips a").first.click()
    page.locator(".chips a").first.click()
    page.wait_for_url("**/?image_id=7")


def test_hits_are_verified_at_the_tick_of_a_box(page: Any, one_digit: Path) -> None:
    page.goto("/")
    page.set_input_files("#file", one_digit)
    page.locator("#hits li").first.wait_for()
    assert page.locator(".verified").count() == 0
    page.locator(".filters summary").click()
    page.get_by_label("Compare the 20 nearest").check()
    page.get_by_role("button", name="Apply").click()
    page.get_by_role("heading", name="Verified first").wait_for()
    assert page.locator("#hits li").first.locator(".verified").inner_text() == "✓ the same bytes"
    page.get_by_role("link", name="Show more").click()
    page.wait_for_function("() => document.querySelectorAll('#hits li').length === 48")
    page.locator("#hits li").nth(2).hover()
    page.locator("#hits [data-step=more]").nth(2).click()  # several images cannot be verified
    page.get_by_role("heading", name="Like 2 images together").wait_for()
    assert page.locator(".chips a").count() == page.get_by_label("Compare the 20 nearest").count() == 0
    page.goto("/?image_id=7&verify=true")
    page.get_by_role("link", name="verified first").click()
    page.get_by_role("heading", name="Most similar first").wait_for()
    assert page.url.endswith("/?image_id=7")


def test_the_keyboard_does_it_all(page: Any) -> None:
    page.goto("/")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "file"
    page.goto("/?image_id=7")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowRight")
    across = page.evaluate("getComputedStyle(document.getElementById('hits')).gridTemplateColumns.split(' ').length")
    where = "[...document.querySelectorAll('#hits a.frame')].indexOf(document.activeElement)"
    assert page.evaluate(where) == across
    page.keyboard.press("ArrowUp")
    assert page.evaluate(where) == 0
    page.keyboard.press("Enter")
    page.locator("dialog.sheet[open]").wait_for()
    first = page.inner_text("#picture-heading")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("before => document.querySelector('#picture-heading')?.textContent !== before", arg=first)
    assert page.inner_text("#picture-heading") == names(page)[1]
    page.keyboard.press("Escape")
    page.locator("dialog.sheet").wait_for(state="hidden")
    assert page.evaluate(where) == 1
    page.keyboard.press("?")
    assert page.get_by_role("heading", name="Keys").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("+")
    page.get_by_role("heading", name="Like 2 images together").wait_for()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("-")
    page.get_by_role("heading", name="Like 2 images together, unlike 1").wait_for()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("s")
    page.wait_for_url("**/?image_id=*")


def test_a_bad_file_is_explained_and_the_next_one_works(page: Any, one_digit: Path) -> None:
    page.goto("/")
    drop_or_paste(page, "drop", "заметки.txt", b"dear diary")
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert "заметки.txt: not an image" in alert.inner_text()
    page.set_input_files("#file", one_digit)
    page.locator("#hits li").first.wait_for()
    assert alert.count() == 0
    drop_or_paste(page, "drop", "notes.txt", b"dear diary")
    alert.wait_for()
    assert page.locator("#hits li").count() == 24  # what was found before stays


def test_a_server_that_is_gone_is_explained(page: Any, one_digit: Path) -> None:
    page.goto("/")
    page.context.set_offline(True)
    page.set_input_files("#file", one_digit)
    page.get_by_role("alert").wait_for()
    assert "can't be reached" in page.get_by_role("alert").inner_text()


def test_everything_works_without_javascript(browser: Any, shared_address: str, one_digit: Path) -> None:
    with opened(browser, shared_address, expected=REFUSED, java_script_enabled=False) as page:
        page.goto("/")
        assert not page.get_by_role("button", name="Find similar").is_visible()
        page.set_input_files("#file", one_digit)
        page.get_by_role("button", name="Find similar").click()
        page.locator("#hits li").first.wait_for()
        assert page.locator(".pair img").count() == 2
        page.locator(".toggle").first.click()
        assert page.locator(".seen").first.is_visible()
        page.locator("#hits a.frame").nth(1).click()
        page.wait_for_url("**/pictures/*")
        assert page.locator(".three img").count() == 4
        page.get_by_role("link", name="Find similar").click()
        page.wait_for_url("**/?image_id=*")
        page.locator(".filters summary").click()
        page.get_by_label("Pixels wide, at least").fill("33")
        page.get_by_role("button", name="Apply").click()
        page.get_by_text("No image matches these filters").wait_for()
        page.get_by_role("link", name="Collection").click()
        page.get_by_role("link", name="Show more").click()
        page.wait_for_url("**cursor=*")
        page.goto("/")
        page.set_input_files("#file", {"name": "notes.jpg", "mimeType": "image/jpeg", "buffer": b"dear diary"})
        page.get_by_role("button", name="Find similar").click()
        assert "notes.jpg: not an image" in page.get_by_role("alert").inner_text()


def test_the_page_s_errors_are_pages_with_the_right_status(shared_home: Settings) -> None:
    settings = shared_home.model_copy(update={"max_bytes": 10_000})
    with TestClient(create_app(settings)) as client:
        answers = [
            (client.get("/?image_id=424242"), 404, "There is no image 424242"),
            (client.get("/?image_id=x"), 422, "image_id"),
            (client.get("/?image_id=1&limit=0"), 422, "limit"),
            (client.get("/?negative_id=1"), 422, "needs a positive image"),
            (client.get("/?image_id=1&where=nonsense"), 422, "class=shirt"),
            (client.get("/?" + "&".join(f"positive_id={n}" for n in range(1, 40))), 422, "at most 32"),
            (client.post("/"), 422, "has no field `file`"),
            (client.post("/", files={"file": ("a.jpg", b"<script>")}), 422, "not an image"),
            (client.post("/", files={"file": ("<b>.jpg", b"text")}), 422, "&lt;b&gt;.jpg"),
            (client.post("/", files={"file": ("a.jpg", bytes(20_000))}), 413, "SIMILE_MAX_BYTES"),
            (client.post("/", files={"file": ("a.jpg", bytes(200_000))}), 413, "SIMILE_MAX_BYTES"),
        ]
    for response, status, reason in answers:
        assert response.status_code == status
        assert response.headers["content-type"].startswith("text/html")
        assert 'role="alert"' in response.text and reason in response.text
        assert "Or try one of these" in response.text


def test_whether_scores_are_calibrated_is_said_in_words(client: TestClient) -> None:
    assert "Scores are not calibrated yet" in client.get("/?image_id=3").text
    searcher = client.app.state.searcher_provider.get_searcher()  # type: ignore[attr-defined]
    searcher.calibrations.start(searcher.index.get_snapshot())
    searcher.calibrations._thread.join()
    assert "Scores are calibrated on this collection" in client.get("/?image_id=3").text


def test_a_page_of_many_hits_comes_small_to_who_can_unpack_it(shared_client: TestClient) -> None:
    params = {"image_id": 7, "limit": 1000}
    plain = shared_client.get("/", params=params, headers={"Accept-Encoding": "identity"})
    packed = shared_client.get("/", params=params, headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in plain.headers and packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) < len(plain.content) / 8
    assert packed.text == plain.text and plain.text.count('<li class="tile">') == 119
    assert packed.headers["vary"] == plain.headers["vary"] == "Accept-Encoding"
