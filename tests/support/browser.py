"""A real browser and a real server for the tests of pages."""

from __future__ import annotations

import base64
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import pytest
import uvicorn

from simile.core.settings import Settings
from simile.service.app import create_app

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


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """The address of a service of this home, in a thread of this process."""
    server = uvicorn.Server(uvicorn.Config(create_app(settings), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
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
    """A page of its own. At its end, nothing was asked of another server, and no script failed or complained.

    expected: what the browser's console may say, such as of a request that is meant to be refused.
    """
    with closing(browser.new_context(base_url=address, **context)) as made:
        made.set_default_timeout(10_000)
        page = made.new_page()
        failed: list[str] = []
        page.on("pageerror", lambda error: failed.append(str(error)))
        page.on("console", lambda said: _complaint(said, expected, failed))
        page.on("request", lambda request: _only_this_server(request.url, address, failed))
        yield page
    assert failed == []


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
