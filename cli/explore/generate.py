"""Commands that make pictures in the latent space: morph, generate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simile.cli import options, output
from simile.core.settings import load_settings

if TYPE_CHECKING:
    from simile.explore.latent.interpolation import LatentMorph


def morph(
    images: Annotated[
        list[Path] | None,
        typer.Argument(help="Pictures, in order; they need not be indexed.", metavar="A B [C …]", show_default=False),
    ] = None,
    image_id: Annotated[
        list[int] | None,
        typer.Option("--id", max=2**63 - 1, help="An indexed image; may be repeated, and comes behind the files."),
    ] = None,
    steps: Annotated[int, typer.Option(min=2, max=1000, help="Frames from each to the next, both included.")] = 16,
    how: Annotated[
        str, typer.Option(help="linear: straight. spherical: the direction turns, the length grows evenly.")
    ] = "linear",
    output_path: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A loop as .gif or .webp, or a strip with the nearest pictures as .png."),
    ] = None,
    home: options.HomeOption = None,
    device: options.DeviceOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Walk from one picture to the next through the latent space, and show what the model sees on the way."""
    from simile.core.atomic_write import check_output_path
    from simile.core.errors import BadUsage
    from simile.explore.latent.interpolation import MORPH_SUFFIXES, make_morph, write_morph
    from simile.images.sources.sources import check_file
    from simile.search.searcher import Searcher

    if output_path is None and not json:
        raise BadUsage("Name a file with --output (.gif, .webp or .png), or ask for the data with --json.")
    if len(images or []) + len(image_id or []) < 2:
        raise BadUsage("A morph leads from one picture to another: name at least two.")
    if output_path is not None:
        check_output_path(output_path, MORPH_SUFFIXES)
    for picture in images or []:
        check_file(picture)
    with Searcher(load_settings(home=home, device=device)) as searcher:
        made = make_morph(searcher, [*(images or []), *(image_id or [])], steps, how)  # type: ignore[arg-type]
        if output_path is not None:
            write_morph(searcher, made, output_path)
    if json:
        output.write_json(_make_morph_json(made, output_path))
    else:
        output.write(f"{output_path}: {len(made.frames)} frames from {' to '.join(made.input_names)}")


def generate(
    count: Annotated[int, typer.Option(min=1, max=400, help="How many pictures.")] = 16,
    source: Annotated[
        str,
        typer.Option(
            "--from",
            help="prior: what the decoder was trained towards. mixture: Gaussians fitted to the collection. "
            "Or a picture: around it.",
        ),
    ] = "prior",
    image_id: Annotated[int | None, typer.Option("--id", max=2**63 - 1, help="Around an indexed image.")] = None,
    temperature: Annotated[
        float, typer.Option(min=0, help="Below 1: more usual pictures; above: stranger ones.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="The same pictures for the same seed.")] = 0,
    output_path: Annotated[
        Path | None, typer.Option("--output", "-o", help="The .png to write.", show_default=False)
    ] = None,
    home: options.HomeOption = None,
    device: options.DeviceOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Make pictures that were never taken, as a grid."""
    from simile.core.atomic_write import check_output_path, write_output_file
    from simile.core.errors import BadUsage
    from simile.explore.latent.sampling import SAMPLE_SOURCES
    from simile.explore.latent.sampling import generate_images as make
    from simile.images.rendering.sheets import draw_image_grid
    from simile.images.sources.sources import check_file
    from simile.search.searcher import Searcher

    if output_path is None and not json:
        raise BadUsage("Name a .png with --output, or ask for the latents with --json.")
    if output_path is not None:
        check_output_path(output_path, (".png",))
    around = image_id if image_id is not None else source if source in SAMPLE_SOURCES else Path(source)
    if isinstance(around, Path):
        check_file(around)
    with Searcher(load_settings(home=home, device=device)) as searcher:
        made = make(searcher, around, count, temperature, seed)
    if output_path is not None:
        write_output_file(output_path, draw_image_grid(made.images, max(1, round(count**0.5))))
    if json:
        output.write_json(
            {"seed": seed, "mu": made.latents.tolist(), "output": None if output_path is None else str(output_path)}
        )
    else:
        output.write(f"{output_path}: {count} pictures of seed {seed}")


def _make_morph_json(result: LatentMorph, output_path: Path | None) -> dict[str, Any]:
    frames = [
        {"mu": mu.tolist(), "nearest": None if hit is None else output.make_hit_json(hit)}
        for mu, hit in zip(result.latents, result.nearest_hits, strict=True)
    ]
    return {
        "how": result.interpolation,
        "names": result.input_names,
        "stops": result.input_rows,
        "frames": frames,
        "changes": result.changes.tolist(),
        "output": None if output_path is None else str(output_path),
    }
