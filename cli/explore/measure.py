"""`simile outliers`, `uncertainty` and `continuity`: measurements in the latent space."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from simile.cli import options, output
from simile.cli.progress import RESTART_HINT, RESUME_HINT, ProgressReporter
from simile.core.atomic_write import write_output_file

if TYPE_CHECKING:
    from simile.explore.latent.smoothness import LatentContinuity
    from simile.explore.latent.uncertainty import EncodingUncertainty

CONTINUITY_MEANINGS = {
    "path": "length of the path in pixel space, relative to the straight line",
    "jump": "largest step relative to the mean step",
    "strangeness": "reconstruction error of the decoded images on the path",
    "of_ends": "the same at both ends",
    "of_fade": "the same for a cross-fade of the two images",
    "returned": "error of the re-encoded position, relative to the length of the path",
}


def show_outliers(
    common: options.EncoderOptions,
    count: Annotated[int, Option(min=1, max=100_000, help="Number of images.")] = 50,
    output_path: Annotated[
        Path | None, options.output_option("Write a contact sheet (.png), a page (.html) or a table (.csv).")
    ] = None,
    seed: Annotated[int, Option(min=0, max=options.MAX_SEED, help="Random seed (mixture, samples).")] = 0,
) -> None:
    """List the outliers of the collection, each with the reason."""
    from simile.explore.outliers.detector import find_outliers
    from simile.explore.outliers.exports import OUTLIER_SUFFIXES, write_outliers

    options.check_output(output_path, OUTLIER_SUFFIXES)
    with common.open_searcher() as searcher:
        with ProgressReporter(RESUME_HINT, json=common.json) as reporter:
            outliers, scores = find_outliers(searcher, count, reporter.on_stage, seed=seed)
        if output_path is not None:
            write_outliers(searcher, outliers, output_path)
    body = {"outliers": list(map(asdict, outliers)), "images": len(scores.ids), "signals": list(scores.ranks)}
    body |= {"neighbour": scores.neighbour, "output": output_path}
    lines = [f"{rank:>3}  {item.score:5.2f}  {item.path}  {item.reason}" for rank, item in enumerate(outliers, 1)]
    common.show(body, lines, *output.format_written(output_path))


def show_uncertainty(
    common: options.EncoderOptions,
    image: options.ImageArgument = None,
    image_id: options.ImageIdOption = None,
    samples: Annotated[int, Option(min=2, max=1000, help="Samples of the posterior of the image.")] = 32,
    seed: Annotated[int, Option(min=0, max=options.MAX_SEED, help="Random seed.")] = 0,
    output_path: Annotated[
        Path | None, options.output_option("Write the image, its reconstruction and a map of the variance as .png.")
    ] = None,
) -> None:
    """Measure the uncertainty of the encoder: σ, spread of reconstructions, log p(x), error, stable neighbours."""
    from simile.explore.latent.uncertainty import draw_uncertainty, measure_uncertainty

    options.check_output(output_path, (".png",))
    query = options.get_query(image, image_id)
    with common.open_searcher() as searcher:
        with ProgressReporter(RESUME_HINT, json=common.json) as reporter:
            result = measure_uncertainty(searcher, query, samples=samples, seed=seed, on_progress=reporter.on_stage)
        if output_path is not None:
            write_output_file(output_path, draw_uncertainty(result, searcher.get_query_pixels(query)))
    body = {**_make_uncertainty_json(result), "output": output_path}
    common.show(body, list(_format_uncertainty(result)), *output.format_written(output_path))


def show_continuity(
    common: options.EncoderOptions,
    pairs: Annotated[int, Option(min=1, max=10_000, help="Number of random image pairs.")] = 100,
    steps: Annotated[int, Option(min=3, max=256, help="Points on each path, both ends included.")] = 16,
    how: Annotated[
        str, Option(help="linear: straight. spherical: rotate the direction, change the length evenly.")
    ] = "linear",
    seed: Annotated[int, Option(min=0, max=options.MAX_SEED, help="Random seed.")] = 0,
) -> None:
    """Measure how smooth the latent space is, along paths between random images of the collection."""
    from simile.explore.latent.smoothness import measure_continuity

    with common.open_searcher() as searcher, ProgressReporter(RESTART_HINT, json=common.json) as reporter:
        result = measure_continuity(
            searcher,
            pairs,
            steps=steps,
            interpolation=how,  # type: ignore[arg-type]  # measure_continuity checks it
            seed=seed,
            on_progress=reporter.on_stage,
        )
    summary = {
        name: None if measure is None else {"median": measure[0], "p90": measure[1]}
        for name, measure in result.summarise().items()
    }
    body = {"encoder": result.fingerprint, "how": result.interpolation, "steps": result.steps}
    common.show({**body, "pairs": result.pairs.tolist(), **summary}, list(_format_continuity(result)))


def _make_uncertainty_json(result: EncodingUncertainty) -> dict[str, Any]:
    names = (
        "name", "samples", "mean_deviation", "largest", "log_likelihood", "bits_per_value", "error", "error_percentile",
        "same_nearest", "overlap",
    )  # fmt: skip
    arrays = {name: getattr(result, name).tolist() for name in ("mu", "sigma", "spread_of_all")}
    return {name: getattr(result, name) for name in names} | arrays


def _format_uncertainty(result: EncodingUncertainty) -> Iterator[str]:
    import numpy as np

    relative_sigma = result.sigma / np.maximum(result.spread_of_all, 1e-12)
    lowest = ", ".join(f"{dim} (σ {result.sigma[dim]:.3f})" for dim in np.argsort(relative_sigma)[:5])
    yield f"σ                {result.sigma.mean():.3f} on average; most certain dimensions: {lowest}"
    yield f"reconstructions  {result.samples} samples differ by {result.mean_deviation:.4f} on average, by"
    yield f"                 {result.largest:.4f} at most"
    if result.log_likelihood is not None:
        yield f"log p(x)         {result.log_likelihood:.1f} nats, {result.bits_per_value:.2f} bits per value"
    rank = "" if result.error_percentile is None else f", worse than {result.error_percentile:.0f} % of the collection"
    yield f"error            {result.error:.5f}{rank}"
    if result.same_nearest is not None:
        yield f"neighbours       {result.same_nearest:.0%} of the samples have the same nearest image,"
        yield f"                 {result.overlap:.0%} of the ten nearest are the same on average"


def _format_continuity(result: LatentContinuity) -> Iterator[str]:
    yield f"{len(result.pairs):,} pairs, {result.steps} steps, {result.interpolation}      median     90 %"
    for name, measure in result.summarise().items():
        values = "      –            –" if measure is None else f"{measure[0]:>8.4f} {measure[1]:>12.4f}"
        yield f"{name:<12} {values}  {CONTINUITY_MEANINGS[name]}"
