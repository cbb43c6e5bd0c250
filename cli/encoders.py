"""`simile encoders`: list, activate and remove encoders."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from simile.cli import options, output

app = typer.Typer(help="List the encoders of the home; activate or remove one.")

FingerprintArgument = Annotated[
    str, typer.Argument(metavar="FINGERPRINT", help="Fingerprint of the encoder, or its start.")
]


@app.callback(invoke_without_command=True)
@options.option_groups
def encoders(context: typer.Context, common: options.CommonOptions) -> None:
    """List the encoders of the home."""
    if context.invoked_subcommand is not None:
        context.obj = common.home  # `encoders --home H activate F` is the same as `encoders activate F --home H`
        return
    from simile.indexer.maintenance.encoders import list_encoders

    found = list_encoders(common.load_settings())
    if common.json:
        output.write_json({"encoders": found})
        return
    output.write("\n".join(map(_format_encoder, found)) or "no encoder yet: run `simile index PHOTOS`")


@app.command()
@options.option_groups
def activate(context: typer.Context, common: options.CommonOptions, reference: FingerprintArgument) -> None:
    """Activate an encoder and the index of its vectors; searches switch at once."""
    from simile.indexer.maintenance.encoders import activate_encoder

    done = activate_encoder(common.load_settings(context.obj), reference)
    if common.json:
        output.write_json(done)
        return
    output.write(f"encoder {done['fingerprint']} is active, with {done['vectors']:,} vectors")
    if done["lacking"]:
        output.note(
            f"{done['lacking']:,} images have no vector of it: searches do not find them until they are indexed again"
        )


@app.command()
@options.option_groups
def remove(context: typer.Context, common: options.CommonOptions, reference: FingerprintArgument) -> None:
    """Remove an encoder and its vectors; the active encoder can't be removed."""
    from simile.indexer.maintenance.encoders import remove_encoder

    done = remove_encoder(common.load_settings(context.obj), reference)
    if common.json:
        output.write_json(done)
    else:
        output.write(f"encoder {done['fingerprint']} was removed, with {done['vectors']:,} vectors")


def _format_encoder(encoder: dict[str, Any]) -> str:
    if "created_at" not in encoder:
        return f"  {encoder['fingerprint']}  {encoder['recipe'] or 'unknown recipe'}  an unused folder"
    return (
        f"{'*' if encoder['active'] else ' '} {encoder['fingerprint']}  {encoder['recipe']}  "
        f"μ of {encoder['dimensions']}, {encoder['metric']}  {encoder['vectors']:,} of {encoder['images']:,} images  "
        f"{output.format_size(encoder['bytes'])}  {encoder['created_at']:%Y-%m-%d}"
    )
