"""The ladder as one self-contained HTML file: tables, neighbours, reconstructions, samples; every picture inside."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader

from simile.core.atomic_write import write_atomically
from simile.core.errors import UnreadableImage
from simile.core.records import Failure
from simile.core.settings import Settings
from simile.evaluation import bootstrap
from simile.evaluation.baselines import EmbeddingMethod, crop_padding
from simile.evaluation.benchmark import BenchmarkRow
from simile.evaluation.dataset import ImageReader, thumbnails
from simile.evaluation.job import Evaluation
from simile.evaluation.metric_table import (
    MetricColumn,
    MetricGroup,
    format_metric,
    get_columns_with_values,
    select_rows_with_values,
)
from simile.images.formats import Limits, Pixels
from simile.images.rendering import sheets
from simile.models.inference.encoder import TrainedEncoder

THUMBNAIL_SIDE = 96  # pixels
RECONSTRUCTION_EXAMPLES = 8  # originals beside reconstructions
PRIOR_SAMPLES = 24
GRID_COLUMNS = 8  # pictures in a row
LATENT_FIGURE_TITLES = {
    "losses": (
        "What each term of the loss does to a latent of two dimensions",
        "Three small VAEs trained on these pictures. Reconstruction alone puts codes anywhere, with gaps between them "
        "that decode to nothing. KL alone makes every picture the prior. Together they keep alike pictures together "
        "and leave no gaps. Circles: one and two standard deviations of the prior.",
    ),
    "manifold": (
        "What lies where in the latent plane",
        "What the decoder makes of z at even quantiles of the prior, from left to right and from bottom to top.",
    ),
}

_environment = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True)
_environment.filters["file_name"] = lambda path: PurePath(path).name


@dataclass(frozen=True)
class MetricCell:
    """One figure as it is shown; `best`: nothing in its column is better beyond the noise."""

    text: str
    is_best: bool


@dataclass(frozen=True)
class ReportTile:
    """One picture of the collection. `agrees`: whether it has the query's label; None where either has none."""

    source: str
    path: str
    label: str | None
    has_query_label: bool | None


@dataclass(frozen=True)
class QueryExample:
    """One query and its nearest pictures by each row of the ladder."""

    query: ReportTile
    tiles_by_method: list[tuple[str, list[ReportTile]]]


@dataclass(frozen=True)
class MethodExample:
    """What one row makes of pictures; `samples` from the prior, where there is one."""

    name: str
    reconstructions: str
    samples: str | None


def write_evaluation_report(
    evaluation: Evaluation, settings: Settings, output_path: Path, latent_figures: Mapping[str, bytes]
) -> None:
    """Writes the report. `latent_pictures`: PNG files by the names in LATENT_TITLES."""
    page = _environment.get_template("report.html").render(
        found=evaluation,
        summary=evaluation.to_dict(),
        groups=[
            _make_metric_table(group, columns, evaluation.rows)
            for group, columns in get_columns_with_values(evaluation.rows)
        ],
        kinds=_get_recall_by_kind(evaluation.rows),
        examples=_make_query_examples(evaluation, settings),
        shown=[
            shown for method in evaluation.methods if (shown := _make_method_example(method, evaluation)) is not None
        ],
        latent=[(*LATENT_FIGURE_TITLES[name], make_data_url(data, "png")) for name, data in latent_figures.items()],
        version=version("simile"),
    )
    write_atomically(output_path, lambda path: path.write_text(page, encoding="utf-8"))


def make_data_url(data: bytes, image_format: str) -> str:
    return f"data:image/{image_format};base64,{base64.b64encode(data).decode()}"


def _make_metric_table(
    group: MetricGroup, columns: tuple[MetricColumn, ...], rows: list[BenchmarkRow]
) -> dict[str, Any]:
    best = {column.key: _find_best_rows(column, rows) for column in columns}
    lines = [
        (
            row.name,
            [
                MetricCell(format_metric(column, row.metrics, row.standard_errors), row.name in best[column.key])
                for column in columns
            ],
        )
        for row in select_rows_with_values(rows, columns)
    ]
    return {"title": group.title, "columns": columns, "lines": lines}


def _find_best_rows(column: MetricColumn, rows: list[BenchmarkRow]) -> set[str]:
    """Names of the rows that nothing leads in this column; none where all are alike, or inputs differ in size."""
    measured = [row for row in rows if row.metrics.get(column.key) is not None]
    if column.direction == 0 or len(measured) < 2 or not _is_comparable(column, measured):
        return set()
    top = max(measured, key=lambda row: column.direction * row.metrics[column.key])
    best = {row.name for row in measured if not _is_led_by(row, top, column)}
    return best if len(best) < len(measured) else set()


def _is_comparable(column: MetricColumn, rows: list[BenchmarkRow]) -> bool:
    return column.key not in ("mse", "psnr", "ssim") or len({row.metrics["input"] for row in rows}) == 1


def _is_led_by(row: BenchmarkRow, top: BenchmarkRow, column: MetricColumn) -> bool:
    gap = abs(top.metrics[column.key] - row.metrics[column.key])
    if column.key in row.bootstrap_values:
        return bootstrap.is_significant_lead(top.bootstrap_values[column.key], row.bootstrap_values[column.key], gap)
    return column.number_format.format(row.metrics[column.key]) != column.number_format.format(top.metrics[column.key])


def _get_recall_by_kind(rows: list[BenchmarkRow]) -> list[tuple[str, list[float]]]:
    """For each kind of copy, recall@1 of each row."""
    kinds = rows[0].copies_by_kind if rows else {}
    return [(kind, [row.copies_by_kind[kind] for row in rows]) for kind in kinds]


def _make_query_examples(evaluation: Evaluation, settings: Settings) -> list[QueryExample]:
    queries = evaluation.benchmark_data.example_queries.tolist()
    near = {row.name: [] if row.example_rows is None else row.example_rows.tolist() for row in evaluation.rows}
    wanted = {*queries, *(other for lists in near.values() for rows in lists for other in rows)}
    sources = _make_thumbnails(evaluation, sorted(wanted), settings)

    def tile(row: int, query: int) -> ReportTile:
        label, asked = evaluation.labels[row], evaluation.labels[query]
        agrees = None if label is None or asked is None else label == asked
        return ReportTile(sources[row], evaluation.benchmark_data.dataset.paths[row], label, agrees)

    return [
        QueryExample(
            tile(query, query), [(name, [tile(row, query) for row in lists[number]]) for name, lists in near.items()]
        )
        for number, query in enumerate(queries)
    ]


def _make_thumbnails(evaluation: Evaluation, rows: list[int], settings: Settings) -> dict[int, str]:
    """Data URLs of small copies of these rows."""
    reading = ImageReader(Limits.from_settings(settings), settings.workers, ())
    paths = [evaluation.benchmark_data.dataset.paths[row] for row in rows]
    sources: dict[int, str] = {}
    for row, path, made in zip(rows, paths, thumbnails(paths, reading, THUMBNAIL_SIDE), strict=True):
        if isinstance(made, Failure):  # it could be read when it was measured
            raise UnreadableImage(path, made.reason)
        sources[row] = make_data_url(made, "png" if made.startswith(b"\x89PNG") else "jpeg")
    return sources


def _make_method_example(method: EmbeddingMethod, evaluation: Evaluation) -> MethodExample | None:
    """Pictures of the first split's queries, which PCA was not fitted on, and what comes back."""
    pictures, split = (
        evaluation.benchmark_data.dataset.arrays[method.preprocessing],
        evaluation.benchmark_data.splits[0],
    )
    method.fit(pictures[split.base])
    chosen = pictures[split.queries[:RECONSTRUCTION_EXAMPLES]]
    back = method.reconstruct(chosen)
    if back is None:
        return None
    pairs = sheets.draw_reconstruction_pairs(crop_padding(chosen, method.preprocessing), _to_pixels(back), GRID_COLUMNS)
    samples = _draw_prior_samples(method.encoder, evaluation.request.seed) if method.encoder is not None else None
    return MethodExample(method.name, make_data_url(pairs, "png"), samples)


def _draw_prior_samples(encoder: TrainedEncoder, seed: int) -> str | None:
    """Pictures decoded from z drawn from the prior; None for an encoder that has no prior."""
    if not encoder.has_variance:
        return None
    z = np.random.default_rng(seed).standard_normal((PRIOR_SAMPLES, encoder.latent_dim)).astype(np.float32)
    top, left, height, width = encoder.preprocessing.content_box()
    decoded = encoder.decode(z)[:, :, top : top + height, left : left + width]
    return make_data_url(sheets.draw_image_grid(_to_pixels(decoded), GRID_COLUMNS), "png")


def _to_pixels(images: Any) -> Pixels:
    """(n, C, h, w) in [0, 1] to (n, h, w, C) uint8."""
    return np.ascontiguousarray(np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8).transpose(0, 2, 3, 1))
