"""`simile attribute`: what two sets of pictures differ by, learned, stored, painted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simile.cli import options, output
from simile.cli.progress import Reporter
from simile.core.errors import BadUsage
from simile.core.settings import load_settings

if TYPE_CHECKING:
    from simile.explore.attributes.directions import Drag
    from simile.search.attributes import Attribute

app = typer.Typer(
    help="Learn what two sets of pictures differ by; list, show, remove and paint it.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the attribute, such as smile.", show_default=False)]
Ids = Annotated[list[int] | None, typer.Option("--id", max=2**63 - 1, help="An indexed image; may be repeated.")]


@app.command()
def learn(
    name: Name,
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
    home: options.Home = None,
    device: options.Device = None,
    json: options.Json = False,
    verbose: options.Verbose = False,
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
        encoder = searcher.encoder().fingerprint
        attributes.check_free(searcher.home, encoder, name)
        with Reporter("Nothing was stored: run it again.", json=json) as reporter:
            if labels is not None:
                found = examples.from_labels(searcher, photos or [], labels, of or name, reporter.measured)
            elif where:
                found = examples.from_metadata(searcher, where)
            else:
                found = examples.from_files(searcher, positive or [], negative or [], reporter.measured)
        made = directions.learn(name, encoder, found, seed)
        drags = directions.drags(made, attributes.load_all(searcher.home, encoder))
        attributes.save(searcher.home, made)
    _tell(made, drags, json=json)


@app.command("list")
def list_them(home: options.Home = None, json: options.Json = False, verbose: options.Verbose = False) -> None:
    """List the attributes of the encoder in use."""
    from simile.search import attributes
    from simile.search.searcher import Searcher

    with Searcher(load_settings(home=home)) as searcher:
        found = attributes.load_all(searcher.home, searcher.encoder().fingerprint)
    if json:
        output.write_json({"attributes": [_about(one, []) for one in found]})
        return
    output.write("\n".join(map(_line, found)) or "no attribute yet: learn one with `simile attribute learn NAME`")


@app.command()
def show(name: Name, home: options.Home = None, json: options.Json = False, verbose: options.Verbose = False) -> None:
    """Show how well an attribute tells pictures apart, and which others it drags along."""
    from simile.explore.attributes.directions import drags
    from simile.search import attributes
    from simile.search.searcher import Searcher

    with Searcher(load_settings(home=home)) as searcher:
        encoder = searcher.encoder().fingerprint
        found = attributes.load(searcher.home, encoder, name)
        others = [one for one in attributes.load_all(searcher.home, encoder) if one.name != name]
    _tell(found, drags(found, others), json=json)


@app.command()
def remove(name: Name, home: options.Home = None, json: options.Json = False, verbose: options.Verbose = False) -> None:
    """Remove an attribute of the encoder in use."""
    from simile.search import attributes
    from simile.search.searcher import Searcher

    with Searcher(load_settings(home=home)) as searcher:
        attributes.remove(searcher.home, searcher.encoder().fingerprint, name)
    output.write_json({"removed": name}) if json else output.write(f"attribute {name} is removed")


@app.command()
def apply(
    name: Name,
    picture: Annotated[
        Path | None, typer.Argument(metavar="IMAGE", help="It need not be indexed.", show_default=False)
    ] = None,
    image_id: Annotated[int | None, typer.Option("--id", max=2**63 - 1, help="An indexed image instead.")] = None,
    strength: Annotated[
        float,
        typer.Option(help="1: as far as from the average picture without it to that with it; below 0: less of it."),
    ] = 1.0,
    to: Annotated[Path | None, typer.Option("--output", "-o", help="The .png to write.", show_default=False)] = None,
    home: options.Home = None,
    device: options.Device = None,
    json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Write a picture beside what the model sees of it, without and with the attribute."""
    if (picture is None) == (image_id is None):
        raise BadUsage("Name either a picture or --id, not both and not neither.")
    parts = [picture if picture is not None else image_id]
    _draw(name, parts, [0.0, strength], to, home, device, json=json)


@app.command()
def sheet(
    name: Name,
    pictures: Annotated[
        list[Path] | None, typer.Argument(metavar="IMAGES…", help="They need not be indexed.", show_default=False)
    ] = None,
    image_id: Ids = None,
    strengths: Annotated[str, typer.Option(help="-3..3, or numbers with commas: --strengths=-1.5,0,2.")] = "-3..3",
    to: Annotated[Path | None, typer.Option("--output", "-o", help="The .png to write.", show_default=False)] = None,
    home: options.Home = None,
    device: options.Device = None,
    json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Write a sheet: a row for each picture, a column for each strength."""
    from simile.explore.attributes.render import read_strengths

    if not pictures and not image_id:
        raise BadUsage("Name at least one picture, or an indexed one with --id.")
    _draw(name, [*(pictures or []), *(image_id or [])], read_strengths(strengths), to, home, device, json=json)


def _draw(
    name: str,
    parts: list[Any],
    strengths: list[float],
    to: Path | None,
    home: Path | None,
    device: str | None,
    *,
    json: bool,
) -> None:
    from simile.core.atomic_write import check_output, write_output
    from simile.explore.attributes.render import sheet as draw_sheet
    from simile.explore.latent.inputs import places_of
    from simile.images.sources.sources import check_file
    from simile.search import attributes
    from simile.search.searcher import Searcher

    if to is None and not json:
        raise BadUsage("Name a .png with --output, or ask for the vectors with --json.")
    if to is not None:
        check_output(to, (".png",))
    for part in parts:
        if isinstance(part, Path):
            check_file(part)
    with Searcher(load_settings(home=home, device=device)) as searcher:
        attribute = attributes.load(searcher.home, searcher.encoder().fingerprint, name)
        if to is not None:
            write_output(to, draw_sheet(searcher, attribute, parts, strengths))
        if json:
            places = places_of(searcher, parts)
            rows = [[attribute.pushed(place.mu, one).tolist() for one in strengths] for place in places]
            body = {"attribute": name, "strengths": strengths, "mu": rows}
            output.write_json({**body, "output": None if to is None else str(to)})
            return
    output.write(f"{to}: {len(parts)} x {len(strengths)} pictures of {name}")


def _tell(attribute: Attribute, drags: list[Drag], *, json: bool) -> None:
    if json:
        output.write_json(_about(attribute, drags))
        return
    output.write(_line(attribute))
    if attribute.contradictory:
        output.note(f"{attribute.contradictory:,} pictures stood on both sides, byte for byte, and were left out")
    if attribute.unreadable:
        output.note(f"{attribute.unreadable:,} files could not be read")
    for drag in drags:
        output.write(f"  drags {drag.name} by {drag.change:+.2f} for each step (cosine {drag.cosine:+.2f})")


def _about(attribute: Attribute, drags: list[Drag]) -> dict[str, Any]:
    left_out = ("raw", "whitened", "centre")
    about = {name: value for name, value in vars(attribute).items() if name not in left_out}
    return {**about, "drags": [vars(drag) for drag in drags]}


def _line(attribute: Attribute) -> str:
    auc, spread = attribute.auc, attribute.spread
    return (
        f"{attribute.name}  held-out AUC: to rank {auc['whitened']:.3f} ± {spread['whitened']:.3f}, "
        f"as painted {auc['raw']:.3f} ± {spread['raw']:.3f}  "
        f"({attribute.positives:,} with, {attribute.negatives:,} without)"
    )
