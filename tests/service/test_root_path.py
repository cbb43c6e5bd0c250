"""The service below the path prefix of a proxy, which removes it or passes it on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urldefrag

import pytest
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from simile.core.errors import BadSetting
from simile.core.settings import Settings, load_settings
from simile.service.app import create_app
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home
from tests.conftest import Copies
from tests.support.browser import opened, serving
from tests.support.images import noise

PREFIX = "/photos"
MAX_PAGES = 150


class Proxy:
    """Shows an application below the prefix, and nothing elsewhere."""

    def __init__(self, app: ASGIApp, *, removes_prefix: bool) -> None:
        self.app, self.removes_prefix = app, removes_prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            assert scope["path"].startswith(f"{PREFIX}/") or scope["path"] == PREFIX, f"outside: {scope['path']}"
            if self.removes_prefix:
                path = scope["path"].removeprefix(PREFIX) or "/"
                scope = {**scope, "path": path, "raw_path": scope["raw_path"].removeprefix(PREFIX.encode()) or b"/"}
        await self.app(scope, receive, send)


class Links(HTMLParser):
    """The addresses in the attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: set[str] = set()
        self.feed(page)

    def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            is_address = name in ("href", "src", "action") or name.startswith("data-")
            if is_address and value and value.startswith("/"):
                self.addresses.add(urldefrag(value).url)


@pytest.fixture(params=[True, False], ids=["removed", "passed on"])
def client(request: pytest.FixtureRequest, copies: Copies) -> Iterator[TestClient]:
    settings = copies.settings.model_copy(update={"root_path": PREFIX, "roots": f"photos={copies.photos}"})
    with TestClient(Proxy(create_app(settings), removes_prefix=request.param), follow_redirects=False) as client:
        yield client


def iterate_urls(value: Any) -> Iterator[str]:
    """The addresses in the fields of JSON whose names say so."""
    if isinstance(value, list):
        for item in value:
            yield from iterate_urls(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if isinstance(item, str) and (name == "url" or name.endswith("_url")) and not item.startswith("data:"):
                yield item
            yield from iterate_urls(item)


def test_every_address_of_every_page_leads_somewhere_below_the_prefix(client: TestClient) -> None:
    waiting, seen = [f"{PREFIX}/", PREFIX, f"{PREFIX}/?positive_id=1&positive_id=2&negative_id=3"], set[str]()
    page_paths = set[str]()
    while waiting and len(seen) < MAX_PAGES:
        address = waiting.pop(0)
        response = client.get(address)
        assert response.status_code in (200, 405), (address, response.status_code)
        seen.add(address)
        found = set[str]()
        if response.headers["content-type"].startswith("text/html"):
            page_paths.add(address.partition("?")[0])
            found = Links(response.text).addresses
        elif response.headers["content-type"] == "application/json":
            found = set(iterate_urls(response.json()))
        assert all(url.startswith(f"{PREFIX}/") for url in found), found
        waiting += sorted(found - seen - set(waiting))
    names = {path.removeprefix(PREFIX) for path in page_paths}
    assert {"/", "/collection", "/map", "/latent", "/duplicates", "/jobs", "/docs", "/pictures/1"} <= names


def test_responses_of_the_api_name_addresses_below_the_prefix(client: TestClient) -> None:
    image = noise(5)
    added = client.post(f"{PREFIX}/v1/images", files={"file": image})
    assert added.headers["location"] == f"{PREFIX}/v1/images/{added.json()['image_id']}"
    found = client.post(f"{PREFIX}/v1/search", files={"file": image}, params={"include": "reconstruction"}).json()
    several = client.post(f"{PREFIX}/v1/search/batch", json={"searches": [{"image_id": 1}, {"image_id": 424242}]})
    large = client.post(f"{PREFIX}/v1/search", json={"image_id": 1, "limit": 1000}).json()
    job = client.post(f"{PREFIX}/v1/jobs", json={"root": "photos"})
    assert job.headers["location"] == job.json()["url"]
    urls = list(iterate_urls([found, several.json(), large, job.json(), client.get(f"{PREFIX}/v1/duplicates").json()]))
    assert len(urls) > 100
    assert all(url.startswith(f"{PREFIX}/v1/") for url in urls)
    assert several.json()["results"][1]["problem"]["instance"] == f"{PREFIX}/v1/search"
    assert client.get(f"{PREFIX}/v1/images/424242").json()["instance"] == f"{PREFIX}/v1/images/424242"
    assert client.get(f"{PREFIX}/openapi.json").json()["servers"] == [{"url": PREFIX}]
    with client.stream("GET", job.json()["events_url"]) as events:
        data = next(line for line in events.iter_lines() if line.startswith("data: "))
    assert json.loads(data.removeprefix("data: "))["url"] == job.json()["url"]


def test_redirects_stay_below_the_prefix(client: TestClient) -> None:
    assert client.get(f"{PREFIX}/map/").headers["location"] == f"http://testserver{PREFIX}/map"
    assert client.get(f"{PREFIX}/signin?next={PREFIX}/collection").headers["location"] == f"{PREFIX}/collection"
    for elsewhere in ("/other/application", "//evil.example", "/photosynthesis", ""):
        assert client.get(f"{PREFIX}/signin?next={elsewhere}").headers["location"] == f"{PREFIX}/"


@pytest.mark.parametrize("removes_prefix", [True, False])
@pytest.mark.parametrize(("scheme", "cookie"), [("http", "simile_session"), ("https", "__Secure-simile_session")])
def test_a_session_is_one_of_the_prefix(
    home_with_digits: Settings, removes_prefix: bool, scheme: str, cookie: str
) -> None:
    with Catalogue(Home(home_with_digits.home)) as catalogue:
        key = catalogue.keys.create("visitor", "search")[0].text
    settings = home_with_digits.model_copy(update={"root_path": PREFIX, "allowed_hosts": "testserver"})
    proxy = Proxy(create_app(settings), removes_prefix=removes_prefix)
    with TestClient(proxy, base_url=f"{scheme}://testserver", headers={"Accept": "text/html"}) as client:
        form = client.get(f"{PREFIX}/collection?sort=id", follow_redirects=False)
        assert form.headers["location"] == f"{PREFIX}/signin?next=%2Fphotos%2Fcollection%3Fsort%3Did"
        (action,) = re.findall(r'<form action="([^"]+)"', client.get(form.headers["location"]).text)
        signed_in = client.post(action, data={"key": key}, follow_redirects=False)
        assert signed_in.headers["location"] == f"{PREFIX}/collection?sort=id"
        assert signed_in.headers["set-cookie"].startswith(f"{cookie}=")
        assert f"Path={PREFIX};" in signed_in.headers["set-cookie"]
        assert client.get(signed_in.headers["location"]).status_code == 200
        signed_out = client.post(f"{PREFIX}/signout", follow_redirects=False)
        assert signed_out.headers["location"] == f"{PREFIX}/signin"
        assert client.get(f"{PREFIX}/collection", follow_redirects=False).status_code == 303
        followed = client.get(f"{PREFIX}/map", headers={"Sec-Fetch-Site": "cross-site"})
        assert f'content="0;url={PREFIX}/map"' in followed.text


def test_health_checks_need_no_prefix(home_with_digits: Settings) -> None:
    with TestClient(create_app(home_with_digits.model_copy(update={"root_path": PREFIX}))) as client:
        assert client.get("/livez").status_code == 200
        assert client.get("/photosynthesis").status_code == 404


@pytest.mark.parametrize("given", ["/photos", "/photos/", "/a/b.c~d_e-f"])
def test_a_prefix_is_taken_without_the_slash_at_its_end(given: str) -> None:
    assert load_settings(root_path=given).root_path == given.rstrip("/")


@pytest.mark.parametrize("given", ["photos", "//photos", "/a/../b", "/a b", "/a?b", "https://host/a", "/\N{SNOWMAN}"])
def test_a_prefix_that_is_no_path_is_refused(given: str) -> None:
    with pytest.raises(BadSetting, match="SIMILE_ROOT_PATH"):
        load_settings(root_path=given)


@pytest.mark.parametrize("given", ["/v1", "/map/below", "/static"])
def test_a_prefix_that_begins_like_a_path_of_simile_is_refused(given: str, home: Home) -> None:
    with pytest.raises(BadSetting, match="a path of simile itself"):
        create_app(load_settings(home=home.root, root_path=given))


def test_scripts_ask_only_below_the_prefix(browser: Any, copies: Copies) -> None:
    settings = copies.settings.model_copy(update={"root_path": PREFIX})
    paths: list[str] = []
    with serving(settings) as address, opened(browser, address) as page:
        page.on("request", lambda request: paths.append(request.url.removeprefix(address)))
        page.goto(f"{PREFIX}/")
        page.set_input_files("#file", [copies.photos / "camera/00.png"])
        page.locator("#hits").wait_for()
        assert page.url == f"{address}{PREFIX}/"
        page.locator("#hits a.frame").nth(1).click()
        page.locator("dialog.sheet[open] .between input").wait_for()
        page.goto(f"{PREFIX}/collection")
        page.set_input_files("#add", [copies.photos / "camera/01.png"])
        assert page.locator(".arrivals a").first.get_attribute("href").startswith(f"{PREFIX}/pictures/")
    asked = [path for path in paths if not path.startswith("data:")]
    assert asked
    assert [path for path in asked if not path.startswith(f"{PREFIX}/")] == []
