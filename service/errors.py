"""Turn exceptions into problem details, `application/problem+json` of RFC 9457.

exception --make_problem--> ProblemDetails --make_problem_body--> JSON        (web pages show ProblemDetails as text)
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

logger = logging.getLogger(__name__)

PROBLEM_MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:problem-type:simile:"
_HTTP_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_MAX_LISTED_ERRORS = 10  # a vector of 10,000 NaN has 10,000 errors

# The nearest base class counts, so that a subclass needs no row. 409: the home lacks something; the request is valid,
# but repeating it helps only after images were indexed. 503: an operator has to repair something.
STATUS_BY_ERROR: dict[type[SimileError], int] = {
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
class ProblemDetails:
    """An error as a client sees it.

    Attributes:
        errors: (field, reason) of each invalid field of a request.
        headers: Headers of the response.
        extensions: Additional fields of the body, for programs.
    """

    status: int
    title: str
    detail: str
    type: str = "about:blank"
    errors: Sequence[tuple[str, str]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    extensions: Mapping[str, Any] = field(default_factory=dict)


class ProblemException(HTTPException):
    """A rejected request; `problem_kind` is the last part of its type, such as `too-busy`.

    Args:
        status: The HTTP status.
        problem_kind: Last part of the type.
        detail: What happened and what to do next.
        retry_after: Seconds for the header Retry-After.
        close: Close the connection after the response.
    """

    def __init__(
        self, status: int, problem_kind: str, detail: str, retry_after: int | None = None, close: bool = False
    ):
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        super().__init__(status, detail, headers | ({"Connection": "close"} if close else {}))
        self.problem_kind = problem_kind


def make_problem_body(problem: ProblemDetails, instance: str) -> dict[str, Any]:
    """Return the body of an error response.

    - `type`: `urn:problem-type:simile:` + the error's name (`no-such-image`), to tell errors apart in a program;
      `about:blank` if the status is sufficient (404 of an unknown path, 405, 413, 415, 422).
    - `title`: the type in words, the same for every occurrence.
    - `status`: the HTTP status.
    - `detail`: what happened and what to do next, for a person.
    - `instance`: the path of the request.
    - `errors`: only with 422 for an invalid request; a list of `{"field", "detail"}`, where `field` is the location
      in the request, such as `query.limit` or `body.vector.3`.
    - `duplicates`: only with 409 `duplicate`; the images of which an upload is a copy.
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
    return document | dict(problem.extensions)


def make_problem(error: Exception) -> ProblemDetails:
    """Return the problem for an exception; an unexpected exception reveals no internal details."""
    if isinstance(error, SimileError):
        return _make_simile_problem(error)
    if isinstance(error, RequestValidationError):
        return _make_validation_problem(error)
    if isinstance(error, ProblemException):
        title = error.problem_kind.replace("-", " ").capitalize()
        return ProblemDetails(
            error.status_code, title, error.detail, TYPE_PREFIX + error.problem_kind, headers=error.headers or {}
        )
    if isinstance(error, HTTPException):
        return ProblemDetails(
            error.status_code, _get_status_phrase(error.status_code), str(error.detail), headers=error.headers or {}
        )
    return ProblemDetails(500, _get_status_phrase(500), "The server failed unexpectedly. Its log has the details.")


def make_problem_response(request: Request, problem: ProblemDetails) -> Response:
    """Return a problem as an HTTP response."""
    document = json.dumps(make_problem_body(problem, request.url.path), ensure_ascii=False)
    # A file name on disk may be invalid Unicode, which "replace" makes encodable.
    return Response(document.encode("utf-8", "replace"), problem.status, dict(problem.headers), PROBLEM_MEDIA_TYPE)


def install_error_handlers(app: FastAPI) -> None:
    """Make every error of the app a problem response."""
    for kind in (SimileError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _handle_error)
    app.add_exception_handler(ClientDisconnect, _handle_disconnect)
    app.add_exception_handler(Exception, _handle_unexpected)


async def _handle_error(request: Request, error: Exception) -> Response:
    return make_problem_response(request, _explain_routing_error(request, make_problem(error)))


async def _handle_disconnect(_request: Request, _error: Exception) -> Response:
    return Response(status_code=400)  # the client has left


async def _handle_unexpected(request: Request, error: Exception) -> Response:
    # Starlette raises it again after this response, and the server prints the traceback.
    logger.error("%s %s failed: %s", request.method, request.url.path, type(error).__name__)
    return make_problem_response(request, make_problem(error))


def _explain_routing_error(request: Request, problem: ProblemDetails) -> ProblemDetails:
    """Add details to Starlette's own 404 and 405, which have only their names."""
    if problem.detail != problem.title:
        return problem
    if problem.status == 405:
        allowed = _get_allowed_methods(request, problem.headers.get("Allow", ""))
        detail = f"{request.method} is not allowed here, only {allowed}."
        return ProblemDetails(problem.status, problem.title, detail, headers={"Allow": allowed})
    if problem.status == 404:
        detail = f"There is nothing at this URL. {urls.DOCS} lists the API."
        return ProblemDetails(problem.status, problem.title, detail, headers=problem.headers)
    return problem


def _get_allowed_methods(request: Request, allow_header: str) -> str:
    """Return all methods of the URL; `allow_header` is Starlette's own `Allow`, which covers one route only."""
    routes = [route for route in request.app.router.routes if not isinstance(route, Mount)]

    def is_routed(method: str) -> bool:
        return any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)

    return ", ".join(method for method in _HTTP_METHODS if method in allow_header.split(", ") or is_routed(method))


def _make_simile_problem(error: SimileError) -> ProblemDetails:
    kind = next(kind for kind in type(error).__mro__ if kind in STATUS_BY_ERROR)
    words = re.sub(r"(?<!^)(?=[A-Z])", " ", kind.__name__).lower()
    headers = {"Retry-After": _RETRY_AFTER[kind]} if kind in _RETRY_AFTER else {}
    return ProblemDetails(
        STATUS_BY_ERROR[kind], words.capitalize(), str(error), TYPE_PREFIX + words.replace(" ", "-"), headers=headers
    )


def _make_validation_problem(error: RequestValidationError) -> ProblemDetails:
    fields = [(".".join(map(str, details["loc"])), str(details["msg"])) for details in error.errors()]
    first_field, first_detail = fields[0] if fields else ("request", "it is invalid")
    more = f" (and {len(fields) - 1} more)" if len(fields) > 1 else ""
    detail = f"{first_field}: {first_detail}{more}."
    return ProblemDetails(422, _get_status_phrase(422), detail, errors=fields[:_MAX_LISTED_ERRORS])


def _get_status_phrase(status: int) -> str:
    return HTTPStatus(status).phrase


def make_too_large_error(max_bytes: int) -> HTTPException:
    """Return the 413 for a body over the limit."""
    return HTTPException(413, f"The request is larger than the {max_bytes:,} bytes allowed here (SIMILE_MAX_BYTES).")


def make_timeout_error(seconds: float) -> ProblemException:
    """Return the 503 for work that did not start or finish in time."""
    detail = f"No response within {seconds:g} seconds (SIMILE_ANSWER_SECONDS). Try again when the service is less busy."
    return ProblemException(503, "too-slow-to-answer", detail, 5)
