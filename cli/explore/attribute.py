"""`simile attribute`: what two sets of pictures differ by, learned, stored, painted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simile.cli import options, output
from simile.cli.progress import ProgressReporter
from simile.core.errors import BadUsage
from simile.core.settings import load_settings

if TYPE_CHECKING:
    from simile.explore.attributes.directions import AttributeEntanglement
    from simile.search.attributes import Attribute

app = typer.Typer(
    help="Learn what two sets of pictures differ by; list, show, remove and paint it.", no_args_is_help=True
)

AttributeNameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Of the attribute, such as smile.", show_default=False)
]
ImageIdsOption = Annotated[
    list[int] | None, typer.Option("--id", max=2**63 - 1, help="An indexed image; may be repeated.")
]


@app.command()
def learn(
    name: AttributeNameArgument,
    photos: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PHOTOS…", help="Labelled pictures, with --labels.", show_default=False),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help="Of PHOTOS: folders (named by class), or a CSV file. The class NAME against all others."),
    ] = None,
    of: Annotated[str | None, typer.Option(help="The class, where it isn't called NAME.", show_default=False)] = None,
    positive: Annotated[
        list[Path] | None, typer.Option(help="A folder, archive or file with it; may be repeated.", show_default=False)
    ] = None,
    negative: Annotated[
        list[Path] | None, typer.Option(help="The same without it; may be repeated.", show_default=False)
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            help='Instead of both: indexed pictures of which this is said, such as "smile=yes", against others.'
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the parts that are held out.")] = 0,
    home: options.HomeOption = None,
    device: options.DeviceOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Learn an attribute by the encoder in use, and say how well it tells held-out pictures apart."""
    from simile.explore.attributes import directions, examples
    from simile.search import attributes
    from simile.search.searcher import Searcher

    ways = [bool(positive or negative), bool(where), labels is not None]
    if sum(ways) != 1 or bool(positive) != bool(negative):
        raise BadUsage("Name both --positive and --negative, or --where alone, or --labels and PHOTOS.")
    if bool(photos) != (labels is not None) or (of is not None and labels is None):
        raise BadUsage("PHOTOS, --labels and --of belong together: name the pictures and where their labels are.")
    with Searcher(load_settings(home=home, device=device)) as searcher:
        encoder = searcher.get_encoder().fingerprint
        attributes.check_attribute_name_free(searcher.home, encoder, name)
        with ProgressReporter("Nothing was stored: run it again.", json=json) as reporter:
            if labels is not None:
                found = examples.read_examples_from_labels(
                    searcher, photos or [], labels, of or name, reporter.on_stage
                )
            elif where:
                found = examples.load_examples_from_metadata(searcher, where)
            else:
                found = examples.read_examples_from_files(searcher, positive or [], negative or [], reporter.on_stage)
        made = directions.learn_attribute(name, encoder, found, seed)
        drags = directions.find_entangled_attributes(made, attributes.load_attributes(searcher.home, encoder))
        attributes.save_attribute(searcher.home, made)
    _write_attribute(made, drags, json=json)


@app.command("list")
def list_attributes(
    home: options.HomeOption = None, json: options.JsonOption = False, verbose: options.VerboseOption = False
) -> None:
    """List the attributes of the encoder in use."""
    from simile.search import attributes
    from simile.search.searcher import Searcher

    with Searcher(load_settings(home=home)) as searcher:
        found = attributes.load_attributes(searcher.home, searcher.get_encoder().fingerprint)
    if json:
        output.write_json({"attributes": [_make_attribute_json(one, []) for one in found]})
        return
    output.write(
        "\n".join(map(_format_attribute, found)) or "no attribute yet: learn one with `simile attribute learn NAME`"
    )


@app.command()
def show(
    name: AttributeNameArgument,
    home: options.HomeOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Show how well an attribute tells pictures apart, and which others it drags along."""
    from simile.explore.attributes.directions import find_entangled_attributes
    from simile.search import attributes
    from simile.search.searcher import Searcher

    with Searcher(load_settings(home=home)) as searcher:
        encoder = searcher.get_encoder().fingerprint
        found = attributes.load_attribute(searcher.home, encoder, name)
        others = [one for one in attributes.load_attributes(searcher.home, encoder) if one.name != name]
    _write_attribute(found, find_entangled_attributes(found, others), json=json)


@app.command()
def remove(
    name: AttributeNameArgument,
    home: options.HomeOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Remove an attribute of the encoder in use."""
    from simile.search import attributes
    from simile.search.searcher import Searcher

    with Searcher(load_settings(home=home)) as searcher:
        attributes.remove_attribute(searcher.home, searcher.get_encoder().fingerprint, name)
    output.write_json({"removed": name}) if json else output.write(f"attribute {name} is removed")


@app.command()
def apply(
    name: AttributeNameArgument,
    image: Annotated[
        Path | None, typer.Argument(metavar="IMAGE", help="It need not be indexed.", show_default=False)
    ] = None,
    image_id: Annotated[int | None, typer.Option("--id", max=2**63 - 1, help="An indexed image instead.")] = None,
    strength: Annotated[
        float,
        typer.Option(help="1: as far as from the average picture without it to that with it; below 0: less of it."),
    ] = 1.0,
    output_path: Annotated[
        Path | None, typer.Option("--output", "-o", help="The .png to write.", show_default=False)
    ] = None,
    home: options.HomeOption = None,
    device: options.DeviceOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Write a picture beside what the model sees of it, without and with the attribute."""
    if (image is None) == (image_id is None):
        raise BadUsage("Name either a picture or --id, not both and not neither.")
    parts = [image if image is not None else image_id]
    _write_attribute_sheet(name, parts, [0.0, strength], output_path, home, device, json=json)


@app.command()
def sheet(
    name: AttributeNameArgument,
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="IMAGES…", help="They need not be indexed.", show_default=False)
    ] = None,
    image_id: ImageIdsOption = None,
    strengths: Annotated[str, typer.Option(help="-3..3, or numbers with commas: --strengths=-1.5,0,2.")] = "-3..3",
    output_path: Annotated[
        Path | None, typer.Option("--output", "-o", help="The .png to write.", show_default=False)
    ] = None,
    home: options.HomeOption = None,
    device: options.DeviceOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Write a sheet: a row for each picture, a column for each strength."""
    from simile.explore.attributes.render import parse_strengths

    if not images and not image_id:
        raise BadUsage("Name at least one picture, or an indexed one with --id.")
    _write_attribute_sheet(
        name, [*(images or []), *(image_id or [])], parse_strengths(strengths), output_path, home, device, json=json
    )


def _write_attribute_sheet(
    name: str,
    inputs: list[Any],
    strengths: list[float],
    output_path: Path | None,
    home: Path | None,
    device: str | None,
    *,
    json: bool,
) -> None:
    from simile.core.atomic_write import check_output_path, write_output_file
    from simile.explore.attributes.render import render_attribute_sheet as draw_sheet
    from simile.explore.latent.inputs import encode_inputs
    from simile.images.sources.sources import check_file
    from simile.search import attributes
    from simile.search.searcher import Searcher

    if output_path is None and not json:
        raise BadUsage("Name a .png with --output, or ask for the vectors with --json.")
    if output_path is not None:
        check_output_path(output_path, (".png",))
    for part in inputs:
        if isinstance(part, Path):
            check_file(part)
    with Searcher(load_settings(home=home, device=device)) as searcher:
        attribute = attributes.load_attribute(searcher.home, searcher.get_encoder().fingerprint, name)
        if output_path is not None:
            write_output_file(output_path, draw_sheet(searcher, attribute, inputs, strengths))
        if json:
            places = encode_inputs(searcher, inputs)
            rows = [[attribute.shift(place.mu, one).tolist() for one in strengths] for place in places]
            body = {"attribute": name, "strengths": strengths, "mu": rows}
            output.write_json({**body, "output": None if output_path is None else str(output_path)})
            return
    output.write(f"{output_path}: {len(inputs)} x {len(strengths)} pictures of {name}")


def _write_attribute(attribute: Attribute, drags: list[AttributeEntanglement], *, json: bool) -> None:
    if json:
        output.write_json(_make_attribute_json(attribute, drags))
        return
    output.write(_format_attribute(attribute))
    if attribute.contradictory:
        output.note(f"{attribute.contradictory:,} pictures stood on both sides, byte for byte, and were left out")
    if attribute.unreadable:
        output.note(f"{attribute.unreadable:,} files could not be read")
    for drag in drags:
        output.write(f"  drags {drag.name} by {drag.change:+.2f} for each step (cosine {drag.cosine:+.2f})")


def _make_attribute_json(attribute: Attribute, drags: list[AttributeEntanglement]) -> dict[str, Any]:
    left_out = ("raw", "whitened", "centre")
    about = {name: value for name, value in vars(attribute).items() if name not in left_out}
    return {**about, "drags": [vars(drag) for drag in drags]}


def _format_attribute(attribute: Attribute) -> str:
    auc, spread = attribute.auc, attribute.spread
    return (
        f"{attribute.name}  held-out AUC: to rank {auc['whitened']:.3f} ± {spread['whitened']:.3f}, "
        f"as painted {auc['raw']:.3f} ± {spread['raw']:.3f}  "
        f"({attribute.positives:,} with, {attribute.negatives:,} without)"
    )
