"""Who may do what: keys, cookies, scopes, rates, names and origins, on the real app."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.testclient import TestClient

from simile.core.errors import BadSetting
from simile.core.hosts import is_loopback, parse_host_header
from simile.core.keys import SCOPES as KEY_SCOPES
from simile.core.keys import Scope, scope_allows
from simile.core.settings import Settings, load_settings
from simile.service.app import create_app
from simile.service.security import scopes
from simile.service.security.api_keys import Authenticator, Credential
from simile.service.security.authorization import (
    MAX_BUCKETS,
    MAX_WRONG_KEYS_PER_MINUTE,
    RateLimiter,
    StreamRevocationGuard,
)
from simile.service.security.proxies import apply_forwarded_headers, get_client_address, is_local_client
from simile.service.security.sessions import get_local_url
from simile.service.server.server import check_binding
from simile.service.web.login import MAX_SIGN_IN_ATTEMPTS
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.keys import KeyRepository
from simile.store.database import schema
from simile.store.home import Home

SESSION_COOKIE = "simile_session"
SOON = 1.0  # seconds within which a change of keys reaches a running service
PAGE = {"Accept": "text/html,application/xhtml+xml"}


def home_of(settings: Settings) -> Home:
    return Home.from_settings(settings)


@contextmanager
def serving(settings: Settings, address: str = "testclient", **options: Any) -> Iterator[TestClient]:
    """A client at this address. Cookies marked as secure are kept only over https, as by a browser."""
    app = create_app(settings)
    with TestClient(app, raise_server_exceptions=False, client=(address, 50_000), **options) as client:
        client.follow_redirects = False
        yield client


def empty_home(template: Path, home: Path) -> Settings:
    """A home with a catalogue and nothing in it: enough to be let in or not."""
    shutil.copytree(template, home)
    return load_settings(home=home, allowed_hosts="testserver")


def make_keys(settings: Settings) -> dict[str, str]:
    """A key of each scope, by its name."""
    with Catalogue(home_of(settings)) as catalogue:
        return {scope: catalogue.keys.create(f"the {scope} key", scope)[0].text for scope in KEY_SCOPES}


@pytest.fixture
def settings(tmp_path: Path, _empty_home: Path) -> Settings:
    return empty_home(_empty_home, tmp_path / "home")


@pytest.fixture
def keys(settings: Settings) -> dict[str, str]:
    return make_keys(settings)


@pytest.fixture
def client(settings: Settings, keys: dict[str, str]) -> Iterator[TestClient]:
    with serving(settings) as client:
        yield client


@pytest.fixture(scope="module")
def open_settings(_empty_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home without keys, for tests that make none."""
    return empty_home(_empty_home, tmp_path_factory.mktemp("open") / "home")


@pytest.fixture(scope="module")
def shared_settings(_empty_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return empty_home(_empty_home, tmp_path_factory.mktemp("shared") / "home")


@pytest.fixture(scope="module")
def shared_keys(shared_settings: Settings) -> dict[str, str]:
    return make_keys(shared_settings)


@pytest.fixture(scope="module")
def shared_client(shared_settings: Settings, shared_keys: dict[str, str]) -> Iterator[TestClient]:
    """A service with keys, for tests that send no wrong ones, which are counted, and keep no cookie."""
    with serving(shared_settings) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def refused(response: Any, status: int, kind: str) -> Any:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == f"urn:problem-type:simile:{kind}"
    return response


def sign_in(client: TestClient, key: str, there: str = "") -> Any:
    return client.post("/signin" + there, data={"key": key}, headers=PAGE)


# Scopes


def concrete(place: str) -> tuple[str, str]:
    method, _, path = place.partition(" ")
    known = {"{image_id}": "1", "{job_id}": "1", "{fingerprint}": "f" * 64}
    for name, value in known.items():
        path = path.replace(name, value)
    return method, path


def test_every_route_has_a_scope_and_an_app_with_one_that_has_none_does_not_start(open_settings: Settings) -> None:
    app = create_app(open_settings)
    assert set(scopes.list_routes(app.router.routes)) <= scopes.ROUTE_SCOPES.keys()

    @app.get("/v1/forgotten")
    def forgotten() -> None:
        """Nobody said what it asks of a key."""

    with pytest.raises(RuntimeError, match="No scope for GET /v1/forgotten"):
        scopes.check_routes(app)


def test_the_table_names_no_route_that_is_not_there(open_settings: Settings) -> None:
    app = create_app(open_settings.model_copy(update={"mcp": True}))
    assert scopes.ROUTE_SCOPES.keys() <= set(scopes.list_routes(app.router.routes))


@pytest.mark.parametrize("place", scopes.ROUTE_SCOPES)
def test_each_route_takes_the_scopes_that_cover_it_and_no_other(
    shared_client: TestClient, shared_keys: dict[str, str], place: str
) -> None:
    method, path = concrete(place)
    wanted = scopes.ROUTE_SCOPES[place]
    if wanted == "public":
        answer = shared_client.request(method, path)
        assert answer.status_code != 401 and "missing-scope" not in answer.text
        return
    needs = refused(shared_client.request(method, path), 401, "key-needed")
    assert needs.headers["www-authenticate"] == 'Bearer realm="simile"'
    for name, key in shared_keys.items():
        scope: Scope = name  # type: ignore[assignment]
        if not scope_allows(scope, wanted):
            answer = refused(shared_client.request(method, path, headers=bearer(key)), 403, "missing-scope")
            assert f"`{wanted}`" in answer.json()["detail"]
        elif not path.endswith("/events"):
            answer = shared_client.request(method, path, headers=bearer(key))
            assert answer.status_code not in (401, 403), answer.text


def test_an_address_that_the_router_takes_for_another_is_the_other_to_the_table_too() -> None:
    for path in ("/v1/jobs", "/v1/jobs\n", "/v1/jobs/1/cancel", "/v1/jobs/1/cancel\n", "/v1/jobs/\n/cancel"):
        assert scopes.get_required_scope("POST", path) == "admin", path
    assert scopes.get_required_scope("HEAD", "/v1/jobs/1") == "write"


def test_an_address_that_is_none_tells_nothing_without_a_key(
    shared_client: TestClient, shared_keys: dict[str, str]
) -> None:
    refused(shared_client.get("/v1/secrets"), 401, "key-needed")
    refused(shared_client.get("/static/../v1/images"), 401, "key-needed")
    assert shared_client.get("/v1/secrets", headers=bearer(shared_keys["search"])).status_code == 404
    assert shared_client.patch("/v1/images", headers=bearer(shared_keys["search"])).status_code == 405


def test_the_openapi_document_says_which_scope_and_how_it_is_refused(
    shared_client: TestClient, shared_keys: dict[str, str]
) -> None:
    document = shared_client.get("/openapi.json", headers=bearer(shared_keys["search"])).json()
    assert {"bearer", "header", "cookie"} == document["components"]["securitySchemes"].keys()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            wanted = scopes.get_required_scope(method.upper(), path)
            if wanted != "public":
                assert f"scope `{wanted}`" in operation["description"]
                assert {"401", "403", "421", "429"} <= operation["responses"].keys()


# Keys


def test_a_key_is_taken_from_both_headers_and_whatever_is_wrong_is_401(
    client: TestClient, keys: dict[str, str]
) -> None:
    key = keys["search"]
    for headers in (bearer(key), {"Authorization": f"bearer  {key} "}, {"X-API-Key": key}):
        assert client.get("/v1/secrets", headers=headers).status_code == 404
    for text in (key[:-1], key + "x", key.upper(), "simile_", "Ключ".encode(), "' OR 1=1 --"):
        refused(client.get("/v1/images", headers={"X-API-Key": text}), 401, "key-refused")
    refused(client.get("/v1/images", headers={"Authorization": f"Basic {key}"}), 401, "key-needed")
    refused(client.get(f"/v1/images?key={key}&api_key={key}"), 401, "key-needed")


def test_the_secret_of_one_key_does_not_open_with_the_prefix_of_another(
    client: TestClient, keys: dict[str, str]
) -> None:
    mixed = keys["admin"][:20] + keys["search"][20:]
    refused(client.get("/v1/images", headers=bearer(mixed)), 401, "key-refused")


def test_with_the_first_key_a_running_service_is_closed_within_a_second(settings: Settings) -> None:
    with serving(settings) as one, serving(settings) as other:
        assert one.get("/v1/secrets").status_code == other.get("/v1/secrets").status_code == 404
        with Catalogue(home_of(settings)) as catalogue:
            key = catalogue.keys.create("first", "search")[0].text
        assert one.get("/v1/secrets", headers=bearer(key)).status_code == 404
        time.sleep(SOON)
        for client in (one, other):
            refused(client.get("/v1/secrets"), 401, "key-needed")
            assert client.get("/v1/secrets", headers=bearer(key)).status_code == 404


def test_a_key_that_was_just_made_opens_at_once(client: TestClient, settings: Settings) -> None:
    for name in ("one", "two", "three"):
        with Catalogue(home_of(settings)) as catalogue:
            key = catalogue.keys.create(name, "search")[0].text
        assert client.get("/v1/secrets", headers=bearer(key)).status_code == 404


def test_a_revoked_key_opens_nothing_a_second_later_in_any_worker_nor_does_its_cookie(
    settings: Settings, keys: dict[str, str]
) -> None:
    with serving(settings) as one, serving(settings) as other:
        sign_in(one, keys["write"])
        other.cookies.set(SESSION_COOKIE, one.cookies[SESSION_COOKIE])
        for client in (one, other):
            assert client.get("/v1/secrets").status_code == 404
            assert client.get("/v1/secrets", headers=bearer(keys["write"])).status_code == 404
        with Catalogue(home_of(settings)) as catalogue:
            catalogue.keys.revoke("the write key")
        time.sleep(SOON)
        for client in (one, other):
            refused(client.get("/v1/secrets"), 401, "key-refused")
            refused(client.get("/v1/secrets", headers=bearer(keys["write"])), 401, "key-refused")
            assert client.get("/v1/secrets", headers=bearer(keys["search"])).status_code == 404


class InAnHour(datetime):
    """A clock that is an hour ahead."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Any:
        return datetime.now(tz) + timedelta(hours=1)


def test_a_key_ends_at_its_moment_though_it_is_remembered(
    settings: Settings, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Catalogue(home_of(settings)) as catalogue:
        key = catalogue.keys.create("short", "search", lifetime=timedelta(hours=1))[0].text
    with serving(settings) as client:
        assert client.get("/v1/secrets", headers=bearer(key)).status_code == 404
        monkeypatch.setattr("simile.service.security.api_keys.datetime", InAnHour)
        refused(client.get("/v1/secrets", headers=bearer(key)), 401, "key-refused")


def test_a_home_whose_keys_are_all_revoked_stays_closed(client: TestClient, settings: Settings) -> None:
    with Catalogue(home_of(settings)) as catalogue:
        for key in catalogue.keys.get_all():
            catalogue.keys.revoke(key.name)
    time.sleep(SOON)
    refused(client.get("/v1/images"), 401, "key-needed")


def test_a_catalogue_that_cannot_be_asked_lets_nobody_in(settings: Settings, keys: dict[str, str]) -> None:
    with serving(settings) as client:
        home_of(settings).catalogue_path.write_bytes(b"no database" * 1000)
        answer = client.get("/v1/images", headers=bearer(keys["admin"]))
        assert answer.status_code == 503 and "damaged" in answer.json()["detail"]
        assert client.get("/livez").status_code == 200


def test_a_service_without_a_home_is_open_to_its_own_machine(tmp_path: Path) -> None:
    with serving(load_settings(home=tmp_path / "none")) as client:
        assert client.get("/v1/images").status_code == 409
        assert client.get("/signin").headers["location"] == "/"
    assert not (tmp_path / "none").exists()


def test_a_home_restored_under_a_running_service_brings_its_own_keys(settings: Settings, tmp_path: Path) -> None:
    other = Home(tmp_path / "other")
    schema.upgrade_schema(other)
    with Catalogue(other) as catalogue:
        key = catalogue.keys.create("of the other", "search")[0].text
    with serving(settings) as client:
        assert client.get("/v1/secrets").status_code == 404
        for path in home_of(settings).root.glob("catalogue.sqlite*"):
            path.unlink()
        other.catalogue_path.rename(home_of(settings).catalogue_path)
        time.sleep(SOON)
        refused(client.get("/v1/secrets"), 401, "key-needed")
        assert client.get("/v1/secrets", headers=bearer(key)).status_code == 404


# Open homes


def test_without_keys_only_the_own_machine_is_let_in(open_settings: Settings) -> None:
    far = ("192.168.1.7", "2001:db8::1", "::ffff:10.0.0.1")
    with serving(open_settings) as near:
        for address in far:
            client = TestClient(near.app, client=(address, 1))
            assert "simile keys create" in refused(client.get("/v1/images"), 403, "not-from-here").json()["detail"]
            assert client.get("/livez").status_code == 200
        for address in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
            client = TestClient(near.app, client=(address, 1))
            assert client.get("/v1/secrets").status_code == 404
            behind = client.get("/v1/secrets", headers={"X-Forwarded-For": "127.0.0.1"})
            refused(behind, 403, "not-from-here")  # a proxy in front: nobody knows who it is
    with serving(open_settings.model_copy(update={"insecure": True})) as client:
        for address in far:
            assert TestClient(client.app, client=(address, 1)).get("/v1/secrets").status_code == 404


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "photos.example", ""])
def test_without_keys_the_service_refuses_to_be_reached_by_others(settings: Settings, host: str) -> None:
    public = settings.model_copy(update={"host": host})
    with pytest.raises(BadSetting, match="simile keys create NAME"):
        check_binding(public)
    with pytest.raises(BadSetting, match="--insecure"):
        check_binding(public.model_copy(update={"home": settings.home / "nothing"}))
    check_binding(public.model_copy(update={"insecure": True}))
    with Catalogue(home_of(settings)) as catalogue:
        catalogue.keys.create("first", "search")
    check_binding(public)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "LOCALHOST."])
def test_loopback_needs_no_key(open_settings: Settings, host: str) -> None:
    check_binding(open_settings.model_copy(update={"host": host}))


# Names and origins


def test_a_name_that_is_not_the_service_s_gets_nothing_so_that_no_site_can_rebind_its_own(
    open_settings: Settings,
) -> None:
    only_here = open_settings.model_copy(update={"allowed_hosts": None})
    with serving(only_here) as client:
        for host in ("localhost", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST:1", "localhost."):
            assert client.get("/v1/secrets", headers={"Host": host}).status_code == 404, host
        for host in (
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost:80@evil.example",
            "",
            "a b",
            "[::1",
            "0.0.0.0",
        ):
            refused(client.get("/v1/secrets", headers={"Host": host}), 421, "wrong-host")
            assert client.get("/livez", headers={"Host": host}).status_code == 200
    named = open_settings.model_copy(update={"allowed_hosts": "photos.example, 10.0.0.5"})
    with serving(named) as client:
        for host in ("Photos.Example:443", "10.0.0.5", "localhost"):
            assert client.get("/v1/secrets", headers={"Host": host}).status_code == 404
        refused(client.get("/v1/secrets", headers={"Host": "evil.example"}), 421, "wrong-host")


def test_with_a_public_address_and_keys_any_name_will_do_unless_some_are_listed(
    settings: Settings, keys: dict[str, str]
) -> None:
    public = settings.model_copy(update={"host": "0.0.0.0", "allowed_hosts": None})
    with serving(public) as client:
        refused(client.get("/v1/images", headers={"Host": "photos.example"}), 401, "key-needed")
    with serving(public.model_copy(update={"allowed_hosts": "photos.example"})) as client:
        refused(client.get("/v1/images", headers={"Host": "evil.example"}), 421, "wrong-host")


BROWSERS: list[tuple[dict[str, str], bool]] = [
    ({}, True),
    ({"Sec-Fetch-Site": "same-origin", "Origin": "http://testserver"}, True),
    ({"Sec-Fetch-Site": "none"}, True),
    ({"Sec-Fetch-Site": "cross-site"}, False),
    ({"Sec-Fetch-Site": "same-site"}, False),
    ({"Sec-Fetch-Site": "cross-site", "Origin": "http://testserver"}, False),
    ({"Origin": "http://testserver"}, True),
    ({"Origin": "http://testserver:8001"}, False),
    ({"Origin": "http://evil.example"}, False),
    ({"Origin": "http://testserver.evil.example"}, False),
    ({"Origin": "null"}, False),
    ({"Origin": "http://[::1"}, False),
    ({"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"}, True),
]


@pytest.fixture(scope="module")
def cors_client(open_settings: Settings) -> Iterator[TestClient]:
    """A service that lets pages of https://app.example read its answers."""
    with serving(open_settings.model_copy(update={"cors_origins": "https://app.example"})) as client:
        yield client


@pytest.mark.parametrize(("headers", "fine"), BROWSERS)
def test_pages_of_other_sites_can_have_nothing_done(
    cors_client: TestClient, headers: dict[str, str], fine: bool
) -> None:
    for method, path in (("POST", "/v1/nothing"), ("PUT", "/v1/nothing"), ("DELETE", "/v1/nothing")):
        response = cors_client.request(method, path, headers=headers)
        assert response.status_code == 404 if fine else refused(response, 403, "cross-site")
    own = headers.get("Origin", "") in ("", "http://testserver", "https://app.example")
    assert cors_client.get("/v1/nothing", headers=headers).status_code == (404 if own else 403)


def test_cors_is_closed_unless_an_origin_is_named_and_never_takes_cookies(
    open_settings: Settings, cors_client: TestClient
) -> None:
    headers = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    with serving(open_settings) as client:
        for response in (client.options("/v1/search", headers=headers), client.get("/v1/images", headers=headers)):
            assert not [name for name in response.headers if name.startswith("access-control-allow")]
    allowed = cors_client.options("/v1/search", headers=headers | {"Access-Control-Request-Headers": "authorization"})
    assert allowed.headers["access-control-allow-origin"] == "https://app.example"
    assert "access-control-allow-credentials" not in allowed.headers
    strange = {**headers, "Origin": "https://evil.example"}
    for response in (
        cors_client.options("/v1/search", headers=strange),
        cors_client.get("/v1/images", headers=strange),
    ):
        assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cors_origins", "*"),
        ("cors_origins", "app.example"),
        ("cors_origins", "https://app.example/"),
        ("allowed_hosts", "https://a.example"),
        ("allowed_hosts", "*"),
        ("trusted_proxies", "proxy"),
        ("trusted_proxies", "10.0.0.1/8"),
    ],
)
def test_a_setting_that_would_open_more_than_is_said_is_refused(name: str, value: str) -> None:
    with pytest.raises(BadSetting, match=f"SIMILE_{name.upper()}"):
        load_settings(**{name: value})


# Sessions


def test_a_page_leads_to_the_form_and_the_form_back_to_the_page(client: TestClient, keys: dict[str, str]) -> None:
    first = client.get("/collection?sort=newest&format=png", headers=PAGE)
    assert (first.status_code, first.headers["cache-control"]) == (303, "no-store")
    form = client.get(first.headers["location"], headers=PAGE)
    assert form.status_code == 200 and 'type="password"' in form.text
    there = f"?{urlsplit(first.headers['location']).query}"
    back = sign_in(client, keys["search"], there)
    assert (back.status_code, back.headers["location"]) == (303, "/collection?sort=newest&format=png")
    assert client.get("/collection", headers=PAGE).status_code not in (303, 401)
    refused(client.post("/v1/images"), 403, "missing-scope")


def test_the_cookie_is_for_this_service_alone_and_for_no_script(settings: Settings, keys: dict[str, str]) -> None:
    with serving(settings) as client:
        given = sign_in(client, keys["search"]).headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(given.split("; ")) and "Secure" not in given
    assert keys["search"] not in given and "Domain" not in given
    with serving(settings, base_url="https://testserver") as client:
        assert "Secure" in sign_in(client, keys["search"]).headers["set-cookie"].split("; ")


def test_signing_out_ends_the_session_for_copies_of_the_cookie_too(client: TestClient, keys: dict[str, str]) -> None:
    sign_in(client, keys["search"])
    stolen = client.cookies[SESSION_COOKIE]
    assert client.get("/v1/secrets").status_code == 404
    out = client.post("/signout")
    assert (out.status_code, out.headers["location"]) == (303, "/signin") and SESSION_COOKIE not in client.cookies
    client.cookies.set(SESSION_COOKIE, stolen)
    refused(client.get("/v1/secrets"), 401, "key-refused")


@pytest.mark.parametrize("key", ["", "nonsense", "<script>alert(1)</script>", "simile_000000000000_" + "A" * 43])
def test_a_wrong_key_is_told_on_the_form_and_not_shown_again(client: TestClient, key: str) -> None:
    answer = sign_in(client, key)
    assert answer.status_code == 403 and 'role="alert"' in answer.text and SESSION_COOKIE not in client.cookies
    assert not key or key not in answer.text


def test_a_form_that_is_no_sign_in_is_refused(shared_client: TestClient) -> None:
    assert shared_client.post("/signin", data={"key": "x" * 10_000}, headers=PAGE).status_code == 413
    assert shared_client.post("/signin", content=iter([b"key=", b"x"]), headers=PAGE).status_code == 413
    assert shared_client.post("/signin", files={"key": ("a.png", b"x")}, headers=PAGE).status_code == 403


@pytest.mark.parametrize(
    "there",
    [
        "//evil.example",
        "/\\evil.example",
        "https://evil.example",
        "javascript:alert(1)",
        "/a\r\nX: y",
        "/a b",
        "",
        '/">',
    ],
)
def test_nobody_is_led_away_after_signing_in(
    shared_client: TestClient, shared_keys: dict[str, str], there: str
) -> None:
    assert get_local_url(there) == "/"
    answer = shared_client.post("/signin", params={"next": there}, data={"key": shared_keys["search"]})
    shared_client.cookies.clear()
    assert answer.headers["location"] == "/"


def test_a_link_on_another_site_leads_in_with_the_cookie_that_stayed_at_home(shared_client: TestClient) -> None:
    answer = shared_client.get("/collection?a=1&b=2", headers=PAGE | {"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 200 and 'content="0;url=/collection?a=1&amp;b=2"' in answer.text
    assert shared_client.get("/collection", headers=PAGE | {"Sec-Fetch-Site": "same-origin"}).status_code == 303


def test_another_site_can_neither_sign_in_nor_out(shared_client: TestClient, shared_keys: dict[str, str]) -> None:
    for path in ("/signin", "/signout"):
        answer = shared_client.post(path, data={"key": shared_keys["search"]}, headers={"Sec-Fetch-Site": "cross-site"})
        refused(answer, 403, "cross-site")
        assert "set-cookie" not in answer.headers


def test_a_stream_of_events_ends_when_its_key_is_revoked(settings: Settings, keys: dict[str, str]) -> None:
    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        while True:
            await send({"type": "http.response.body", "body": b"data: x\n\n", "more_body": True})
            await asyncio.sleep(0.02)

    sent: list[Any] = []

    async def run() -> None:
        keyring = Authenticator(settings)
        stream = StreamRevocationGuard(endless, keyring, Credential("key", keys["write"]), keep)
        serving = asyncio.create_task(stream({}, keep))  # type: ignore[arg-type]
        await asyncio.sleep(0.2)
        with Catalogue(home_of(settings)) as catalogue:
            catalogue.keys.revoke("the write key")
        await asyncio.wait_for(serving, SOON)
        keyring.close()

    async def keep(message: Any = None) -> Any:
        sent.append(message)

    asyncio.run(run())
    assert len(sent) > 3 and sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


# Rates


def frozen(client: TestClient) -> TestClient:
    """The client of a service whose rates are measured at one moment, however long the requests take."""
    client.app.state.rate_limiter._clock = lambda: 1000.0  # type: ignore[attr-defined]
    return client


def test_a_key_has_its_own_measure_and_is_told_when_to_come_again(settings: Settings, keys: dict[str, str]) -> None:
    with Catalogue(home_of(settings)) as catalogue:
        slow = catalogue.keys.create("slow", "search", rate=3)[0].text
    with serving(settings.model_copy(update={"rate": 100})) as client:
        frozen(client)
        statuses = [client.get("/v1/secrets", headers=bearer(slow)).status_code for _ in range(5)]
        assert statuses == [404, 404, 404, 429, 429]
        waits = refused(client.get("/v1/secrets", headers=bearer(slow)), 429, "too-many-requests")
        assert 1 <= int(waits.headers["retry-after"]) <= 20
        assert client.get("/v1/secrets", headers=bearer(keys["search"])).status_code == 404
        assert client.get("/livez").status_code == client.get("/livez").status_code == 200


def test_an_address_is_measured_whatever_keys_it_has(settings: Settings, keys: dict[str, str]) -> None:
    with serving(settings.model_copy(update={"rate": 4})) as client:
        frozen(client)
        statuses = [client.get("/v1/secrets", headers=bearer(key)).status_code for key in [*keys.values()] * 2]
        assert statuses == [404] * 4 + [429] * 2


def test_without_a_rate_as_many_come_as_like(shared_client: TestClient, shared_keys: dict[str, str]) -> None:
    assert {
        shared_client.get("/v1/secrets", headers=bearer(shared_keys["search"])).status_code for _ in range(100)
    } == {404}


def test_guessing_keys_ends_soon_and_costs_those_nothing_who_have_one(client: TestClient, keys: dict[str, str]) -> None:
    assert frozen(client).get("/v1/secrets", headers=bearer(keys["search"])).status_code == 404
    guesses = [
        client.get("/v1/secrets", headers=bearer(f"guess {n}")).status_code
        for n in range(MAX_WRONG_KEYS_PER_MINUTE + 5)
    ]
    assert guesses == [401] * MAX_WRONG_KEYS_PER_MINUTE + [429] * 5
    time.sleep(0.6)  # what is known of a good key has to be asked again
    assert client.get("/v1/secrets", headers=bearer(keys["search"])).status_code == 404


def test_guessing_cookies_ends_soon_and_is_not_looked_up(
    client: TestClient, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(frozen(client), keys["search"])
    good, lookups = {"Cookie": f"{SESSION_COOKIE}={client.cookies[SESSION_COOKIE]}"}, []
    client.cookies.clear()
    find = KeyRepository.find_by_session
    monkeypatch.setattr(KeyRepository, "find_by_session", lambda *given: lookups.append(given) or find(*given))

    def ask(method: str, path: str, number: int) -> int:
        return int(client.request(method, path, headers={"Cookie": f"{SESSION_COOKIE}=guess {number}"}).status_code)

    guesses = [ask("GET", "/v1/secrets", number) for number in range(MAX_WRONG_KEYS_PER_MINUTE + 5)]
    assert guesses == [401] * MAX_WRONG_KEYS_PER_MINUTE + [429] * 5
    assert ask("POST", "/signout", 0) == 429 and len(lookups) == MAX_WRONG_KEYS_PER_MINUTE
    assert client.get("/v1/secrets", headers=bearer(keys["search"])).status_code == 404
    assert client.get("/v1/secrets", headers=good).status_code == 404


def test_requests_without_a_key_do_not_reach_the_catalogue(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.app.state.authenticator, "_clock", lambda: 0.0)  # type: ignore[attr-defined]
    assert client.get("/v1/secrets").status_code == 401
    monkeypatch.setattr(client.app.state.authenticator, "_query_catalogue", None)  # type: ignore[attr-defined]
    assert {client.get("/v1/secrets").status_code for _ in range(50)} == {401}


def test_signing_in_is_measured_more_strictly(client: TestClient, keys: dict[str, str]) -> None:
    statuses = [sign_in(frozen(client), f"guess {n}").status_code for n in range(MAX_SIGN_IN_ATTEMPTS + 2)]
    assert statuses == [403] * MAX_SIGN_IN_ATTEMPTS + [429] * 2
    late = sign_in(client, keys["search"])
    assert late.status_code == 429 and SESSION_COOKIE not in client.cookies and "Wait" in late.text


def test_a_bucket_fills_evenly_and_memory_is_bounded() -> None:
    now = 0.0
    buckets = RateLimiter(lambda: now)
    assert [buckets.take("a", 60) for _ in range(60)] == [0] * 60
    assert buckets.take("a", 60) == pytest.approx(1)
    now = 2.5
    assert [buckets.take("a", 60) for _ in range(3)] == [0, 0, pytest.approx(0.5)]
    for number in range(MAX_BUCKETS + 1000):
        buckets.take(f"address {number}", 60)
    assert len(buckets) == MAX_BUCKETS


# Proxies


def scope(address: str | None, **headers: str) -> dict[str, Any]:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "client": (address, 1) if address else None, "headers": raw, "scheme": "http"}


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("10.0.0.2", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.2", "1.1.1.1, 203.0.113.9", "203.0.113.9"),
        ("10.0.0.2", "203.0.113.9, 10.0.0.3", "203.0.113.9"),
        ("10.0.0.2", "10.0.0.4, 10.0.0.3", "10.0.0.4"),
        ("10.0.0.2", "not an address", "not an address"),
        ("10.0.0.2", "", "10.0.0.2"),
        ("203.0.113.1", "127.0.0.1", "203.0.113.1"),
    ],
)
def test_only_a_proxy_that_was_named_says_who_the_client_is(peer: str, forwarded: str, client: str) -> None:
    trusted = load_settings(trusted_proxies="10.0.0.0/8").trusted_proxies
    from simile.core.hosts import parse_networks

    asked = scope(peer, x_forwarded_for=forwarded, x_forwarded_proto="https")
    apply_forwarded_headers(asked, parse_networks(trusted))  # type: ignore[arg-type]
    assert asked["client"][0] == client
    assert asked["scheme"] == ("https" if peer.startswith("10.") else "http")


def test_addresses_are_counted_by_household() -> None:
    one, other, third = (get_client_address(scope(f"2001:db8:{end}")) for end in ("0:1::1", "0:1::ffff", "0:2::1"))
    assert one == other != third
    assert get_client_address(scope("::ffff:10.0.0.1")) == get_client_address(scope("10.0.0.1")) == "10.0.0.1"
    assert get_client_address(scope(None)) == "local" and is_local_client(scope(None))
    assert not is_local_client(scope("127.0.0.1", forwarded="for=10.0.0.1"))


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("a.example:80", "a.example"),
        ("[::1]:8000", "::1"),
        ("A.", "a"),
        ("a:b", ""),
        ("a@b", ""),
        ("::1", ""),
        ("", ""),
    ],
)
def test_the_name_in_a_host_header(header: str, host: str) -> None:
    assert parse_host_header(header) == host


def test_what_is_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost")))
    assert not any(map(is_loopback, ("", "0.0.0.0", "::", "localhost.evil.example", "127.0.0.1.evil.example", "1")))


# Heads that are too large


def test_long_heads_are_refused(shared_client: TestClient) -> None:
    refused(shared_client.get("/livez", headers={"X-Filler": "x" * 40_000}), 431, "header-too-large")
    refused(shared_client.get("/v1/images?" + "a" * 9000), 414, "address-too-long")
