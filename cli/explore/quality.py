"""`simile quality`: images that are blurred, dark, flat, of an odd size …, and files that can't be read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from simile.cli import options, output
from simile.cli.progress import RESUME_HINT, ProgressReporter
from simile.core.errors import BadUsage

if TYPE_CHECKING:
    from simile.explore.quality.report import QualityReport

MAX_LISTED_FILES = 10  # unreadable files; --json has all


def show_quality(
    common: options.CommonOptions,
    issue: Annotated[
        str | None, Option(help="Only images with this issue, such as blurred.", show_default=False)
    ] = None,
    count: Annotated[int, Option(min=0, max=100_000, help="Images of each issue, the worst first.")] = 3,
    output_path: Annotated[
        Path | None,
        options.output_option("Write all measures as a table (.csv), or a contact sheet of the listed images (.png)."),
    ] = None,
    measure: Annotated[
        bool,
        Option("--measure", help="Measure images that were indexed by an older version; nothing is embedded again."),
    ] = False,
    wait: options.WaitOption = 0.0,
) -> None:
    """Count the images with issues of quality, with the worst of each: blurred, dark, flat, of an odd size.

    Indexing measures each image. The limits follow from the collection. The names of the issues are values of the
    filter `quality`: `--where quality=blurred` (docs/quality.md).
    """
    if measure:
        if issue or output_path:
            raise BadUsage("--measure only measures, so it excludes --issue and --output. Choose one.")
        _measure(common, wait)
        return
    from simile.explore.quality.exports import QUALITY_SUFFIXES, write_quality
    from simile.explore.quality.report import make_quality_report

    options.check_output(output_path, QUALITY_SUFFIXES)
    with common.open_searcher() as searcher:
        report = make_quality_report(searcher, count=count, issue=issue)
        if output_path is not None:
            write_quality(searcher, report, output_path)
    body = {**asdict(report), "output": output_path}
    common.show(body, list(_format_report(report)), *output.format_written(output_path))


def _measure(common: options.CommonOptions, wait: float) -> None:
    """Measure the images that were not measured."""
    from simile.indexer.maintenance.quality import measure_quality_of_images

    with ProgressReporter(RESUME_HINT, json=common.json) as reporter:
        summary = measure_quality_of_images(common.load_settings(), reporter.on_stage, wait=wait)
    lines = [f"measured {summary.measured:,} images"]
    if summary.missing:
        lines.append(f"{summary.missing:,} images have no file that exists")
    common.show(asdict(summary), lines + [output.format_failure(failure) for failure in summary.failures])


def _format_report(report: QualityReport) -> Iterator[str]:
    yield f"{report.measured:,} of {report.images:,} images are measured"
    if report.measured < report.images:
        yield "measure the others with `simile quality --measure`"
    for issue in report.issues:
        limits = issue.describe_limits()
        yield f"{issue.issue:<14}{issue.count:>8,}  {issue.description}{limits and f' ({limits})'}"
        for example in issue.examples:
            value = f"{example.value:.4g}" if isinstance(example.value, float) else example.value
            yield f"{'':<14}{value:>8}  {example.path}"
    if report.unreadable:
        yield f"{'unreadable':<14}{len(report.unreadable):>8,}  files that could not be indexed"
        for failure in report.unreadable[:MAX_LISTED_FILES]:
            yield f"{'':<24}{failure.path}: {failure.reason}"
