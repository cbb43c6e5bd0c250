"""`simile compress` and `simile decompress`: store images as a few bytes each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from simile.cli import options, output
from simile.cli.index import load_chosen_encoder
from simile.cli.progress import RESTART_HINT, ProgressReporter
from simile.core.errors import BadSetting, BadUsage, NoDecoder

if TYPE_CHECKING:
    from simile.core.settings import Settings
    from simile.models.inference.encoder import TrainedEncoder


def compress(
    common: options.EncoderOptions,
    photos: options.PhotosArgument,
    output_path: Annotated[Path, options.output_option("The archive to write, such as photos.simile.")],
    bytes_per_image: Annotated[
        float | None, Option("--bytes", help="Maximum bytes per image, on average.", show_default=False)
    ] = None,
    step: Annotated[
        float | None,
        Option(help="Quantisation step instead: its effect on an image with values in [0, 1]. [default: 1]"),
    ] = None,
    effort: Annotated[
        int, Option(min=0, max=2000, help="Gradient descent steps per image: slower and better; 60 is a lot.")
    ] = 0,
    encoder: options.EncoderOption = None,
) -> None:
    """Write PHOTOS as quantised, entropy-coded latent vectors to one file. The compression is lossy."""
    from simile.explore.compression.archive import write_archive
    from simile.explore.compression.codec import compress_images
    from simile.images.formats import Limits
    from simile.images.sources.sources import walk_sources

    if bytes_per_image is not None and step is not None:
        raise BadUsage("Give --bytes or --step, not both.")
    options.check_output(output_path, ())
    settings = common.load_settings()
    network = _load_decoding_encoder(settings, encoder)
    sources = walk_sources(photos, common.get_home().own_folders)
    with ProgressReporter(RESTART_HINT, json=common.json) as reporter:
        compressed = compress_images(
            network,
            [file.path for file in sources.files],
            Limits.from_settings(settings),
            settings.workers,
            reporter.on_stage,
            bytes_per_image=bytes_per_image,
            delta=step,
            effort=effort,
        )
    sizes = write_archive(compressed, output_path)
    failures = [*compressed.failures, *sources.failures]
    count = len(compressed.names)
    bytes_each = sizes["latents"] / count
    body = {"output": output_path, "pictures": count, "bytes": sizes, "bytes_per_picture": bytes_each}
    text = (
        f"{output_path}: {count} images in {sizes['all']:,} bytes: latents {sizes['latents']:,} "
        f"({bytes_each:.1f} each), tables {sizes['tables']:,}, names {sizes['names']:,}; "
        f"encoder {compressed.encoder} is needed to open it"
    )
    body |= {"encoder": compressed.encoder, "failures": list(map(vars, failures))}
    common.show(body, text, *map(output.format_failure, failures))


def decompress(
    common: options.EncoderOptions,
    archive: Annotated[Path, Argument(help="An archive of `simile compress`.")],
    output_path: Annotated[Path, options.output_option("The folder for the images; created if it does not exist.")],
    encoder: options.EncoderOption = None,
) -> None:
    """Write the images of an archive as PNGs; existing files are not overwritten."""
    from simile.explore.compression.archive import extract_images, read_archive

    options.check_files([archive])
    compressed = read_archive(archive)
    network = _load_decoding_encoder(common.load_settings(), encoder or compressed.encoder)
    try:
        output_path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadSetting(f"{output_path} can't be created: {error.strerror or error}. Name another folder.") from error
    paths = extract_images(network, compressed, output_path)
    common.show({"output": output_path, "pictures": paths}, f"{output_path}: {len(paths)} images")


def _load_decoding_encoder(settings: Settings, reference: str | None) -> TrainedEncoder:
    """Load an encoder with a decoder; see load_chosen_encoder. Raises NoDecoder."""
    encoder: TrainedEncoder = load_chosen_encoder(settings, reference)
    if not encoder.has_decoder:
        raise NoDecoder(
            f"Encoder {encoder.fingerprint} has no decoder, so images could not be decompressed. Train one with "
            f"`simile train PHOTOS --decoder-only {encoder.fingerprint[:12]}`, or use the recipe vae."
        )
    return encoder
