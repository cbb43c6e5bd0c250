"""Exports of the quality of images: a table of all measures (.csv), or a sheet of the worst of each issue (.png)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from simile.core.atomic_write import write_output_file
from simile.core.csv_cells import escape_formulas
from simile.core.records import ImageQuality
from simile.explore.quality.report import QualityExample, QualityReport
from simile.images.rendering.sheets import SheetTile, draw_tile_grid
from simile.search.contact_sheet import BLANK_PIXELS
from simile.search.searcher import Searcher
from simile.store.database.transactions import split_chunks

QUALITY_SUFFIXES = (".csv", ".png")
SHEET_COLUMNS = 8
_MEASURES = [field.name for field in fields(ImageQuality)]


def write_quality(searcher: Searcher, report: QualityReport, output: Path) -> None:
    """Write the images of a report in the format of the suffix, one of QUALITY_SUFFIXES.

    The table has all images that were measured if the report has all issues, else those with its issue.
    """
    if output.suffix.lower() == ".csv":
        write_output_file(output, _make_csv(searcher, report).encode())
        return
    rows = [
        [_make_tile(searcher, issue.issue, example) for example in issue.examples[start : start + SHEET_COLUMNS]]
        for issue in report.issues
        for start in range(0, len(issue.examples), SHEET_COLUMNS)
    ]
    write_output_file(output, draw_tile_grid(rows))


def _make_csv(searcher: Searcher, report: QualityReport) -> str:
    quality = searcher.catalogue.quality
    issues: dict[int, list[str]] = {}
    for issue in report.issues:
        for image in quality.find_images(issue.issue):
            issues.setdefault(image.image_id, []).append(issue.issue)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image_id", "path", "issues", "width", "height", *_MEASURES])
    is_whole = len(report.issues) > 1
    measured = ((image_id, of) for image_id, of in quality.iterate_measured() if is_whole or image_id in issues)
    for batch in split_chunks(measured):
        writer.writerows(map(escape_formulas, _iterate_rows(searcher, dict(batch), issues)))
    return text.getvalue()


def _iterate_rows(
    searcher: Searcher, batch: dict[int, ImageQuality], issues: dict[int, list[str]]
) -> Iterator[list[Any]]:
    summaries = searcher.catalogue.images.get_summaries(list(batch))
    for image_id, quality in batch.items():
        if image := summaries.get(image_id):
            names = " ".join(issues.get(image_id, ()))
            row = [image_id, next(iter(image.paths), ""), names, image.width, image.height]
            yield row + ["" if (value := getattr(quality, name)) is None else value for name in _MEASURES]


def _make_tile(searcher: Searcher, issue: str, example: QualityExample) -> SheetTile:
    pixels = searcher.find_pixels(example.image_id)
    value = f" {example.value:.3g}" if isinstance(example.value, float) else ""
    return SheetTile(BLANK_PIXELS if pixels is None else pixels, f"{issue}{value}\n{Path(example.path).name}")
