"""Browser sessions: redirect to the sign-in form and back, and the session cookie."""

from __future__ import annotations

from html import escape

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import Scope

from simile.service import urls

_SESSION_COOKIE = "simile_session"
_REDIRECT_PAGE_POLICY = "default-src 'none'; frame-ancestors 'none'"


def make_sign_in_redirect(scope: Scope) -> Response | None:
    """Make the redirect to the sign-in form for a browser; None for programs, which get a 401."""
    headers = Headers(scope=scope)
    if scope["path"].startswith(f"{urls.API}/") or "text/html" not in headers.get("accept", ""):
        return None
    here = _get_request_url(scope) if scope["method"] in ("GET", "HEAD") else urls.search_page()
    cache_headers = {"Cache-Control": "no-store"}
    if scope["method"] == "GET" and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        # The browser does not send a SameSite=Strict cookie when a link on another site is followed. A page of this
        # site reloads the URL, and then the browser sends it; without a cookie the next response is the form.
        page = f'<!doctype html><title>simile</title><meta http-equiv="refresh" content="0;url={escape(here)}">'
        return HTMLResponse(page, headers=cache_headers | {"Content-Security-Policy": _REDIRECT_PAGE_POLICY})
    return RedirectResponse(make_sign_in_url(here), 303, headers=cache_headers)


def make_sign_in_url(next_url: str) -> str:
    """Return the URL of the sign-in form that redirects to `next_url` afterwards."""
    return urls.make_url(urls.SIGN_IN, next=None if next_url == urls.search_page() else next_url)


def get_local_url(url: str) -> str:
    """Return the URL if it is local to this service, otherwise the search page (prevents open redirects)."""
    plain = url.isascii() and url.isprintable() and not set(url) & set('\\"<> ')
    is_local = plain and url.startswith(urls.search_page()) and not url.startswith("//")
    return url if is_local else urls.search_page()


def _get_request_url(scope: Scope) -> str:
    """Return path and query as the client sent them."""
    path = (scope.get("raw_path") or b"/").decode("latin-1").partition("?")[0]
    query = scope["query_string"].decode("latin-1")
    return get_local_url(urls.make_url(f"{path}?{query}" if query else path))


def get_cookie_name(scope: Scope) -> str:
    """Return the name of the session cookie. Over https, browsers let no other host set a cookie with this prefix.

    Below the path prefix of a proxy, the cookie is sent for that path only, which `__Host-` does not permit.
    """
    if scope["scheme"] != "https":
        return _SESSION_COOKIE
    return f"__Secure-{_SESSION_COOKIE}" if urls.ROOT_PATH.get() else f"__Host-{_SESSION_COOKIE}"


def set_session_cookie(request: Request, response: Response, token: str, seconds: int) -> None:
    """Set the session cookie: HttpOnly, and SameSite=Strict so that other sites cannot use it."""
    response.set_cookie(
        get_cookie_name(request.scope),
        token,
        max_age=seconds,
        path=urls.ROOT_PATH.get() or "/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )


def delete_session_cookie(request: Request, response: Response) -> None:
    """Delete the session cookie."""
    secure = request.url.scheme == "https"
    name, path = get_cookie_name(request.scope), urls.ROOT_PATH.get() or "/"
    response.delete_cookie(name, path=path, secure=secure, httponly=True, samesite="strict")
