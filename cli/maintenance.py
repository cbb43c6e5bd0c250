"""Commands that maintain a home: status, verify, rebuild, compact, export, backup, restore."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from simile.cli import options, output
from simile.core.settings import load_settings

MAX_FAILURES_PER_RUN = 10  # --json has all of them

IndexKindOption = Annotated[
    str | None,
    typer.Option("--index", help="auto (by the number of images), exact or ivf. [env: SIMILE_INDEX; default: auto]"),
]


@options.option_groups
def show_status(
    common: options.CommonOptions,
    runs: Annotated[int, typer.Option(min=0, max=10_000, help="Number of runs to show, the latest first.")] = 5,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Upgrade the home of an older version, after a backup.")
    ] = False,
) -> None:
    """Show the contents of the home: images, encoder, index, the latest runs and the files they skipped."""
    from simile.indexer.maintenance.status import read_status

    failures = None if common.json else MAX_FAILURES_PER_RUN
    status = read_status(common.load_settings(), upgrade=upgrade, runs=runs, failures=failures)
    if common.json:
        output.write_json(status)
    else:
        output.write(_format_status(status))


@options.option_groups
def verify(
    common: options.CommonOptions,
    files: Annotated[bool, typer.Option("--files", help="Read every image and compare its hash.")] = False,
) -> None:
    """Check rows, vectors, segments, encoders and files for consistency; exit with 1 if there is a problem."""
    from simile.indexer.maintenance.verify import find_home_leftovers, verify_home

    settings = common.load_settings()
    problems = verify_home(settings, files=files)
    leftovers = find_home_leftovers(settings) if not problems else []
    if common.json:
        found = {"problems": problems, "leftovers": leftovers}
        output.write_json({name: [problem.to_dict() for problem in listed] for name, listed in found.items()})
    else:
        if not problems:
            output.write("no problems: rows, vectors, segments and encoders are consistent")
        for problem in problems + leftovers:
            output.write(f"{problem.kind}: {problem.description} {problem.next_step}".rstrip())
    if problems:
        raise typer.Exit(1)


@options.option_groups
def rebuild(common: options.CommonOptions, index_kind: IndexKindOption = None) -> None:
    """Rebuild the index from the catalogue; needs neither images nor an encoder."""
    from simile.indexer.maintenance.rebuild import rebuild_index

    rows = rebuild_index(load_settings(home=common.home, index=index_kind))
    output.write_json({"rows": rows}) if common.json else output.write(f"a new segment with {rows:,} vectors is active")


@options.option_groups
def compact(common: options.CommonOptions, index_kind: IndexKindOption = None) -> None:
    """Merge the changes since the last segment into a new one and delete unused files."""
    from simile.indexer.maintenance.rebuild import compact_index

    done = compact_index(load_settings(home=common.home, index=index_kind))
    if common.json:
        output.write_json(done)
    elif done["folded"]:
        output.write(f"{done['folded']:,} changes merged: a new segment with {done['rows']:,} vectors is active")
    else:
        output.write(f"no changes to merge: the segment with {done['rows']:,} vectors stays active")


@options.option_groups
def export(
    common: options.CommonOptions,
    output_path: Annotated[Path, typer.Option("--output", "-o", help="The .parquet, .npz or .csv to write.")],
    encoder: Annotated[
        str | None, typer.Option(help="Fingerprint of the encoder, or its start. [default: the active one]")
    ] = None,
) -> None:
    """Write id, paths, hash, metadata, μ and log-variance of every image as Parquet, npz or CSV."""
    from simile.indexer.maintenance.export import export_embeddings

    done = export_embeddings(common.load_settings(), output_path, encoder)
    if common.json:
        output.write_json(done)
    else:
        output.write(f"{output_path}: {done['pictures']:,} images by encoder {done['encoder']}")
    if done["lacking"]:
        output.note(f"skipped: {done['lacking']:,} images without a vector of this encoder")


@options.option_groups
def backup(
    common: options.CommonOptions,
    output_path: Annotated[Path, typer.Argument(metavar="FILE", help="The .tar to write.", show_default=False)],
) -> None:
    """Write a backup of the whole home to one tar FILE; the home can be used meanwhile.

    Images in your own folders are not in the backup.
    """
    from simile.indexer.maintenance.rebuild import back_up_home

    done = back_up_home(common.load_settings(), output_path)
    if common.json:
        output.write_json({"output": str(output_path), **done.to_dict()})
    else:
        size = output.format_size(done.total_bytes)
        output.write(f"{output_path}: the rows of {done.images:,} images, {done.files:,} files, {size}")
    for path in done.missing_files:
        output.note(f"skipped: {path} is missing. Run `simile verify` for the next step.")


@options.option_groups
def restore(
    common: options.CommonOptions,
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A file of `simile backup`.", show_default=False)],
) -> None:
    """Restore a home from a backup FILE; everything is checked before the home is created."""
    from simile.indexer.maintenance.rebuild import restore_home

    settings = common.load_settings()
    done = restore_home(settings, source)
    if common.json:
        output.write_json({"home": str(settings.home), **done.to_dict()})
    else:
        output.write(f"{settings.home}: restored {done.images:,} images and {done.files:,} files")


def _format_status(status: dict[str, Any]) -> str:
    lines = [f"home       {status['home']}  {output.format_size(status['bytes'])}", f"images     {status['images']:,}"]
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
        state = "in progress: " if other["in_the_making"] else ""
        lines.append(
            f"other      {other['fingerprint']}  {state}{other['vectors']:,} of {status['images']:,} images embedded"
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
        words.append(f"{details['nlist']:,} lists, {details['nprobe']:,} searched")
        words.append(f"recall@10 {details['recall']:.4f} measured (target {details['recall_target']:g})")
    for name, place in (("memory_bytes", "in memory"), ("disk_bytes", "on disk")):
        if details.get(name):
            words.append(f"{output.format_size(details[name])} {place}")
    if details.get("build_seconds") is not None:
        words.append(f"built in {details['build_seconds']:.1f} s")
    return [*lines, f"index      {', '.join(words)}"]


def _format_run(run: dict[str, Any]) -> list[str]:
    counts = "  ".join(
        f"{name} {run['counts'][name]:,}"
        for name in ("new", "changed", "moved", "copied", "removed", "failed", "pictures", "candidates", "pairs")
        if name in run["counts"]
    )
    line = f"run {run['id']:>4}   {run['kind']}  {run['status']}  {run['started_at']:%Y-%m-%d %H:%M:%S} UTC  {counts}"
    lines = [line.rstrip()]
    lines += [f"           {failure['path']}: {failure['reason']}" for failure in run["failures"]]
    hidden = run["failed"] - len(run["failures"])
    return [*lines, f"           and {hidden:,} more (--json has all of them)"] if hidden else lines
