"""`simile evaluate`: compare encoders with each other and with baselines."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer import Argument, Option

from simile.cli import options, output
from simile.cli.progress import RESTART_HINT, ProgressReporter
from simile.core.errors import BadSetting, BadUsage
from simile.core.logs import escape_controls

if TYPE_CHECKING:
    from simile.core.settings import Settings
    from simile.evaluation.job import Evaluation

LATENT_FIGURES = ("losses", "manifold")
MIN_WIDTH_WITH_ERRORS = 116  # terminal width for a table with standard errors
FILE_OUTPUT_WIDTH = 120  # width of the table in a file or a pipe


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Options of an evaluation: the fields of EvaluationRequest, and the output."""

    labels: Annotated[
        str | None, Option(help="folders (each class has its folder), or a CSV file. [default: none]")
    ] = None
    folds: Annotated[int, Option(min=2, max=100, help="Number of folds; each is searched in the others.")] = 5
    test: Annotated[Path | None, Option(help="Folder of query images to search in PHOTOS, instead of folds.")] = None
    encoders: Annotated[
        list[str] | None,
        Option(
            "--encoder", help="Name, folder or fingerprint of an encoder; can be repeated. [default: all of the home]"
        ),
    ] = None
    copies: Annotated[int, Option(min=0, help="Images to make distorted copies of; 0: skip this test.")] = 100
    samples: Annotated[int, Option(min=0, help="Samples per image to estimate log p(x); 0: skip it.")] = 64
    limit: Annotated[int, Option(min=12, help="Maximum number of images, chosen at random.")] = 5000
    seed: Annotated[int, Option(min=0, max=options.MAX_BIGINT, help="Random seed (folds, samples, copies).")] = 0
    posterior: Annotated[
        bool, Option("--posterior", help="Add a row per encoder that compares posteriors (μ and σ).")
    ] = False
    picture: Annotated[
        str | None,
        Option(
            help="losses: train three 2-D VAEs (only reconstruction, only KL, both). manifold: decode the latent "
            "plane of a 2-D encoder. With --output FILE.png only the figure, else a part of the report."
        ),
    ] = None
    output_path: Annotated[
        Path | None, options.output_option("Write a report as .html (or the --picture as .png).")
    ] = None

    def check(self, photos: list[Path]) -> None:
        """Raise BadUsage for options that exclude each other, BadSetting for an output that cannot be written."""
        figure, path = self.picture, self.output_path
        if figure is not None and figure not in LATENT_FIGURES:
            raise BadUsage(f"picture can't be {figure!r}. Use {' or '.join(LATENT_FIGURES)}.")
        if figure is not None and (path is None or path.suffix not in (".png", ".html")):
            raise BadUsage("--picture needs --output FILE.png for only the figure, or FILE.html for the report.")
        if figure is None and path is not None and path.suffix != ".html":
            raise BadUsage(f"output can't be {path}. Name a file that ends in .html.")
        if path is not None and not path.absolute().parent.is_dir():
            raise BadSetting(
                f"{path.absolute().parent} is not a folder. Create it, or name another file with --output."
            )
        if not photos and not (figure == "manifold" and path is not None and path.suffix == ".png"):
            raise BadUsage("Name the images: `simile evaluate PHOTOS`.")


def evaluate(
    chosen: EvaluateOptions,
    common: options.EncoderOptions,
    photos: Annotated[
        list[Path] | None, Argument(help="Folders or files. Hidden files are skipped.", show_default=False)
    ] = None,
) -> None:
    """Compare every encoder with raw pixels, PCA and a perceptual hash on PHOTOS, and recommend one."""
    from simile.evaluation.job import EvaluationRequest
    from simile.evaluation.job import evaluate as run_evaluation
    from simile.evaluation.report import write_evaluation_report

    photos = photos or []
    chosen.check(photos)
    settings, output_path = common.load_settings(), chosen.output_path
    values = {name: value for name, value in vars(chosen).items() if name not in ("picture", "output_path")}
    request = EvaluationRequest(**values | {"encoders": tuple(chosen.encoders or ())})
    with ProgressReporter(RESTART_HINT) as reporter:
        figures = _draw_latent_figure(chosen.picture, settings, photos, request, reporter)
        if chosen.picture is not None and output_path is not None and output_path.suffix == ".png":
            output_path.write_bytes(figures[chosen.picture])
            common.show({"output": output_path}, str(output_path))
            return
        evaluation = run_evaluation(settings, photos, request, reporter.on_stage)
        if output_path is not None:
            write_evaluation_report(evaluation, settings, output_path, figures)
    if common.json:
        output.write_json({**evaluation.to_dict(), "output": output_path})
        return
    _show_evaluation(evaluation)
    for note in output.format_written(output_path):
        output.note(note)


def _draw_latent_figure(
    figure: str | None, settings: Settings, photos: list[Path], request: Any, reporter: ProgressReporter
) -> dict[str, bytes]:
    """Draw the figure with this name, if any."""
    from simile.evaluation import latent_figures

    if figure == "losses":
        return {figure: latent_figures.draw_losses(settings, photos, request, reporter.on_stage)}
    if figure == "manifold":
        return {figure: latent_figures.draw_home_manifold(settings, request.encoders)}
    return {}


def _show_evaluation(evaluation: Evaluation) -> None:
    """Print the tables, the recommendation and the notes."""
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else FILE_OUTPUT_WIDTH, highlight=False)
    for table in _make_tables(evaluation, with_errors=console.width >= MIN_WIDTH_WITH_ERRORS):
        console.print(table)
        console.print()
    console.print(escape_controls(evaluation.advice), style="bold", markup=False)
    notes = [*evaluation.notes, *(f"{row.name}: {note}" for row in evaluation.rows for note in row.notes)]
    for note in notes:
        console.print(escape_controls(f"note: {note}"), markup=False)
    for failure in evaluation.failures:
        console.print(escape_controls(output.format_failure(failure)), markup=False, soft_wrap=True)


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
                escape(escape_controls(row.name)),
                *(format_metric(column, row.metrics, row.standard_errors if with_errors else {}) for column in columns),
            )
        tables.append(table)
    return tables
