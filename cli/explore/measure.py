"""Commands that measure in the latent space: outliers, uncertainty."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from simile.cli import options, output
from simile.cli.progress import Reporter
from simile.core.settings import load_settings

if TYPE_CHECKING:
    from simile.explore.latent.uncertainty import Uncertainty

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
    from simile.core.atomic_write import check_output
    from simile.explore.outliers.detector import find_outliers
    from simile.explore.outliers.exports import SUFFIXES, write_outliers
    from simile.search.searcher import Searcher

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


def uncertainty(
    picture: Annotated[
        Path | None, typer.Argument(help="A picture; it need not be indexed.", show_default=False)
    ] = None,
    image_id: Annotated[int | None, typer.Option("--id", max=2**63 - 1, help="An indexed image instead.")] = None,
    samples: Annotated[int, typer.Option(min=2, max=1000, help="Draws from the picture's posterior.")] = 32,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="The same draws for the same seed.")] = 0,
    to: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A .png: the picture, what the model sees, and where it can't decide."),
    ] = None,
    home: options.Home = None,
    device: options.Device = None,
    json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Say how sure the encoder is of a picture: σ, spread of reconstructions, log p(x), error, stable neighbours."""
    from simile.core.atomic_write import check_output, write_output
    from simile.core.errors import BadUsage
    from simile.explore.latent.uncertainty import draw_uncertainty
    from simile.explore.latent.uncertainty import uncertainty as ask
    from simile.images.sources.sources import check_file
    from simile.search.searcher import Searcher

    if (picture is None) == (image_id is None):
        raise BadUsage("Name one picture: a file, or an indexed image with --id.")
    if to is not None:
        check_output(to, (".png",))
    if picture is not None:
        check_file(picture)
    part = picture if image_id is None else image_id
    assert part is not None
    with Searcher(load_settings(home=home, device=device)) as searcher:
        with Reporter(AGAIN, json=json) as reporter:
            found = ask(searcher, part, samples=samples, seed=seed, on_progress=reporter.measured)
        if to is not None:
            write_output(to, draw_uncertainty(found, searcher.picture_of(part)))
    if json:
        output.write_json({**_uncertainty_json(found), "output": None if to is None else str(to)})
        return
    for line in _uncertainty_lines(found):
        output.write(line)
    if to is not None:
        output.note(f"written: {to}")


def _uncertainty_json(found: Uncertainty) -> dict[str, Any]:
    figures = (
        "name", "samples", "mean_deviation", "largest", "log_likelihood", "bits_per_value", "error", "error_percentile",
        "same_nearest", "overlap",
    )  # fmt: skip
    arrays = {name: getattr(found, name).tolist() for name in ("mu", "sigma", "spread_of_all")}
    return {name: getattr(found, name) for name in figures} | arrays


def _uncertainty_lines(found: Uncertainty) -> Iterator[str]:
    share = found.sigma / np.maximum(found.spread_of_all, 1e-12)
    surest = ", ".join(f"{dim} (σ {found.sigma[dim]:.3f})" for dim in np.argsort(share)[:5])
    yield f"σ                {found.sigma.mean():.3f} on average; surest of dimensions {surest}"
    yield f"reconstructions  {found.samples} draws differ by {found.mean_deviation:.4f}, by {found.largest:.4f} at most"
    if found.log_likelihood is not None:
        yield f"log p(x)         {found.log_likelihood:.1f} nats, {found.bits_per_value:.2f} bits a value"
    where = "" if found.error_percentile is None else f", worse than {found.error_percentile:.0f} % of the collection"
    yield f"error            {found.error:.5f}{where}"
    if found.same_nearest is not None:
        yield f"neighbours       {found.same_nearest:.0%} of the draws have the same nearest picture,"
        yield f"                 {found.overlap:.0%} of the ten nearest are the same on average"
