"""What is counted and logged, and what is not."""

from __future__ import annotations

import json
import logging
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import pytest
from starlette.testclient import TestClient

from simile.core import logs
from simile.core.errors import BadSetting
from simile.core.settings import load_settings
from simile.service.app import create_app
from simile.service.observability.metrics import REQUEST_STAGES, ServiceMetrics, serve_metrics
from tests.service.test_service import problem, search
from tests.support.images import noise
from tests.support.waiting import free_port


def figures(client: TestClient) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def test_a_search_leaves_its_time_at_every_stage(client: TestClient) -> None:
    before = figures(client)
    for seed in range(3):
        assert search(client, noise(seed)).status_code == 200
        assert client.post("/v1/search?verify=true", files={"file": noise(seed)}).status_code == 200
    found = figures(client)
    for stage in REQUEST_STAGES:
        name = f'simile_stage_seconds_count{{stage="{stage}"}}'
        assert found[name] - before[name] >= 3, stage
    assert found["simile_batch_size_sum"] == 3
    assert found['simile_requests_total{method="POST",route="/v1/search",status="200"}'] == 6


def test_requests_are_counted_by_route_and_never_by_what_a_client_made_up(client: TestClient) -> None:
    for path in ("/v1/images/1", "/v1/images/2", "/v1/images/99999", "/made/up", "/made/up/too"):
        client.get(path)
    client.request("BREW", "/coffee")
    found = [name for name in figures(client) if name.startswith("simile_requests_total")]
    assert 'simile_requests_total{method="GET",route="/v1/images/{image_id}",status="200"}' in found
    assert 'simile_requests_total{method="GET",route="/v1/images/{image_id}",status="404"}' in found
    assert not any("made" in name or "coffee" in name or "BREW" in name or "99999" in name for name in found)


def test_the_index_shows_in_the_figures_as_it_is_now(client: TestClient) -> None:
    assert figures(client)["simile_index_images"] == 120
    client.post("/v1/images", files={"file": ("a.png", noise(5))})
    found = figures(client)
    assert (found["simile_index_images"], found["simile_index_pending"]) == (121, 1)
    assert found["simile_index_segment_rows"] == 120 and found["simile_index_recall"] == 1
    (info,) = [name for name in found if name.startswith("simile_index_info")]
    assert 'kind="exact"' in info and found[info] == 1


def test_a_home_without_an_index_still_has_figures(tmp_path: Any) -> None:
    with TestClient(create_app(load_settings(home=tmp_path / "none"))) as client:
        assert "simile_queue_depth" in figures(client)


def test_the_figures_have_an_address_of_their_own_if_one_is_given() -> None:
    metrics, port = ServiceMetrics(), free_port()
    metrics.count_refusal("too-busy")
    with serve_metrics(load_settings(metrics_port=port), metrics.registry):
        with closing(HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            connection.request("GET", "/metrics")
            assert b'simile_refused_total{reason="too-busy"} 1.0' in connection.getresponse().read()
        with (
            pytest.raises(BadSetting, match="SIMILE_METRICS_PORT"),
            serve_metrics(load_settings(metrics_port=port), metrics.registry),
        ):
            pass


def test_every_response_has_an_id_and_a_client_s_own_is_kept_if_it_is_plain(client: TestClient) -> None:
    made = [client.get("/livez").headers["x-request-id"] for _ in range(2)]
    assert made[0] != made[1] and made[0].split("-")[0] == made[1].split("-")[0]
    assert client.get("/livez", headers={"X-Request-Id": "abc-1.2:3"}).headers["x-request-id"] == "abc-1.2:3"
    for odd in ('a"b', "a b", "a" * 129, "é".encode().decode("latin-1")):
        assert client.get("/livez", headers={"X-Request-Id": odd.encode("latin-1")}).headers["x-request-id"] != odd
    missing = client.get("/v1/images/99999")
    problem(missing, 404)
    assert missing.headers["x-request-id"]


def test_a_request_is_one_line_of_the_log_whatever_its_address(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="simile.requests"):
        client.get("/v1/images/7?secret=1")
        client.get("/up%0AERROR%20forged: line")
        client.get("/readyz")
    first, second = caplog.records
    fields = first.fields  # type: ignore[attr-defined]
    assert (fields["route"], fields["path"], fields["status"]) == ("/v1/images/{image_id}", "/v1/images/7", 200)
    assert "secret" not in str(fields)
    for record in (first, second):
        for formatter in (logs.SingleLineFormatter("%(levelname)s %(message)s"), logs.JsonLinesFormatter()):
            assert "\n" not in formatter.format(record)
    assert json.loads(logs.JsonLinesFormatter().format(second))["path"].startswith("/up\nERROR")
