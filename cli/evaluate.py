"""`simile evaluate`: what each encoder is worth on these pictures, beside what needs no training at all."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from simile.cli import options, output
from simile.cli.progress import ProgressReporter
from simile.core.errors import BadSetting, BadUsage
from simile.core.settings import Settings, load_settings

if TYPE_CHECKING:
    from simile.evaluation.job import Evaluation

LATENT_FIGURES = ("losses", "manifold")
MIN_WIDTH_WITH_ERRORS = 116  # characters that the table needs with standard errors in it
FILE_OUTPUT_WIDTH = 120  # characters, where the table goes into a file or a pipe


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
    output_path: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write a report as .html (or the --picture as .png).")
    ] = None,
    home: options.HomeOption = None,
    device: options.DeviceOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Measure every encoder on PHOTOS beside raw pixels, PCA and a perceptual hash, and say which to use."""
    from simile.evaluation.job import EvaluationRequest
    from simile.evaluation.job import evaluate as run_evaluation
    from simile.evaluation.report import write_evaluation_report

    _check_evaluate_options(photos, picture, output_path)
    settings = load_settings(home=home, device=device)
    request = EvaluationRequest(labels, folds, test, tuple(encoder or ()), copies, samples, seed, limit, posterior)
    reporter = ProgressReporter("Nothing was written: run it again.")
    with reporter:
        drawn = _draw_latent_figure(picture, settings, photos or [], request, reporter)
        if picture is not None and output_path is not None and output_path.suffix == ".png":
            output_path.write_bytes(drawn[picture])
            output.write_json({"output": str(output_path)}) if json else output.write(str(output_path))
            return
        found = run_evaluation(settings, photos or [], request, reporter.on_stage)
        if output_path is not None:
            write_evaluation_report(found, settings, output_path, drawn)
    if json:
        output.write_json({**found.to_dict(), "output": None if output_path is None else str(output_path)})
        return
    _show_evaluation(found)
    if output_path is not None:
        output.note(f"report: {output_path}")


def _check_evaluate_options(photos: list[Path] | None, figure: str | None, output_path: Path | None) -> None:
    """Raises BadUsage for what can't be asked for together, and BadSetting, before anything is read."""
    if figure is not None and figure not in LATENT_FIGURES:
        raise BadUsage(f"picture can't be {figure!r}. Use {' or '.join(LATENT_FIGURES)}.")
    if figure is not None and (output_path is None or output_path.suffix not in (".png", ".html")):
        raise BadUsage("--picture needs --output FILE.png for the picture alone, or FILE.html for the whole report.")
    if figure is None and output_path is not None and output_path.suffix != ".html":
        raise BadUsage(f"output can't be {output_path}. Name a file that ends in .html.")
    if output_path is not None and not output_path.absolute().parent.is_dir():
        raise BadSetting(f"{output_path.absolute().parent} is no folder. Make it, or name another file with --output.")
    if not photos and not (figure == "manifold" and output_path is not None and output_path.suffix == ".png"):
        raise BadUsage("Name the pictures: `simile evaluate PHOTOS`.")


def _draw_latent_figure(
    figure: str | None, settings: Settings, photos: list[Path], request: Any, reporter: ProgressReporter
) -> dict[str, bytes]:
    """The latent picture that was asked for, by its name."""
    from simile.evaluation import latent_figures

    if figure == "losses":
        return {figure: latent_figures.draw_losses(settings, photos, request, reporter.on_stage)}
    if figure == "manifold":
        return {figure: latent_figures.draw_home_manifold(settings, request.encoders)}
    return {}


def _show_evaluation(evaluation: Evaluation) -> None:
    """Tables, then the advice, then what to know about them."""
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else FILE_OUTPUT_WIDTH, highlight=False)
    for table in _make_tables(evaluation, with_errors=console.width >= MIN_WIDTH_WITH_ERRORS):
        console.print(table)
        console.print()
    console.print(evaluation.advice, style="bold")
    notes = [*evaluation.notes, *(f"{row.name}: {note}" for row in evaluation.rows for note in row.notes)]
    for note in notes:
        console.print(f"note: {note}", markup=False)
    for failure in evaluation.failures:
        console.print(f"set aside: {failure.path}: {failure.reason}", markup=False, soft_wrap=True)


def _make_tables(evaluation: Evaluation, *, with_errors: bool) -> list[Table]:
    from simile.evaluation.metric_table import format_metric, get_columns_with_values, select_rows_with_values

    tables = []
    for group, columns in get_columns_with_values(evaluation.rows):
        table = Table(title=group.title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        table.add_column("", no_wrap=True)
        for column in columns:
            table.add_column(column.heading, justify="right")
        for row in select_rows_with_values(evaluation.rows, columns):
            table.add_row(
                row.name,
                *(format_metric(column, row.metrics, row.standard_errors if with_errors else {}) for column in columns),
            )
        tables.append(table)
    return tables
