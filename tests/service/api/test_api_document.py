"""The OpenAPI document: examples of everything that goes in and comes out, and they hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from simile.core.settings import load_settings
from simile.service import errors as errors_module
from simile.service.app import create_app
from simile.service.openapi.examples import EXAMPLE_ERRORS, ROUTE_ERRORS

PROBLEM = "application/problem+json"
FORM = "multipart/form-data"


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    app = create_app(load_settings(home=tmp_path_factory.mktemp("home")))
    assert app.openapi() == app.openapi()
    return dict(json.loads(json.dumps(app.openapi())))


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def examples(content: dict[str, Any], document: dict[str, Any]) -> list[Any]:
    """Those of a body: its own, or those of its schema."""
    if "example" in content:
        return [content["example"]]
    if "examples" in content:
        return [item["value"] for item in content["examples"].values()]
    name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
    return list(document["components"]["schemas"].get(name, {}).get("examples", []))


def hold(value: Any, schema: dict[str, Any], document: dict[str, Any], where: str) -> None:
    whole = {**schema, "components": document["components"]}
    try:
        jsonschema_rs.validator_for(whole).validate(value)
    except jsonschema_rs.ValidationError as error:
        pytest.fail(f"{where}: {error}")


def test_every_response_and_error_has_an_example_that_holds(document: dict[str, Any]) -> None:
    checked = 0
    for place, operation in operations(document):
        for status, response in operation["responses"].items():
            for kind, content in response.get("content", {}).items():
                if not kind.endswith("json"):
                    continue  # a picture, or a stream of events
                found = examples(content, document)
                assert found, f"{place} {status} has no example"
                for value in found:
                    hold(value, content.get("schema", {}), document, f"{place} {status}")
                    checked += 1
    assert checked > 300


def test_every_body_has_an_example_that_holds(document: dict[str, Any]) -> None:
    bodies = [(place, item["requestBody"]) for place, item in operations(document) if "requestBody" in item]
    assert len(bodies) >= 7
    for place, body in bodies:
        for kind, content in body["content"].items():
            found = examples(content, document)
            assert found, f"{place} has no example of {kind}"
            for value in found:
                hold(value, content["schema"], document, f"{place} {kind}")


def test_the_problems_of_an_example_have_its_status(document: dict[str, Any]) -> None:
    for place, operation in operations(document):
        for status, response in operation["responses"].items():
            for value in examples(response.get("content", {}).get(PROBLEM, {}), document):
                assert str(value["status"]) == status, place
                assert value["instance"].startswith("/") and "{" not in value["instance"]
    for found in (EXAMPLE_ERRORS, *ROUTE_ERRORS.values()):
        for status, errors in found.items():
            assert [errors_module.make_problem(error).status for error in errors] == [status] * len(errors)


def test_every_operation_says_what_it_does_and_has_a_name_of_its_own(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len(set(names)) == len(names) > 25
    assert all(operation.get("description") for _, operation in operations(document))


def test_the_api_page_lists_every_route_and_every_type_of_problem(document: dict[str, Any]) -> None:
    page = (Path(__file__).parents[3] / "docs" / "api.md").read_text(encoding="utf-8")
    for place, _ in operations(document):
        assert f"`{place}" in page, f"docs/api.md lacks {place}"
    found = {
        value["type"].rpartition(":")[2]
        for _, operation in operations(document)
        for response in operation["responses"].values()
        for value in examples(response.get("content", {}).get(PROBLEM, {}), document)
    }
    kinds = {
        errors_module.make_problem(kind.__new__(kind)).type.rpartition(":")[2] for kind in errors_module.STATUS_BY_ERROR
    }
    for kind in (found | kinds) - {"blank"}:
        assert f"`{kind}`" in page, f"docs/api.md lacks the problem {kind}"
