"""Commands that look after a home: status, verify, rebuild, compact."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from simile.cli import options, output
from simile.core.settings import load_settings

MAX_FAILURES_PER_RUN = 10  # of each run; --json has all of them

IndexKindOption = Annotated[
    str | None, typer.Option("--index", help="auto, exact or ivf. [env: SIMILE_INDEX; default: auto, by the count]")
]


def show_status(
    home: options.HomeOption = None,
    runs: Annotated[int, typer.Option(min=0, max=10_000, help="How many of the latest runs.")] = 5,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Bring a home of an older simile up to date, after a backup.")
    ] = False,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Say what the home holds: pictures, encoder, index, the latest runs and what they set aside."""
    from simile.indexer.maintenance.status import read_status

    limit = None if json else MAX_FAILURES_PER_RUN
    found = read_status(load_settings(home=home), upgrade=upgrade, runs=runs, failures=limit)
    if json:
        output.write_json(found)
        return
    output.write(_format_status(found))


def verify(
    home: options.HomeOption = None,
    files: Annotated[bool, typer.Option("--files", help="Also read every picture and compare its hash.")] = False,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Check rows, vectors, segments, encoders and files against each other; exit 1 if anything is wrong."""
    from simile.indexer.maintenance.verify import find_home_leftovers, verify_home

    settings = load_settings(home=home)
    problems = verify_home(settings, files=files)
    left = find_home_leftovers(settings) if not problems else []
    if json:
        output.write_json({"problems": list(map(vars, problems)), "leftovers": list(map(vars, left))})
    else:
        if not problems:
            output.write("nothing lost, nothing twice: rows, vectors, segments and encoders agree")
        for problem in problems + left:
            output.write(f"{problem.kind}: {problem.description} {problem.next_step}".rstrip())
    if problems:
        raise typer.Exit(1)


def rebuild(
    home: options.HomeOption = None,
    index_kind: IndexKindOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Make the index again from the rows alone; needs neither pictures nor network."""
    from simile.indexer.maintenance.rebuild import rebuild_index

    rows = rebuild_index(load_settings(home=home, index=index_kind))
    output.write_json({"rows": rows}) if json else output.write(f"a new segment with {rows:,} vectors is in use")


def compact(
    home: options.HomeOption = None,
    index_kind: IndexKindOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Fold what was added and deleted since the last segment into a new one, and clear away what nobody uses."""
    from simile.indexer.maintenance.rebuild import compact_index

    done = compact_index(load_settings(home=home, index=index_kind))
    if json:
        output.write_json(done)
    elif done["folded"]:
        output.write(f"{done['folded']:,} changes folded in: a new segment with {done['rows']:,} vectors is in use")
    else:
        output.write(f"nothing to fold in: the segment with {done['rows']:,} vectors stays in use")


def _format_status(status: dict[str, Any]) -> str:
    lines = [f"home       {status['home']}  {output.format_size(status['bytes'])}", f"pictures   {status['images']:,}"]
    encoder = status["encoder"]
    if encoder:
        lines.append(
            f"encoder    {encoder['fingerprint']}  {encoder['recipe']}, "
            f"μ of {encoder['dimensions']}, {encoder['metric']}"
        )
    else:
        lines.append("encoder    none yet: run `simile index PHOTOS`")
    lines += _format_segment(status)
    for other in status["others"]:
        making = "in the making: " if other["in_the_making"] else ""
        lines.append(
            f"other      {other['fingerprint']}  {making}{other['vectors']:,} of {status['images']:,} pictures embedded"
        )
    for run in status["runs"]:
        lines += _format_run(run)
    return "\n".join(lines)


def _format_segment(status: dict[str, Any]) -> list[str]:
    segment = status["segment"]
    if not segment:
        return ["segment    none"]
    lines = [f"segment    {segment['rows']:,} vectors, {status['pending']:,} changes since"]
    details = segment["details"]
    words = [segment["kind"]]
    if details.get("nlist"):
        words.append(f"{details['nlist']:,} lists, {details['nprobe']:,} looked into")
        words.append(f"recall@10 {details['recall']:.4f} measured ({details['recall_target']:g} asked for)")
    for name, where in (("memory_bytes", "in memory"), ("disk_bytes", "on disk")):
        if details.get(name):
            words.append(f"{output.format_size(details[name])} {where}")
    if details.get("build_seconds") is not None:
        words.append(f"made in {details['build_seconds']:.1f} s")
    return [*lines, f"index      {', '.join(words)}"]


def _format_run(run: dict[str, Any]) -> list[str]:
    counts = "  ".join(
        f"{name} {run['counts'][name]:,}"
        for name in ("new", "changed", "moved", "copied", "removed", "failed", "pictures", "candidates", "pairs")
        if name in run["counts"]
    )
    head = f"run {run['id']:>4}   {run['kind']}  {run['status']}  {run['started_at']:%Y-%m-%d %H:%M:%S} UTC  {counts}"
    lines = [head.rstrip()]
    lines += [f"           {failure['path']}: {failure['reason']}" for failure in run["failures"]]
    more = run["failed"] - len(run["failures"])
    return [*lines, f"           and {more:,} more (--json has all of them)"] if more else lines
