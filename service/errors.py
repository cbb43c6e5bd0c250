"""One shape for every error, RFC 9457 `application/problem+json`, and one table from error to status.

exception --problem_of--> Problem --body--> JSON        (the page shows the same Problem in words)
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Mount

from simile.core import errors
from simile.core.errors import SimileError
from simile.service import urls

pass


logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:problem-type:simile:"
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_ERRORS_LISTED = 10  # a vector of 10,000 NaN is one mistake, not 10,000

# The nearest class counts, so that a subclass needs no row. 409 for what the home lacks: the request was right, and
# repeating it helps only after somebody has indexed pictures. 503 for what an operator has to put right.
STATUS: dict[type[SimileError], int] = {
    errors.SimileError: 500,
    errors.InputError: 422,
    errors.BadSetting: 422,
    errors.NoSuchPath: 404,
    errors.UnreadableImage: 422,
    errors.ImageTooLarge: 413,
    errors.NoSuchImage: 404,
    errors.NoSuchJob: 404,
    errors.NoSuchRoot: 404,
    errors.JobRunning: 409,
    errors.JobOver: 409,
    errors.NoSuchEncoder: 503,
    errors.TooFewPictures: 422,
    errors.BackupDamaged: 422,
    errors.ArchiveDamaged: 422,
    errors.NotFinite: 422,
    errors.NoDecoder: 409,
    errors.NoVariance: 409,
    errors.NothingIndexed: 409,
    errors.EncoderMismatch: 422,
    errors.BeingComputed: 503,
    errors.CheckpointDamaged: 503,
    errors.IndexDamaged: 503,
    errors.HomeError: 503,
    errors.HomeBusy: 503,
    errors.HomeOutdated: 503,
    errors.HomeTooNew: 503,
    errors.HomeNotWritable: 503,
}
_RETRY_AFTER: dict[type[SimileError], str] = {errors.HomeBusy: "5", errors.BeingComputed: "2"}  # seconds


@dataclass(frozen=True)
class Problem:
    """An error as a client sees it. `errors`: (field, what is wrong with it) of a request that was not understood.

    `more`: what a program needs beside the words, by name.
    """

    status: int
    title: str
    detail: str
    type: str = "about:blank"
    errors: Sequence[tuple[str, str]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)


class Refusal(HTTPException):
    """A request that is turned away before any work is done; `kind` ends its type, such as `too-busy`.

    retry_after: seconds. close: whether the connection ends with the answer.
    """

    def __init__(self, status: int, kind: str, detail: str, retry_after: int | None = None, close: bool = False):
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        super().__init__(status, detail, headers | ({"Connection": "close"} if close else {}))
        self.kind = kind


def body(problem: Problem, instance: str) -> dict[str, Any]:
    """The body of every error that the service answers with.

    - `type`: `urn:problem-type:simile:` + the error's name (`no-such-image`), to tell errors apart in a program;
      `about:blank` where the status says it all (404 of an unknown path, 405, 413, 415, 422).
    - `title`: the type in words, the same for every occurrence.
    - `status`: the HTTP status, again.
    - `detail`: what happened this time and what to do next, for a person.
    - `instance`: the path that was asked for.
    - `errors`: only with 422 for a request that was not understood; a list of `{"field", "detail"}`, where
      `field` is the place in the request, such as `query.limit` or `body.vector.3`.
    - `duplicates`: only with 409 `duplicate`; the pictures that an upload is a copy of.
    """
    document: dict[str, Any] = {
        "type": problem.type,
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "instance": instance,
    }
    if problem.errors:
        document["errors"] = [{"field": name, "detail": detail} for name, detail in problem.errors]
    return document | dict(problem.more)


def problem_of(error: Exception) -> Problem:
    """The problem that an exception is to a client. What was not foreseen says nothing of the inside."""
    if isinstance(error, SimileError):
        return _of_simile(error)
    if isinstance(error, RequestValidationError):
        return _of_validation(error)
    if isinstance(error, Refusal):
        title = error.kind.replace("-", " ").capitalize()
        return Problem(error.status_code, title, error.detail, TYPE_PREFIX + error.kind, headers=error.headers or {})
    if isinstance(error, HTTPException):
        return Problem(error.status_code, _phrase(error.status_code), str(error.detail), headers=error.headers or {})
    return Problem(500, _phrase(500), "The server failed in a way nobody foresaw. Its log says how.")


def respond(request: Request, problem: Problem) -> Response:
    """The problem as an HTTP response."""
    document = json.dumps(body(problem, request.url.path), ensure_ascii=False)
    # A file name on disk may be no valid Unicode: "replace" keeps the answer an answer.
    return Response(document.encode("utf-8", "replace"), problem.status, dict(problem.headers), MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Makes every error of the app a problem document."""
    for kind in (SimileError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _handle)
    app.add_exception_handler(ClientDisconnect, _handle_disconnect)
    app.add_exception_handler(Exception, _handle_unforeseen)


async def _handle(request: Request, error: Exception) -> Response:
    return respond(request, _in_place(request, problem_of(error)))


async def _handle_disconnect(_request: Request, _error: Exception) -> Response:
    return Response(status_code=400)  # nobody is left to read it


async def _handle_unforeseen(request: Request, error: Exception) -> Response:
    # Starlette raises it once more after this answer, and the server prints the traceback.
    logger.error("%s %s failed: %s", request.method, request.url.path, type(error).__name__)
    return respond(request, problem_of(error))


def _in_place(request: Request, problem: Problem) -> Problem:
    """Starlette's own 404 and 405 say only their name: here they say where, and what would do."""
    if problem.detail != problem.title:
        return problem
    if problem.status == 405:
        allowed = _allowed(request, problem.headers.get("Allow", ""))
        detail = f"{request.method} is not possible here, only {allowed}."
        return Problem(problem.status, problem.title, detail, headers={"Allow": allowed})
    if problem.status == 404:
        detail = f"There is nothing at this address. {urls.DOCS} lists what there is."
        return Problem(problem.status, problem.title, detail, headers=problem.headers)
    return problem


def _allowed(request: Request, known: str) -> str:
    """Every method that the address takes. Starlette's own `Allow` is `known`: of one route alone."""
    routes = [route for route in request.app.router.routes if not isinstance(route, Mount)]

    def taken(method: str) -> bool:
        return any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)

    return ", ".join(method for method in _METHODS if method in known.split(", ") or taken(method))


def _of_simile(error: SimileError) -> Problem:
    kind = next(kind for kind in type(error).__mro__ if kind in STATUS)
    words = re.sub(r"(?<!^)(?=[A-Z])", " ", kind.__name__).lower()
    headers = {"Retry-After": _RETRY_AFTER[kind]} if kind in _RETRY_AFTER else {}
    return Problem(STATUS[kind], words.capitalize(), str(error), TYPE_PREFIX + words.replace(" ", "-"), headers=headers)


def _of_validation(error: RequestValidationError) -> Problem:
    found = [(".".join(map(str, one["loc"])), str(one["msg"])) for one in error.errors()]
    first_field, first_detail = found[0] if found else ("request", "it was not understood")
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    detail = f"{first_field}: {first_detail}{more}."
    return Problem(422, _phrase(422), detail, errors=found[:_ERRORS_LISTED])


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase


def too_large(max_bytes: int) -> HTTPException:
    """The 413 for a body that is over the limit."""
    return HTTPException(413, f"The request is larger than the {max_bytes:,} bytes allowed here (SIMILE_MAX_BYTES).")


def too_slow_to_answer(seconds: float) -> Refusal:
    """The 503 for what could not be begun, or finished, in time."""
    detail = f"No answer within {seconds:g} seconds (SIMILE_ANSWER_SECONDS). Try again when less is going on."
    return Refusal(503, "too-slow-to-answer", detail, 5)
