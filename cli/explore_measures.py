"""Commands that measure in the latent space: outliers."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cli import options, output
from cli.progress import Reporter
from core.settings import load_settings

AGAIN = "What was measured so far is kept: run the same command again."


def outliers(
    count: Annotated[int, typer.Option(min=1, max=100_000, help="How many pictures.")] = 50,
    to: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Also write them as a sheet (.png), a page (.html) or a table (.csv)."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the mixture, and of samples of many.")] = 0,
    home: options.Home = None,
    device: options.Device = None,
    json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """List the pictures least like the rest of the collection, each with the reason."""
    from explore.outlier_outputs import SUFFIXES, write_outliers
    from explore.outliers import find_outliers
    from explore.outputs import check_output
    from search.searcher import Searcher

    if to is not None:
        check_output(to, SUFFIXES)
    with Searcher(load_settings(home=home, device=device)) as searcher:
        with Reporter(AGAIN, json=json) as reporter:
            found, judged = find_outliers(searcher, count, reporter.measured, seed=seed)
        if to is not None:
            write_outliers(searcher, found, to)
    if json:
        body = {"outliers": [asdict(one) for one in found], "images": len(judged.ids), "signals": list(judged.ranks)}
        output.write_json({**body, "neighbour": judged.neighbour, "output": None if to is None else str(to)})
        return
    for rank, one in enumerate(found, 1):
        output.write(f"{rank:>3}  {one.score:5.2f}  {one.path}  {one.reason}")
    if to is not None:
        output.note(f"written: {to}")
