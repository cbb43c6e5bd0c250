"""Killed at any moment, on a full disk, two at a time: nothing acknowledged is lost. A hundred rounds: benchmarks/."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from simile.core.settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("rounds", [10, pytest.param(100, marks=(pytest.mark.long, pytest.mark.timeout(3600)))])
@pytest.mark.sqlite
def test_what_was_acknowledged_survives_a_kill_at_any_moment(home_with_digits: Settings, rounds: int) -> None:
    """Index, prune, add, delete, compact and switch, each to its end and then killed; pairs; full disks."""
    arguments = ["--rounds", str(rounds), "--images", "12", "--seed", "1", "--encoder", str(home_with_digits.home)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.indexing.crashes", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=3000,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    table = {
        line[:22].strip(): [int(figure) for figure in line[22:].split()] for line in done.stdout.splitlines()[1:-1]
    }
    killed, refused = sum(row[1] for row in table.values()), sum(row[2] for row in table.values())
    assert killed >= 3 and refused >= 1, done.stdout
