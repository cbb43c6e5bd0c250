"""`simile search` and `simile reconstruct`: commands for one image."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Option

from simile.cli import options, output
from simile.core.errors import BadSetting, BadUsage

if TYPE_CHECKING:
    from simile.core.records import Box, Hit
    from simile.search.queries import QueryImage, SearchResult
    from simile.search.searcher import Searcher

DEFAULT_LIMIT = 10
UNCALIBRATED_NOTE = (
    "The scores of this collection are not calibrated yet: --min-score compared 1 / (1 + distance). A running "
    "`simile serve` calibrates them with its first searches."
)


def search(
    filters: options.FilterOptions,
    common: options.EncoderOptions,
    images: Annotated[
        list[Path] | None,
        Argument(metavar="IMAGE", help="Image files; need not be indexed.", show_default=False),
    ] = None,
    image_ids: options.ImageIdsOption = None,
    combine: Annotated[
        Literal["mean", "best"],
        Option(help="Of several images: search by what they have in common, or for images near to one of them."),
    ] = "mean",
    text: Annotated[
        str | None,
        Option(
            help="Words that the hits should have, alone or with IMAGE: 'red dress', '-striped' for images without it. "
            "`simile words` lists the known ones."
        ),
    ] = None,
    plus: Annotated[
        list[str] | None, Option(help="More of this attribute (`simile attribute`); can be repeated.")
    ] = None,
    minus: Annotated[list[str] | None, Option(help="Less of this attribute; can be repeated.")] = None,
    strength: Annotated[float, Option(help="Strength of --plus and --minus.")] = 1.0,
    posterior: Annotated[bool, Option("--posterior", help="Compare whole posteriors (μ and σ), not only μ.")] = False,
    limit: Annotated[
        int | None,
        Option(
            "-k",
            "--limit",
            min=1,
            max=1000,
            help="Number of hits. [default: 10; all with --within]",
            show_default=False,
        ),
    ] = None,
    within: Annotated[float | None, Option(min=0, help="Largest distance of a hit.")] = None,
    min_score: Annotated[float | None, Option(min=0, max=1, help="Smallest score of a hit, see --json.")] = None,
    verify: Annotated[
        bool,
        Option("--verify", help="Compare the 20 nearest by their pixels; those that show the same come first."),
    ] = False,
    distinct: Annotated[
        bool, Option("--distinct", help="Show one image of each group of known copies or series (`simile dedup`).")
    ] = False,
    diversity: Annotated[
        float, Option(min=0, max=1, help="How much hits should differ from each other: 0 (not at all) to 1.")
    ] = 0.0,
    group_by: Annotated[
        str | None,
        Option(help="Show groups that share a value of metadata or a field such as camera or month; -k counts groups."),
    ] = None,
    group_size: Annotated[int, Option(min=1, max=100, help="Number of hits of a group.")] = 3,
    box: Annotated[
        str | None,
        Option(
            metavar="X,Y,W,H",
            help="Search by a part of the image: shares of its width and height; 0.25,0,0.5,1 is the middle half.",
        ),
    ] = None,
    output_path: Annotated[
        Path | None, options.output_option("Write query, hits and reconstructions as .html or .png.")
    ] = None,
) -> None:
    """Find the images most similar to IMAGE, or those that fit the words of --text, or both."""
    from simile.core.records import Box
    from simile.search.attributes import make_attribute_strengths
    from simile.search.contact_sheet import write_contact_sheet
    from simile.search.queries import SearchParams, SearchQuery
    from simile.store.filter_check import resolve_filter

    if posterior and (plus or minus):
        raise BadUsage("posterior can't be combined with plus and minus. Leave out --posterior, or --plus and --minus.")
    if verify and (plus or minus or text):
        raise BadUsage("--verify compares the hits with IMAGE itself. Leave it out, or --text, --plus and --minus.")
    queries = [*(images or ()), *(image_ids or ())]
    if box is not None and len(queries) != 1:
        raise BadUsage("--box is a part of an image. Give one IMAGE or --id, or leave it out.")
    if output_path is not None and len(queries) > 1:
        raise BadUsage("--output shows the query image. Leave it out, or give one IMAGE or --id.")
    if text is not None and output_path is not None:
        raise BadUsage("--output shows the query image. Leave it out, or --text.")
    if not queries and text is None:
        raise BadUsage("Give an image file, --id or --text.")
    options.check_files(queries)
    _check_no_folders(images or ())
    attributes = make_attribute_strengths(plus or (), minus or (), strength)
    filter_ = filters.to_filter()
    with common.open_searcher() as searcher:
        params = SearchParams(
            limit=DEFAULT_LIMIT if limit is None and within is None else limit,
            filter=resolve_filter(searcher.catalogue, filter_),
            radius=within,
            use_posterior=posterior,
            min_score=min_score,
            verify=verify,
            distinct=distinct,
            diversity=diversity,
            group_by=group_by,
            group_size=group_size,
            combine=combine,
        )
        part = None if box is None else Box.parse(box)
        terms = tuple(_prepare_query(searcher, query, part) for query in queries)
        result = searcher.search(SearchQuery(terms, params=params, attributes=attributes, text=text))
        if output_path is not None:
            write_contact_sheet(searcher, [(result, searcher.get_query_pixels(queries[0]))], output_path)
    lines = list(_format_hits(result, group_by))
    notes = output.format_written(output_path)
    if result.terms:
        notes.append(f"scored by {', '.join(map(output.format_term, result.terms))}")
    if min_score is not None and not result.is_calibrated:
        notes.insert(0, UNCALIBRATED_NOTE)
    common.show(output.make_search_result_json(result), lines, *notes)


def _check_no_folders(images: Sequence[Path]) -> None:
    """Raise BadSetting if a query image is a folder."""
    for image in images:
        # Path.is_dir() raises for a link to a place without permission.
        if os.path.isdir(image):  # noqa: PTH112
            command = f"simile index {shlex.quote(str(image))}"
            raise BadSetting(
                f"{image} is a folder. Run `{command}` to make its images searchable, or name an image file."
            )


def _prepare_query(searcher: Searcher, query: Path | int, box: Box | None) -> QueryImage | int:
    """Return the term for an image file or an id, or for a part of it."""
    from simile.images.sources.paths import make_printable

    if isinstance(query, Path):
        return searcher.prepare_query_image(query, make_printable(str(query)), box)
    return query if box is None else searcher.prepare_indexed_part(query, box)


def _format_hits(result: SearchResult, group_by: str | None) -> Iterator[str]:
    """Yield a line for each hit, and for each group before its hits."""
    counts = {group.value: group.count for group in result.groups or ()}
    last_group: str | None = None
    for rank, hit in enumerate(result.hits, 1):
        if hit.group is not None and hit.group != last_group:
            yield f"{group_by}={hit.group}  {counts[hit.group]:,} image{'' if counts[hit.group] == 1 else 's'}"
            last_group = hit.group
        yield _format_hit(rank, hit, by_score=bool(result.terms))


def _format_hit(rank: int, hit: Hit, *, by_score: bool) -> str:
    """Format a hit: its rank, its distance or its score, its path and notes on it."""
    notes = [
        f"verified: {hit.relation}" if hit.verified else "",
        f"and {hit.copy_count} more like it" if hit.copy_count else "",
    ]
    value = hit.score if by_score else hit.distance
    return "  ".join([f"{rank:>3}", f"{value:.4f}", hit.path, *filter(None, notes)])


def list_words(
    common: options.CommonOptions,
    beginning: Annotated[
        str, Argument(metavar="[BEGINNING]", help="Only words that begin so.", show_default=False)
    ] = "",
    rejected: Annotated[
        bool, Option("--rejected", help="List the words that are not offered, with the reason.")
    ] = False,
) -> None:
    """List the words for `simile search --text`, learned from tags, labels, keywords and folder names."""
    from simile.search.queries import serialize_word
    from simile.search.words.text import suggest_words

    with common.open_searcher() as searcher:
        vocabulary, any_text = searcher.get_vocabulary(), searcher.get_encoder().has_text_tower
    words = suggest_words(beginning, vocabulary)
    lines = [f"{word.text:<24}  AUC {word.auc:.3f}  {word.count:,} images" for word in words]
    if rejected:
        lines = [f"{text}: {reason}" for text, reason in sorted(vocabulary.refused.items())]
    note = (
        f"{len(vocabulary.refused):,} words of too few images, or that do not tell images apart: --rejected lists them"
    )
    notes = [note] if vocabulary.refused and not rejected else []
    if any_text:
        notes.append("the active encoder has a text tower: `simile search --text` takes any text")
    body = {"words": [serialize_word(word) for word in words], "rejected": dict(vocabulary.refused)}
    common.show(body | {"any_text": any_text}, lines or ["no words"], *notes)


def reconstruct(
    common: options.EncoderOptions,
    image: Annotated[Path, Argument(help="Image file; need not be indexed.", show_default=False)],
    output_path: Annotated[Path, options.output_option("The .png to write.")],
) -> None:
    """Write IMAGE and its reconstruction side by side."""
    from simile.search.contact_sheet import write_reconstruction

    options.check_files([image])
    with common.open_searcher() as searcher:
        error = write_reconstruction(searcher, image, output_path)
    body = {"output": output_path, "reconstruction_error": error}
    common.show(body, f"{output_path}: mean squared error {error:.5f}")
