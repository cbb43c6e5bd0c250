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

SESSION_COOKIE = "simile_session"
_REDIRECT_PAGE_POLICY = "default-src 'none'; frame-ancestors 'none'"


@dataclass(frozen=True)
class SignInView:
    """What the form's page shows. there: where a person wants to go."""

    next_url: str = urls.SEARCH_PAGE

    @property
    def form_url(self) -> str:
        """Where the form goes."""
        return make_sign_in_url(self.next_url)


def make_sign_in_redirect(scope: Scope) -> Response | None:
    """Where a person without a valid cookie is led; None for programs, which get a 401."""
    headers = Headers(scope=scope)
    if scope["path"].startswith(f"{urls.API}/") or "text/html" not in headers.get("accept", ""):
        return None
    here = _get_request_url(scope) if scope["method"] in ("GET", "HEAD") else urls.SEARCH_PAGE
    kept = {"Cache-Control": "no-store"}
    if scope["method"] == "GET" and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        # A strict cookie stays at home when a link on another site is followed. Asked again by a page of our own, the
        # browser brings it along; if there is none, the next answer is the form.
        page = f'<!doctype html><title>simile</title><meta http-equiv="refresh" content="0;url={escape(here)}">'
        return HTMLResponse(page, headers=kept | {"Content-Security-Policy": _REDIRECT_PAGE_POLICY})
    return RedirectResponse(make_sign_in_url(here), 303, headers=kept)


def make_sign_in_url(next_url: str) -> str:
    """The address of the form, which leads there afterwards."""
    return urls.SIGN_IN if next_url == urls.SEARCH_PAGE else f"{urls.SIGN_IN}?{urlencode({'next': next_url})}"


def get_local_url(url: str) -> str:
    """The address if it is one of this service, else the page: nobody is led away from here."""
    plain = url.isascii() and url.isprintable() and not set(url) & set('\\"<> ')
    return url if plain and url.startswith("/") and not url.startswith("//") else urls.SEARCH_PAGE


def _get_request_url(scope: Scope) -> str:
    """Path and query as they were sent."""
    path = (scope.get("raw_path") or b"/").decode("latin-1").partition("?")[0]
    query = scope["query_string"].decode("latin-1")
    return get_local_url(f"{path}?{query}" if query else path)


def set_session_cookie(response: Response, token: str, seconds: int, *, secure: bool) -> None:
    """Gives the browser the token: no script sees it, and no other site makes the browser send it."""
    response.set_cookie(
        SESSION_COOKIE, token, max_age=seconds, path="/", secure=secure, httponly=True, samesite="strict"
    )


def delete_session_cookie(request: Request, response: Response) -> None:
    """Has the browser forget it."""
    response.delete_cookie(
        SESSION_COOKIE, path="/", secure=request.url.scheme == "https", httponly=True, samesite="strict"
    )
