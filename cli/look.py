"""Commands that look at one picture: search, reconstruct."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli import options, output
from core.errors import BadSetting, NoSuchPath
from core.settings import load_settings


def search(
    image: Annotated[Path | None, typer.Argument(help="A picture; it need not be indexed.", show_default=False)] = None,
    image_id: Annotated[
        int | None, typer.Option("--id", max=2**63 - 1, help="Search by an indexed image instead.")
    ] = None,
    limit: options.Limit = 10,
    to: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write query, hits and reconstructions as .html or .png.")
    ] = None,
    home: options.Home = None,
    device: options.Device = None,
    json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Find the pictures most like IMAGE."""
    from models.walk import printable
    from search.searcher import Searcher
    from search.sheets import write_sheet

    if (image is None) == (image_id is None):
        raise BadSetting("Name either a picture or --id, not both and not neither.")
    if image is not None and not image.exists() and not image.is_symlink():
        raise NoSuchPath(image)
    with Searcher(load_settings(home=home, device=device)) as searcher:
        if image is not None:
            answer = searcher.by_file(image, name=printable(str(image)), limit=limit)
        else:
            assert image_id is not None
            answer = searcher.by_id(image_id, limit=limit)
        if to is not None:
            shown = searcher.picture_of(image if image is not None else image_id)
            write_sheet(searcher, [(answer, shown)], to)
    if json:
        output.write_json(output.answer_json(answer))
        return
    for rank, hit in enumerate(answer.hits, 1):
        output.write(f"{rank:>3}  {hit.distance:.4f}  {hit.path}")
    if to is not None:
        output.note(f"sheet: {to}")


def reconstruct(
    image: Annotated[Path, typer.Argument(help="A picture; it need not be indexed.", show_default=False)],
    to: Annotated[Path, typer.Option("--output", "-o", help="The .png to write.")],
    home: options.Home = None,
    device: options.Device = None,
    json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Write IMAGE beside what the decoder makes of its μ."""
    from search.searcher import Searcher
    from search.sheets import write_reconstruction

    if not image.exists() and not image.is_symlink():
        raise NoSuchPath(image)
    with Searcher(load_settings(home=home, device=device)) as searcher:
        error = write_reconstruction(searcher, image, to)
    if json:
        output.write_json({"output": str(to), "reconstruction_error": error})
    else:
        output.write(f"{to}: mean squared error {error:.5f}")
