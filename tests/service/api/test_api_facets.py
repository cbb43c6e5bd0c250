"""Facets over HTTP: counts with conditions that filters take."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from simile.core.filters.expression import Condition, format_condition, parse_expression


def test_each_count_has_the_condition_that_finds_these_images(client: TestClient) -> None:
    for image_id, name in ((1, 'a "b"'), (2, "x or y=z"), (3, "x or y=z")):
        client.put(f"/v1/images/{image_id}/metadata", json={"metadata": {"my class": name}})
    found = client.get("/v1/facets", params={"fields": "my class,format"}).json()
    assert found["total"] == 120 and [facet["name"] for facet in found["facets"]] == ["my class", "format"]
    values = found["facets"][0]["values"]
    assert [(item["value"], item["count"]) for item in values] == [("x or y=z", 2), ('a "b"', 1)]
    for item in values:
        assert client.get("/v1/images", params={"where": item["where"]}).json()["total"] == item["count"]
    filtered = client.get("/v1/facets", params={"fields": "my class", "where": values[1]["where"]}).json()
    assert filtered["total"] == 1 and [item["count"] for item in filtered["facets"][0]["values"]] == [1]


def test_an_unknown_field_names_those_that_there_are(client: TestClient) -> None:
    refused = client.get("/v1/facets?fields=nonsense")
    assert refused.status_code == 422 and "format, camera" in refused.json()["detail"]


@pytest.mark.parametrize("text", ["red dress", 'a "b" \\ c', "x or y=z", "", "or", "a, (b)", " a", "é", "x=y", "-1"])
def test_a_condition_is_written_so_that_it_is_read_as_it_was(text: str) -> None:
    for operator in ("=", "!=", "contains"):
        condition = Condition(text or "a", operator, text)
        assert parse_expression(f"not ({format_condition(condition)}) or b=c")
        assert parse_expression(format_condition(condition)) == condition
