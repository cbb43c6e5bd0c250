"""The command that measures how smooth the latent space is: continuity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simile.cli import options, output
from simile.cli.progress import ProgressReporter
from simile.core.settings import load_settings

if TYPE_CHECKING:
    from simile.explore.latent.smoothness import LatentContinuity

FIGURE_MEANINGS = {
    "path": "times the straight distance between the ends, in picture space",
    "jump": "times the mean step is the largest one",
    "strangeness": "lost when it looks at its own pictures on the way",
    "of_ends": "lost so at both ends",
    "of_fade": "lost so on a plain cross-fade between them",
    "returned": "of the way's length it is off when it finds a picture's place again",
}


def show_continuity(
    pairs: Annotated[int, typer.Option(min=1, max=10_000, help="Ways between two pictures drawn at random.")] = 100,
    steps: Annotated[int, typer.Option(min=3, max=256, help="Places on each way, both ends included.")] = 16,
    how: Annotated[
        str, typer.Option(help="linear: straight. spherical: the direction turns, the length grows evenly.")
    ] = "linear",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="The same pairs for the same seed.")] = 0,
    home: options.HomeOption = None,
    device: options.DeviceOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Measure how smooth the latent space is: along the ways between random pairs of the collection."""
    from simile.explore.latent.smoothness import measure_continuity as measure
    from simile.search.searcher import Searcher

    with (
        Searcher(load_settings(home=home, device=device)) as searcher,
        ProgressReporter("Nothing was kept: run it again.", json=json) as reporter,
    ):
        found = measure(searcher, pairs, steps=steps, interpolation=how, seed=seed, on_progress=reporter.on_stage)  # type: ignore[arg-type]
    if json:
        output.write_json(_make_continuity_json(found))
        return
    for line in _format_continuity(found):
        output.write(line)


def _make_continuity_json(result: LatentContinuity) -> dict[str, Any]:
    figures = {
        name: None if figure is None else {"median": figure[0], "p90": figure[1]}
        for name, figure in result.summarise().items()
    }
    ends = {
        "encoder": result.fingerprint,
        "how": result.interpolation,
        "steps": result.steps,
        "pairs": result.pairs.tolist(),
    }
    return {**ends, **figures}


def _format_continuity(result: LatentContinuity) -> Iterator[str]:
    yield f"{len(result.pairs):,} pairs, {result.steps} steps, {result.interpolation}      median  worst tenth"
    for name, figure in result.summarise().items():
        figures = "      –            –" if figure is None else f"{figure[0]:>8.4f} {figure[1]:>12.4f}"
        yield f"{name:<12} {figures}  {FIGURE_MEANINGS[name]}"
