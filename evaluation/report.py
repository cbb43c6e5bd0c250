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

from simile.core.atomic_write import write_durably
from simile.core.errors import UnreadableImage
from simile.core.records import Failure
from simile.core.settings import Settings
from simile.evaluation import bootstrap
from simile.evaluation.baselines import Method, content
from simile.evaluation.benchmark import Row
from simile.evaluation.dataset import Reading, thumbnails
from simile.evaluation.job import Evaluation
from simile.evaluation.metric_table import Column, Group, present, with_figures, written
from simile.images.formats import Limits
from simile.images.rendering import sheets
from simile.images.transforms import Pixels
from simile.models.inference.encoder import TrainedEncoder

THUMBNAIL = 96  # pixels
SHOWN = 8  # originals beside reconstructions
SAMPLES = 24
COLUMNS = 8  # pictures in a row
LATENT_TITLES = {
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
class Cell:
    """One figure as it is shown; `best`: nothing in its column is better beyond the noise."""

    text: str
    best: bool


@dataclass(frozen=True)
class Tile:
    """One picture of the collection. `agrees`: whether it has the query's label; None where either has none."""

    source: str
    path: str
    label: str | None
    agrees: bool | None


@dataclass(frozen=True)
class Example:
    """One query and its nearest pictures by each row of the ladder."""

    query: Tile
    answers: list[tuple[str, list[Tile]]]


@dataclass(frozen=True)
class Shown:
    """What one row makes of pictures; `samples` from the prior, where there is one."""

    name: str
    reconstructions: str
    samples: str | None


def write_report(found: Evaluation, settings: Settings, to: Path, latent_pictures: Mapping[str, bytes]) -> None:
    """Writes the report. `latent_pictures`: PNG files by the names in LATENT_TITLES."""
    page = _environment.get_template("report.html").render(
        found=found,
        summary=found.to_dict(),
        groups=[_table(group, columns, found.rows) for group, columns in present(found.rows)],
        kinds=_by_kind(found.rows),
        examples=_examples(found, settings),
        shown=[shown for method in found.methods if (shown := _shown(method, found)) is not None],
        latent=[(*LATENT_TITLES[name], data_url(data, "png")) for name, data in latent_pictures.items()],
        version=version("simile"),
    )
    write_durably(to, lambda path: path.write_text(page, encoding="utf-8"))


def data_url(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _table(group: Group, columns: tuple[Column, ...], rows: list[Row]) -> dict[str, Any]:
    best = {column.key: _best(column, rows) for column in columns}
    lines = [
        (row.name, [Cell(written(column, row.figures, row.errors), row.name in best[column.key]) for column in columns])
        for row in with_figures(rows, columns)
    ]
    return {"title": group.title, "columns": columns, "lines": lines}


def _best(column: Column, rows: list[Row]) -> set[str]:
    """Names of the rows that nothing leads in this column; none where all are alike, or inputs differ in size."""
    measured = [row for row in rows if row.figures.get(column.key) is not None]
    if column.better == 0 or len(measured) < 2 or not _comparable(column, measured):
        return set()
    top = max(measured, key=lambda row: column.better * row.figures[column.key])
    best = {row.name for row in measured if not _led(row, top, column)}
    return best if len(best) < len(measured) else set()


def _comparable(column: Column, rows: list[Row]) -> bool:
    return column.key not in ("mse", "psnr", "ssim") or len({row.figures["input"] for row in rows}) == 1


def _led(row: Row, top: Row, column: Column) -> bool:
    gap = abs(top.figures[column.key] - row.figures[column.key])
    if column.key in row.draws:
        return bootstrap.leads(top.draws[column.key], row.draws[column.key], gap)
    return column.written.format(row.figures[column.key]) != column.written.format(top.figures[column.key])


def _by_kind(rows: list[Row]) -> list[tuple[str, list[float]]]:
    """For each kind of copy, recall@1 of each row."""
    kinds = rows[0].copies_by_kind if rows else {}
    return [(kind, [row.copies_by_kind[kind] for row in rows]) for kind in kinds]


def _examples(found: Evaluation, settings: Settings) -> list[Example]:
    queries = found.material.queries.tolist()
    near = {row.name: [] if row.examples is None else row.examples.tolist() for row in found.rows}
    wanted = {*queries, *(other for lists in near.values() for rows in lists for other in rows)}
    sources = _thumbnails(found, sorted(wanted), settings)

    def tile(row: int, query: int) -> Tile:
        label, asked = found.labels[row], found.labels[query]
        agrees = None if label is None or asked is None else label == asked
        return Tile(sources[row], found.material.collection.paths[row], label, agrees)

    return [
        Example(
            tile(query, query), [(name, [tile(row, query) for row in lists[number]]) for name, lists in near.items()]
        )
        for number, query in enumerate(queries)
    ]


def _thumbnails(found: Evaluation, rows: list[int], settings: Settings) -> dict[int, str]:
    """Data URLs of small copies of these rows."""
    reading = Reading(Limits.from_settings(settings), settings.workers, ())
    paths = [found.material.collection.paths[row] for row in rows]
    sources: dict[int, str] = {}
    for row, path, made in zip(rows, paths, thumbnails(paths, reading, THUMBNAIL), strict=True):
        if isinstance(made, Failure):  # it could be read when it was measured
            raise UnreadableImage(path, made.reason)
        sources[row] = data_url(made, "png" if made.startswith(b"\x89PNG") else "jpeg")
    return sources


def _shown(method: Method, found: Evaluation) -> Shown | None:
    """Pictures of the first split's queries, which PCA was not fitted on, and what comes back."""
    pictures, split = found.material.collection.arrays[method.preprocessing], found.material.splits[0]
    method.fit(pictures[split.base])
    chosen = pictures[split.queries[:SHOWN]]
    back = method.reconstruct(chosen)
    if back is None:
        return None
    pairs = sheets.pair_rows(content(chosen, method.preprocessing), _pixels(back), COLUMNS)
    samples = _samples(method.encoder, found.request.seed) if method.encoder is not None else None
    return Shown(method.name, data_url(pairs, "png"), samples)


def _samples(encoder: TrainedEncoder, seed: int) -> str | None:
    """Pictures decoded from z drawn from the prior; None for an encoder that has no prior."""
    if not encoder.has_variance:
        return None
    z = np.random.default_rng(seed).standard_normal((SAMPLES, encoder.latent_dim)).astype(np.float32)
    top, left, height, width = encoder.preprocessing.content_box()
    decoded = encoder.decode(z)[:, :, top : top + height, left : left + width]
    return data_url(sheets.grid(_pixels(decoded), COLUMNS), "png")


def _pixels(pictures: Any) -> Pixels:
    """(n, C, h, w) in [0, 1] to (n, h, w, C) uint8."""
    return np.ascontiguousarray(np.rint(np.clip(pictures, 0, 1) * 255).astype(np.uint8).transpose(0, 2, 3, 1))
