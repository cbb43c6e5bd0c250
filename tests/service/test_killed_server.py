"""A server killed during uploads: what was acknowledged is there. A thousand uploads: benchmarks/."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from simile.core.settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("uploads", "rounds"), [(20, 1), pytest.param(500, 5, marks=(pytest.mark.long, pytest.mark.timeout(3600)))]
)
def test_every_upload_that_was_acknowledged_survives_the_death_of_the_server(
    home_with_digits: Settings, uploads: int, rounds: int
) -> None:
    counts = ["--uploads", str(uploads), "--rounds", str(rounds), "--seed", "1"]
    arguments = [*counts, "--home", str(home_with_digits.home)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.service.killed_server", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=3000,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 things wrong" in done.stdout
