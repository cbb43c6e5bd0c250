"""Write an evaluation as one self-contained HTML file: tables, neighbours, reconstructions and samples."""

from __future__ import annotations

from collections.abc import Mapping
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
from simile.evaluation.dataset import ImageReader, make_thumbnails
from simile.evaluation.job import Evaluation
from simile.evaluation.metric_table import (
    MetricColumn,
    MetricGroup,
    format_metric,
    get_columns_with_values,
    select_rows_with_values,
)
from simile.images.encoding import make_data_url
from simile.images.formats import Limits, Pixels
from simile.images.rendering import sheets
from simile.models.inference.encoder import TrainedEncoder

THUMBNAIL_SIDE = 96  # pixels
RECONSTRUCTION_EXAMPLES = 8  # pairs of original and reconstruction
PRIOR_SAMPLES = 24
GRID_COLUMNS = 8  # images in a row
LATENT_FIGURE_TITLES = {
    "losses": (
        "The effect of each loss term on a two-dimensional latent space",
        "Three small VAEs trained on these images. With reconstruction only, codes are far apart, and the gaps between "
        "them do not decode to images. With KL only, every posterior becomes the prior. With both, similar images are "
        "close together without gaps. Circles: one and two standard deviations of the prior.",
    ),
    "manifold": (
        "The decoded latent plane",
        "Decoded z at even quantiles of the prior, from left to right and from bottom to top.",
    ),
}

_environment = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True)
_environment.filters["file_name"] = lambda path: PurePath(path).name


def write_evaluation_report(
    evaluation: Evaluation, settings: Settings, output_path: Path, latent_figures: Mapping[str, bytes]
) -> None:
    """Write the report; `latent_figures` are PNG files by the names in LATENT_FIGURE_TITLES."""
    page = _environment.get_template("report.html").render(
        evaluation=evaluation,
        summary=evaluation.to_dict(),
        groups=[
            _make_metric_table(group, columns, evaluation.rows)
            for group, columns in get_columns_with_values(evaluation.rows)
        ],
        kinds=_get_recall_by_kind(evaluation.rows),
        examples=_make_query_examples(evaluation, settings),
        method_examples=list(filter(None, (_make_method_example(method, evaluation) for method in evaluation.methods))),
        latent=[(*LATENT_FIGURE_TITLES[name], make_data_url(data, "png")) for name, data in latent_figures.items()],
        version=version("simile"),
    )
    write_atomically(output_path, lambda path: path.write_text(page, encoding="utf-8"))


def _make_metric_table(
    group: MetricGroup, columns: tuple[MetricColumn, ...], rows: list[BenchmarkRow]
) -> dict[str, Any]:
    """Return a table; its lines are (name, cells), and a cell is (text, whether no other value is better)."""
    best = {column.key: _find_best_rows(column, rows) for column in columns}
    lines = []
    for row in select_rows_with_values(rows, columns):
        texts = [format_metric(column, row.metrics, row.standard_errors) for column in columns]
        is_best = [row.name in best[column.key] for column in columns]
        lines.append((row.name, list(zip(texts, is_best, strict=True))))
    return {"title": group.title, "columns": columns, "lines": lines}


def _find_best_rows(column: MetricColumn, rows: list[BenchmarkRow]) -> set[str]:
    """Return the names of the best rows of a column; none if all are equal or the inputs differ in size."""
    candidates = [row for row in rows if row.metrics.get(column.key) is not None]
    if column.direction == 0 or len(candidates) < 2 or not _is_comparable(column, candidates):
        return set()
    top = max(candidates, key=lambda row: column.direction * row.metrics[column.key])
    best = {row.name for row in candidates if not _is_worse(row, top, column)}
    return best if len(best) < len(candidates) else set()


def _is_comparable(column: MetricColumn, rows: list[BenchmarkRow]) -> bool:
    return column.key not in ("mse", "psnr", "ssim") or len({row.metrics["input"] for row in rows}) == 1


def _is_worse(row: BenchmarkRow, top: BenchmarkRow, column: MetricColumn) -> bool:
    gap = abs(top.metrics[column.key] - row.metrics[column.key])
    if column.key in row.bootstrap_values:
        return bootstrap.is_significant_lead(top.bootstrap_values[column.key], row.bootstrap_values[column.key], gap)
    return column.number_format.format(row.metrics[column.key]) != column.number_format.format(top.metrics[column.key])


def _get_recall_by_kind(rows: list[BenchmarkRow]) -> list[tuple[str, list[float]]]:
    """Return recall@1 of each row, by kind of distortion."""
    kinds = rows[0].copies_by_kind if rows else {}
    return [(kind, [row.copies_by_kind[kind] for row in rows]) for kind in kinds]


def _make_query_examples(evaluation: Evaluation, settings: Settings) -> list[dict[str, Any]]:
    """Return the example queries, each with its nearest images by method."""
    queries = evaluation.benchmark_data.example_queries.tolist()
    neighbours = {row.name: [] if row.example_rows is None else row.example_rows.tolist() for row in evaluation.rows}
    tile_rows = {*queries, *(row for lists in neighbours.values() for rows in lists for row in rows)}
    sources = _make_thumbnails(evaluation, sorted(tile_rows), settings)

    def make_tile(row: int, query: int) -> dict[str, Any]:
        label, query_label = evaluation.labels[row], evaluation.labels[query]
        return {
            "source": sources[row],
            "path": evaluation.benchmark_data.dataset.paths[row],
            "label": label,
            "has_query_label": label is not None and label == query_label,
        }

    return [
        {
            "query": make_tile(query, query),
            "tiles": {name: [make_tile(row, query) for row in lists[number]] for name, lists in neighbours.items()},
        }
        for number, query in enumerate(queries)
    ]


def _make_thumbnails(evaluation: Evaluation, rows: list[int], settings: Settings) -> dict[int, str]:
    """Return thumbnails of these rows as data URLs. Raises UnreadableImage."""
    reader = ImageReader(Limits.from_settings(settings), settings.workers, ())
    paths = [evaluation.benchmark_data.dataset.paths[row] for row in rows]
    sources: dict[int, str] = {}
    for row, path, thumbnail in zip(rows, paths, make_thumbnails(paths, reader, THUMBNAIL_SIDE), strict=True):
        if isinstance(thumbnail, Failure):  # the file was readable before
            raise UnreadableImage(path, thumbnail.reason)
        sources[row] = make_data_url(thumbnail, "png" if thumbnail.startswith(b"\x89PNG") else "jpeg")
    return sources


def _make_method_example(method: EmbeddingMethod, evaluation: Evaluation) -> dict[str, str | None] | None:
    """Reconstruct queries of the first split, which PCA was not fitted on; None if the method has no reconstruction."""
    data = evaluation.benchmark_data
    images, split = data.dataset.arrays[method.preprocessing], data.splits[0]
    method.fit(images[split.base])
    originals = images[split.queries[:RECONSTRUCTION_EXAMPLES]]
    reconstructions = method.reconstruct(originals)
    if reconstructions is None:
        return None
    pixels = crop_padding(originals, method.preprocessing)
    pairs = sheets.draw_reconstruction_pairs(pixels, _to_pixels(reconstructions), GRID_COLUMNS)
    samples = _draw_prior_samples(method.encoder, evaluation.request.seed) if method.encoder is not None else None
    return {"name": method.name, "reconstructions": make_data_url(pairs, "png"), "samples": samples}


def _draw_prior_samples(encoder: TrainedEncoder, seed: int) -> str | None:
    """Decode samples of the prior; None for an encoder without a prior."""
    if not encoder.has_variance:
        return None
    z = np.random.default_rng(seed).standard_normal((PRIOR_SAMPLES, encoder.latent_dim)).astype(np.float32)
    top, left, height, width = encoder.preprocessing.content_box()
    decoded = encoder.decode(z)[:, :, top : top + height, left : left + width]
    return make_data_url(sheets.draw_image_grid(_to_pixels(decoded), GRID_COLUMNS), "png")


def _to_pixels(images: Any) -> Pixels:
    """Convert (n, C, h, w) in [0, 1] to (n, h, w, C) uint8."""
    return np.ascontiguousarray(np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8).transpose(0, 2, 3, 1))
