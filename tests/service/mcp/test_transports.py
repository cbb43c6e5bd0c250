"""The MCP server over Streamable HTTP, behind the checks of the service, and over stdio."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from starlette.testclient import TestClient

from simile.core.errors import BadSetting
from simile.core.settings import Settings
from simile.service.app import create_app
from simile.service.mcp.server import MAX_CALL_BYTES
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home
from tests.conftest import app_client
from tests.support.commands import run_simile

URL = "http://testserver/mcp"
ACCEPT = {"Accept": "application/json, text/event-stream"}
LIST_TOOLS = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


def with_mcp(settings: Settings, **more: Any) -> Settings:
    return settings.model_copy(update={"mcp": True, **more})


def make_key(settings: Settings, rate: int | None = None) -> str:
    with Catalogue(Home.from_settings(settings)) as catalogue:
        return catalogue.keys.create(f"agent {rate}", "search", rate=rate)[0].text


def run_http_client(settings: Settings, key: str, use: Callable[[Client], Awaitable[Any]], **options: Any) -> Any:
    """What `use` returns, for a client of the service of this home."""

    async def run() -> Any:
        app = create_app(settings)
        headers = {"Authorization": f"Bearer {key}"}
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=httpx2.ASGITransport(app), headers=headers) as http,
            Client(streamable_http_client(URL, http_client=http), **options) as client,
        ):
            return await use(client)

    return asyncio.run(run())


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_client_with_a_key_calls_tools_over_http(home_with_digits: Settings, mode: Any) -> None:
    settings = with_mcp(home_with_digits)

    async def use(client: Client) -> Any:
        return await client.call_tool("find_neighbours", {"image_id": 1, "limit": 3})

    result = run_http_client(settings, make_key(settings), use, mode=mode)
    assert len(result.structured_content["hits"]) == 3


def test_requests_pass_the_checks_of_the_service(home_with_digits: Settings) -> None:
    settings = with_mcp(home_with_digits)
    key, slow_key = make_key(settings), make_key(settings, rate=1)
    with app_client(settings) as client:

        def send(key: str | None = None, **headers: str) -> Any:
            credential = {} if key is None else {"Authorization": f"Bearer {key}"}
            return client.post("/mcp", json=LIST_TOOLS, headers=ACCEPT | credential | headers)

        assert send(key).json()["result"]["tools"]
        assert send().status_code == 401 and send("simile_wrong").status_code == 401
        assert send(key, Host="evil.example").status_code == 421
        assert send(key, Origin="https://evil.example").status_code == 403
        assert send(slow_key).status_code == 200 and send(slow_key).status_code == 429
        assert client.get("/mcp", headers={"X-API-Key": key}).status_code == 405


def test_a_call_larger_than_the_limit_is_refused(shared_home: Settings) -> None:
    with app_client(with_mcp(shared_home)) as client:
        large = json.dumps(LIST_TOOLS) + " " * MAX_CALL_BYTES
        headers = ACCEPT | {"Content-Type": "application/json"}
        assert client.post("/mcp", content=large, headers=headers).status_code == 413


def test_agents_are_served_only_if_the_setting_is_on(shared_client: TestClient) -> None:
    assert shared_client.post("/mcp", json=LIST_TOOLS, headers=ACCEPT).status_code == 404


def test_without_the_package_the_error_names_the_extra(shared_home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simile.service.mcp.server", None)
    with pytest.raises(BadSetting, match=r"pip install 'simile\[mcp\]'"):
        create_app(with_mcp(shared_home))
    with pytest.raises(BadSetting, match=r"pip install 'simile\[mcp\]'"):
        run_simile("mcp", "--home", shared_home.home)


def test_a_root_that_is_no_folder_is_an_error(shared_home: Settings, tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="is not a folder"):
        run_simile("mcp", "--home", shared_home.home, "--root", tmp_path / "gone")


def test_a_process_serves_its_parent_over_stdio(shared_home: Settings, _trained: tuple[Path, Path]) -> None:
    photos = _trained[1]
    arguments = ["-m", "simile.cli.main", "mcp", "--home", str(shared_home.home), "--root", str(photos)]
    parameters = StdioServerParameters(command=sys.executable, args=arguments, env=dict(os.environ))

    async def run() -> Any:
        async with Client(stdio_client(parameters)) as client:
            return await client.call_tool("search_images", {"image_path": str(sorted(photos.iterdir())[0])})

    assert len(asyncio.run(run()).structured_content["hits"]) == 10
