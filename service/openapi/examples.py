"""An example for every route, body and error of the OpenAPI document. A test holds each to its schema."""

from __future__ import annotations

from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from simile.core import errors
from simile.service.errors import PROBLEM_MEDIA_TYPE, ProblemException, make_problem, make_problem_body
from simile.service.openapi import example_responses
from simile.service.requests.search import JSON_MEDIA_TYPE, MULTIPART_MEDIA_TYPE

# What goes wrong, by status: the errors themselves, so that the words are those of the service.
EXAMPLE_ERRORS: dict[int, list[Exception]] = {
    400: [HTTPException(400, "Invalid JSON: EOF while parsing a value at line 1 column 13.")],
    401: [
        ProblemException(401, "key-needed", "This service needs a key: send it as `Authorization: Bearer KEY`."),
        ProblemException(401, "key-refused", "This key is not known here, was revoked, or has expired."),
    ],
    403: [
        ProblemException(403, "missing-scope", "This needs the scope write; the key `page` has search."),
        ProblemException(403, "cross-site", "The page of another site sent this. Only this service's own page may."),
    ],
    404: [errors.NoSuchImage(4242)],
    408: [
        ProblemException(408, "upload-too-slow", "The upload took longer than allowed here (SIMILE_UPLOAD_SECONDS).")
    ],
    409: [
        errors.NothingIndexed("/srv/simile holds no pictures yet. Run `simile index PHOTOS`."),
        errors.NoDecoder("Encoder 7037831b0a56ace8 has no decoder: it can't show what it saw."),
    ],
    413: [
        HTTPException(413, "The request is larger than the 50,065,536 bytes allowed here (SIMILE_MAX_BYTES)."),
        errors.ImageTooLarge("huge.png", "30000 x 30000 pixels are more than the limit of 200,000,000"),
    ],
    414: [ProblemException(414, "address-too-long", "The address is longer than the 8,192 bytes allowed here.")],
    415: [HTTPException(415, f"Send the picture as {MULTIPART_MEDIA_TYPE}, in the field `file`.")],
    416: [HTTPException(416, "The file has 48,213 bytes: the stretch that was asked for lies behind its end.")],
    421: [ProblemException(421, "wrong-host", "The service is not called that here. Name it in SIMILE_ALLOWED_HOSTS.")],
    422: [
        errors.UnreadableImage("notes.jpg", "not an image, or of a format that simile does not read"),
        RequestValidationError(
            [{"loc": ("query", "limit"), "msg": "Input should be greater than or equal to 1", "type": "greater_than"}]
        ),
        errors.EncoderMismatch("A vector of 3 numbers can't be compared: encoder 7037831b0a56ace8 has 64."),
    ],
    429: [
        ProblemException(429, "too-many-requests", "Too many requests. Wait 7 s, then go on more slowly."),
        ProblemException(429, "too-many-at-once", "64 requests with pictures of this address are at work or waiting."),
    ],
    431: [ProblemException(431, "header-too-large", "The headers are larger than the 32,768 bytes allowed here.")],
    503: [
        ProblemException(
            503, "too-busy", "128 requests with pictures are at work or waiting, and no more are taken in."
        ),
        errors.HomeBusy("/srv/simile is in use by process 412, `simile index`. Wait until it has finished."),
    ],
}

_MISSING_MAP_ERRORS: dict[int, list[Exception]] = {
    404: [ProblemException(404, "no-such-map", "There is no map by umap yet. POST to /v1/map to have it computed.")],
    503: [
        errors.BeingComputed("The map is being computed: laying out (pca), 0 of 1,389. Ask again in some seconds."),
        ProblemException(503, "map-failed", "The map by pca could not be made. Try `simile map --layout pca`."),
    ],
}

_MISSING_ATTRIBUTE_ERRORS: dict[int, list[Exception]] = {
    404: [ProblemException(404, "no-such-attribute", "There is no attribute smile (known: none).")]
}

# Of one route, in place of the errors above.
ROUTE_ERRORS: dict[str, dict[int, list[Exception]]] = {
    "GET /v1/images": {503: [errors.BeingComputed("How unlike the rest each picture is, is being computed.")]},
    "POST /v1/jobs": {
        404: [errors.NoSuchRoot("music", ["photos", "scans"])],
        409: [errors.JobRunning("Job 7 is under way, and there is one at a time. Wait for its end, or cancel it.")],
    },
    "POST /v1/jobs/{job_id}/cancel": {409: [errors.JobOver("Job 7 has ended: it can't be stopped any more.")]},
    "GET /v1/map": _MISSING_MAP_ERRORS,
    "GET /v1/map/points": _MISSING_MAP_ERRORS,
    "GET /v1/map/tiles/{tile}": _MISSING_MAP_ERRORS,
    "POST /v1/attributes": {
        409: [
            ProblemException(
                409, "attribute-exists", "There is an attribute smile already. Delete it, or choose another name."
            )
        ]
    },
    "GET /v1/attributes/{name}": _MISSING_ATTRIBUTE_ERRORS,
    "DELETE /v1/attributes/{name}": _MISSING_ATTRIBUTE_ERRORS,
    "POST /v1/attributes/{name}/apply": _MISSING_ATTRIBUTE_ERRORS,
    "GET /v1/outliers": {503: [errors.BeingComputed("Which pictures are least like the rest is being measured.")]},
    "GET /readyz": {503: [ProblemException(503, "not-ready", "The encoder is being loaded.")]},
}
_UNKNOWN_ID_ERRORS: dict[str, Exception] = {
    "{job_id}": errors.NoSuchJob(42),
    "{fingerprint}": ProblemException(
        404, "no-such-encoder", "'ffff' is no encoder of this home. /v1/encoders lists them."
    ),
}
_PARAMETER_EXAMPLES: dict[str, Any] = {
    "image_id": 17,
    "job_id": 7,
    "tile": 3,
    "name": "smile",
    "fingerprint": "7037831b0a56ace8",
    "first": 17,
    "second": 18,
}


def add_examples(document: dict[str, Any]) -> None:
    """Writes the examples into an OpenAPI document."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _add_operation_examples(f"{method.upper()} {path}", operation)


def _add_operation_examples(route: str, operation: dict[str, Any]) -> None:
    for parameter in operation.get("parameters", []):
        if parameter["name"] in _PARAMETER_EXAMPLES:
            parameter["example"] = _PARAMETER_EXAMPLES[parameter["name"]]
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        known = example_responses.REQUEST_EXAMPLES.get(route, {}).get("json" if kind == JSON_MEDIA_TYPE else "form", {})
        if known:
            content["examples"] = {name: {"value": value} for name, value in known.items()}
    for status, response in operation["responses"].items():
        for kind, content in response.get("content", {}).items():
            if kind == PROBLEM_MEDIA_TYPE:
                content["examples"] = make_problem_examples(route, int(status))
            elif kind == JSON_MEDIA_TYPE and route in example_responses.RESPONSE_EXAMPLES:
                content["example"] = example_responses.RESPONSE_EXAMPLES[route]


def make_problem_examples(route: str, status: int) -> dict[str, Any]:
    """Examples of problems with this status that a route can answer with, by the last word of their type."""
    found: dict[str, Any] = {}
    for error in _get_errors(route, status):
        problem = make_problem(error)
        kind = problem.type.rpartition(":")[2]
        path = route.partition(" ")[2]
        for name, value in _PARAMETER_EXAMPLES.items():
            path = path.replace(f"{{{name}}}", str(value))
        found["unspecified" if kind == "blank" else kind] = {"value": make_problem_body(problem, path)}
    return found


def _get_errors(route: str, status: int) -> list[Exception]:
    of_route = ROUTE_ERRORS.get(route, {})
    if status in of_route:
        return of_route[status]
    if status == 404:
        unknown = [error for name, error in _UNKNOWN_ID_ERRORS.items() if name in route]
        return unknown or EXAMPLE_ERRORS[404]
    return EXAMPLE_ERRORS[status]
