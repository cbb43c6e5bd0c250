"""Exceptions of the client."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


class ClientError(Exception):
    """Base class of the client's exceptions."""


class Unreachable(ClientError):
    """There is no connection to the service, it broke, or no response came in time."""


class Problem(ClientError):
    """An error response of the service; `str()` is for people, `type` and `kind` are for programs.

    Attributes:
        status: The HTTP status.
        errors: (field, reason) of each invalid field of the request.
        extra: The other fields of the response.
        retry_after: Seconds to wait before another try; None if unknown.
    """

    def __init__(self, status: int, document: Mapping[str, Any], retry_after: float | None = None) -> None:
        self.status = status
        self.type = str(document.get("type", "about:blank"))
        self.title = str(document.get("title", f"HTTP {status}"))
        self.detail = str(document.get("detail", "The service gave no reason."))
        self.errors = [(str(error["field"]), str(error["detail"])) for error in document.get("errors") or ()]
        self.extra = {name: value for name, value in document.items() if name not in _STANDARD_FIELDS}
        self.retry_after = retry_after
        super().__init__(f"{self.title}: {self.detail}")

    @property
    def kind(self) -> str:
        """The last part of `type`: `no-such-image` of `urn:problem-type:simile:no-such-image`."""
        return self.type.rpartition(":")[2]


class Refused(Problem):
    """The request is invalid, or its image is unreadable."""


class NotAllowed(Problem):
    """There is no key, or the key lacks the scope."""


class NotFound(Problem):
    """There is no such image, encoder or job."""


class Conflict(Problem):
    """The home lacks something that the request needs, or has it already."""


class TooMuch(Problem):
    """Too large, too slow, or too often; with 429, `retry_after` says how many seconds to wait."""


class Unavailable(Problem):
    """The service cannot respond now; `retry_after` says when to try again, if the service knows."""


_STANDARD_FIELDS = ("type", "title", "status", "detail", "instance", "errors")
_PROBLEM_CLASSES: dict[int, type[Problem]] = {
    **dict.fromkeys((401, 403, 421), NotAllowed),
    404: NotFound,
    409: Conflict,
    **dict.fromkeys((408, 413, 414, 429, 431), TooMuch),
}


def make_problem(status: int, body: bytes, retry_after: str | None) -> Problem:
    """Return the exception for an error response, whose body should be problem details (RFC 9457)."""
    try:
        document = json.loads(body)
    except ValueError:
        document = {"detail": body[:200].decode("utf-8", "replace") or "The response was empty."}
    problem_class = Unavailable if status >= 500 else _PROBLEM_CLASSES.get(status, Refused)
    seconds = float(retry_after) if retry_after is not None and retry_after.isdecimal() else None
    return problem_class(status, document if isinstance(document, dict) else {}, seconds)
