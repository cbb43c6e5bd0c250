"""What a map is shown with: tiles of thumbnails for the page, and the whole as a picture."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from simile.core.atomic_write import write_atomically
from simile.core.errors import BadSetting, HomeNotWritable, NoDecoder, NoSuchImage, UnreadableImage
from simile.core.records import FloatArray
from simile.explore.map.map import get_maps_folder
from simile.explore.map.view import MapLabels, MapView, compute_error_ranks, make_clusters
from simile.images.formats import Pixels
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

THUMBNAIL_SIDE, TILE_COLUMNS = 48, 16  # of a thumbnail in a tile, in pixels; thumbnails beside each other
IMAGES_PER_TILE = TILE_COLUMNS * TILE_COLUMNS
MIN_IMAGE_SPACING = 40  # pixels between pictures in the picture of a map

MapStyle = Literal["pictures", "dots"]
MAP_STYLES: tuple[MapStyle, ...] = ("pictures", "dots")


@dataclass(frozen=True, eq=False)
class MapTile:
    """The pictures in rows 256 n to 256 n + 255 of a map, 16 beside each other. tag: names what is in it."""

    tag: str
    path: Path
    ids: Sequence[int | None]


def count_tiles(view: MapView) -> int:
    """How many tiles the map has."""
    return -(-len(view.map.ids) // IMAGES_PER_TILE)


def get_tile(searcher: Searcher, view: MapView, number: int) -> MapTile:
    """What is in a tile now: pictures that were deleted are None. Raises BadSetting for a number that there is not."""
    if not 0 <= number < count_tiles(view):
        raise BadSetting(f"tile can't be {number}: this map has tiles 0 to {count_tiles(view) - 1}.")
    start = number * IMAGES_PER_TILE
    stored = view.map.ids[start : start + IMAGES_PER_TILE]
    living = set(view.map_rows.tolist())
    ids = [one if start + row in living else None for row, one in enumerate(stored.tolist())]
    tag = hashlib.sha256(repr((view.map.tag, number, ids)).encode()).hexdigest()[:16]
    folder = get_maps_folder(searcher) / f"tiles-{view.map.settings.layout}" / f"{view.map.encoder[:16]}-{view.map.tag}"
    return MapTile(tag, folder / f"{number}-{tag}.webp", ids)


def get_tile_bytes(searcher: Searcher, tile: MapTile) -> bytes:
    """The tile as a WebP, made once and kept; one of before a picture was deleted is removed."""
    with suppress(OSError):
        return tile.path.read_bytes()
    data = draw_atlas(
        [None if one is None else get_thumbnail(searcher, one) for one in tile.ids], THUMBNAIL_SIDE, TILE_COLUMNS
    )
    with suppress(HomeNotWritable), translate_write_errors(tile.path):  # then it is made again
        tile.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(tile.path, lambda temporary: temporary.write_bytes(data))
        for old in tile.path.parent.glob(f"{tile.path.name.partition('-')[0]}-*.webp"):
            if old != tile.path:
                old.unlink(missing_ok=True)
    return data


def get_thumbnail(searcher: Searcher, image_id: int) -> Pixels | None:
    """The picture; what the model saw of it where its file is gone; None where that can't be told either."""
    with suppress(NoDecoder, NoSuchImage, UnreadableImage):
        return searcher.get_query_pixels(image_id, THUMBNAIL_SIDE)
    return None


def render_map(searcher: Searcher, view: MapView, labels: Sequence[MapLabels], colour: str, style: MapStyle) -> bytes:
    """PNG of the map. colour: cluster, density, error, label (the first there is) or one of the labels by name.

    Raises BadSetting, NoDecoder.
    """
    if style not in MAP_STYLES:
        raise BadSetting(f"style can't be {style!r}. Give pictures or dots.")
    colours, legend, between = _make_colours(searcher, view, labels, colour)
    shown = _choose_visible_rows(view.points) if style == "pictures" else []
    found = ((row, get_thumbnail(searcher, int(view.ids[row]))) for row in shown)
    pictures = [(row, pixels) for row, pixels in found if pixels is not None]
    note = f"{len(view.ids):,} pictures, layout {view.map.settings.layout}, coloured by {colour}"
    return draw_map(
        MapSheet(
            title="The map of the collection",
            note=note,
            points=view.points,
            colours=colours,
            images=pictures,
            legend=legend,
            ramp_labels=between,
        )
    )


def find_labels(labels: Sequence[MapLabels], name: str) -> MapLabels:
    """The labels of this name; `label`: the first there are. Raises BadSetting."""
    for one in labels:
        if name in ("label", one.source):
            return one
    known = (
        ", ".join(one.source for one in labels) or "no labels here: pictures in several folders, or metadata, are some"
    )
    raise BadSetting(f"There is no label {name!r}. There are cluster, density, error; and {known}.")


def _make_colours(
    searcher: Searcher, view: MapView, labels: Sequence[MapLabels], colour: str
) -> tuple[ColourArray, list[tuple[str, str]], tuple[str, str] | None]:
    if colour == "cluster":
        clusters = make_clusters(view, labels[0] if labels else None)
        legend = [
            (one.label or f"cluster {one.number + 1}", MAP_PALETTE[one.number % len(MAP_PALETTE)]) for one in clusters
        ]
        return get_palette_colours(view.clusters), [*legend, *_make_rest_legend(view.clusters, "none")], None
    if colour == "density":
        return get_ramp_colours(view.density), [], ("thin", "thick")
    if colour == "error":
        errors = compute_error_ranks(searcher, view)
        _check_errors_known(searcher, errors)
        return get_ramp_colours(errors), [], ("reconstructed well", "badly")
    chosen = find_labels(labels, colour)
    legend = list(zip(chosen.names, MAP_PALETTE, strict=False))
    return get_palette_colours(chosen.label_ids), [*legend, *_make_rest_legend(chosen.label_ids, "others")], None


def _check_errors_known(searcher: Searcher, errors: FloatArray) -> None:
    if not np.isfinite(errors).any():
        encoder = searcher.get_encoder()
        if not encoder.has_decoder:
            raise NoDecoder(f"Encoder {encoder.fingerprint} has no decoder, so there is no error. Use another colour.")


def _make_rest_legend(label_ids: np.ndarray, name: str) -> list[tuple[str, str]]:
    return [(name, UNKNOWN_COLOUR)] if bool((label_ids < 0).any()) else []


def _choose_visible_rows(points: FloatArray) -> list[int]:
    """Rows of points, drawn by chance, of which no two lie so near that their pictures would cover each other."""
    places = compute_map_positions(points)
    found: list[int] = []
    taken: dict[tuple[int, int], list[int]] = {}
    for row in np.random.default_rng(0).permutation(len(places)).tolist():
        x, y = places[row]
        across, down = int(x // MIN_IMAGE_SPACING), int(y // MIN_IMAGE_SPACING)
        around = ((across + left, down + up) for left in (-1, 0, 1) for up in (-1, 0, 1))
        near = (other for square in around for other in taken.get(square, ()))
        if all(max(abs(x - places[other, 0]), abs(y - places[other, 1])) >= MIN_IMAGE_SPACING for other in near):
            found.append(row)
            taken.setdefault((across, down), []).append(row)
    return found
