"""Who may do what: looked at before anything of a body is read.

size of the head -> Host -> origin -> key or cookie -> scope -> rate -> the app

What is refused here costs a few microseconds, and at most one small query.
"""

from __future__ import annotations

import math
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from simile.core.errors import SimileError
from simile.core.hosts import host_of, is_loopback, read_hosts, read_networks, read_origins
from simile.core.keys import Scope as KeyScope
from simile.core.keys import covers
from simile.core.settings import Settings
from simile.service.errors import Refusal, problem_of, respond
from simile.service.security import scopes
from simile.service.security.api_keys import Credential, Keyring, Visitor
from simile.service.security.proxies import address_of, is_near, look_through
from simile.service.security.sessions import COOKIE, entrance

pass
import time
from collections import OrderedDict
from collections.abc import Callable

MAX_HEAD = 32 * 1024  # bytes of all headers; browsers send 2 KiB
MAX_ADDRESS = 8 * 1024  # bytes of path and query
WRONG_KEYS = 20  # a minute, from one address; people who sign in have a tighter measure (routes/signin.py)
PICTURE_COST = 0.05  # of a request: a page of hits asks for a hundred thumbnails at once

_SAFE = ("GET", "HEAD", "OPTIONS")
_PROBES = ("/livez", "/readyz")


class Access:
    """ASGI middleware. What it lets in has `state["visitor"]`: None where the home has no keys, or none are needed."""

    def __init__(self, app: ASGIApp, settings: Settings, keyring: Keyring, buckets: Buckets) -> None:
        self.app = app
        self.settings = settings
        self.keyring = keyring
        self.buckets = buckets
        self.hosts = read_hosts(settings.allowed_hosts)
        self.origins = read_origins(settings.cors_origins)
        self.proxies = read_networks(settings.trusted_proxies)
        self.checks_host = bool(self.hosts) or is_loopback(settings.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        look_through(scope, self.proxies)
        shown = credential_in(scope)
        try:
            visitor = await self._admit(scope, shown)
        except (Refusal, SimileError) as error:
            return await self._turned_away(scope, error)(scope, receive, send)
        scope.setdefault("state", {})["visitor"] = visitor
        if visitor is None or shown is None:
            return await self.app(scope, receive, send)
        return await Watched(self.app, self.keyring, shown, send)(scope, receive)

    async def _admit(self, scope: Scope, shown: Credential | None) -> Visitor | None:
        """The visitor, None where no key is needed. Raises Refusal, and SimileError where nobody can look it up."""
        headers, wanted = Headers(scope=scope), scopes.wanted_of(scope["method"], scope["path"])
        _refuse_long(scope)
        if scope["path"] in _PROBES:
            return None
        self._refuse_host(headers)
        self._refuse_cross_site(scope["method"], headers)
        locked = await self.keyring.locked()
        if not locked and not self.settings.insecure and not is_near(scope):
            raise _not_from_here()
        visitor = await self._visitor(scope, shown) if locked and wanted != "public" else None
        self._count(scope, visitor)
        if visitor is not None and wanted != "public":
            _demand(visitor, wanted)
        return visitor

    async def _visitor(self, scope: Scope, shown: Credential | None) -> Visitor:
        if shown is None:
            raise _unauthorized("key-needed", "This service needs a key: send it as `Authorization: Bearer KEY`.")
        guesses = f"guesses of {address_of(scope)}"
        if shown.by == "key" and not self.keyring.was_good(shown) and self.buckets.level(guesses, WRONG_KEYS) < 1:
            raise too_many(60 / WRONG_KEYS, "wrong keys")
        visitor = await self.keyring.visitor(shown)
        if visitor is None:
            if shown.by == "key":
                self.buckets.take(guesses, WRONG_KEYS)
            detail = "This key is unknown, expired or revoked. Ask the operator for another: `simile keys create`."
            raise _unauthorized("key-refused", detail)
        return visitor

    def _count(self, scope: Scope, visitor: Visitor | None) -> None:
        """One more request of the key, and of the address; a key with a measure of its own is held to that alone."""
        rate = self.settings.rate
        measures = [] if visitor is None else [(f"key {visitor.key_id}", visitor.rate or rate)]
        if visitor is None or visitor.rate is None:
            measures.append((f"address {address_of(scope)}", rate))
        cost = PICTURE_COST if _is_picture(scope["path"]) else 1.0
        for name, per_minute in measures:
            wait = self.buckets.take(name, per_minute, cost) if per_minute else 0
            if wait:
                raise too_many(wait, "requests")

    def _refuse_host(self, headers: Headers) -> None:
        """A page of another site may have its own name point to this machine: names that are not ours get nothing."""
        name = host_of(headers.get("host", ""))
        if self.checks_host and not is_loopback(name) and name not in self.hosts:
            detail = "The service is not known by the name in `Host`. SIMILE_ALLOWED_HOSTS lists its names."
            raise Refusal(421, "wrong-host", detail)

    def _refuse_cross_site(self, method: str, headers: Headers) -> None:
        """Nothing is searched, added or deleted because somebody visits another site: browsers say where it's from."""
        origin = headers.get("origin", "")
        if method in _SAFE or origin in self.origins:
            return
        said = headers.get("sec-fetch-site")
        fine = said in ("same-origin", "none") if said else not origin or _is_here(origin, headers.get("host", ""))
        if not fine:
            raise Refusal(403, "cross-site", "The page of another site sent this. Only this service's own page may.")

    def _turned_away(self, scope: Scope, error: Refusal | SimileError) -> Response:
        if isinstance(error, Refusal) and error.status_code == 401:
            shown = entrance(scope)
            if shown is not None:
                return shown
        return respond(Request(scope), problem_of(error))


class Watched:
    """The app for one request. A stream of events ends when the key that opened it does."""

    def __init__(self, app: ASGIApp, keyring: Keyring, shown: Credential, send: Send) -> None:
        self.app = app
        self.keyring = keyring
        self.shown = shown
        self._send = send
        self._streams = self._ended = False

    async def __call__(self, scope: Scope, receive: Receive) -> None:
        try:
            await self.app(scope, receive, self.send)
        except Exception:
            if not self._ended:  # else it is what `send` raised, in whatever it was wrapped
                raise

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kind = Headers(raw=list(message.get("headers", []))).get("content-type", "")
            self._streams = kind.startswith("text/event-stream")
        elif self._streams and message.get("more_body") and await self.keyring.visitor(self.shown) is None:
            self._ended = True
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
            raise OSError("The key was revoked while events were sent.")
        await self._send(message)


def demand(request: Request, scope: KeyScope) -> None:
    """For what depends on more than the address. Raises the 403 for a visitor whose key may not."""
    visitor: Visitor | None = request.state.visitor
    if visitor is not None:
        _demand(visitor, scope)


def credential_in(scope: Scope) -> Credential | None:
    """What the request shows: a key in one of two headers, else the page's cookie."""
    headers = Headers(scope=scope)
    kind, _, text = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and text.strip():
        return Credential("key", text.strip())
    if headers.get("x-api-key"):
        return Credential("key", headers["x-api-key"])
    cookie = Request(scope).cookies.get(COOKIE) if "cookie" in headers else None
    return Credential("cookie", cookie) if cookie else None


def too_many(wait: float, of_what: str) -> Refusal:
    """The 429 for somebody who has to wait so many seconds."""
    seconds = max(1, math.ceil(wait))
    return Refusal(429, "too-many-requests", f"Too many {of_what}. Wait {seconds} s, then go on more slowly.", seconds)


def _demand(visitor: Visitor, wanted: KeyScope) -> None:
    if not covers(visitor.scope, wanted):
        detail = f"This needs a key with the scope `{wanted}`; that of {visitor.name} has `{visitor.scope}`."
        raise Refusal(403, "missing-scope", detail)


def _unauthorized(kind: str, detail: str) -> Refusal:
    refusal = Refusal(401, kind, detail)
    refusal.headers = {"WWW-Authenticate": 'Bearer realm="simile"'}
    return refusal


def _not_from_here() -> Refusal:
    detail = (
        "This home has no keys, so it is open to programs on its own machine alone. "
        "The operator can make one: `simile keys create NAME`."
    )
    return Refusal(403, "not-from-here", detail)


def _refuse_long(scope: Scope) -> None:
    if len(scope.get("raw_path") or scope["path"].encode()) + len(scope["query_string"]) > MAX_ADDRESS:
        raise Refusal(414, "address-too-long", f"The address is longer than the {MAX_ADDRESS:,} bytes allowed here.")
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEAD:
        raise Refusal(431, "header-too-large", f"The headers are larger than the {MAX_HEAD:,} bytes allowed here.")


def _is_here(origin: str, host: str) -> bool:
    """Whether an Origin is the service itself, as it was asked for. `null`, of sandboxed pages, is not."""
    try:
        return urlsplit(origin).netloc.lower() == host.lower() != ""
    except ValueError:
        return False


def _is_picture(path: str) -> bool:
    return path.startswith("/static/") or path.endswith(("/thumbnail", "/reconstruction"))


KEPT = 20_000  # buckets; beyond, the one that was used longest ago is forgotten, and so is full again


class Buckets:
    """A bucket for each name. It holds what a minute brings, and fills evenly."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()  # what is in it, and when that was so

    def take(self, name: str, per_minute: float, cost: float = 1.0) -> float:
        """Takes `cost` out and gives 0; or takes nothing, and gives the seconds until there is enough."""
        level = self.level(name, per_minute)
        wait = max(0.0, (cost - level) * 60 / per_minute)
        self._levels[name] = (level if wait else level - cost), self._clock()
        self._levels.move_to_end(name)
        if len(self._levels) > KEPT:
            self._levels.popitem(last=False)
        return wait

    def level(self, name: str, per_minute: float) -> float:
        """What is in it now."""
        level, since = self._levels.get(name, (per_minute, 0.0))
        return min(per_minute, level + (self._clock() - since) * per_minute / 60)

    def __len__(self) -> int:
        return len(self._levels)
