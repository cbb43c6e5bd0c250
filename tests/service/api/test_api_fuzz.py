"""The OpenAPI document held against the service, by schemathesis. At length: benchmarks/service/api_fuzz.py."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from simile.core.settings import Settings

ROOT = Path(__file__).parents[3]


ALL = "examples,coverage,fuzzing"
LONG = (pytest.mark.long, pytest.mark.timeout(3600))


@pytest.mark.parametrize(
    ("name", "examples", "phases"),
    [
        ("open", 2, "examples,fuzzing"),
        ("write", 1, "fuzzing"),
        ("no key", 1, "fuzzing"),
        *(pytest.param(name, 2, ALL, marks=LONG) for name in ("open", "write", "no key")),
    ],
)
def test_the_service_keeps_to_its_document(name: str, examples: int, phases: str, home_with_digits: Settings) -> None:
    """No 5xx, nothing outside the schema, no other status: open on this machine, with a key, and without one."""
    short = ["--examples", str(examples), "--phases", phases, "--rounds", name]
    command = [sys.executable, "-m", "benchmarks.service.api_fuzz", "--home", home_with_digits.home, *short]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.findall(r"(?:Selected|Tested): (\d+)(?:/(\d+))?", done.stdout)
    assert len({count for found in counts for count in found if count}) == 1 and int(counts[0][0]) > 20, done.stdout


def test_what_it_found(client: TestClient) -> None:
    """Each was a 500: a query beside one that is null, and an offset that no number of C's holds."""
    item = {"image_id": 1, "positive": None}
    assert client.post("/v1/search", json=item).status_code == 422
    assert client.post("/v1/search/batch", json={"searches": [item]}).status_code == 422
    for tier in ("pixels", "similar"):
        response = client.get("/v1/duplicates", params={"tier": tier, "offset": 2**63 - 1, "decided": True})
        assert response.status_code == 200 and response.json()["groups"] == response.json()["pairs"] == []
