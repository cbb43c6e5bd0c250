"""Turn exceptions into problem details, `application/problem+json` of RFC 9457.

exception --make_problem--> ProblemDetails --make_problem_body--> JSON        (web pages show ProblemDetails as text)
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from simile.images.loading.sandbox import WorkCancelled
from simile.service import urls

logger = logging.getLogger(__name__)

PROBLEM_MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:problem-type:simile:"
_HTTP_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_MAX_LISTED_ERRORS = 10  # a vector of 10,000 NaN has 10,000 errors

# The nearest base class counts, so that a subclass needs no entry. 409: the home lacks something; the request is valid,
# but repeating it helps only after images were indexed. 503: an operator has to repair something.
_ERRORS_BY_STATUS: dict[int, tuple[type[SimileError], ...]] = {
    403: (errors.QuotaExceeded,),
    404: (errors.NoSuchPath, errors.NoSuchImage, errors.NoSuchJob, errors.NoSuchRoot),
    409: (errors.JobRunning, errors.JobOver, errors.NoDecoder, errors.NoVariance, errors.NothingIndexed),
    413: (errors.ImageTooLarge,),
    422: (
        *(errors.InputError, errors.BadSetting, errors.UnreadableImage, errors.TooFewPictures, errors.NotFinite),
        *(errors.BackupDamaged, errors.ArchiveDamaged, errors.EncoderMismatch),
    ),
    500: (errors.SimileError,),
    503: (
        *(
            errors.NoSuchEncoder,
            errors.WorkersFailed,
            errors.ObjectsUnavailable,
            errors.DatabaseUnavailable,
            errors.TransactionConflict,
            errors.BeingComputed,
            errors.CheckpointDamaged,
            errors.IndexDamaged,
        ),
        *(errors.HomeError, errors.HomeBusy, errors.HomeOutdated, errors.HomeTooNew, errors.HomeNotWritable),
    ),
}
STATUS_BY_ERROR = {kind: status for status, kinds in _ERRORS_BY_STATUS.items() for kind in kinds}
_RETRY_AFTER: dict[type[SimileError], str] = {  # seconds
    errors.HomeBusy: "5",
    errors.DatabaseUnavailable: "5",
    errors.TransactionConflict: "1",
    errors.WorkersFailed: "5",
    errors.ObjectsUnavailable: "5",
    errors.BeingComputed: "2",
}


@dataclass(frozen=True)
class ProblemDetails:
    """An error as a client sees it.

    Attributes:
        problem_kind: The last part of its type; None if the status is sufficient.
        errors: (field, reason) of each invalid field of a request.
        extensions: Additional fields of the body, for programs.
    """

    status: int
    detail: str
    problem_kind: str | None = None
    errors: Sequence[tuple[str, str]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    extensions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def type(self) -> str:
        """The type of the problem, to tell errors apart in a program."""
        return "about:blank" if self.problem_kind is None else TYPE_PREFIX + self.problem_kind

    @property
    def title(self) -> str:
        """The type in words, the same for every occurrence."""
        return self.problem_kind.replace("-", " ").capitalize() if self.problem_kind else HTTPStatus(self.status).phrase


class ProblemException(HTTPException):
    """A rejected request; `problem_kind` is the last part of its type, such as `too-busy`.

    retry_after: seconds; close: close the connection after the response.
    """

    def __init__(
        self, status: int, problem_kind: str, detail: str, retry_after: int | None = None, close: bool = False
    ):
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        super().__init__(status, detail, headers | ({"Connection": "close"} if close else {}))
        self.problem_kind = problem_kind


def make_problem_body(problem: ProblemDetails, instance: str) -> dict[str, Any]:
    """Return the body of an error response, as ProblemResponse describes it; `instance`: the path of the request."""
    body = {name: getattr(problem, name) for name in ("type", "title", "status", "detail")}
    body["instance"] = urls.make_url(instance)
    if problem.errors:
        body["errors"] = [{"field": name, "detail": detail} for name, detail in problem.errors]
    return body | dict(problem.extensions)


def make_problem(error: Exception) -> ProblemDetails:
    """Return the problem for an exception; an unexpected exception reveals no internal details."""
    if isinstance(error, SimileError):
        kind = next(kind for kind in type(error).__mro__ if kind in STATUS_BY_ERROR)
        problem_kind = re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__).lower()
        headers = {"Retry-After": _RETRY_AFTER[kind]} if kind in _RETRY_AFTER else {}
        return ProblemDetails(STATUS_BY_ERROR[kind], str(error), problem_kind, headers=headers)
    if isinstance(error, RequestValidationError):
        fields = [(".".join(map(str, details["loc"])), str(details["msg"])) for details in error.errors()]
        first_field, first_detail = fields[0] if fields else ("request", "it is invalid")
        more = f" (and {len(fields) - 1} more)" if len(fields) > 1 else ""
        return ProblemDetails(422, f"{first_field}: {first_detail}{more}.", errors=fields[:_MAX_LISTED_ERRORS])
    if isinstance(error, HTTPException):
        own_kind: str | None = getattr(error, "problem_kind", None)
        return ProblemDetails(error.status_code, error.detail, own_kind, headers=error.headers or {})
    return ProblemDetails(500, "The server failed unexpectedly. Its log has the details.")


def make_problem_response(request: Request, problem: ProblemDetails) -> Response:
    """Return a problem as an HTTP response."""
    document = json.dumps(make_problem_body(problem, request.url.path), ensure_ascii=False)
    # A file name on disk may be invalid Unicode, which "replace" makes encodable.
    return Response(document.encode("utf-8", "replace"), problem.status, dict(problem.headers), PROBLEM_MEDIA_TYPE)


def install_error_handlers(app: FastAPI) -> None:
    """Make every error of the app a problem response."""
    for kind in (SimileError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _handle_error)
    app.add_exception_handler(ClientDisconnect, _handle_disconnect)
    app.add_exception_handler(WorkCancelled, _handle_disconnect)


async def _handle_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, SimileError | RequestValidationError | HTTPException):
        # Starlette raises it again after this response, and the server prints the traceback.
        logger.error("%s %s failed: %s", request.method, request.url.path, type(error).__name__)
    return make_problem_response(request, _explain_routing_error(request, make_problem(error)))


async def _handle_disconnect(_request: Request, _error: Exception) -> Response:
    return Response(status_code=400)  # the client has left


def _explain_routing_error(request: Request, problem: ProblemDetails) -> ProblemDetails:
    """Add details to Starlette's own 404 and 405, which have only their names."""
    if problem.detail == problem.title and problem.status == 405:
        allowed = _get_allowed_methods(request, problem.headers.get("Allow", ""))
        detail = f"{request.method} is not allowed here, only {allowed}."
        return replace(problem, detail=detail, headers={"Allow": allowed})
    if problem.detail == problem.title and problem.status == 404:
        return replace(problem, detail=f"There is nothing at this URL. {urls.make_url(urls.DOCS)} lists the API.")
    return problem


def _get_allowed_methods(request: Request, allow_header: str) -> str:
    """Return all methods of the URL; `allow_header` is Starlette's own `Allow`, which covers one route only."""
    routes = [route for route in request.app.router.routes if not isinstance(route, Mount)]

    def is_routed(method: str) -> bool:
        method = "GET" if method == "HEAD" else method  # middleware/headers.py
        return any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)

    return ", ".join(method for method in _HTTP_METHODS if method in allow_header.split(", ") or is_routed(method))


def make_too_large_error(max_bytes: int) -> HTTPException:
    """Return the 413 for a body over the limit."""
    return HTTPException(413, f"The request is larger than the {max_bytes:,} bytes allowed here (SIMILE_MAX_BYTES).")


def make_timeout_error(seconds: float) -> ProblemException:
    """Return the 503 for work that did not start or finish in time."""
    detail = f"No response within {seconds:g} seconds (SIMILE_ANSWER_SECONDS). Try again when the service is less busy."
    return ProblemException(503, "too-slow-to-answer", detail, 5)
