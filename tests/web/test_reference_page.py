"""The API as a page: every operation is in it, it needs nothing from elsewhere, and axe finds nothing."""

from __future__ import annotations

from typing import Any

from fastapi.testclient import TestClient

from tests.support.browser import DESK, layout_problems, opened

MORE_OPERATIONS = ".operation:not(#post-v1-search):nth-of-type(n + 6)"


def test_every_operation_parameter_and_example_is_there(shared_client: TestClient) -> None:
    page = shared_client.get("/docs")
    assert page.status_code == 200 and "default-src 'none'" in page.headers["content-security-policy"]
    assert shared_client.get("/docs/oauth2-redirect").status_code == 404
    for path, methods in shared_client.app.openapi()["paths"].items():  # type: ignore[attr-defined]
        for method, operation in methods.items():
            anchor = f"{method} {path}".lower()
            assert path in page.text and f"{method.upper()}</span>" in page.text, anchor
            for parameter in operation.get("parameters", []):
                assert f"<code>{parameter['name']}</code>" in page.text
    assert "http://" not in page.text and "https://" not in page.text
    assert "&#34;image_id&#34;: 17" in page.text


def test_it_is_read_in_a_browser_without_a_script(browser: Any, shared_address: str) -> None:
    with opened(browser, shared_address, viewport=DESK) as page:
        page.goto("/docs")
        page.get_by_role("link", name="POST /v1/search", exact=True).click()
        card = page.locator("#post-v1-search")
        card.locator("summary").first.click()
        card.get_by_text("certainty", exact=True).first.wait_for()
        assert layout_problems(page, alike=MORE_OPERATIONS) == []
