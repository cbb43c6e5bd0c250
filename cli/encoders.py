"""`simile encoders`: which there are, which one is in use, and removing those that are no longer needed."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from simile.cli import options, output
from simile.core.settings import load_settings

app = typer.Typer(help="List the home's encoders; put another one in use, or remove one.")

FingerprintArgument = Annotated[str, typer.Argument(metavar="FINGERPRINT", help="Of the encoder, or the start of it.")]


@app.callback(invoke_without_command=True)
def encoders(
    context: typer.Context,
    home: options.HomeOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """List the home's encoders; put another one in use, or remove one."""
    if context.invoked_subcommand is not None:
        context.obj = home  # `simile encoders --home H activate F` means the same as with --home last
        return
    from simile.indexer.maintenance.encoders import list_encoders

    found = list_encoders(load_settings(home=home))
    if json:
        output.write_json({"encoders": found})
        return
    output.write("\n".join(map(_format_encoder, found)) or "no encoder yet: run `simile index PHOTOS`")


@app.command()
def activate(
    context: typer.Context,
    reference: FingerprintArgument,
    home: options.HomeOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Put an encoder in use, with an index of the vectors that it made; searches change over in one moment."""
    from simile.indexer.maintenance.encoders import activate_encoder

    done = activate_encoder(load_settings(home=home or context.obj), reference)
    if json:
        output.write_json(done)
        return
    output.write(f"encoder {done['fingerprint']} is in use, with {done['vectors']:,} vectors")
    if done["lacking"]:
        output.note(
            f"{done['lacking']:,} pictures have no vector by it: no search finds them until they are indexed again"
        )


@app.command()
def remove(
    context: typer.Context,
    reference: FingerprintArgument,
    home: options.HomeOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Remove an encoder with the vectors that it made; the one in use can't be removed."""
    from simile.indexer.maintenance.encoders import remove_encoder

    done = remove_encoder(load_settings(home=home or context.obj), reference)
    if json:
        output.write_json(done)
    else:
        output.write(f"encoder {done['fingerprint']} is removed, with {done['vectors']:,} vectors")


def _format_encoder(encoder: dict[str, Any]) -> str:
    if "created_at" not in encoder:
        return f"  {encoder['fingerprint']}  {encoder['recipe'] or 'unknown recipe'}  a folder that is not in use"
    return (
        f"{'*' if encoder['active'] else ' '} {encoder['fingerprint']}  {encoder['recipe']}  "
        f"μ of {encoder['dimensions']}, {encoder['metric']}  {encoder['vectors']:,} of {encoder['images']:,} pictures  "
        f"{output.format_size(encoder['bytes'])}  {encoder['created_at']:%Y-%m-%d}"
    )
