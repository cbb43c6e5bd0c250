"""`simile evaluate`: what each encoder is worth on these pictures, beside what needs no training at all."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from simile.cli import options, output
from simile.cli.progress import Reporter
from simile.core.errors import BadSetting, BadUsage
from simile.core.settings import Settings, load_settings

if TYPE_CHECKING:
    from simile.evaluation.job import Evaluation

PICTURES = ("losses", "manifold")
ROOM_FOR_ERRORS = 116  # characters that the table needs with standard errors in it
WIDTH_OF_FILES = 120  # characters, where the table goes into a file or a pipe


def evaluate(
    photos: Annotated[
        list[Path] | None, typer.Argument(help="Folders or files. Hidden files are passed over.", show_default=False)
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="folders (the class folder of each picture) or a CSV file. [default: none]")
    ] = None,
    folds: Annotated[int, typer.Option(min=2, max=100, help="Parts; each is searched for in the others.")] = 5,
    test: Annotated[
        Path | None, typer.Option(help="Folder whose pictures are searched for in PHOTOS, instead of folds.")
    ] = None,
    encoder: Annotated[
        list[str] | None,
        typer.Option(help="Folder or fingerprint of an encoder; may be repeated. [default: all of the home]"),
    ] = None,
    copies: Annotated[int, typer.Option(min=0, help="Originals of which altered copies are planted; 0: none.")] = 100,
    samples: Annotated[int, typer.Option(min=0, help="Draws for log p(x) of each picture; 0: not estimated.")] = 64,
    limit: Annotated[int, typer.Option(min=12, help="At most so many pictures, drawn with the seed.")] = 5000,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of folds, samples and copies.")] = 0,
    posterior: Annotated[
        bool, typer.Option("--posterior", help="Also compare whole posteriors, μ and σ, as a row for each encoder.")
    ] = False,
    picture: Annotated[
        str | None,
        typer.Option(
            help="losses: three 2-D VAEs trained here (only reconstruction, only KL, both). manifold: what a 2-D "
            "encoder decodes over its latent plane. Alone with --output FILE.png, or as part of a report."
        ),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write a report as .html (or the --picture as .png).")
    ] = None,
    home: options.Home = None,
    device: options.Device = None,
    json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Measure every encoder on PHOTOS beside raw pixels, PCA and a perceptual hash, and say which to use."""
    from simile.evaluation.job import EvaluationRequest
    from simile.evaluation.job import evaluate as run_evaluation
    from simile.evaluation.report import write_report

    _check(photos, picture, to)
    settings = load_settings(home=home, device=device)
    request = EvaluationRequest(labels, folds, test, tuple(encoder or ()), copies, samples, seed, limit, posterior)
    reporter = Reporter("Nothing was written: run it again.")
    with reporter:
        drawn = _draw(picture, settings, photos or [], request, reporter)
        if picture is not None and to is not None and to.suffix == ".png":
            to.write_bytes(drawn[picture])
            output.write_json({"output": str(to)}) if json else output.write(str(to))
            return
        found = run_evaluation(settings, photos or [], request, reporter.measured)
        if to is not None:
            write_report(found, settings, to, drawn)
    if json:
        output.write_json({**found.to_dict(), "output": None if to is None else str(to)})
        return
    _show(found)
    if to is not None:
        output.note(f"report: {to}")


def _check(photos: list[Path] | None, picture: str | None, to: Path | None) -> None:
    """Raises BadUsage for what can't be asked for together, and BadSetting, before anything is read."""
    if picture is not None and picture not in PICTURES:
        raise BadUsage(f"picture can't be {picture!r}. Use {' or '.join(PICTURES)}.")
    if picture is not None and (to is None or to.suffix not in (".png", ".html")):
        raise BadUsage("--picture needs --output FILE.png for the picture alone, or FILE.html for the whole report.")
    if picture is None and to is not None and to.suffix != ".html":
        raise BadUsage(f"output can't be {to}. Name a file that ends in .html.")
    if to is not None and not to.absolute().parent.is_dir():
        raise BadSetting(f"{to.absolute().parent} is no folder. Make it, or name another file with --output.")
    if not photos and not (picture == "manifold" and to is not None and to.suffix == ".png"):
        raise BadUsage("Name the pictures: `simile evaluate PHOTOS`.")


def _draw(
    picture: str | None, settings: Settings, photos: list[Path], request: Any, reporter: Reporter
) -> dict[str, bytes]:
    """The latent picture that was asked for, by its name."""
    from simile.evaluation import latent_figures

    if picture == "losses":
        return {picture: latent_figures.losses(settings, photos, request, reporter.measured)}
    if picture == "manifold":
        return {picture: latent_figures.manifold(settings, request.encoders)}
    return {}


def _show(found: Evaluation) -> None:
    """Tables, then the advice, then what to know about them."""
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDTH_OF_FILES, highlight=False)
    for table in _tables(found, with_errors=console.width >= ROOM_FOR_ERRORS):
        console.print(table)
        console.print()
    console.print(found.advice, style="bold")
    notes = [*found.notes, *(f"{row.name}: {note}" for row in found.rows for note in row.notes)]
    for note in notes:
        console.print(f"note: {note}", markup=False)
    for failure in found.failures:
        console.print(f"set aside: {failure.path}: {failure.reason}", markup=False, soft_wrap=True)


def _tables(found: Evaluation, *, with_errors: bool) -> list[Table]:
    from simile.evaluation.metric_table import present, with_figures, written

    tables = []
    for group, columns in present(found.rows):
        table = Table(title=group.title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        table.add_column("", no_wrap=True)
        for column in columns:
            table.add_column(column.heading, justify="right")
        for row in with_figures(found.rows, columns):
            table.add_row(
                row.name, *(written(column, row.figures, row.errors if with_errors else {}) for column in columns)
            )
        tables.append(table)
    return tables
