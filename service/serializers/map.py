"""A map as it goes over the wire: what it is as JSON, its points as JSON or as bare columns of numbers."""

from __future__ import annotations

import gzip
import hashlib
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from simile.core.records import FloatArray
from simile.explore.latent.measurements import known_measures
from simile.explore.map.render import SIDE, tile_count
from simile.explore.map.view import Labels, MapView, clusters_of, errors_of
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.middleware.headers import KEEP_AND_ASK, is_known
from simile.service.schemas.map import ClusterOut, ComputingOut, LabelsOut, MapOut
from simile.service.state.map_cache import Computing, Maps

BINARY = "application/octet-stream"
UNKNOWN = 255  # of a byte


def map_out(searcher: Searcher, maps: Maps, view: MapView) -> MapOut:
    """What a map is."""
    labels = maps.labels(searcher, view)
    measured = known_measures(searcher, np.sort(view.ids)).error
    wish = view.map.wish
    return MapOut(
        layout=wish.layout,
        map=view.map.tag,
        layouts=maps.stored(searcher),
        images=len(view.ids),
        newer=view.newer,
        missing=view.missing,
        method=wish.clusters,
        clusters=clusters_out(view, labels),
        labels=[LabelsOut(by=one.by, names=list(one.names)) for one in labels],
        errors=int(np.isfinite(measured).sum()),
        tiles=tile_count(view),
        tile_side=SIDE,
        computing=computing_out(maps.computing()),
        failed=maps.failed(wish.layout),
    )


def clusters_out(view: MapView, labels: list[Labels]) -> list[ClusterOut]:
    """The clusters of a map, the largest first."""
    return [
        ClusterOut(
            cluster=one.number,
            size=one.size,
            typical=one.typical,
            x=one.x,
            y=one.y,
            label=one.label,
            thumbnail_url=urls.thumbnail(one.typical, 96),
        )
        for one in clusters_of(view, labels[0] if labels else None)
    ]


def computing_out(computing: Computing | None) -> ComputingOut | None:
    """How far a map is."""
    return None if computing is None else ComputingOut(**vars(computing))


def points_response(request: Request, searcher: Searcher, view: MapView, label: Labels | None) -> Response:
    """The points, as JSON or, where `Accept` names it, as bytes; 304 for who has them."""
    is_bare = BINARY in request.headers.get("accept", "")
    errors = errors_of(searcher, view)
    data = _bytes(view, errors, label) if is_bare else _json(view, errors, label)
    etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": KEEP_AND_ASK, "Vary": "Accept, Accept-Encoding"}
    if is_known(request, etag):
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        data, headers = gzip.compress(data, 1, mtime=0), {**headers, "Content-Encoding": "gzip"}
    return Response(data, headers=headers, media_type=BINARY if is_bare else "application/json")


def _json(view: MapView, errors: FloatArray, label: Labels | None) -> bytes:
    columns: dict[str, Any] = {
        "ids": view.ids.tolist(),
        "x": _rounded(view.points[:, 0], 5),
        "y": _rounded(view.points[:, 1], 5),
        "place": _numbers(view.place),
        "cluster": _numbers(view.clusters),
        "density": _rounded(view.density, 4),
        "error": _rounded(errors, 4),
        "label": None if label is None else _numbers(label.index),
    }
    return json.dumps(columns, separators=(",", ":")).encode()


def _bytes(view: MapView, errors: FloatArray, label: Labels | None) -> bytes:
    """Little-endian: n uint32, 0 uint32, ids float64, x float32, y float32, place int32, cluster uint16; then of each a
    byte of density, of error (0 to 254 for 0 to 1) and of label. The largest number: none, or not known.
    """
    count = len(view.ids)
    cluster = np.where(view.clusters < 0, 65535, view.clusters)
    named = np.full(count, -1) if label is None else label.index
    columns = [
        np.array([count, 0], "<u4"),
        view.ids.astype("<f8"),
        view.points[:, 0].astype("<f4"),
        view.points[:, 1].astype("<f4"),
        view.place.astype("<i4"),
        cluster.astype("<u2"),
        _byte(view.density),
        _byte(errors),
        np.where(named < 0, UNKNOWN, named).astype(np.uint8),
    ]
    return b"".join(one.tobytes() for one in columns)


def _byte(values: FloatArray) -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = (
        np.where(np.isfinite(values), np.nan_to_num(values) * (UNKNOWN - 1), UNKNOWN).round().astype(np.uint8)
    )
    return found


def _rounded(values: FloatArray, digits: int) -> list[float | None]:
    return [None if one != one else round(one, digits) for one in values.tolist()]  # noqa: PLR0124  # NaN


def _numbers(values: NDArray[Any]) -> list[int | None]:
    return [None if one < 0 else one for one in values.tolist()]
