"""Examples of every request, response and error in the OpenAPI document; a test validates each against its schema.

Examples of responses are derived from their schemas and from FIELD_EXAMPLES. Examples of errors are the errors
themselves, so that their texts are those of the service.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from simile.core import errors
from simile.service import urls
from simile.service.errors import PROBLEM_MEDIA_TYPE, ProblemException, make_problem, make_problem_body
from simile.service.requests.search import JSON_MEDIA_TYPE, MULTIPART_MEDIA_TYPE

_FINGERPRINT = "7037831b0a56ace8"
_PNG_DATA_URL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
_METADATA = {"class": "shirt", "price": 9.5}

# By name of a response field; used where the type fits. An array of other values has one item of them.
FIELD_EXAMPLES: dict[str, Any] = {
    "image_id": 17,
    "path": "/photos/shirt-1.jpg",
    "name": "shirt-1.jpg",
    "width": 400,
    "height": 534,
    "format": "jpeg",
    "size": 48213,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    **urls.image_urls(17),
    "difference_url": urls.difference(17, 18),
    "metadata": _METADATA,
    "distance": 0.214,
    "score": 0.83,
    "text": "dress -striped",
    "word": "dress",
    "auc": 0.97,
    "count": 247,
    "relation": "cropped to 42%",
    "spread": 0.031,
    "sigma": 0.182,
    "reconstruction_error": 0.0041,
    "error_percentile": 37.5,
    "false_alarm_rate": 0.0097,
    "false_alarm_among": "new",
    **dict.fromkeys(("total", "images"), 1389),
    "limit": 100,
    **dict.fromkeys(("offset", "failed", "lacking"), 0),
    **dict.fromkeys(("encoder", "fingerprint"), _FINGERPRINT),
    "recipe": "invariant",
    "metric": "cosine",
    "description": {"fingerprint": _FINGERPRINT, "metric": "cosine"},
    "kind": "exact",
    **dict.fromkeys(("picture", "seen", "deviation"), _PNG_DATA_URL),
    **dict.fromkeys(("root", "roots"), "photos"),
    **urls.job_urls(7),
    "reason": "a near copy, confirmed by its pixels",
    "keep_reason": "the largest",
    "layout": "pca",
}

# By route: JSON bodies, then forms; files are given by name.
REQUEST_EXAMPLES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "POST /v1/search": (
        {
            "image": {"image_id": 17, "limit": 10},
            "several": {"positive": [17, 18], "negative": [4], "where": ["class=shirt"]},
            "vector": {"vector": [0.12, -1.4, 0.7], "within": 0.5},
        },
        {"file": {"file": ["shirt.jpg"], "limit": 10, "include": ["metadata"]}},
    ),
    "POST /v1/search/batch": (
        {"searches": {"searches": [{"image_id": 17}, {"positive": [18, 19], "limit": 5}]}},
        {"files": {"file": ["shirt.jpg", "shoe.jpg"], "limit": 5}},
    ),
    "POST /v1/reconstructions": ({}, {"file": {"file": "shirt.jpg"}}),
    "POST /v1/images": ({}, {"file": {"file": "shirt.jpg", "metadata": _METADATA}}),
    "PUT /v1/images/{image_id}/metadata": ({"shirt": {"metadata": _METADATA}}, {}),
    "POST /v1/duplicates/decisions": (
        {"same": {"decisions": [{"first": 17, "second": 18, "same": True, "keep": 17}]}},
        {},
    ),
    "POST /v1/jobs": ({"index": {"root": "photos", "prune": False}}, {}),
    "POST /v1/latents": (
        {"mix": {"parts": [{"image_id": 17, "weight": 0.7}, {"image_id": 18, "weight": 0.3}], "nearest": 5}},
        {"attribute": {"file": ["shirt.jpg"], "attributes": {"smile": 1.5}, "nearest": 5}},
    ),
    "POST /v1/morphs": (
        {"two": {"parts": [{"image_id": 17}, {"image_id": 18}], "steps": 16}},
        {"two": {"file": ["shirt.jpg", "shoe.jpg"], "steps": 16}},
    ),
    "POST /v1/samples": (
        {"prior": {"count": 16}, "around": {"source": "image", "image_id": 17, "count": 4}},
        {"around": {"file": "shirt.jpg", "count": 4, "seed": 7}},
    ),
    "POST /v1/traversals": (
        {"most": {"dims": 8}, "image": {"start": {"image_id": 17}, "dims": [3, 7]}},
        {"file": {"file": "shirt.jpg", "dims": [3, 7]}},
    ),
    "POST /v1/uncertainty": ({"image": {"image_id": 17}}, {"file": {"file": "shirt.jpg"}}),
    "POST /v1/attributes": (
        {
            "sets": {"name": "smile", "positive": [17, 18], "negative": [4, 5]},
            "condition": {"name": "sold", "where": ["sold=yes"]},
        },
        {},
    ),
    "POST /v1/attributes/{name}/apply": (
        {"image": {"image_id": 17, "strengths": [-1, 0, 1]}},
        {"file": {"file": "face.jpg", "strengths": [-1, 0, 1]}},
    ),
    "POST /v1/map": ({"tsne": {"layout": "tsne", "clusters": "hdbscan"}}, {}),
}

EXAMPLE_ERRORS: dict[int, list[Exception]] = {
    400: [HTTPException(400, "Invalid JSON: EOF while parsing a value at line 1 column 13.")],
    401: [
        ProblemException(401, "key-needed", "This service needs a key: send it as `Authorization: Bearer KEY`."),
        ProblemException(401, "key-refused", "This key is unknown, revoked or expired."),
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
        errors.NothingIndexed("/srv/simile holds no images yet. Run `simile index PHOTOS`."),
        errors.NoDecoder(f"Encoder {_FINGERPRINT} has no decoder: it cannot reconstruct images."),
    ],
    413: [
        HTTPException(413, "The request is larger than the 50,065,536 bytes allowed here (SIMILE_MAX_BYTES)."),
        errors.ImageTooLarge("huge.png", "30000 x 30000 pixels are more than the limit of 200,000,000"),
    ],
    414: [ProblemException(414, "address-too-long", "The URL is longer than the 8,192 bytes allowed here.")],
    415: [HTTPException(415, f"Send the image as {MULTIPART_MEDIA_TYPE}, in the field `file`.")],
    416: [HTTPException(416, "The file has 48,213 bytes: the requested range starts after its end.")],
    421: [ProblemException(421, "wrong-host", "The service does not have this name. Add it to SIMILE_ALLOWED_HOSTS.")],
    422: [
        errors.UnreadableImage("notes.jpg", "not an image, or of a format that simile does not read"),
        RequestValidationError(
            [{"loc": ("query", "limit"), "msg": "Input should be greater than or equal to 1", "type": "greater_than"}]
        ),
        errors.EncoderMismatch(f"A vector of 3 numbers cannot be compared: encoder {_FINGERPRINT} has 64."),
    ],
    429: [
        ProblemException(429, "too-many-requests", "Too many requests. Wait 7 s, then send fewer requests."),
        ProblemException(429, "too-many-at-once", "64 uploads of this address are running or waiting."),
    ],
    431: [ProblemException(431, "header-too-large", "The headers are larger than the 32,768 bytes allowed here.")],
    503: [
        ProblemException(503, "too-busy", "128 uploads are running or waiting; no more are accepted."),
        errors.HomeBusy("/srv/simile is in use by process 412, `simile index`. Wait until it has finished."),
    ],
}

# By pattern of a route, in place of EXAMPLE_ERRORS; the first one that matches counts.
ROUTE_ERRORS: dict[str, dict[int, list[Exception]]] = {
    "GET /v1/images": {503: [errors.BeingComputed("The outlier ranking is being computed.")]},
    "POST /v1/jobs": {
        404: [errors.NoSuchRoot("music", ["photos", "scans"])],
        409: [errors.JobRunning("Job 7 is running, and only one job runs at a time. Wait for its end or cancel it.")],
    },
    "POST /v1/jobs/{job_id}/cancel": {409: [errors.JobOver("Job 7 has ended: it cannot be cancelled any more.")]},
    "* /v1/jobs/{job_id}*": {404: [errors.NoSuchJob(42)]},
    "* /v1/encoders/{fingerprint}*": {
        404: [ProblemException(404, "no-such-encoder", "'ffff' is not an encoder of this home.")]
    },
    "GET /v1/map*": {
        404: [ProblemException(404, "no-such-map", "There is no map by umap yet. POST to /v1/map to compute it.")],
        503: [
            errors.BeingComputed("The map is being computed: layout (pca), 0 of 1,389. Try again in some seconds."),
            ProblemException(503, "map-failed", "The map by pca could not be computed. Try `simile map --layout pca`."),
        ],
    },
    "POST /v1/attributes": {
        409: [ProblemException(409, "attribute-exists", "Attribute smile exists already. Use another name.")]
    },
    "* /v1/attributes/{name}*": {
        404: [ProblemException(404, "no-such-attribute", "There is no attribute smile (known: none).")]
    },
    "GET /v1/outliers": {503: [errors.BeingComputed("The outliers are being computed.")]},
    "GET /readyz": {503: [ProblemException(503, "not-ready", "The encoder is being loaded.")]},
}
_PARAMETER_EXAMPLES: dict[str, Any] = {
    "image_id": 17,
    "job_id": 7,
    "tile": 3,
    "name": "smile",
    "fingerprint": _FINGERPRINT,
    "first": 17,
    "second": 18,
}
_JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
_TYPE_EXAMPLES: dict[str | None, Any] = {
    "null": None,
    "boolean": False,
    "integer": 1,
    "number": 0.5,
    "string": "text",
    "object": {},
}


def add_examples(document: dict[str, Any]) -> None:
    """Add examples to all operations of an OpenAPI document."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _add_operation_examples(f"{method.upper()} {path}", operation, document["components"]["schemas"])


def _add_operation_examples(route: str, operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    for parameter in operation.get("parameters", []):
        if parameter["name"] in _PARAMETER_EXAMPLES:
            parameter["example"] = _PARAMETER_EXAMPLES[parameter["name"]]
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        examples = REQUEST_EXAMPLES[route][0 if media_type == JSON_MEDIA_TYPE else 1]
        content["examples"] = {name: {"value": value} for name, value in examples.items()}
    for status, response in operation["responses"].items():
        for media_type, content in response.get("content", {}).items():
            if media_type == PROBLEM_MEDIA_TYPE:
                content["examples"] = make_problem_examples(route, int(status))
            elif media_type == JSON_MEDIA_TYPE and "example" not in content:
                content["example"] = make_schema_example(content["schema"], schemas)


def make_schema_example(schema: dict[str, Any], schemas: dict[str, Any], name: str = "") -> Any:
    """Return an example of a JSON schema; `schemas`: those that `$ref` names; `name`: the field in FIELD_EXAMPLES."""
    options = [
        schemas[option["$ref"].rpartition("/")[2]] if "$ref" in option else option
        for option in schema.get("anyOf", [schema])
    ]
    types = {option.get("type") for option in options}
    option = options[0]
    example: Any = _TYPE_EXAMPLES.get(option.get("type"))
    if name in FIELD_EXAMPLES and _JSON_TYPES[type(FIELD_EXAMPLES[name])] in types:
        example = FIELD_EXAMPLES[name]
    elif "null" in types:
        example = None
    elif "properties" in option:
        example = {key: make_schema_example(field, schemas, key) for key, field in option["properties"].items()}
    elif "items" in option:
        example = [make_schema_example(option["items"], schemas, name)]
    elif isinstance(option.get("additionalProperties"), dict):
        example = {"name": make_schema_example(option["additionalProperties"], schemas)}
    elif "const" in option or "enum" in option:
        example = option.get("const", option.get("enum", [None])[0])
    elif option.get("format") == "date-time":
        example = "2026-11-26T09:30:00Z"
    return example


def make_problem_examples(route: str, status: int) -> dict[str, Any]:
    """Return examples of a route's problems with this status, by the last word of their type."""
    path = route.partition(" ")[2]
    for name, value in _PARAMETER_EXAMPLES.items():
        path = path.replace(f"{{{name}}}", str(value))
    of_route = (found[status] for key, found in ROUTE_ERRORS.items() if fnmatchcase(route, key) and status in found)
    examples: dict[str, Any] = {}
    for problem in map(make_problem, next(of_route, EXAMPLE_ERRORS[status])):
        kind = problem.type.rpartition(":")[2]
        examples["unspecified" if kind == "blank" else kind] = {"value": make_problem_body(problem, path)}
    return examples
