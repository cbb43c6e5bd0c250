"""Rendering of maps: tiles of thumbnails for the page, and the whole map as an image."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from simile.core.atomic_write import write_atomically
from simile.core.errors import BadSetting, HomeNotWritable, NoDecoder
from simile.core.records import FloatArray
from simile.explore.map.map import get_tiles_folder
from simile.explore.map.view import MapLabels, MapView, compute_error_ranks, make_clusters
from simile.images.rendering.atlas import (
    MAP_PALETTE,
    UNKNOWN_COLOUR,
    ColourArray,
    MapSheet,
    compute_map_positions,
    draw_atlas,
    draw_map,
    get_palette_colours,
    get_ramp_colours,
)
from simile.search.searcher import Searcher
from simile.store.home import translate_write_errors

THUMBNAIL_SIDE, TILE_COLUMNS = 48, 16  # pixels; thumbnails in each row of a tile
IMAGES_PER_TILE = TILE_COLUMNS * TILE_COLUMNS
MIN_IMAGE_SPACING = 40  # pixels between thumbnails in the rendered map

MapStyle = Literal["pictures", "dots"]
MAP_STYLES: tuple[MapStyle, ...] = get_args(MapStyle)


@dataclass(frozen=True, eq=False)
class MapTile:
    """A tile: the images in rows 256 n to 256 n + 255 of a map, 16 in each row of the tile."""

    tag: str  # hash of the content
    path: Path  # file of the tile in the home
    ids: Sequence[int | None]  # image ids; None for a deleted image


def count_tiles(view: MapView) -> int:
    """Return the number of tiles of a map."""
    return -(-len(view.map.ids) // IMAGES_PER_TILE)


def get_tile(searcher: Searcher, view: MapView, number: int) -> MapTile:
    """Return the current content of a tile. Raises BadSetting for an unknown number."""
    if not 0 <= number < count_tiles(view):
        raise BadSetting(f"tile can't be {number}: this map has tiles 0 to {count_tiles(view) - 1}.")
    start = number * IMAGES_PER_TILE
    live_rows = set(view.map_rows.tolist())
    ids = [
        image_id if row in live_rows else None
        for row, image_id in enumerate(view.map.ids[start : start + IMAGES_PER_TILE].tolist(), start)
    ]
    tag = hashlib.sha256(repr((view.map.tag, number, ids)).encode()).hexdigest()[:16]
    return MapTile(tag, get_tiles_folder(searcher, view.map) / f"{number}-{tag}.webp", ids)


def get_tile_bytes(searcher: Searcher, tile: MapTile) -> bytes:
    """Return a tile as WebP. It is drawn once and stored; older versions with deleted images are removed."""
    with suppress(OSError):
        return tile.path.read_bytes()
    thumbnails = [None if image_id is None else searcher.find_pixels(image_id, THUMBNAIL_SIDE) for image_id in tile.ids]
    data = draw_atlas(thumbnails, THUMBNAIL_SIDE, TILE_COLUMNS)
    with suppress(HomeNotWritable), translate_write_errors(tile.path):  # not stored: drawn again next time
        tile.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(tile.path, lambda temporary: temporary.write_bytes(data))
        number = tile.path.name.partition("-")[0]
        for old_path in tile.path.parent.glob(f"{number}-*.webp"):
            if old_path != tile.path:
                old_path.unlink(missing_ok=True)
    return data


def render_map(searcher: Searcher, view: MapView, labels: Sequence[MapLabels], colour: str, style: MapStyle) -> bytes:
    """Render a map as PNG. Raises BadSetting, NoDecoder.

    Args:
        colour: `cluster`, `density`, `error`, `label` (the first labels) or the source of labels.
        style: `pictures` adds thumbnails where there is space.
    """
    if style not in MAP_STYLES:
        raise BadSetting(f"style can't be {style!r}. Give pictures or dots.")
    colours, legend, ramp_ends = _make_colours(searcher, view, labels, colour)
    rows = _choose_thumbnail_rows(view.points) if style == "pictures" else []
    thumbnails = [
        (row, pixels)
        for row in rows
        if (pixels := searcher.find_pixels(int(view.ids[row]), THUMBNAIL_SIDE)) is not None
    ]
    sheet = MapSheet(
        title="The map of the collection",
        note=f"{len(view.ids):,} images, layout {view.map.settings.layout}, coloured by {colour}",
        points=view.points,
        colours=colours,
        images=thumbnails,
        legend=legend,
        ramp_labels=ramp_ends,
    )
    return draw_map(sheet)


def find_labels(labels: Sequence[MapLabels], name: str) -> MapLabels:
    """Return the labels with this source; `label` for the first labels. Raises BadSetting."""
    for candidate in labels:
        if name in ("label", candidate.source):
            return candidate
    sources = ", ".join(candidate.source for candidate in labels)
    hint = f"Other labels: {sources}." if sources else "Images in several folders, or with metadata, have labels."
    raise BadSetting(f"There is no label {name!r}. Use cluster, density or error. {hint}")


def _make_colours(
    searcher: Searcher, view: MapView, labels: Sequence[MapLabels], colour: str
) -> tuple[ColourArray, list[tuple[str, str]], tuple[str, str] | None]:
    """Return the colour of each image, the legend as (name, colour), and the names of both ends of a colour ramp."""
    if colour == "cluster":
        legend = [
            (cluster.label or f"cluster {cluster.number + 1}", MAP_PALETTE[cluster.number % len(MAP_PALETTE)])
            for cluster in make_clusters(view, labels[0] if labels else None)
        ]
        return get_palette_colours(view.clusters), [*legend, *_make_rest_legend(view.clusters, "none")], None
    if colour == "density":
        return get_ramp_colours(view.density), [], ("thin", "thick")
    if colour == "error":
        errors = compute_error_ranks(searcher, view)
        encoder = searcher.get_encoder()
        if not np.isfinite(errors).any() and not encoder.has_decoder:
            raise NoDecoder(f"Encoder {encoder.fingerprint} has no decoder, so there is no error. Use another colour.")
        return get_ramp_colours(errors), [], ("reconstructed well", "badly")
    chosen = find_labels(labels, colour)
    legend = list(zip(chosen.names, MAP_PALETTE, strict=False))
    return get_palette_colours(chosen.label_ids), [*legend, *_make_rest_legend(chosen.label_ids, "others")], None


def _make_rest_legend(label_ids: NDArray[np.int32], name: str) -> list[tuple[str, str]]:
    return [(name, UNKNOWN_COLOUR)] if bool((label_ids < 0).any()) else []


def _choose_thumbnail_rows(points: FloatArray) -> list[int]:
    """Choose rows of points (n, 2) in random order, so that no two thumbnails overlap."""
    positions = compute_map_positions(points)
    chosen: list[int] = []
    # A grid with cells of the minimum spacing: only rows in the same and the 8 surrounding cells can overlap.
    rows_by_cell: dict[tuple[int, int], list[int]] = {}
    for row in np.random.default_rng(0).permutation(len(positions)).tolist():
        x, y = positions[row]
        column, line = int(x // MIN_IMAGE_SPACING), int(y // MIN_IMAGE_SPACING)
        surrounding = ((column + dx, line + dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1))
        near = (other for cell in surrounding for other in rows_by_cell.get(cell, ()))
        if all(max(abs(x - positions[other, 0]), abs(y - positions[other, 1])) >= MIN_IMAGE_SPACING for other in near):
            chosen.append(row)
            rows_by_cell.setdefault((column, line), []).append(row)
    return chosen
