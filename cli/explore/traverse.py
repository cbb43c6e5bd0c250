"""`simile traverse` and `simile manifold`: show what the dimensions of the latent space mean."""

from __future__ import annotations

from typing import Annotated

from typer import Option

from simile.cli import options, output
from simile.core.atomic_write import write_output_file
from simile.core.errors import BadUsage


def traverse(
    common: options.EncoderOptions,
    image: options.ImageArgument = None,
    image_id: options.ImageIdOption = None,
    dims: Annotated[
        str, Option(help="Number of dimensions (the most active ones), or a list: 1,5,7 (one alone: 5,).")
    ] = "8",
    span: Annotated[float, Option(help="Range in each direction, in standard deviations of the collection.")] = 3.0,
    steps: Annotated[int, Option(min=2, max=100, help="Images per dimension.")] = 9,
    output_path: options.PngOption = None,
) -> None:
    """Change one latent dimension at a time, and show the decoded images above the nearest images.

    Starts from IMAGE, or from the mean of the collection.
    """
    from simile.explore.latent.traversal import draw_traversal, traverse_latents

    if image is not None and image_id is not None:
        raise BadUsage("Give an image file or --id, and not both.")
    options.check_output(output_path, (".png",), or_json=common.json)
    start = None if image is None and image_id is None else options.get_query(image, image_id)
    with common.open_searcher() as searcher:
        result = traverse_latents(searcher, start, dims=dims, span=span, steps=steps)
        if output_path is not None:
            write_output_file(output_path, draw_traversal(searcher, result))
    rows = [
        {"dim": dim, "frames": output.make_nearest_json(latents, hits)}
        for dim, latents, hits in zip(result.dims, result.latents, result.nearest_hits, strict=True)
    ]
    body = {"from": result.name, "steps": result.steps.tolist(), "rows": rows, "output": output_path}
    common.show(body, f"{output_path}: dimensions {', '.join(map(str, result.dims))} from {result.name}")


def show_manifold(
    common: options.EncoderOptions,
    axes: Annotated[
        str, Option("--dims", help="principal: the two principal components; or two dimensions, such as 3,7.")
    ] = "principal",
    size: Annotated[int, Option(min=2, max=30, help="Images per side.")] = 12,
    nearest: Annotated[bool, Option("--nearest", help="Add a row with the nearest images below each row.")] = False,
    output_path: options.PngOption = None,
) -> None:
    """Decode a plane of the latent space to a grid of images."""
    from simile.explore.latent.traversal import draw_manifold, make_manifold

    options.check_output(output_path, (".png",), or_json=common.json)
    with common.open_searcher() as searcher:
        result = make_manifold(searcher, axes=axes, size=size, with_nearest=nearest)
        if output_path is not None:
            write_output_file(output_path, draw_manifold(searcher, result))
    hits = {"nearest": [hit and output.make_hit_json(hit) for hit in result.nearest_hits]} if nearest else {}
    body = {"axes": result.axes, "mu": result.latents.tolist(), **hits, "output": output_path}
    common.show(body, f"{output_path}: {size} x {size} images of {result.axes}")
