"""Commands that look at one picture: search, reconstruct."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simile.cli import filters, options, output
from simile.core.errors import BadUsage
from simile.core.filter_parser import make_filter
from simile.core.settings import load_settings

if TYPE_CHECKING:
    from simile.search.searcher import Answer, Question, Searcher

HITS = 10


def search(
    image: Annotated[Path | None, typer.Argument(help="A picture; it need not be indexed.", show_default=False)] = None,
    image_id: Annotated[
        int | None, typer.Option("--id", max=2**63 - 1, help="Search by an indexed image instead.")
    ] = None,
    plus: Annotated[
        list[str] | None, typer.Option(help="With more of this attribute (`simile attribute`); may be repeated.")
    ] = None,
    minus: Annotated[list[str] | None, typer.Option(help="With less of this attribute; may be repeated.")] = None,
    strength: Annotated[float, typer.Option(help="Of --plus and --minus: how far.")] = 1.0,
    posterior: Annotated[
        bool, typer.Option("--posterior", help="By the distance between whole posteriors: μ and σ, not μ alone.")
    ] = False,
    limit: filters.Limit = None,
    within: filters.Within = None,
    where: filters.Where = None,
    under: filters.Under = None,
    format: filters.Format = None,
    min_bytes: filters.MinBytes = None,
    max_bytes: filters.MaxBytes = None,
    min_width: filters.MinWidth = None,
    max_width: filters.MaxWidth = None,
    min_height: filters.MinHeight = None,
    max_height: filters.MaxHeight = None,
    since: filters.Since = None,
    until: filters.Until = None,
    to: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write query, hits and reconstructions as .html or .png.")
    ] = None,
    home: options.Home = None,
    device: options.Device = None,
    json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Find the pictures most like IMAGE, all of them or those that the options let through."""
    from simile.images.paths import printable
    from simile.images.sources.sources import check_file
    from simile.search.contact_sheet import write_sheet
    from simile.search.searcher import Asked, Question, Searcher

    if (image is None) == (image_id is None):
        raise BadUsage("Name either a picture or --id, not both and not neither.")
    if posterior and (plus or minus):
        raise BadUsage("Only one picture or indexed image has a σ to compare: give --posterior or --plus and --minus.")
    if image is not None:
        check_file(image)
    only = make_filter(
        where=where or (),
        under=None if under is None else os.path.abspath(under),  # noqa: PTH100  # as walk() names files
        formats=format or (),
        since=since,
        until=until,
        min_bytes=min_bytes,
        max_bytes=max_bytes,
        min_width=min_width,
        max_width=max_width,
        min_height=min_height,
        max_height=max_height,
    )
    if limit is None and within is None:
        limit = HITS
    with Searcher(load_settings(home=home, device=device)) as searcher:
        part = image_id if image is None else searcher.prepare(image, printable(str(image)))
        assert part is not None
        question = Question((part,), asked=Asked(limit, 0, only, within, posterior=posterior))
        if plus or minus:
            answer = _pushed(searcher, question, plus or [], minus or [], strength)
        else:
            answer = searcher.ask(question)
        if to is not None:
            shown = searcher.picture_of(image if image is not None else image_id)
            write_sheet(searcher, [(answer, shown)], to)
    if json:
        output.write_json(output.answer_json(answer))
        return
    for rank, hit in enumerate(answer.hits, 1):
        output.write(f"{rank:>3}  {hit.distance:.4f}  {hit.path}")
    if to is not None:
        output.note(f"sheet: {to}")


def _pushed(searcher: Searcher, question: Question, plus: list[str], minus: list[str], strength: float) -> Answer:
    """Neighbours of a picture that was never taken, called by the name of the one that it was made of."""
    from simile.explore.latent.inputs import places_of
    from simile.search.attributes import pushed_question  # more to load than most searches need

    answer = searcher.ask(pushed_question(searcher, question, plus, minus, strength))
    (place,) = places_of(searcher, question.positives)
    return replace(answer, query=replace(answer.query, name=place.name, width=place.width, height=place.height))


def reconstruct(
    image: Annotated[Path, typer.Argument(help="A picture; it need not be indexed.", show_default=False)],
    to: Annotated[Path, typer.Option("--output", "-o", help="The .png to write.")],
    home: options.Home = None,
    device: options.Device = None,
    json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Write IMAGE beside what the decoder makes of its μ."""
    from simile.images.sources.sources import check_file
    from simile.search.contact_sheet import write_reconstruction
    from simile.search.searcher import Searcher

    check_file(image)
    with Searcher(load_settings(home=home, device=device)) as searcher:
        error = write_reconstruction(searcher, image, to)
    if json:
        output.write_json({"output": str(to), "reconstruction_error": error})
    else:
        output.write(f"{to}: mean squared error {error:.5f}")
