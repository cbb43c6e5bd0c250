"""`simile embed`: write embeddings of images to a file; nothing is stored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from simile.cli import options, output
from simile.cli.train import _encoder
from simile.core.settings import load_settings


def embed(
    photos: options.Photos,
    to: Annotated[Path, typer.Option("--output", "-o", help="The .npz file to write.")],
    home: options.Home = None,
    encoder: Annotated[
        str | None, typer.Option(help="Folder or fingerprint of the encoder. [default: the one in use]")
    ] = None,
    include: options.Include = None,
    exclude: options.Exclude = None,
    device: options.Device = None,
    json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Write vectors of PHOTOS to an .npz (paths, mu, sigma, vector); nothing is stored in the home."""
    from simile.indexer.embed import check_output
    from simile.indexer.embed import embed as run_embed

    check_output(to)
    settings = load_settings(home=home, device=device)
    embedded = run_embed(settings, photos, _encoder(settings, encoder), options.patterns(include, exclude))
    embedded.save(to)
    for failure in embedded.failures:
        output.note(f"left out: {failure.path}: {failure.reason}")
    if json:
        failures = [vars(failure) for failure in embedded.failures]
        output.write_json({"output": str(to), "pictures": len(embedded.paths), "failures": failures})
    else:
        output.write(f"{to}: {len(embedded.paths):,} vectors of {embedded.mu.shape[1]}")
