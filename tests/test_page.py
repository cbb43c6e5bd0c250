"""The page as a person meets it: chromium, a real server, a real home."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import launched, needs_browser, serving
from starlette.testclient import TestClient

from core.settings import Settings
from service.app import create_app

playwright = pytest.importorskip("playwright.sync_api", reason="the page's tests need playwright")


@pytest.fixture
def address(home_with_digits: Settings) -> Iterator[str]:
    """Where the service runs."""
    with serving(home_with_digits) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched(playwright) as browser:
        yield browser


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    context = browser.new_context(base_url=address)
    context.set_default_timeout(10_000)
    page = context.new_page()
    failed: list[str] = []
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.on("request", lambda request: _only_this_server(request.url, address, failed))
    page.goto("/")
    yield page
    context.close()
    assert failed == []


def _only_this_server(url: str, address: str, failed: list[str]) -> None:
    if not url.startswith((address, "data:")):
        failed.append(f"asked {url}")


@pytest.fixture
def one_digit(home_with_digits: Settings) -> Path:
    """A picture that is also indexed: its own first hit."""
    with TestClient(create_app(home_with_digits)) as client:
        return Path(client.get("/v1/images/7").json()["path"])


def drop_or_paste(page: Any, kind: str, name: str, data: bytes) -> None:
    """What the browser does when a person drops a file on the page, or pastes one."""
    page.evaluate(
        """([kind, name, data]) => {
            const transfer = new DataTransfer();
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            transfer.items.add(new File([bytes], name, { type: "image/png" }));
            const common = { bubbles: true, cancelable: true };
            document.body.dispatchEvent(kind === "drop"
                ? new DragEvent("drop", { ...common, dataTransfer: transfer })
                : new ClipboardEvent("paste", { ...common, clipboardData: transfer }));
        }""",
        [kind, name, base64.b64encode(data).decode()],
    )


def loaded(image: Any) -> bool:
    """Whether the picture of an <img> has arrived and could be drawn."""
    return bool(image.evaluate("async (img) => { await img.decode(); return img.naturalWidth > 0 }"))


@needs_browser
def test_a_chosen_file_is_shown_with_its_reconstruction_and_hits(page: Any, one_digit: Path) -> None:
    page.set_input_files("#file", one_digit)
    page.locator(".hits li").first.wait_for()
    assert page.locator(".pair img").count() == 2
    assert all(loaded(image) for image in page.locator(".pair img").all())
    assert "Reconstruction error" in page.inner_text(".facts")
    assert page.locator(".hits li").count() == 24
    assert page.locator(".hits .name").first.inner_text() == one_digit.name
    assert page.title() == f"{one_digit.name} – simile"
    assert page.evaluate("document.activeElement.id") == "query-heading"
    assert page.locator(".hits .frame img").first.evaluate("img => getComputedStyle(img).imageRendering") == "pixelated"


@needs_browser
def test_a_hit_shows_what_the_model_saw_at_the_press_of_a_key(page: Any, one_digit: Path) -> None:
    page.set_input_files("#file", one_digit)
    hit = page.locator(".hits li").nth(1)
    seen = hit.locator(".seen")
    assert not seen.is_visible()
    hit.get_by_label("What the model saw").focus()
    page.keyboard.press("Space")
    assert seen.is_visible() and loaded(seen)
    hit.locator(".toggle").click()
    assert not seen.is_visible()


@needs_browser
def test_a_click_on_a_hit_searches_by_it_and_back_leads_back(page: Any, one_digit: Path) -> None:
    page.set_input_files("#file", one_digit)
    name = page.locator(".hits .name").nth(1).inner_text()
    page.locator(".hits a").nth(1).click()
    page.wait_for_url("**/?image_id=*")
    assert page.inner_text("h1") == name
    page.get_by_role("link", name="Show more").click()
    page.wait_for_url("**limit=48*")
    assert page.locator(".hits li").count() == 48
    page.go_back()
    page.go_back()
    page.wait_for_url("**/")
    page.get_by_role("heading", name=one_digit.name).wait_for()
    page.go_back()
    page.get_by_role("heading", name="Or try one of these").wait_for()


@needs_browser
def test_an_example_is_searched_with_one_click(page: Any) -> None:
    assert page.locator(".examples a").count() == 12
    assert all(loaded(image) for image in page.locator(".examples img").all())
    page.locator(".examples a").nth(3).click()
    page.locator(".hits li").first.wait_for()


@needs_browser
@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_picture_can_be_brought_without_a_dialog(page: Any, one_digit: Path, kind: str) -> None:
    drop_or_paste(page, kind, "снимок.png", one_digit.read_bytes())
    page.get_by_role("heading", name="снимок.png").wait_for()
    assert page.locator(".hits li").count() == 24


@needs_browser
def test_a_bad_file_is_explained_and_the_next_one_works(page: Any, one_digit: Path) -> None:
    drop_or_paste(page, "drop", "заметки.txt", b"dear diary")
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert "заметки.txt: not a picture" in alert.inner_text()
    page.set_input_files("#file", one_digit)
    page.locator(".hits li").first.wait_for()
    assert alert.count() == 0


@needs_browser
def test_a_server_that_is_gone_is_explained(page: Any, one_digit: Path) -> None:
    page.context.set_offline(True)
    page.set_input_files("#file", one_digit)
    page.get_by_role("alert").wait_for()
    assert "can't be reached" in page.get_by_role("alert").inner_text()


@needs_browser
def test_a_phone_never_scrolls_sideways(page: Any, one_digit: Path) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    widths = [page.evaluate("document.documentElement.scrollWidth")]
    drop_or_paste(page, "drop", "long_name_without_any_break" * 7 + ".png", b"no picture")
    page.get_by_role("alert").wait_for()
    widths.append(page.evaluate("document.documentElement.scrollWidth"))
    drop_or_paste(page, "drop", "long_name_without_any_break" * 7 + ".png", one_digit.read_bytes())
    page.locator(".hits li").first.wait_for()
    widths.append(page.evaluate("document.documentElement.scrollWidth"))
    assert widths == [360, 360, 360]


@needs_browser
def test_everything_works_without_javascript(browser: Any, address: str, one_digit: Path) -> None:
    context = browser.new_context(base_url=address, java_script_enabled=False)
    page = context.new_page()
    page.goto("/")
    assert not page.get_by_role("button", name="Find similar").is_visible()
    page.set_input_files("#file", one_digit)
    page.get_by_role("button", name="Find similar").click()
    page.locator(".hits li").first.wait_for()
    assert page.locator(".pair img").count() == 2
    page.locator(".toggle").first.click()
    assert page.locator(".seen").first.is_visible()
    page.locator(".hits a").nth(1).click()
    page.wait_for_url("**/?image_id=*")
    page.set_input_files("#file", {"name": "notes.jpg", "mimeType": "image/jpeg", "buffer": b"dear diary"})
    page.get_by_role("button", name="Find similar").click()
    assert "notes.jpg: not a picture" in page.get_by_role("alert").inner_text()
    context.close()


def test_the_page_s_errors_are_pages_with_the_right_status(home_with_digits: Settings) -> None:
    settings = home_with_digits.model_copy(update={"max_bytes": 10_000})
    with TestClient(create_app(settings)) as client:
        answers = [
            (client.get("/?image_id=424242"), 404, "There is no image 424242"),
            (client.get("/?image_id=x"), 422, "image_id"),
            (client.get("/?image_id=1&limit=0"), 422, "limit"),
            (client.post("/"), 422, "has no field `file`"),
            (client.post("/", files={"file": ("a.jpg", b"<script>")}), 422, "not a picture"),
            (client.post("/", files={"file": ("<b>.jpg", b"text")}), 422, "&lt;b&gt;.jpg"),
            (client.post("/", files={"file": ("a.jpg", bytes(20_000))}), 413, "SIMILE_MAX_BYTES"),
            (client.post("/", files={"file": ("a.jpg", bytes(200_000))}), 413, "SIMILE_MAX_BYTES"),
        ]
    for response, status, reason in answers:
        assert response.status_code == status
        assert response.headers["content-type"].startswith("text/html")
        assert 'role="alert"' in response.text and reason in response.text
        assert "Or try one of these" in response.text
