"""The sign-in page, which exchanges a key for a session cookie, and sign-out."""

from __future__ import annotations

from typing import cast

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from simile.core.errors import SimileError
from simile.service import urls
from simile.service.errors import ProblemDetails, ProblemException, make_problem
from simile.service.requests.search import open_form
from simile.service.security import sessions
from simile.service.security.api_keys import SESSION_LIFETIME, Authenticator, Credential
from simile.service.security.authorization import RateLimiter, authenticate_once, make_rate_limit_error
from simile.service.security.proxies import get_client_address
from simile.service.web.rendering import render_page

router = APIRouter(include_in_schema=False)

MAX_SIGN_IN_BYTES = 8 * 1024  # bytes of the form; a key has 63
MAX_SIGN_IN_ATTEMPTS = 5  # wrong keys per minute and address


@router.get(urls.SIGN_IN)
async def show_sign_in(request: Request) -> Response:
    """Show the sign-in form; redirect if the home has no keys."""
    if not await _get_authenticator(request).requires_key():
        return RedirectResponse(_get_next_url(request), 303)
    return _render_form(request)


@router.post(urls.SIGN_IN)
async def sign_in(request: Request) -> Response:
    """Exchange the form's `key` for a session cookie and redirect to `next`."""
    try:
        _check_form_size(request)
        async with open_form(request) as form:
            key = form.get("key")
        token = await _open_session(request, key.strip() if isinstance(key, str) else "")
    except (SimileError, HTTPException) as error:
        return _render_form(request, make_problem(error))
    response = RedirectResponse(_get_next_url(request), 303)
    seconds = int(SESSION_LIFETIME.total_seconds())
    sessions.set_session_cookie(request, response, token, seconds)
    return _disable_caching(response)


@router.post(urls.SIGN_OUT)
async def sign_out(request: Request) -> Response:
    """End the session; copies of its cookie become invalid, too."""
    token = request.cookies.get(sessions.get_cookie_name(request.scope))
    authenticator, limiter = _get_authenticator(request), cast(RateLimiter, request.app.state.rate_limiter)
    if token and await authenticate_once(authenticator, limiter, request.scope, Credential("cookie", token)):
        await authenticator.close_session(token)
    response = RedirectResponse(urls.make_url(urls.SIGN_IN), 303)
    sessions.delete_session_cookie(request, response)
    return _disable_caching(response)


async def _open_session(request: Request, key: str) -> str:
    """Open a session for a key and return its token. Raises ProblemException."""
    buckets = cast(RateLimiter, request.app.state.rate_limiter)
    guesses = f"sign-ins of {get_client_address(request.scope)}"
    if buckets.get_level(guesses, MAX_SIGN_IN_ATTEMPTS) < 1:
        raise make_rate_limit_error(60 / MAX_SIGN_IN_ATTEMPTS, "wrong keys")
    visitor = await _get_authenticator(request).authenticate(Credential("key", key)) if key else None
    if visitor is None:
        buckets.take(guesses, MAX_SIGN_IN_ATTEMPTS)
        detail = "This key is unknown, expired or revoked. Copy the whole of it, from simile_ on."
        raise ProblemException(403, "key-refused", detail)
    return await _get_authenticator(request).open_session(visitor)


def _check_form_size(request: Request) -> None:
    announced = request.headers.get("content-length", "")
    if not (announced.isdecimal() and len(announced) < 6 and int(announced) <= MAX_SIGN_IN_BYTES):
        raise HTTPException(
            413, f"Send a form of at most {MAX_SIGN_IN_BYTES:,} bytes, and its Content-Length: a key is shorter."
        )


def _render_form(request: Request, problem: ProblemDetails | None = None) -> Response:
    view = {"form_url": sessions.make_sign_in_url(_get_next_url(request))}
    return _disable_caching(render_page(request, "signin.html", view, problem))


def _get_next_url(request: Request) -> str:
    return sessions.get_local_url(request.query_params.get("next", ""))


def _get_authenticator(request: Request) -> Authenticator:
    return cast(Authenticator, request.app.state.authenticator)


def _disable_caching(response: Response) -> Response:
    response.headers["Cache-Control"] = "no-store"
    return response
