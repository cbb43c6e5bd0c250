"""`simile embed`: write embeddings of images to a file; nothing is stored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from simile.cli import options, output
from simile.cli.train import _load_named_or_active_encoder
from simile.core.settings import load_settings


def embed(
    photos: options.PhotosArgument,
    output_path: Annotated[Path, typer.Option("--output", "-o", help="The .npz file to write.")],
    home: options.HomeOption = None,
    encoder: Annotated[
        str | None, typer.Option(help="Folder or fingerprint of the encoder. [default: the one in use]")
    ] = None,
    include: options.IncludeOption = None,
    exclude: options.ExcludeOption = None,
    device: options.DeviceOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Write vectors of PHOTOS to an .npz (paths, mu, sigma, vector); nothing is stored in the home."""
    from simile.indexer.embed import check_output_path
    from simile.indexer.embed import embed as run_embed

    check_output_path(output_path)
    settings = load_settings(home=home, device=device)
    embedded = run_embed(
        settings, photos, _load_named_or_active_encoder(settings, encoder), options.make_patterns(include, exclude)
    )
    embedded.save(output_path)
    for failure in embedded.failures:
        output.note(f"left out: {failure.path}: {failure.reason}")
    if json:
        failures = [vars(failure) for failure in embedded.failures]
        output.write_json({"output": str(output_path), "pictures": len(embedded.paths), "failures": failures})
    else:
        output.write(f"{output_path}: {len(embedded.paths):,} vectors of {embedded.mu.shape[1]}")
