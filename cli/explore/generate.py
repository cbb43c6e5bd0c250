"""`simile morph` and `simile generate`: decode images from the latent space."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simile.cli import options, output
from simile.core.errors import BadUsage

if TYPE_CHECKING:
    from simile.explore.latent.interpolation import LatentMorph


@options.option_groups
def morph(
    common: options.EncoderOptions,
    images: Annotated[
        list[Path] | None,
        typer.Argument(help="Image files, in order; need not be indexed.", metavar="A B [C …]", show_default=False),
    ] = None,
    image_id: Annotated[
        list[int] | None,
        typer.Option("--id", max=options.MAX_BIGINT, help="Id of an indexed image, after the files; can be repeated."),
    ] = None,
    steps: Annotated[int, typer.Option(min=2, max=1000, help="Frames from one image to the next, both included.")] = 16,
    how: Annotated[
        str, typer.Option(help="linear: straight. spherical: rotate the direction, change the length evenly.")
    ] = "linear",
    output_path: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A loop as .gif or .webp, or a strip with the nearest images as .png."),
    ] = None,
) -> None:
    """Interpolate between images in the latent space and decode each step."""
    from simile.explore.latent.interpolation import MORPH_SUFFIXES, make_morph, write_morph
    from simile.images.sources.sources import check_file
    from simile.search.searcher import Searcher

    inputs = [*(images or []), *(image_id or [])]
    if len(inputs) < 2:
        raise BadUsage("A morph needs at least two images.")
    options.check_output(output_path, MORPH_SUFFIXES, or_json=common.json)
    for image in images or []:
        check_file(image)
    with Searcher(common.load_settings()) as searcher:
        result = make_morph(searcher, inputs, steps, how)  # type: ignore[arg-type]  # make_morph checks it
        if output_path is not None:
            write_morph(searcher, result, output_path)
    if common.json:
        output.write_json({**_make_morph_json(result), "output": output.to_text(output_path)})
    else:
        output.write(f"{output_path}: {len(result.frames)} frames from {' to '.join(result.input_names)}")


@options.option_groups
def generate(
    common: options.EncoderOptions,
    count: Annotated[int, typer.Option(min=1, max=400, help="Number of images.")] = 16,
    source: Annotated[
        str,
        typer.Option(
            "--from",
            help="Distribution to sample. prior: of the model. mixture: Gaussians fitted to the collection. An image "
            "file: its posterior.",
        ),
    ] = "prior",
    image_id: Annotated[
        int | None, typer.Option("--id", max=options.MAX_BIGINT, help="Sample the posterior of an indexed image.")
    ] = None,
    temperature: Annotated[
        float, typer.Option(min=0, help="Below 1: more usual images; above 1: more unusual ones.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=options.MAX_SEED, help="Random seed.")] = 0,
    output_path: options.PngOption = None,
) -> None:
    """Sample latent vectors and decode them to a grid of new images."""
    from simile.core.atomic_write import write_output_file
    from simile.explore.latent.sampling import SAMPLE_SOURCES, generate_images
    from simile.images.rendering.sheets import draw_image_grid
    from simile.images.sources.sources import check_file
    from simile.search.searcher import Searcher

    options.check_output(output_path, (".png",), or_json=common.json)
    distribution = image_id if image_id is not None else source if source in SAMPLE_SOURCES else Path(source)
    if isinstance(distribution, Path):
        check_file(distribution)
    with Searcher(common.load_settings()) as searcher:
        result = generate_images(searcher, distribution, count, temperature, seed)
    if output_path is not None:
        write_output_file(output_path, draw_image_grid(result.images, max(1, round(count**0.5))))
    if common.json:
        output.write_json({"seed": seed, "mu": result.latents.tolist(), "output": output.to_text(output_path)})
    else:
        output.write(f"{output_path}: {count} images with seed {seed}")


def _make_morph_json(result: LatentMorph) -> dict[str, Any]:
    frames = [
        {"mu": mu.tolist(), "nearest": output.make_optional_hit_json(hit)}
        for mu, hit in zip(result.latents, result.nearest_hits, strict=True)
    ]
    return {
        "how": result.interpolation,
        "names": result.input_names,
        "stops": result.input_rows,
        "frames": frames,
        "changes": result.changes.tolist(),
    }
