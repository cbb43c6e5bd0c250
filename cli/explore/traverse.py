"""Commands that walk through the latent space without a goal: traverse, manifold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from simile.cli import options, output
from simile.core.settings import load_settings


def traverse(
    picture: Annotated[
        Path | None,
        typer.Argument(help="Where the walk starts; else at the mean of the collection.", show_default=False),
    ] = None,
    image_id: Annotated[int | None, typer.Option("--id", max=2**63 - 1, help="From an indexed image.")] = None,
    dims: Annotated[
        str, typer.Option(help="How many dimensions, the most active ones; or which: 1,5,7 (5, for one alone).")
    ] = "8",
    span: Annotated[float, typer.Option(help="How far to either side, in deviations of the collection.")] = 3.0,
    steps: Annotated[int, typer.Option(min=2, max=100, help="Pictures of each dimension.")] = 9,
    output_path: Annotated[
        Path | None, typer.Option("--output", "-o", help="The .png to write, the nearest real pictures below each.")
    ] = None,
    home: options.HomeOption = None,
    device: options.DeviceOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Show what single dimensions stand for: one at a time from low to high, all others as they are."""
    from simile.core.atomic_write import check_output_path, write_output_file
    from simile.core.errors import BadUsage
    from simile.explore.latent.traversal import draw_traversal
    from simile.explore.latent.traversal import traverse_latents as walk
    from simile.images.sources.sources import check_file
    from simile.search.searcher import Searcher

    if picture is not None and image_id is not None:
        raise BadUsage("Start from a file or from --id, not from both.")
    if output_path is None and not json:
        raise BadUsage("Name a .png with --output, or ask for the data with --json.")
    if output_path is not None:
        check_output_path(output_path, (".png",))
    if picture is not None:
        check_file(picture)
    with Searcher(load_settings(home=home, device=device)) as searcher:
        made = walk(searcher, picture if image_id is None else image_id, dims=dims, span=span, steps=steps)
        if output_path is not None:
            write_output_file(output_path, draw_traversal(searcher, made))
    if json:
        rows = [
            {
                "dim": dim,
                "frames": [{"mu": mu.tolist(), "nearest": hit and output.make_hit_json(hit)} for mu, hit in frames],
            }
            for dim, frames in zip(
                made.dims,
                (zip(*row, strict=True) for row in zip(made.latents, made.nearest_hits, strict=True)),
                strict=True,
            )
        ]
        output.write_json(
            {"from": made.name, "steps": made.steps.tolist(), "rows": rows, "output": output_path and str(output_path)}
        )
    else:
        output.write(f"{output_path}: dimensions {', '.join(map(str, made.dims))} from {made.name}")


def show_manifold(
    axes: Annotated[
        str,
        typer.Option("--dims", help="principal: the two directions of most variance; or two dimensions, such as 3,7."),
    ] = "principal",
    size: Annotated[int, typer.Option(min=2, max=30, help="Pictures a side.")] = 12,
    nearest: Annotated[
        bool, typer.Option("--nearest", help="With the real picture nearest to each, a row below each row.")
    ] = False,
    output_path: Annotated[
        Path | None, typer.Option("--output", "-o", help="The .png to write.", show_default=False)
    ] = None,
    home: options.HomeOption = None,
    device: options.DeviceOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Show a plane of the latent space as a grid of pictures."""
    from simile.core.atomic_write import check_output_path, write_output_file
    from simile.core.errors import BadUsage
    from simile.explore.latent.traversal import draw_manifold
    from simile.explore.latent.traversal import make_manifold as spread
    from simile.search.searcher import Searcher

    if output_path is None and not json:
        raise BadUsage("Name a .png with --output, or ask for the latents with --json.")
    if output_path is not None:
        check_output_path(output_path, (".png",))
    with Searcher(load_settings(home=home, device=device)) as searcher:
        made = spread(searcher, axes=axes, size=size, with_nearest=nearest)
        if output_path is not None:
            write_output_file(output_path, draw_manifold(searcher, made))
    if json:
        found = {"nearest": [hit and output.make_hit_json(hit) for hit in made.nearest_hits]} if nearest else {}
        output.write_json(
            {"axes": made.axes, "mu": made.latents.tolist(), **found, "output": output_path and str(output_path)}
        )
    else:
        output.write(f"{output_path}: {size} x {size} pictures of {made.axes}")
