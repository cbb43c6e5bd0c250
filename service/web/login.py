"""The page on which a key is traded for a cookie, and the way out."""

from __future__ import annotations

from typing import cast

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from simile.core.errors import SimileError
from simile.service import urls
from simile.service.errors import Refusal, problem_of
from simile.service.requests.search import form_of
from simile.service.security import sessions
from simile.service.security.api_keys import LIFETIME, Credential, Keyring
from simile.service.security.authorization import Buckets, too_many
from simile.service.security.proxies import address_of
from simile.service.security.sessions import SignIn
from simile.service.web.rendering import render_page

router = APIRouter(include_in_schema=False)

MOST = 8 * 1024  # bytes of the form: a key has 63
ATTEMPTS = 5  # wrong keys a minute, from one address

_SHOWN = (SimileError, HTTPException)
_TEMPLATE = "signin.html"


@router.get(urls.SIGN_IN)
async def show_sign_in(request: Request) -> Response:
    """The form. Where the home has no keys there is nothing to sign in to."""
    there = sessions.local(request.query_params.get("next", urls.PAGE))
    if not await _keyring(request).locked():
        return RedirectResponse(there, 303)
    return _kept_nowhere(render_page(request, _TEMPLATE, SignIn(there)))


@router.post(urls.SIGN_IN)
async def sign_in(request: Request) -> Response:
    """Trades the form's `key` for a cookie, and leads to `next`."""
    there = sessions.local(request.query_params.get("next", urls.PAGE))
    try:
        _refuse_long(request)
        async with form_of(request) as form:
            key = form.get("key")
        token = await _token(request, key.strip() if isinstance(key, str) else "")
    except _SHOWN as error:
        return _kept_nowhere(render_page(request, _TEMPLATE, SignIn(there), problem_of(error)))
    response = RedirectResponse(there, 303)
    seconds = int(LIFETIME.total_seconds())
    sessions.keep(response, token, seconds, secure=request.url.scheme == "https")
    return _kept_nowhere(response)


@router.post(urls.SIGN_OUT)
async def sign_out(request: Request) -> Response:
    """Ends the session, also for copies of its cookie."""
    token = request.cookies.get(sessions.COOKIE)
    if token:
        await _keyring(request).close_session(token)
    response = RedirectResponse(urls.SIGN_IN, 303)
    sessions.drop(request, response)
    return _kept_nowhere(response)


async def _token(request: Request, key: str) -> str:
    """A session's token for a key. Raises Refusal."""
    buckets, guesses = cast(Buckets, request.app.state.buckets), f"sign-ins of {address_of(request.scope)}"
    if buckets.level(guesses, ATTEMPTS) < 1:
        raise too_many(60 / ATTEMPTS, "wrong keys")
    visitor = await _keyring(request).visitor(Credential("key", key)) if key else None
    if visitor is None:
        buckets.take(guesses, ATTEMPTS)
        detail = "This key is unknown, expired or revoked. Copy the whole of it, from simile_ on."
        raise Refusal(403, "key-refused", detail)
    return await _keyring(request).open_session(visitor)


def _refuse_long(request: Request) -> None:
    announced = request.headers.get("content-length", "")
    if not (announced.isdecimal() and len(announced) < 6 and int(announced) <= MOST):
        raise HTTPException(413, f"Send a form of at most {MOST:,} bytes, and its Content-Length: a key is shorter.")


def _keyring(request: Request) -> Keyring:
    return cast(Keyring, request.app.state.keyring)


def _kept_nowhere(response: Response) -> Response:
    response.headers["Cache-Control"] = "no-store"
    return response
