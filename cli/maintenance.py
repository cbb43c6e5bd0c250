"""Commands that maintain a home: status, verify, rebuild, compact, export, backup, restore."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer import Argument, Option

from simile.cli import options, output
from simile.core.errors import BadUsage

MAX_FAILURES_PER_RUN = 10  # --json has all of them

IndexKindOption = Annotated[
    str | None,
    Option("--index", help="auto (by the number of images), exact or ivf. [env: SIMILE_INDEX; default: auto]"),
]


def show_status(
    common: options.CommonOptions,
    runs: Annotated[int, Option(min=0, max=10_000, help="Number of runs to show, the latest first.")] = 5,
    upgrade: Annotated[bool, Option("--upgrade", help="Upgrade the home of an older version, after a backup.")] = False,
) -> None:
    """Show the contents of the home: images, encoder, index, the latest runs and the files they skipped."""
    from simile.indexer.maintenance.status import read_status

    failures = None if common.json else MAX_FAILURES_PER_RUN
    status = read_status(common.load_settings(), upgrade=upgrade, runs=runs, failures=failures)
    common.show(status, _format_status(status))


def verify(
    common: options.CommonOptions,
    files: Annotated[bool, Option("--files", help="Read every image and compare its hash.")] = False,
) -> None:
    """Check rows, vectors, segments, encoders and files for consistency; exit with 1 if there is a problem."""
    from simile.indexer.maintenance.verify import find_home_leftovers, verify_home

    settings = common.load_settings()
    problems = verify_home(settings, files=files)
    leftovers = find_home_leftovers(settings) if not problems else []
    found = {"problems": problems, "leftovers": leftovers}
    body = {name: [problem.to_dict() for problem in listed] for name, listed in found.items()}
    lines = [] if problems else ["no problems: rows, vectors, segments and encoders are consistent"]
    lines += [f"{item.kind}: {item.description} {item.next_step}".rstrip() for item in problems + leftovers]
    common.show(body, lines)
    if problems:
        raise typer.Exit(1)


def rebuild(common: options.CommonOptions, index_kind: IndexKindOption = None) -> None:
    """Rebuild the index from the catalogue; needs neither images nor an encoder."""
    from simile.indexer.maintenance.rebuild import rebuild_index

    rows = rebuild_index(common.load_settings(index=index_kind))
    common.show({"rows": rows}, f"a new segment with {rows:,} vectors is active")


def compact(common: options.CommonOptions, index_kind: IndexKindOption = None) -> None:
    """Merge the changes since the last segment into a new one and delete unused files and objects."""
    from simile.indexer.maintenance.rebuild import compact_index

    done = compact_index(common.load_settings(index=index_kind))
    text = f"no changes to merge: the segment with {done['rows']:,} vectors stays active"
    if done["folded"]:
        text = f"{done['folded']:,} changes merged: a new segment with {done['rows']:,} vectors is active"
    common.show(done, text)


def export(
    common: options.CommonOptions,
    output_path: Annotated[Path, options.output_option("The .parquet, .npz or .csv to write.")],
    dataset_format: Annotated[
        Literal["coco", "fiftyone", "label-studio"] | None,
        Option("--format", help="Write a dataset instead: coco and label-studio a .json, fiftyone a folder."),
    ] = None,
    label: Annotated[
        str | None,
        Option(help="The metadata with the class of an image, for --format. [default: class, else label]"),
    ] = None,
    encoder: Annotated[
        str | None, Option(help="Name or fingerprint of the encoder, or its start. [default: the active one]")
    ] = None,
) -> None:
    """Write id, paths, hash, metadata, μ and log-variance of every image as Parquet, npz or CSV, or as a dataset."""
    from simile.indexer.maintenance.export import export_embeddings

    if label is not None and dataset_format is None:
        raise BadUsage("--label names the class in a dataset: add --format.")
    settings = common.load_settings()
    done = export_embeddings(settings, output_path, encoder, dataset_format=dataset_format, label=label)
    common.show(done, f"{output_path}: {done['pictures']:,} images by encoder {done['encoder']}")
    if done["lacking"]:
        output.note(f"skipped: {done['lacking']:,} images without a vector of this encoder")


def backup(
    common: options.CommonOptions,
    output_path: Annotated[Path, Argument(metavar="FILE", help="The .tar to write.", show_default=False)],
) -> None:
    """Write a backup of the whole home to one tar FILE; the home can be used meanwhile.

    Images in your own folders are not in the backup.
    """
    from simile.store.backup.create import create_backup

    done = create_backup(common.get_home(), output_path)
    size = output.format_size(done.total_bytes)
    text = f"{output_path}: the rows of {done.images:,} images, {done.files:,} files, {size}"
    common.show({"output": output_path, **done.to_dict()}, text)
    for path in done.missing_files:
        output.note(f"skipped: {path} is missing. Run `simile verify` for the next step.")


def restore(
    common: options.CommonOptions,
    source: Annotated[Path, Argument(metavar="FILE", help="A file of `simile backup`.", show_default=False)],
    keep_keys: Annotated[
        bool, Option("--keep-keys", help="Keep the keys of the backup; without it they are revoked.")
    ] = False,
) -> None:
    """Restore a home from a backup FILE; everything is checked before the home is created.

    Sessions end and keys of the backup are revoked: make new ones with `simile keys create`, or keep them with
    --keep-keys if you made the backup and trust all of its keys.
    """
    from simile.store.backup.restore import restore_backup

    folder = common.load_settings().home
    done = restore_backup(source, common.get_home(), keep_keys=keep_keys)
    text = f"{folder}: restored {done.images:,} images and {done.files:,} files"
    state = "kept" if keep_keys else "revoked"
    lines = [f"{state}  {key.name}: {key.scope}, created {key.created_at:%Y-%m-%d}" for key in done.keys]
    if done.keys and keep_keys:
        lines.append("Every person with one of these keys can use the service: `simile keys revoke NAME` ends a key.")
    elif done.keys:
        lines.append("The home stays closed until it has a new key: `simile keys create NAME --scope admin`.")
    common.show({"home": folder, **done.to_dict()}, text, *lines)


def _format_status(status: dict[str, Any]) -> list[str]:
    lines = [f"home       {status['home']}  {output.format_size(status['bytes'])}", f"images     {status['images']:,}"]
    encoder = status["encoder"]
    description = "none yet: run `simile index PHOTOS`"
    if encoder:
        description = "{fingerprint}  {recipe}, μ of {dimensions}, {metric}".format_map(encoder)
    lines.append(f"encoder    {description}")
    lines += _format_segment(status)
    for other in status["others"]:
        state = "in progress: " if other["in_the_making"] else ""
        lines.append(
            f"other      {other['fingerprint']}  {state}{other['vectors']:,} of {status['images']:,} images embedded"
        )
    for run in status["runs"]:
        lines += _format_run(run)
    return lines


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
