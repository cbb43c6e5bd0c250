"""`simile index`: make images searchable."""

from __future__ import annotations

from typing import Annotated

import typer

from simile.cli import options, output
from simile.cli.progress import ProgressReporter
from simile.cli.train import DEFAULT_TRAINING_MINUTES
from simile.core.settings import load_settings


def index(
    photos: options.PhotosArgument,
    home: options.HomeOption = None,
    encoder: Annotated[
        str | None, typer.Option(help="Folder or fingerprint of the encoder to embed with. [default: the one in use]")
    ] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Forget known files that are gone.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and store nothing.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if any file was set aside.")] = False,
    include: options.IncludeOption = None,
    exclude: options.ExcludeOption = None,
    wait: Annotated[
        float,
        typer.Option(min=0, max=options.MAX_DURATION, help="Seconds to wait for a home that another process holds."),
    ] = 0.0,
    index_kind: Annotated[
        str | None, typer.Option("--index", help="auto, exact or ivf. [env: SIMILE_INDEX; default: auto]")
    ] = None,
    minutes: Annotated[
        float,
        typer.Option(
            min=0.01, max=options.MAX_DURATION, help="Time budget of the training, where the home has no encoder yet."
        ),
    ] = DEFAULT_TRAINING_MINUTES,
    device: options.DeviceOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Make PHOTOS searchable; run again, it only does what changed. Trains an encoder first if there is none.

    With --encoder of another one, all the home's pictures get its vectors while the old ones serve; then it takes over.
    """
    from simile.indexer.pipeline.job import IndexRequest
    from simile.indexer.pipeline.job import index as run_index

    settings = load_settings(home=home, device=device, index=index_kind)
    with ProgressReporter("What was stored is kept: run the same command again to go on.", json=json) as reporter:
        request = IndexRequest(
            encoder,
            prune,
            dry_run,
            minutes,
            reporter.on_training,
            reporter.on_indexing,
            options.make_patterns(include, exclude),
            wait,
        )
        summary = run_index(settings, photos, request)
    if json:
        output.write_json(output.make_summary_json(summary))
    else:
        output.write(output.format_summary(summary, dry_run=dry_run))
    if strict and summary.failures:
        raise typer.Exit(1)
