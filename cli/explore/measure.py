"""Commands that measure in the latent space: outliers, uncertainty."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from simile.cli import options, output
from simile.cli.progress import ProgressReporter
from simile.core.settings import load_settings

if TYPE_CHECKING:
    from simile.explore.latent.uncertainty import EncodingUncertainty

MEASURES_RESUME_HINT = "What was measured so far is kept: run the same command again."


def show_outliers(
    count: Annotated[int, typer.Option(min=1, max=100_000, help="How many pictures.")] = 50,
    output_path: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Also write them as a sheet (.png), a page (.html) or a table (.csv)."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the mixture, and of samples of many.")] = 0,
    home: options.HomeOption = None,
    device: options.DeviceOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """List the pictures least like the rest of the collection, each with the reason."""
    from simile.core.atomic_write import check_output_path
    from simile.explore.outliers.detector import find_outliers
    from simile.explore.outliers.exports import OUTLIER_SUFFIXES, write_outliers
    from simile.search.searcher import Searcher

    if output_path is not None:
        check_output_path(output_path, OUTLIER_SUFFIXES)
    with Searcher(load_settings(home=home, device=device)) as searcher:
        with ProgressReporter(MEASURES_RESUME_HINT, json=json) as reporter:
            found, judged = find_outliers(searcher, count, reporter.on_stage, seed=seed)
        if output_path is not None:
            write_outliers(searcher, found, output_path)
    if json:
        body = {"outliers": [asdict(one) for one in found], "images": len(judged.ids), "signals": list(judged.ranks)}
        output.write_json(
            {**body, "neighbour": judged.neighbour, "output": None if output_path is None else str(output_path)}
        )
        return
    for rank, one in enumerate(found, 1):
        output.write(f"{rank:>3}  {one.score:5.2f}  {one.path}  {one.reason}")
    if output_path is not None:
        output.note(f"written: {output_path}")


def show_uncertainty(
    picture: Annotated[
        Path | None, typer.Argument(help="A picture; it need not be indexed.", show_default=False)
    ] = None,
    image_id: Annotated[int | None, typer.Option("--id", max=2**63 - 1, help="An indexed image instead.")] = None,
    samples: Annotated[int, typer.Option(min=2, max=1000, help="Draws from the picture's posterior.")] = 32,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="The same draws for the same seed.")] = 0,
    output_path: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A .png: the picture, what the model sees, and where it can't decide."),
    ] = None,
    home: options.HomeOption = None,
    device: options.DeviceOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Say how sure the encoder is of a picture: σ, spread of reconstructions, log p(x), error, stable neighbours."""
    from simile.core.atomic_write import check_output_path, write_output_file
    from simile.core.errors import BadUsage
    from simile.explore.latent.uncertainty import draw_uncertainty
    from simile.explore.latent.uncertainty import measure_uncertainty as ask
    from simile.images.sources.sources import check_file
    from simile.search.searcher import Searcher

    if (picture is None) == (image_id is None):
        raise BadUsage("Name one picture: a file, or an indexed image with --id.")
    if output_path is not None:
        check_output_path(output_path, (".png",))
    if picture is not None:
        check_file(picture)
    part = picture if image_id is None else image_id
    assert part is not None
    with Searcher(load_settings(home=home, device=device)) as searcher:
        with ProgressReporter(MEASURES_RESUME_HINT, json=json) as reporter:
            found = ask(searcher, part, samples=samples, seed=seed, on_progress=reporter.on_stage)
        if output_path is not None:
            write_output_file(output_path, draw_uncertainty(found, searcher.get_query_pixels(part)))
    if json:
        output.write_json(
            {**_make_uncertainty_json(found), "output": None if output_path is None else str(output_path)}
        )
        return
    for line in _format_uncertainty(found):
        output.write(line)
    if output_path is not None:
        output.note(f"written: {output_path}")


def _make_uncertainty_json(result: EncodingUncertainty) -> dict[str, Any]:
    figures = (
        "name", "samples", "mean_deviation", "largest", "log_likelihood", "bits_per_value", "error", "error_percentile",
        "same_nearest", "overlap",
    )  # fmt: skip
    arrays = {name: getattr(result, name).tolist() for name in ("mu", "sigma", "spread_of_all")}
    return {name: getattr(result, name) for name in figures} | arrays


def _format_uncertainty(result: EncodingUncertainty) -> Iterator[str]:
    share = result.sigma / np.maximum(result.spread_of_all, 1e-12)
    surest = ", ".join(f"{dim} (σ {result.sigma[dim]:.3f})" for dim in np.argsort(share)[:5])
    yield f"σ                {result.sigma.mean():.3f} on average; surest of dimensions {surest}"
    yield f"reconstructions  {result.samples} draws differ by {result.mean_deviation:.4f}, by {result.largest:.4f} at most"
    if result.log_likelihood is not None:
        yield f"log p(x)         {result.log_likelihood:.1f} nats, {result.bits_per_value:.2f} bits a value"
    where = "" if result.error_percentile is None else f", worse than {result.error_percentile:.0f} % of the collection"
    yield f"error            {result.error:.5f}{where}"
    if result.same_nearest is not None:
        yield f"neighbours       {result.same_nearest:.0%} of the draws have the same nearest picture,"
        yield f"                 {result.overlap:.0%} of the ten nearest are the same on average"
