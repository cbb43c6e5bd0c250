"""`simile morph` and `simile generate`: decode images from the latent space."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from simile.cli import options, output
from simile.core.atomic_write import write_output_file
from simile.core.errors import BadUsage


def morph(
    common: options.EncoderOptions,
    images: Annotated[
        list[Path] | None,
        Argument(help="Image files, in order; need not be indexed.", metavar="A B [C …]", show_default=False),
    ] = None,
    image_id: Annotated[
        list[int] | None,
        Option("--id", max=options.MAX_BIGINT, help="Id of an indexed image, after the files; can be repeated."),
    ] = None,
    steps: Annotated[int, Option(min=2, max=1000, help="Frames from one image to the next, both included.")] = 16,
    how: Annotated[
        str, Option(help="linear: straight. spherical: rotate the direction, change the length evenly.")
    ] = "linear",
    output_path: Annotated[
        Path | None, options.output_option("A loop as .gif or .webp, or a strip with the nearest images as .png.")
    ] = None,
) -> None:
    """Interpolate between images in the latent space and decode each step."""
    from simile.explore.latent.interpolation import MORPH_SUFFIXES, make_morph, write_morph

    inputs: list[Path | int] = [*(images or []), *(image_id or [])]
    if len(inputs) < 2:
        raise BadUsage("A morph needs at least two images.")
    options.check_output(output_path, MORPH_SUFFIXES, or_json=common.json)
    options.check_files(inputs)
    with common.open_searcher() as searcher:
        result = make_morph(searcher, inputs, steps, how)  # type: ignore[arg-type]  # make_morph checks it
        if output_path is not None:
            write_morph(searcher, result, output_path)
    body = {
        "how": result.interpolation,
        "names": result.input_names,
        "stops": result.input_rows,
        "frames": output.make_nearest_json(result.latents, result.nearest_hits),
        "changes": result.changes.tolist(),
        "output": output_path,
    }
    common.show(body, f"{output_path}: {len(result.frames)} frames from {' to '.join(result.input_names)}")


def generate(
    common: options.EncoderOptions,
    count: Annotated[int, Option(min=1, max=400, help="Number of images.")] = 16,
    source: Annotated[
        str,
        Option(
            "--from",
            help="Distribution to sample. prior: of the model. mixture: Gaussians fitted to the collection. An image "
            "file: its posterior.",
        ),
    ] = "prior",
    image_id: Annotated[
        int | None, Option("--id", max=options.MAX_BIGINT, help="Sample the posterior of an indexed image.")
    ] = None,
    temperature: Annotated[float, Option(min=0, help="Below 1: more usual images; above 1: more unusual ones.")] = 1.0,
    seed: Annotated[int, Option(min=0, max=options.MAX_SEED, help="Random seed.")] = 0,
    output_path: options.PngOption = None,
) -> None:
    """Sample latent vectors and decode them to a grid of new images."""
    from simile.explore.latent.sampling import SAMPLE_SOURCES, generate_images
    from simile.images.rendering.sheets import draw_image_grid

    options.check_output(output_path, (".png",), or_json=common.json)
    distribution = image_id if image_id is not None else source if source in SAMPLE_SOURCES else Path(source)
    options.check_files([distribution] if isinstance(distribution, Path) else [])
    with common.open_searcher() as searcher:
        result = generate_images(searcher, distribution, count, temperature, seed)
    if output_path is not None:
        write_output_file(output_path, draw_image_grid(result.images, max(1, round(count**0.5))))
    body = {"seed": seed, "mu": result.latents.tolist(), "output": output_path}
    common.show(body, f"{output_path}: {count} images with seed {seed}")
