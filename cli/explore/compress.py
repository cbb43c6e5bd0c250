"""Commands that keep pictures in a few bytes each: compress, decompress."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simile.cli import options, output
from simile.cli.progress import ProgressReporter
from simile.core.settings import load_settings

if TYPE_CHECKING:
    from simile.core.settings import Settings
    from simile.models.inference.encoder import TrainedEncoder

EncoderOption = Annotated[
    str | None, typer.Option(help="Folder or fingerprint of the encoder. [default: the one in use]", show_default=False)
]


def compress(
    photos: options.PhotosArgument,
    output_path: Annotated[Path, typer.Option("--output", "-o", help="The archive to write, such as photos.simile.")],
    bytes_per_image: Annotated[
        float | None, typer.Option("--bytes", help="At most so many for each picture, on average.", show_default=False)
    ] = None,
    step: Annotated[
        float | None,
        typer.Option(help="Or how coarse: by how much a step changes a picture, values in [0, 1]. [default: 1]"),
    ] = None,
    effort: Annotated[
        int,
        typer.Option(
            min=0, max=2000, help="Steps of gradient descent on each picture: slower, and better. 60 is much."
        ),
    ] = 0,
    encoder: EncoderOption = None,
    home: options.HomeOption = None,
    device: options.DeviceOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Keep PHOTOS as quantised, entropy-coded latents in one file. What the encoder doesn't remember is lost."""
    from simile.core.atomic_write import check_output_path
    from simile.core.errors import BadUsage
    from simile.explore.compression.archive import write_archive
    from simile.explore.compression.codec import compress_images as make
    from simile.images.formats import Limits
    from simile.images.sources.sources import walk_sources

    if bytes_per_image is not None and step is not None:
        raise BadUsage("Give --bytes or --step, not both.")
    check_output_path(output_path, ())
    settings = load_settings(home=home, device=device)
    network = _load_decoding_encoder(settings, encoder)
    found = walk_sources(photos)
    limits = Limits.from_settings(settings)
    with ProgressReporter("Nothing was written: run it again.", json=json) as reporter:
        made = make(
            network,
            [file.path for file in found.files],
            limits,
            settings.workers,
            reporter.on_stage,
            bytes_per_image=bytes_per_image,
            delta=step,
            effort=effort,
        )
    sizes = write_archive(made, output_path)
    failures = [*made.failures, *found.failures]
    each = sizes["latents"] / len(made.names)
    if json:
        reasons = [{"path": one.path, "reason": one.reason} for one in failures]
        body = {"output": str(output_path), "pictures": len(made.names), "bytes": sizes, "bytes_per_picture": each}
        output.write_json({**body, "encoder": made.encoder, "failures": reasons})
        return
    for one in failures:
        output.note(f"left out: {one.path}: {one.reason}")
    output.write(
        f"{output_path}: {len(made.names)} pictures in {sizes['all']:,} bytes: latents {sizes['latents']:,} ({each:.1f} each), "
        f"tables {sizes['tables']:,}, names {sizes['names']:,}; encoder {made.encoder} is needed to open it"
    )


def decompress(
    archive: Annotated[Path, typer.Argument(help="What `simile compress` wrote.")],
    output_path: Annotated[
        Path, typer.Option("--output", "-o", help="The folder for the pictures; made if there is none.")
    ],
    encoder: EncoderOption = None,
    home: options.HomeOption = None,
    device: options.DeviceOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Write the pictures of an archive as PNGs, as the encoder remembers them; no file is written over."""
    from simile.core.errors import BadSetting
    from simile.explore.compression.archive import extract_images, read_archive
    from simile.images.sources.sources import check_file

    check_file(archive)
    stored = read_archive(archive)
    network = _load_decoding_encoder(load_settings(home=home, device=device), encoder or stored.encoder)
    try:
        output_path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadSetting(
            f"{output_path} can't be made a folder: {error.strerror or error}. Name another one."
        ) from error
    written = extract_images(network, stored, output_path)
    if json:
        output.write_json({"output": str(output_path), "pictures": [str(path) for path in written]})
    else:
        output.write(f"{output_path}: {len(written)} pictures")


def _load_decoding_encoder(settings: Settings, reference: str | None) -> TrainedEncoder:
    """The one that is named, or the one in use. Raises NoSuchEncoder, NothingIndexed, NoDecoder."""
    from simile.core.errors import NoDecoder
    from simile.search.encoder_registry import find_encoder
    from simile.search.searcher import Searcher
    from simile.store.home import Home

    if reference is not None:
        found = find_encoder(Home(settings.home), reference, settings.device, settings.runtime)
    else:
        with Searcher(settings) as searcher:
            found = searcher.get_encoder()
    if not found.has_decoder:
        raise NoDecoder(
            f"Encoder {found.fingerprint} has no decoder: what it compresses could never be shown again. Train one "
            f"over it with `simile train PHOTOS --decoder-only {found.fingerprint[:12]}`, or use the recipe vae."
        )
    return found
