"""Commands that look after a home: status, verify, rebuild."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cli import options, output
from core.settings import load_settings


def status(
    home: options.Home = None,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Bring a home of an older simile up to date, after a backup.")
    ] = False,
    json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Say what the home holds: pictures, encoder, index, the latest runs and what they set aside."""
    from indexer.status import read_status

    found = read_status(load_settings(home=home), upgrade=upgrade)
    if json:
        output.write_json(found)
        return
    output.write(_text(found))


def verify(home: options.Home = None, json: options.Json = False, verbose: options.Verbose = False) -> None:
    """Check rows, vectors, segments, encoders and files against each other; exit 1 if anything is wrong."""
    from indexer.status import home_leftovers, verify_home

    settings = load_settings(home=home)
    problems = verify_home(settings)
    left = home_leftovers(settings) if not problems else []
    if json:
        output.write_json({"problems": list(map(vars, problems)), "leftovers": list(map(vars, left))})
    else:
        if not problems:
            output.write("nothing lost, nothing twice: rows, vectors, segments and encoders agree")
        for problem in problems + left:
            output.write(f"{problem.kind}: {problem.what} {problem.next_step}")
    if problems:
        raise typer.Exit(1)


def rebuild(home: options.Home = None, json: options.Json = False, verbose: options.Verbose = False) -> None:
    """Make the index again from the rows alone; needs neither pictures nor network."""
    from indexer.status import rebuild_index

    rows = rebuild_index(load_settings(home=home))
    output.write_json({"rows": rows}) if json else output.write(f"a new segment with {rows:,} vectors is in use")


def _text(found: dict[str, Any]) -> str:
    encoder = found["encoder"]
    lines = [f"home       {found['home']}", f"pictures   {found['images']:,}"]
    if encoder:
        lines.append(
            f"encoder    {encoder['fingerprint']}  {encoder['recipe']}, "
            f"μ of {encoder['dimensions']}, {encoder['metric']}"
        )
    else:
        lines.append("encoder    none yet: run `simile index PHOTOS`")
    segment = found["segment"]
    lines.append(
        f"segment    {segment['rows']:,} vectors, {found['pending']:,} changes since" if segment else "segment    none"
    )
    for run in found["runs"]:
        lines.append(
            f"run {run['id']:>4}   {run['kind']}  {run['status']}  {run['started_at']:%Y-%m-%d %H:%M:%S} UTC  "
            + "  ".join(
                f"{name} {run['counts'][name]:,}"
                for name in ("new", "changed", "moved", "removed", "failed")
                if name in run["counts"]
            )
        )
        lines += [f"           {failure['path']}: {failure['reason']}" for failure in run["failures"]]
    return "\n".join(lines)
