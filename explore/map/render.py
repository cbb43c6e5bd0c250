"""What a map is shown with: tiles of thumbnails for the page, and the whole as a picture."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from simile.core.atomic_write import write_durably
from simile.core.errors import BadSetting, HomeNotWritable, NoDecoder, NoSuchImage, UnreadableImage
from simile.core.records import FloatArray
from simile.explore.map.map import folder_of
from simile.explore.map.view import Labels, MapView, clusters_of, errors_of
from simile.images.rendering.atlas import (
    GREY,
    PALETTE,
    Colours,
    MapSheet,
    atlas,
    draw_map,
    map_places,
    palette_colours,
    ramp_colours,
)
from simile.images.transforms import Pixels
from simile.search.searcher import Searcher
from simile.store.home import writing

SIDE, COLUMNS = 48, 16  # of a thumbnail in a tile, in pixels; thumbnails beside each other
PER_TILE = COLUMNS * COLUMNS
APART = 40  # pixels between pictures in the picture of a map

Style = Literal["pictures", "dots"]
STYLES: tuple[Style, ...] = ("pictures", "dots")


@dataclass(frozen=True, eq=False)
class Tile:
    """The pictures in rows 256 n to 256 n + 255 of a map, 16 beside each other. tag: names what is in it."""

    tag: str
    path: Path
    ids: Sequence[int | None]


def tile_count(view: MapView) -> int:
    """How many tiles the map has."""
    return -(-len(view.map.ids) // PER_TILE)


def tile_of(searcher: Searcher, view: MapView, number: int) -> Tile:
    """What is in a tile now: pictures that were deleted are None. Raises BadSetting for a number that there is not."""
    if not 0 <= number < tile_count(view):
        raise BadSetting(f"tile can't be {number}: this map has tiles 0 to {tile_count(view) - 1}.")
    start = number * PER_TILE
    stored = view.map.ids[start : start + PER_TILE]
    living = set(view.place.tolist())
    ids = [one if start + row in living else None for row, one in enumerate(stored.tolist())]
    tag = hashlib.sha256(repr((view.map.tag, number, ids)).encode()).hexdigest()[:16]
    folder = folder_of(searcher) / f"tiles-{view.map.wish.layout}" / f"{view.map.encoder[:16]}-{view.map.tag}"
    return Tile(tag, folder / f"{number}-{tag}.webp", ids)


def tile_bytes(searcher: Searcher, tile: Tile) -> bytes:
    """The tile as a WebP, made once and kept; one of before a picture was deleted is removed."""
    with suppress(OSError):
        return tile.path.read_bytes()
    data = atlas([None if one is None else thumbnail_of(searcher, one) for one in tile.ids], SIDE, COLUMNS)
    with suppress(HomeNotWritable), writing(tile.path):  # then it is made again
        tile.path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(tile.path, lambda temporary: temporary.write_bytes(data))
        for old in tile.path.parent.glob(f"{tile.path.name.partition('-')[0]}-*.webp"):
            if old != tile.path:
                old.unlink(missing_ok=True)
    return data


def thumbnail_of(searcher: Searcher, image_id: int) -> Pixels | None:
    """The picture; what the model saw of it where its file is gone; None where that can't be told either."""
    with suppress(NoDecoder, NoSuchImage, UnreadableImage):
        return searcher.picture_of(image_id, SIDE)
    return None


def map_picture(searcher: Searcher, view: MapView, labels: Sequence[Labels], colour: str, style: Style) -> bytes:
    """PNG of the map. colour: cluster, density, error, label (the first there is) or one of the labels by name.

    Raises BadSetting, NoDecoder.
    """
    if style not in STYLES:
        raise BadSetting(f"style can't be {style!r}. Give pictures or dots.")
    colours, legend, between = _coloured(searcher, view, labels, colour)
    shown = _spread(view.points) if style == "pictures" else []
    found = ((row, thumbnail_of(searcher, int(view.ids[row]))) for row in shown)
    pictures = [(row, pixels) for row, pixels in found if pixels is not None]
    note = f"{len(view.ids):,} pictures, layout {view.map.wish.layout}, coloured by {colour}"
    return draw_map(MapSheet("The map of the collection", note, view.points, colours, pictures, legend, between))


def label_called(labels: Sequence[Labels], name: str) -> Labels:
    """The labels of this name; `label`: the first there are. Raises BadSetting."""
    for one in labels:
        if name in ("label", one.by):
            return one
    known = ", ".join(one.by for one in labels) or "no labels here: pictures in several folders, or metadata, are some"
    raise BadSetting(f"There is no label {name!r}. There are cluster, density, error; and {known}.")


def _coloured(
    searcher: Searcher, view: MapView, labels: Sequence[Labels], colour: str
) -> tuple[Colours, list[tuple[str, str]], tuple[str, str] | None]:
    if colour == "cluster":
        clusters = clusters_of(view, labels[0] if labels else None)
        legend = [(one.label or f"cluster {one.number + 1}", PALETTE[one.number % len(PALETTE)]) for one in clusters]
        return palette_colours(view.clusters), [*legend, *_rest(view.clusters, "none")], None
    if colour == "density":
        return ramp_colours(view.density), [], ("thin", "thick")
    if colour == "error":
        errors = errors_of(searcher, view)
        _check_known(searcher, errors)
        return ramp_colours(errors), [], ("reconstructed well", "badly")
    chosen = label_called(labels, colour)
    legend = list(zip(chosen.names, PALETTE, strict=False))
    return palette_colours(chosen.index), [*legend, *_rest(chosen.index, "others")], None


def _check_known(searcher: Searcher, errors: FloatArray) -> None:
    if not np.isfinite(errors).any():
        encoder = searcher.encoder()
        if not encoder.has_decoder:
            raise NoDecoder(f"Encoder {encoder.fingerprint} has no decoder, so there is no error. Use another colour.")


def _rest(numbers: np.ndarray, name: str) -> list[tuple[str, str]]:
    return [(name, GREY)] if bool((numbers < 0).any()) else []


def _spread(points: FloatArray) -> list[int]:
    """Rows of points, drawn by chance, of which no two lie so near that their pictures would cover each other."""
    places = map_places(points)
    found: list[int] = []
    taken: dict[tuple[int, int], list[int]] = {}
    for row in np.random.default_rng(0).permutation(len(places)).tolist():
        x, y = places[row]
        across, down = int(x // APART), int(y // APART)
        around = ((across + left, down + up) for left in (-1, 0, 1) for up in (-1, 0, 1))
        near = (other for square in around for other in taken.get(square, ()))
        if all(max(abs(x - places[other, 0]), abs(y - places[other, 1])) >= APART for other in near):
            found.append(row)
            taken.setdefault((across, down), []).append(row)
    return found
