"""The API as a page: every operation is in it, it needs nothing from elsewhere, and axe finds nothing."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from simile.core.settings import Settings
from simile.service.app import create_app
from tests.support.browser import needs_browser, opened


def test_every_operation_parameter_and_example_is_there(home_with_digits: Settings) -> None:
    app = create_app(home_with_digits)
    with TestClient(app) as client:
        page = client.get("/docs")
        assert page.status_code == 200 and "default-src 'none'" in page.headers["content-security-policy"]
        assert client.get("/docs/oauth2-redirect").status_code == 404
        for path, methods in app.openapi()["paths"].items():
            for method, operation in methods.items():
                anchor = f"{method} {path}".lower()
                assert path in page.text and f"{method.upper()}</span>" in page.text, anchor
                for parameter in operation.get("parameters", []):
                    assert f"<code>{parameter['name']}</code>" in page.text
        assert "http://" not in page.text and "https://" not in page.text
        assert "&#34;image_id&#34;: 17" in page.text


@needs_browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_it_is_read_in_a_browser_without_a_script(browser: Any, address: str, width: int, scheme: str) -> None:
    axe_core = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    with opened(browser, address, viewport={"width": width, "height": 900}, color_scheme=scheme) as page:
        page.goto("/docs")
        page.get_by_role("link", name="POST /v1/search", exact=True).click()
        card = page.locator("#post-v1-search")
        card.locator("summary").first.click()
        card.get_by_text("certainty", exact=True).first.wait_for()
        found = axe_core.Axe().run(page).response["violations"]
        assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
