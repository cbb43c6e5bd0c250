"""What a client raises.

ClientError
├── Unreachable        no connection, or it broke, or no answer in time
└── Problem            the service answered, and said what is wrong
    ├── Refused        400, 415, 416, 422 …   the request can't be understood, or its picture can't be read
    ├── NotAllowed     401, 403, 421          no key, or one that may not do this
    ├── NotFound       404                    no such image, encoder, job
    ├── Conflict       409                    the home lacks what is asked for, or has it already
    ├── TooMuch        408, 413, 414, 429, 431   too large, too slow, too often
    └── Unavailable    5xx                    not now; `retry_after` says when
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


class ClientError(Exception):
    """Base of all that a client raises on purpose."""


class Unreachable(ClientError):
    """There is no connection to the service, or it broke, or no answer came in time."""


class Problem(ClientError):
    """The service said what is wrong. `str()` of it is for people; `type` tells errors apart, `kind` is its last word.

    errors: (field, what is wrong with it) of a request that was not understood. more: what else the answer holds.
    """

    def __init__(self, status: int, document: Mapping[str, Any], retry_after: float | None = None) -> None:
        self.status = status
        self.type = str(document.get("type", "about:blank"))
        self.title = str(document.get("title", f"HTTP {status}"))
        self.detail = str(document.get("detail", "The service did not say why."))
        self.errors = [(str(one["field"]), str(one["detail"])) for one in document.get("errors") or ()]
        self.extra = {name: value for name, value in document.items() if name not in _STANDARD_FIELDS}
        self.retry_after = retry_after
        super().__init__(f"{self.title}: {self.detail}")

    @property
    def kind(self) -> str:
        """`no-such-image` of `urn:problem-type:simile:no-such-image`."""
        return self.type.rpartition(":")[2]


class Refused(Problem):
    """The request can't be understood, or its picture can't be read."""


class NotAllowed(Problem):
    """There was no key, or one that may not do this."""


class NotFound(Problem):
    """There is no such image, encoder or job."""


class Conflict(Problem):
    """The home lacks what is asked for, or has it already."""


class TooMuch(Problem):
    """Too large, too slow, or too often; with 429, `retry_after` says how many seconds to wait."""


class Unavailable(Problem):
    """Not now; `retry_after` says in how many seconds, where the service knows."""


_STANDARD_FIELDS = ("type", "title", "status", "detail", "instance", "errors")
_PROBLEM_CLASSES: dict[int, type[Problem]] = {
    401: NotAllowed,
    403: NotAllowed,
    404: NotFound,
    408: TooMuch,
    409: Conflict,
    413: TooMuch,
    414: TooMuch,
    421: NotAllowed,
    429: TooMuch,
    431: TooMuch,
}


def make_problem(status: int, body: bytes, retry_after: str | None) -> Problem:
    """The error for an answer that is one; its body should be a problem document (RFC 9457)."""
    try:
        document = json.loads(body)
    except ValueError:
        document = {"detail": body[:200].decode("utf-8", "replace") or "The answer was empty."}
    kind = Unavailable if status >= 500 else _PROBLEM_CLASSES.get(status, Refused)
    wait = float(retry_after) if retry_after is not None and retry_after.isdecimal() else None
    return kind(status, document if isinstance(document, dict) else {}, wait)
