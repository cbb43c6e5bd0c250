"""Commands that carry a home, or its numbers, elsewhere: export, backup, restore."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from simile.cli import options, output
from simile.core.settings import load_settings


def export(
    output_path: Annotated[Path, typer.Option("--output", "-o", help="The .parquet, .npz or .csv to write.")],
    home: options.HomeOption = None,
    encoder: Annotated[
        str | None, typer.Option(help="Fingerprint of the encoder, or its start. [default: the one in use]")
    ] = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Write id, paths, hash, metadata, μ and log-variance of every picture, as Parquet, npz or CSV."""
    from simile.indexer.maintenance.export import export_embeddings as run_export

    done = run_export(load_settings(home=home), output_path, encoder)
    if json:
        output.write_json(done)
    else:
        output.write(f"{output_path}: {done['pictures']:,} pictures by encoder {done['encoder']}")
    if done["lacking"]:
        output.note(f"{done['lacking']:,} pictures have no vector by this encoder and are left out")


def backup(
    output_path: Annotated[Path, typer.Argument(metavar="FILE", help="The .tar to write.", show_default=False)],
    home: options.HomeOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Copy the whole home into one tar FILE, as it stands at this moment; others may use it meanwhile.

    Pictures in your own folders are not in it: they stay where they are.
    """
    from simile.indexer.maintenance.rebuild import back_up_home

    done = back_up_home(load_settings(home=home), output_path)
    if json:
        output.write_json({"output": str(output_path), **vars(done)})
    else:
        output.write(
            f"{output_path}: {done.images:,} pictures' rows, {done.files:,} files, {output.format_size(done.total_bytes)}"
        )
    for path in done.missing_files:
        output.note(f"left out: {path} is missing. `simile verify` says what to do.")


def restore(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="What `simile backup` wrote.", show_default=False)],
    home: options.HomeOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Make an empty home of the backup FILE; everything in it is checked before anything is in place."""
    from simile.indexer.maintenance.rebuild import restore_home

    settings = load_settings(home=home)
    done = restore_home(settings, source)
    if json:
        output.write_json({"home": str(settings.home), **vars(done)})
    else:
        output.write(f"{settings.home}: {done.images:,} pictures, {done.files:,} files checked and in place")
