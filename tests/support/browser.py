"""A real browser and a real server for the tests of pages."""

from __future__ import annotations

import base64
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import pytest
import uvicorn

from simile.core.settings import Settings
from simile.service.app import create_app
from tests.support.waiting import wait_until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",  # chromium refuses to run as root, as in a container, with it
    "--disable-gpu",
    "--in-process-gpu",  # a process less for each browser to talk to
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
DESK = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """The address of a service of this home, in a thread of this process."""
    server = uvicorn.Server(uvicorn.Config(create_app(settings), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:  # or a test that fails leaves a thread behind, for which the whole run would wait
        server.should_exit = True
        thread.join()


@contextmanager
def launched(playwright: Any) -> Iterator[Any]:
    """Chromium, by the module playwright.sync_api."""
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, address: str, *, expected: Sequence[str] = (), **context: Any) -> Iterator[Any]:
    """A page of its own. At its end, no page asked another server for anything, and no script failed or complained.

    expected: what the browser's console may say, such as of a request that is meant to be refused.
    """
    failed: list[str] = []
    with closing(browser.new_context(base_url=address, **context)) as made:
        made.on("weberror", lambda error: failed.append(str(error.error)))
        made.on("console", lambda said: _complaint(said, expected, failed))
        made.on("request", lambda request: _only_this_server(request.url, address, failed))
        yield made.new_page()
    assert failed == []


def violations(page: Any, *rules: str, beside: str = "") -> list[tuple[str, list[str]]]:
    """What axe finds on a page by these rules, or by all: the rule and the elements.

    beside: a selector of elements that it leaves out, with what is in them.
    """
    axe = pytest.importorskip("axe_playwright_python.base", reason="needs axe-playwright-python")
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(axe.AXE_SCRIPT)
    options: dict[str, Any] = {"resultTypes": ["violations"]} | ({"runOnly": rules} if rules else {})
    context = {"exclude": [[beside]]} if beside else {"include": [["html"]]}
    found = page.evaluate("given => axe.run(...given).then((all) => all.violations)", [context, options])
    return [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]


def layout_problems(page: Any, alike: str = "") -> list[tuple[str, list[str]]]:
    """What is wrong with a page at the size of a desk and of a phone: what axe finds, and scrolling sideways.

    All rules at both sizes, contrast in light and dark. The page stays as on a phone until it goes to an address.

    alike: a selector of elements of which the page has many more of the same making; axe looks at them once.
    """
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    found = [*violations(page), *scrolls_sideways(page, DESK["width"])]
    page.emulate_media(color_scheme="dark")
    found += violations(page, "color-contrast", beside=alike)
    devtools = page.context.new_cdp_session(page)
    devtools.send("Emulation.setDeviceMetricsOverride", PHONE | {"deviceScaleFactor": 1, "mobile": True})
    devtools.send("Emulation.setTouchEmulationEnabled", {"enabled": True})
    found += [*violations(page, beside=alike), *scrolls_sideways(page, PHONE["width"])]
    devtools.detach()
    return found


def scrolls_sideways(page: Any, width: int) -> list[tuple[str, list[str]]]:
    found = page.evaluate("document.documentElement.scrollWidth")
    return [] if found == width else [("scrolls sideways", [str(found)])]


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
    """Whether the image of an <img> has arrived and could be drawn."""
    return bool(image.evaluate("async (img) => { await img.decode(); return img.naturalWidth > 0 }"))


def _complaint(said: Any, expected: Sequence[str], failed: list[str]) -> None:
    if said.type in ("error", "warning") and not any(part in said.text for part in expected):
        failed.append(said.text)


def _only_this_server(url: str, address: str, failed: list[str]) -> None:
    if not url.startswith((address, "data:")):
        failed.append(f"asked {url}")
