"""Authorization of requests, before any of the body is read.

size of the headers -> Host -> Origin -> key or cookie -> scope -> rate limit -> application

A refusal costs a few microseconds and at most one small query.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from simile.core.errors import SimileError
from simile.core.hosts import is_loopback, parse_host_header, parse_hosts, parse_networks, parse_origins
from simile.core.keys import Scope as KeyScope
from simile.core.keys import scope_allows
from simile.core.settings import Settings
from simile.service.errors import ProblemException, make_problem, make_problem_response
from simile.service.security import scopes
from simile.service.security.api_keys import Authenticator, Credential, Principal
from simile.service.security.prices import get_price
from simile.service.security.proxies import apply_forwarded_headers, get_client_address, is_local_client
from simile.service.security.sessions import get_cookie_name, make_sign_in_redirect

MAX_HEADER_BYTES = 32 * 1024  # bytes of all headers; browsers send 2 KiB
MAX_URL_BYTES = 8 * 1024  # bytes of path and query
MAX_WRONG_KEYS_PER_MINUTE = 20  # and 20 wrong cookies, from one address; service/web/login.py limits sign-in

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_PROBE_PATHS = ("/livez", "/readyz")


class AccessControlMiddleware:
    """ASGI middleware: authorises requests and sets `state["visitor"]`, the principal or None if no key is needed."""

    def __init__(
        self, app: ASGIApp, settings: Settings, authenticator: Authenticator, rate_limiter: RateLimiter
    ) -> None:
        self.app = app
        self.settings = settings
        self.authenticator = authenticator
        self.rate_limiter = rate_limiter
        self.allowed_hosts = parse_hosts(settings.allowed_hosts)
        self.allowed_origins = parse_origins(settings.cors_origins)
        self.trusted_proxies = parse_networks(settings.trusted_proxies)
        self.checks_host = bool(self.allowed_hosts) or is_loopback(settings.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        apply_forwarded_headers(scope, self.trusted_proxies)
        request_credential = self._get_credential(scope)
        try:
            visitor = await self._authorise(scope, request_credential)
        except (ProblemException, SimileError) as error:
            redirect = make_sign_in_redirect(scope) if getattr(error, "status_code", None) == 401 else None
            response = redirect or make_problem_response(Request(scope), make_problem(error))
            return await response(scope, receive, send)
        scope.setdefault("state", {})["visitor"] = visitor
        if visitor is None or request_credential is None:
            return await self.app(scope, receive, send)
        return await StreamRevocationGuard(self.app, self.authenticator, request_credential, send)(scope, receive)

    async def _authorise(self, scope: Scope, credential: Credential | None) -> Principal | None:
        """Return the principal, None if no key is needed. Raises ProblemException, SimileError if the lookup fails."""
        headers, required = Headers(scope=scope), scopes.get_required_scope(scope["method"], scope["path"])
        _check_request_size(scope)
        if scope["path"] in _PROBE_PATHS:
            return None
        self._check_host(headers)
        self._check_origin(scope["method"], headers)
        locked = await self.authenticator.requires_key()
        if not locked and not self.settings.insecure and not self._is_local_request(scope, headers):
            detail = (
                "This home has no keys, so it is open to programs on its own machine alone; this request came from "
                "another one, or through a proxy. The operator can make a key: `simile keys create NAME`."
            )
            raise ProblemException(403, "not-from-here", detail)
        visitor = await self._authenticate(scope, credential) if locked and required != "public" else None
        self._limit_rate(scope, visitor)
        if visitor is not None and required != "public":
            _check_scope(visitor, required)
        return visitor

    async def _authenticate(self, scope: Scope, credential: Credential | None) -> Principal:
        if credential is None:
            detail = "This service needs a key: send it as `Authorization: Bearer KEY`."
            raise _make_unauthorized_error("key-needed", detail)
        visitor = await authenticate_once(self.authenticator, self.rate_limiter, scope, credential)
        if visitor is None:
            detail = "This key is unknown, expired or revoked. Ask the operator for another: `simile keys create`."
            raise _make_unauthorized_error("key-refused", detail)
        return visitor

    def _limit_rate(self, scope: Scope, principal: Principal | None) -> None:
        """Count the request for the key and the address; a key with its own rate is limited by that rate only."""
        rate = self.settings.rate
        measures = [] if principal is None else [(f"key {principal.key_id}", principal.rate or rate)]
        if principal is None or principal.rate is None:
            measures.append((f"address {get_client_address(scope)}", rate))
        cost = get_price(scope)
        for name, per_minute in measures:
            wait = self.rate_limiter.take(name, per_minute, min(cost, per_minute)) if per_minute else 0
            if wait:
                raise make_rate_limit_error(wait, "requests")

    def _get_credential(self, scope: Scope) -> Credential | None:
        """Return the credential of a request; never the cookie for a page of an origin in SIMILE_CORS_ORIGINS.

        SameSite=Strict is about sites: a page on another port of this host is of the same site, and sends the cookie.
        """
        credential, headers = get_credential(scope), Headers(scope=scope)
        origin = headers.get("origin", "")
        is_own_page = headers.get("sec-fetch-site") == "same-origin" or _is_same_origin(origin, headers.get("host"))
        if credential and credential.kind == "cookie" and origin in self.allowed_origins and not is_own_page:
            return None
        return credential

    def _is_local_request(self, scope: Scope, headers: Headers) -> bool:
        """Return whether a program on this machine sent it: a proxy may rewrite Host, but it keeps Origin."""
        origin = headers.get("origin")
        is_foreign = origin and origin not in self.allowed_origins and not _is_same_origin(origin, headers.get("host"))
        return is_local_client(scope) and not is_foreign

    def _check_host(self, headers: Headers) -> None:
        """Refuse unknown host names: another site's name may resolve to this machine (DNS rebinding)."""
        name = parse_host_header(headers.get("host", ""))
        if self.checks_host and not is_loopback(name) and name not in self.allowed_hosts:
            detail = "The service is not known by the name in `Host`. SIMILE_ALLOWED_HOSTS lists its names."
            raise ProblemException(421, "wrong-host", detail)

    def _check_origin(self, method: str, headers: Headers) -> None:
        """Refuse requests that a page of another site makes the browser send (CSRF), by the Origin header."""
        origin = headers.get("origin", "")
        if method in _SAFE_METHODS or origin in self.allowed_origins:
            return
        fetch_site = headers.get("sec-fetch-site")
        if fetch_site:
            is_own = fetch_site in ("same-origin", "none")
        else:
            is_own = not origin or _is_same_origin(origin, headers.get("host"))
        if not is_own:
            detail = "The page of another site sent this. Only this service's own page may."
            raise ProblemException(403, "cross-site", detail)


class StreamRevocationGuard:
    """Runs the application for one request, and ends an event stream when its key is revoked or expires."""

    def __init__(self, app: ASGIApp, authenticator: Authenticator, credential: Credential, send: Send) -> None:
        self.app = app
        self.authenticator = authenticator
        self.credential = credential
        self._send = send
        self._is_stream = self._is_revoked = False

    async def __call__(self, scope: Scope, receive: Receive) -> None:
        try:
            await self.app(scope, receive, self.send)
        except Exception:
            if not self._is_revoked:  # otherwise the error of `send`, possibly wrapped
                raise

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kind = Headers(raw=list(message.get("headers", []))).get("content-type", "")
            self._is_stream = kind.startswith("text/event-stream")
        elif self._is_stream and message.get("more_body"):
            self._is_revoked = await self.authenticator.authenticate(self.credential) is None
            if self._is_revoked:
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
                raise OSError("The key was revoked while events were sent.")
        await self._send(message)


async def authenticate_once(
    authenticator: Authenticator, rate_limiter: RateLimiter, scope: Scope, credential: Credential
) -> Principal | None:
    """Return the principal of a credential; None for a wrong one, which counts as a guess of the address.

    Raises a 429 without a lookup after too many guesses, but never for a credential that was valid before.
    """
    guesses = f"{credential.kind} guesses of {get_client_address(scope)}"
    is_guess = not authenticator.is_cached(credential)
    if is_guess and rate_limiter.get_level(guesses, MAX_WRONG_KEYS_PER_MINUTE) < 1:
        raise make_rate_limit_error(60 / MAX_WRONG_KEYS_PER_MINUTE, "wrong keys")
    visitor = await authenticator.authenticate(credential)
    if visitor is None:
        rate_limiter.take(guesses, MAX_WRONG_KEYS_PER_MINUTE)
    return visitor


def require_scope(request: Request, scope: KeyScope) -> None:
    """Check a scope that depends on more than the URL. Raises a 403 if the principal's key lacks it."""
    visitor: Principal | None = request.state.visitor
    if visitor is not None:
        _check_scope(visitor, scope)


def get_credential(scope: Scope) -> Credential | None:
    """Return the credential of a request: a key in one of two headers, otherwise the session cookie."""
    headers = Headers(scope=scope)
    kind, _, text = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and text.strip():
        return Credential("key", text.strip())
    if headers.get("x-api-key"):
        return Credential("key", headers["x-api-key"])
    cookie = Request(scope).cookies.get(get_cookie_name(scope)) if "cookie" in headers else None
    return Credential("cookie", cookie) if cookie else None


def make_rate_limit_error(wait_seconds: float, subject: str) -> ProblemException:
    """Make the 429 with the seconds to wait."""
    seconds = max(1, math.ceil(wait_seconds))
    detail = f"Too many {subject}. Wait {seconds} s, then go on more slowly."
    return ProblemException(429, "too-many-requests", detail, seconds)


def _check_scope(principal: Principal, required_scope: KeyScope) -> None:
    if not scope_allows(principal.scope, required_scope):
        has = f"that of {principal.name} has `{principal.scope}`"
        detail = f"This needs a key with the scope `{required_scope}`; {has}."
        raise ProblemException(403, "missing-scope", detail)


def _make_unauthorized_error(problem_kind: str, detail: str) -> ProblemException:
    refusal = ProblemException(401, problem_kind, detail)
    refusal.headers = {"WWW-Authenticate": 'Bearer realm="simile"'}
    return refusal


def _check_request_size(scope: Scope) -> None:
    if len(scope.get("raw_path") or scope["path"].encode()) + len(scope["query_string"]) > MAX_URL_BYTES:
        detail = f"The address is longer than the {MAX_URL_BYTES:,} bytes allowed here."
        raise ProblemException(414, "address-too-long", detail)
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
        detail = f"The headers are larger than the {MAX_HEADER_BYTES:,} bytes allowed here."
        raise ProblemException(431, "header-too-large", detail)


def _is_same_origin(origin: str, host: str | None) -> bool:
    """Return whether an Origin is the requested host itself. `null`, sent by sandboxed pages, is not."""
    try:
        return urlsplit(origin).netloc.lower() == (host or "").lower() != ""
    except ValueError:
        return False


MAX_BUCKETS = 20_000  # beyond this, the least recently used bucket is dropped, and counts as full again


class RateLimiter:
    """Token buckets by name: each holds the requests of one minute and refills evenly. Counts per process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and the time of that count

    def take(self, name: str, per_minute: float, cost: float = 1.0) -> float:
        """Take `cost` tokens and return 0; or take none and return the seconds until there are enough."""
        level = self.get_level(name, per_minute)
        wait = max(0.0, (cost - level) * 60 / per_minute)
        self._levels[name] = (level if wait else level - cost), self._clock()
        self._levels.move_to_end(name)
        if len(self._levels) > MAX_BUCKETS:
            self._levels.popitem(last=False)
        return wait

    def get_level(self, name: str, per_minute: float) -> float:
        """Return the number of tokens in the bucket now."""
        level, since = self._levels.get(name, (per_minute, 0.0))
        return min(per_minute, level + (self._clock() - since) * per_minute / 60)

    def __len__(self) -> int:
        return len(self._levels)
