"""The way in for browsers: a page that needs a key leads to the form that takes one, and back."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from urllib.parse import urlencode

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import Scope

from simile.service import urls

COOKIE = "simile_session"
_POLICY = "default-src 'none'; frame-ancestors 'none'"


@dataclass(frozen=True)
class SignIn:
    """What the form's page shows. there: where a person wants to go."""

    there: str = urls.PAGE

    @property
    def action(self) -> str:
        """Where the form goes."""
        return sign_in(self.there)


def entrance(scope: Scope) -> Response | None:
    """Where a person without a valid cookie is led; None for programs, which get a 401."""
    headers = Headers(scope=scope)
    if scope["path"].startswith(f"{urls.API}/") or "text/html" not in headers.get("accept", ""):
        return None
    here = _here(scope) if scope["method"] in ("GET", "HEAD") else urls.PAGE
    kept = {"Cache-Control": "no-store"}
    if scope["method"] == "GET" and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        # A strict cookie stays at home when a link on another site is followed. Asked again by a page of our own, the
        # browser brings it along; if there is none, the next answer is the form.
        page = f'<!doctype html><title>simile</title><meta http-equiv="refresh" content="0;url={escape(here)}">'
        return HTMLResponse(page, headers=kept | {"Content-Security-Policy": _POLICY})
    return RedirectResponse(sign_in(here), 303, headers=kept)


def sign_in(there: str) -> str:
    """The address of the form, which leads there afterwards."""
    return urls.SIGN_IN if there == urls.PAGE else f"{urls.SIGN_IN}?{urlencode({'next': there})}"


def local(address: str) -> str:
    """The address if it is one of this service, else the page: nobody is led away from here."""
    plain = address.isascii() and address.isprintable() and not set(address) & set('\\"<> ')
    return address if plain and address.startswith("/") and not address.startswith("//") else urls.PAGE


def _here(scope: Scope) -> str:
    """Path and query as they were sent."""
    path = (scope.get("raw_path") or b"/").decode("latin-1").partition("?")[0]
    query = scope["query_string"].decode("latin-1")
    return local(f"{path}?{query}" if query else path)


def keep(response: Response, token: str, seconds: int, *, secure: bool) -> None:
    """Gives the browser the token: no script sees it, and no other site makes the browser send it."""
    response.set_cookie(COOKIE, token, max_age=seconds, path="/", secure=secure, httponly=True, samesite="strict")


def drop(request: Request, response: Response) -> None:
    """Has the browser forget it."""
    response.delete_cookie(COOKIE, path="/", secure=request.url.scheme == "https", httponly=True, samesite="strict")
