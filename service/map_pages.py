"""What the page of the map shows, with and without a script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from core.errors import BeingComputed
from explore.layouts import LAYOUTS, LayoutName
from search.searcher import Searcher
from service.map_answers import map_out
from service.map_schemas import MapOut
from service.maps import Maps
from service.problems import Refusal


@dataclass(frozen=True)
class MapPage:
    """A map; or that it is being made; or that nobody has asked for one of this layout yet."""

    layout: LayoutName = "pca"
    map: MapOut | None = None
    waiting: bool = False
    layouts: Sequence[LayoutName] = LAYOUTS
    stored: Sequence[LayoutName] = ()
    total: int = 0  # pictures in the home


def look(searcher: Searcher, maps: Maps, layout: LayoutName) -> MapPage:
    """The map as of now. Raises NothingIndexed, and Refusal where it could not be made."""
    total, stored = searcher.count(), maps.stored(searcher)
    try:
        found = map_out(searcher, maps, maps.view(searcher, layout))
        return MapPage(layout, found, stored=stored, total=total)
    except BeingComputed:
        return MapPage(layout, waiting=True, stored=stored, total=total)
    except Refusal as refusal:
        if refusal.kind != "no-such-map":
            raise
        return MapPage(layout, stored=stored, total=total)
