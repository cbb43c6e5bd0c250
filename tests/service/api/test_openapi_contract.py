"""The HTTP contract: paths, parameters, field names and status codes of the API stay as they are.

`openapi_contract.txt` holds the reduced document. After an intended change, run this file as a script to rewrite it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from simile.core.settings import load_settings
from simile.service.app import create_app
from simile.service.errors import STATUS_BY_ERROR, make_problem

CONTRACT = Path(__file__).with_name("openapi_contract.txt")


def describe_schema(schema: dict[str, Any], document: dict[str, Any], parents: tuple[str, ...] = ()) -> str:
    """The names of an object's fields, `*` after the required ones, with the fields of nested objects.

    `$ref` is followed, so that the names of components may change.
    """
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return (
            "..."
            if name in parents
            else describe_schema(document["components"]["schemas"][name], document, (*parents, name))
        )
    parts = set()
    if "properties" in schema:
        required = schema.get("required", [])
        fields = [
            name + "*" * (name in required) + describe_schema(field, document, parents)
            for name, field in sorted(schema["properties"].items())
        ]
        parts.add("{" + " ".join(fields) + "}")
    for keyword in ("items", "additionalProperties"):
        if isinstance(schema.get(keyword), dict):
            parts.add(describe_schema(schema[keyword], document, parents))
    for keyword in ("anyOf", "oneOf", "allOf"):
        parts.update(describe_schema(option, document, parents) for option in schema.get(keyword, []))
    return "|".join(sorted(parts - {""}))


def describe_content(content: dict[str, Any], document: dict[str, Any]) -> str:
    """The media types of a body, each with its shape."""
    return "; ".join(
        f"{media_type} {describe_schema(body.get('schema', {}), document)}".rstrip()
        for media_type, body in sorted(content.items())
    )


def reduce_document(document: dict[str, Any]) -> Iterator[str]:
    """One line for an operation, its parameters, its body and each kind of response."""
    for path, operations in sorted(document["paths"].items()):
        for method, operation in sorted(operations.items()):
            yield f"{method.upper()} {path}"
            parameters = [
                f"{parameter['name']}{'*' * parameter['required']}({parameter['in']})"
                for parameter in operation.get("parameters", [])
            ]
            if parameters:
                yield f"  parameters: {' '.join(sorted(parameters))}"
            if "requestBody" in operation:
                yield f"  body: {describe_content(operation['requestBody']['content'], document)}"
            statuses: dict[str, list[str]] = {}
            for status, response in sorted(operation["responses"].items()):
                statuses.setdefault(describe_content(response.get("content", {}), document), []).append(status)
            for content, codes in statuses.items():
                yield f"  {' '.join(codes)}: {content}".rstrip(": ")


def make_contract(home: Path) -> str:
    """The reduced document of the app, and the types of problems, which derive from the names of exceptions."""
    problems = [make_problem(kind.__new__(kind)) for kind in STATUS_BY_ERROR]
    types = [f"{problem.status} {problem.type}" for problem in sorted(problems, key=lambda problem: problem.type)]
    return "\n".join([*reduce_document(create_app(load_settings(home=home)).openapi()), *types]) + "\n"


def test_the_document_of_the_app_equals_the_stored_contract(tmp_path: Path) -> None:
    assert make_contract(tmp_path) == CONTRACT.read_text(encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        CONTRACT.write_text(make_contract(Path(folder)), encoding="utf-8")
