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
    from simile.search.searcher import Searcher, SearchQuery, SearchResult

DEFAULT_HITS = 10


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
    limit: filters.LimitOption = None,
    within: filters.RadiusOption = None,
    where: filters.WhereOption = None,
    under: filters.UnderOption = None,
    format: filters.FormatOption = None,
    min_bytes: filters.MinBytesOption = None,
    max_bytes: filters.MaxBytesOption = None,
    min_width: filters.MinWidthOption = None,
    max_width: filters.MaxWidthOption = None,
    min_height: filters.MinHeightOption = None,
    max_height: filters.MaxHeightOption = None,
    since: filters.SinceOption = None,
    until: filters.UntilOption = None,
    output_path: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write query, hits and reconstructions as .html or .png.")
    ] = None,
    home: options.HomeOption = None,
    device: options.DeviceOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Find the pictures most like IMAGE, all of them or those that the options let through."""
    from simile.images.sources.paths import make_printable
    from simile.images.sources.sources import check_file
    from simile.search.contact_sheet import write_contact_sheet
    from simile.search.searcher import Searcher, SearchParams, SearchQuery

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
        limit = DEFAULT_HITS
    with Searcher(load_settings(home=home, device=device)) as searcher:
        part = image_id if image is None else searcher.prepare_query_image(image, make_printable(str(image)))
        assert part is not None
        question = SearchQuery((part,), params=SearchParams(limit, 0, only, within, use_posterior=posterior))
        if plus or minus:
            answer = _search_with_attributes(searcher, question, plus or [], minus or [], strength)
        else:
            answer = searcher.search(question)
        if output_path is not None:
            shown = searcher.get_query_pixels(image if image is not None else image_id)
            write_contact_sheet(searcher, [(answer, shown)], output_path)
    if json:
        output.write_json(output.make_search_result_json(answer))
        return
    for rank, hit in enumerate(answer.hits, 1):
        output.write(f"{rank:>3}  {hit.distance:.4f}  {hit.path}")
    if output_path is not None:
        output.note(f"sheet: {output_path}")


def _search_with_attributes(
    searcher: Searcher, search_query: SearchQuery, plus: list[str], minus: list[str], strength: float
) -> SearchResult:
    """Neighbours of a picture that was never taken, called by the name of the one that it was made of."""
    from simile.explore.latent.inputs import encode_inputs
    from simile.search.attributes import make_attribute_query  # more to load than most searches need

    answer = searcher.search(make_attribute_query(searcher, search_query, plus, minus, strength))
    (place,) = encode_inputs(searcher, search_query.positives)
    return replace(answer, query=replace(answer.query, name=place.name, width=place.width, height=place.height))


def reconstruct(
    image: Annotated[Path, typer.Argument(help="A picture; it need not be indexed.", show_default=False)],
    output_path: Annotated[Path, typer.Option("--output", "-o", help="The .png to write.")],
    home: options.HomeOption = None,
    device: options.DeviceOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Write IMAGE beside what the decoder makes of its μ."""
    from simile.images.sources.sources import check_file
    from simile.search.contact_sheet import write_reconstruction
    from simile.search.searcher import Searcher

    check_file(image)
    with Searcher(load_settings(home=home, device=device)) as searcher:
        error = write_reconstruction(searcher, image, output_path)
    if json:
        output.write_json({"output": str(output_path), "reconstruction_error": error})
    else:
        output.write(f"{output_path}: mean squared error {error:.5f}")
