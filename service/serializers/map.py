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
from simile.explore.latent.measurements import load_measurements
from simile.explore.map.render import THUMBNAIL_SIDE, count_tiles
from simile.explore.map.view import MapLabels, MapView, compute_error_ranks, make_clusters
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.middleware.headers import CACHE_AND_REVALIDATE, is_not_modified
from simile.service.schemas.map import ClusterResponse, MapLabelsResponse, MapProgressResponse, MapResponse
from simile.service.state.map_cache import MapCache, MapProgress

BINARY_MEDIA_TYPE = "application/octet-stream"
UNKNOWN_BYTE = 255  # of a byte


def make_map_response(searcher: Searcher, map_cache: MapCache, view: MapView) -> MapResponse:
    """What a map is."""
    labels = map_cache.get_labels(searcher, view)
    measured = load_measurements(searcher, np.sort(view.ids)).error
    wish = view.map.settings
    return MapResponse(
        layout=wish.layout,
        map=view.map.tag,
        layouts=map_cache.list_layouts(searcher),
        images=len(view.ids),
        newer=view.newer_count,
        missing=view.missing_count,
        method=wish.clusters,
        clusters=make_cluster_responses(view, labels),
        labels=[MapLabelsResponse(by=one.source, names=list(one.names)) for one in labels],
        errors=int(np.isfinite(measured).sum()),
        tiles=count_tiles(view),
        tile_side=THUMBNAIL_SIDE,
        computing=make_progress_response(map_cache.get_progress()),
        failed=map_cache.get_failure(wish.layout),
    )


def make_cluster_responses(view: MapView, labels: list[MapLabels]) -> list[ClusterResponse]:
    """The clusters of a map, the largest first."""
    return [
        ClusterResponse(
            cluster=one.number,
            size=one.size,
            typical=one.typical,
            x=one.x,
            y=one.y,
            label=one.label,
            thumbnail_url=urls.thumbnail(one.typical, 96),
        )
        for one in make_clusters(view, labels[0] if labels else None)
    ]


def make_progress_response(progress: MapProgress | None) -> MapProgressResponse | None:
    """How far a map is."""
    return None if progress is None else MapProgressResponse(**vars(progress))


def make_points_response(request: Request, searcher: Searcher, view: MapView, label: MapLabels | None) -> Response:
    """The points, as JSON or, where `Accept` names it, as bytes; 304 for who has them."""
    is_bare = BINARY_MEDIA_TYPE in request.headers.get("accept", "")
    errors = compute_error_ranks(searcher, view)
    data = _dump_points_bytes(view, errors, label) if is_bare else _dump_points_json(view, errors, label)
    etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": CACHE_AND_REVALIDATE, "Vary": "Accept, Accept-Encoding"}
    if is_not_modified(request, etag):
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        data, headers = gzip.compress(data, 1, mtime=0), {**headers, "Content-Encoding": "gzip"}
    return Response(data, headers=headers, media_type=BINARY_MEDIA_TYPE if is_bare else "application/json")


def _dump_points_json(view: MapView, errors: FloatArray, label: MapLabels | None) -> bytes:
    columns: dict[str, Any] = {
        "ids": view.ids.tolist(),
        "x": _round_values(view.points[:, 0], 5),
        "y": _round_values(view.points[:, 1], 5),
        "place": _replace_negatives(view.map_rows),
        "cluster": _replace_negatives(view.clusters),
        "density": _round_values(view.density, 4),
        "error": _round_values(errors, 4),
        "label": None if label is None else _replace_negatives(label.label_ids),
    }
    return json.dumps(columns, separators=(",", ":")).encode()


def _dump_points_bytes(view: MapView, errors: FloatArray, label: MapLabels | None) -> bytes:
    """Little-endian: n uint32, 0 uint32, ids float64, x float32, y float32, place int32, cluster uint16; then of each a
    byte of density, of error (0 to 254 for 0 to 1) and of label. The largest number: none, or not known.
    """
    count = len(view.ids)
    cluster = np.where(view.clusters < 0, 65535, view.clusters)
    named = np.full(count, -1) if label is None else label.label_ids
    columns = [
        np.array([count, 0], "<u4"),
        view.ids.astype("<f8"),
        view.points[:, 0].astype("<f4"),
        view.points[:, 1].astype("<f4"),
        view.map_rows.astype("<i4"),
        cluster.astype("<u2"),
        _quantise_to_bytes(view.density),
        _quantise_to_bytes(errors),
        np.where(named < 0, UNKNOWN_BYTE, named).astype(np.uint8),
    ]
    return b"".join(one.tobytes() for one in columns)


def _quantise_to_bytes(values: FloatArray) -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = (
        np.where(np.isfinite(values), np.nan_to_num(values) * (UNKNOWN_BYTE - 1), UNKNOWN_BYTE).round().astype(np.uint8)
    )
    return found


def _round_values(values: FloatArray, digits: int) -> list[float | None]:
    return [None if one != one else round(one, digits) for one in values.tolist()]  # noqa: PLR0124  # NaN


def _replace_negatives(values: NDArray[Any]) -> list[int | None]:
    return [None if one < 0 else one for one in values.tolist()]
