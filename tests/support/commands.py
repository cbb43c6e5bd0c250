"""Run commands of simile in this process."""

from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner, Result

from simile.cli.main import app


def run_simile(*arguments: object, stdin: bytes | None = None) -> Result:
    """Run a command; errors are raised."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin, catch_exceptions=False)


def run_json(*arguments: object, stdin: bytes | None = None) -> Any:
    """Run a command that must succeed with --json and return its output."""
    done = run_simile(*arguments, "--json", stdin=stdin)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)
