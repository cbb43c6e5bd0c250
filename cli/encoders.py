"""`simile encoders`: list, add, activate, remove and export encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from simile.cli import options, output
from simile.core.errors import BadUsage

app = options.CommandGroup(help="List the encoders of the home; add, activate, remove or export one.")

FingerprintArgument = Annotated[
    str, Argument(metavar="FINGERPRINT", help="Name or fingerprint of the encoder, or the start of it.")
]


@app.callback(invoke_without_command=True)
def encoders(context: typer.Context, common: options.CommonOptions) -> None:
    """List the encoders of the home."""
    if options.pass_home_to_subcommand(context, common.home):
        return
    from simile.indexer.maintenance.encoders import list_encoders

    found = list_encoders(common.load_settings())
    lines = list(map(_format_encoder, found)) or ["no encoder yet: run `simile index PHOTOS`"]
    common.show({"encoders": found}, lines)


@app.command()
def add(
    common: options.EncoderOptions,
    file: Annotated[
        str,
        Argument(
            help="ONNX (.onnx), TorchScript (.pt, with --trust), weights of a torchvision network (.safetensors, with "
            "--architecture), or plugin:NAME of an installed package.",
            show_default=False,
        ),
    ],
    name: Annotated[str, Option(help="Name of the encoder in this home.", show_default=False)],
    preprocess: Annotated[
        str | None,
        Option(help="How images are prepared for it: imagenet, clip or a .json file.", show_default=False),
    ] = None,
    metric: Annotated[str, Option(help="How its vectors are compared: cosine or l2.")] = "cosine",
    index_dims: Annotated[
        int | None, Option(min=1, help="Compare only the first values of its vectors.", show_default=False)
    ] = None,
    architecture: Annotated[
        str | None, Option(help="torchvision network that the file has the weights of.", show_default=False)
    ] = None,
    model_output: Annotated[
        str | None, Option("--output", help="Output that is the vector, if there are several.", show_default=False)
    ] = None,
    text: Annotated[
        Path | None, Option(help="ONNX file of its text tower, for `simile search --text`.", show_default=False)
    ] = None,
    tokenizer: Annotated[
        Path | None, Option(help="tokenizer.json of the text tower. Needs simile[text].", show_default=False)
    ] = None,
    text_output: Annotated[
        str | None,
        Option(help="Output of the text tower that is the vector, if there are several.", show_default=False),
    ] = None,
    context: Annotated[
        int | None, Option(min=2, help="Number of tokens of a text, if no file says it.", show_default=False)
    ] = None,
    pad_id: Annotated[
        int | None, Option(min=0, help="Token that fills up a text, if no file says it.", show_default=False)
    ] = None,
    lowercase: Annotated[bool, Option("--lowercase", help="Put texts into small letters first (SigLIP).")] = False,
    trust: Annotated[bool, Option("--trust", help="Run the code in a TorchScript file, to read its network.")] = False,
) -> None:
    """Add an encoder that was trained elsewhere (docs/encoders.md). Then: simile index PHOTOS --encoder NAME."""
    from simile.indexer.maintenance.add_encoder import AddRequest, add_encoder
    from simile.models.external.text_tower import TextFiles

    if (text is None) != (tokenizer is None):
        raise BadUsage("Give --text and --tokenizer together: a text tower and its tokenizer.json.")
    if text is None and (text_output is not None or context is not None or pad_id is not None or lowercase):
        raise BadUsage("--text-output, --context, --pad-id and --lowercase go with --text.")
    request = AddRequest(
        file=file,
        name=name,
        preprocess=preprocess,
        metric=metric,
        index_dims=index_dims,
        architecture=architecture,
        output=model_output,
        trust=trust,
        text=None
        if text is None
        else TextFiles(
            graph=str(text.absolute()),
            tokenizer=str(Path(str(tokenizer)).absolute()),
            output=text_output,
            context=context,
            pad_id=pad_id,
            lowercase=lowercase,
        ),
    )
    added = add_encoder(common.load_settings(), request)
    message = "encoder {fingerprint} ({name}) was added: vectors of {dimensions}, runs on {runtime}".format_map(added)
    message += ", and reads texts" if added["text"] else ""
    hint = "" if added["active"] else f" --encoder {name}"
    common.show(added, message, f"next: `simile index PHOTOS{hint}`")


@app.command()
def activate(common: options.CommonOptions, reference: FingerprintArgument) -> None:
    """Activate an encoder and the index of its vectors; searches switch at once."""
    from simile.indexer.maintenance.encoders import activate_encoder

    done = activate_encoder(common.load_settings(), reference)
    lacking = f"{done['lacking']:,} images have no vector of it: searches do not find them until they are indexed again"
    notes = [lacking] if done["lacking"] else []
    common.show(done, f"encoder {done['fingerprint']} is active, with {done['vectors']:,} vectors", *notes)


@app.command()
def remove(common: options.CommonOptions, reference: FingerprintArgument) -> None:
    """Remove an encoder and its vectors; the active encoder can't be removed."""
    from simile.indexer.maintenance.encoders import remove_encoder

    done = remove_encoder(common.load_settings(), reference)
    common.show(done, f"encoder {done['fingerprint']} was removed, with {done['vectors']:,} vectors")


@app.command()
def export(
    common: options.CommonOptions,
    reference: FingerprintArgument,
    folder: Annotated[Path, Argument(help="New folder for the encoder.", show_default=False)],
    half: Annotated[bool, Option("--half", help="Store the weights with 16 bits: half the size.")] = False,
) -> None:
    """Copy an encoder into a folder, for `--encoder FOLDER` and `--from FOLDER` in another home."""
    from simile.indexer.maintenance.encoders import export_encoder

    done = export_encoder(common.load_settings(), reference, folder, half=half)
    common.show(done, f"{folder}: encoder {done['fingerprint']}, {output.format_size(done['bytes'])}")


def _format_encoder(encoder: dict[str, Any]) -> str:
    if "created_at" not in encoder:
        return f"  {encoder['fingerprint']}  {encoder['recipe'] or 'unknown recipe'}  an unused folder"
    return (
        f"{'*' if encoder['active'] else ' '} {encoder['fingerprint']}  {encoder['recipe']}  "
        f"μ of {encoder['dimensions']}, {encoder['metric']}  {encoder['vectors']:,} of {encoder['images']:,} images  "
        f"{output.format_size(encoder['bytes'])}  {encoder['created_at']:%Y-%m-%d}"
    )
