"""Requests and responses about maps; points as JSON or as binary columns."""

from __future__ import annotations

import gzip
import hashlib
import json
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, computed_field
from starlette.requests import Request
from starlette.responses import Response

from simile.core.records import FloatArray
from simile.explore.latent.measurements import load_measurements
from simile.explore.map.projection import LayoutName
from simile.explore.map.render import THUMBNAIL_SIDE, count_tiles
from simile.explore.map.view import MapLabels, MapView, compute_error_ranks, make_clusters
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.middleware.headers import CACHE_AND_REVALIDATE, is_not_modified
from simile.service.schemas.search import DisplayText, RequestBody
from simile.service.state.map_cache import MapCache, MapProgress

BINARY_MEDIA_TYPE = "application/octet-stream"
UNKNOWN_BYTE = 255
CLUSTER_THUMBNAIL_SIDE = 96  # pixels


class MapRequest(RequestBody):
    """Settings of a new map."""

    layout: LayoutName = Field("pca", description="`pca`: takes seconds. `tsne`, `umap`: minutes for many images.")
    clusters: Literal["kmeans", "hdbscan"] = Field(
        "kmeans",
        description="`hdbscan`: dense regions only, found in a sample of 10,000 images; the others join the nearest.",
    )
    count: int | None = Field(
        None, ge=2, le=1_000_000, description="kmeans: number of clusters, at most 200; hdbscan: smallest cluster."
    )
    seed: int = Field(0, ge=0, le=2**32 - 1)


class ClusterResponse(BaseModel):
    """A cluster. `label`: the label of at least half of its images. x, y: median of its points."""

    cluster: int = Field(validation_alias="number")
    size: int
    typical: int
    x: float
    y: float
    label: DisplayText | None

    @computed_field  # type: ignore[prop-decorator]  # as pydantic documents
    @property
    def thumbnail_url(self) -> str:
        """The URL of the thumbnail of the most typical image."""
        return urls.thumbnail(self.typical, CLUSTER_THUMBNAIL_SIDE)


class MapLabelsResponse(BaseModel):
    """Labels by folder or by a metadata field: the 20 most frequent."""

    by: DisplayText = Field(validation_alias="source")
    names: list[DisplayText]


class MapResponse(BaseModel):
    """The current state of a map. Coordinates are in [-1, 1].

    `newer`: images added since the map was made, placed near similar ones; `missing`: further newer images, which
    only a new map will contain. `errors`: images with a known reconstruction error.
    """

    layout: LayoutName
    map: str = Field(description="Hash of the content: it changes with the map.")
    layouts: list[LayoutName] = Field(description="Layouts that have a map.")
    images: int
    newer: int
    missing: int
    method: Literal["kmeans", "hdbscan"]
    clusters: list[ClusterResponse]
    labels: list[MapLabelsResponse]
    errors: int
    tiles: int = Field(description="Number of tiles: the image at `place` p is in tile p // 256, at position p % 256.")
    tile_side: int = Field(description="Side of a thumbnail in pixels; a row of a tile has 16 thumbnails.")
    computing: MapProgress | None
    failed: str | None = Field(description="Why the last map of this layout could not be made.")


class MapPointsResponse(BaseModel):
    """All images of a map, in columns. null: no cluster, not known, or none of the label's names.

    `density`: fraction of images in thinner places. `error`: fraction of images that are reconstructed better.
    `place`: position in the tiles, null for an image that is newer than the map.
    """

    ids: list[int]
    x: list[float]
    y: list[float]
    place: list[int | None]
    cluster: list[int | None]
    density: list[float | None]
    error: list[float | None]
    label: list[int | None] | None


def make_map_response(searcher: Searcher, map_cache: MapCache, view: MapView) -> MapResponse:
    """Make the response of a map."""
    labels = map_cache.get_labels(searcher, view)
    settings = view.map.settings
    fields = {
        "layout": settings.layout,
        "map": view.map.tag,
        "layouts": map_cache.list_layouts(searcher),
        "images": len(view.ids),
        "newer": view.newer_count,
        "missing": view.missing_count,
        "method": settings.clusters,
        "clusters": make_clusters(view, labels[0] if labels else None),
        "labels": labels,
        "errors": int(np.isfinite(load_measurements(searcher, np.sort(view.ids)).error).sum()),
        "tiles": count_tiles(view),
        "tile_side": THUMBNAIL_SIDE,
        "computing": map_cache.get_progress(),
        "failed": map_cache.failures.get(settings.layout),
    }
    return MapResponse.model_validate(fields, from_attributes=True)


def make_points_response(request: Request, searcher: Searcher, view: MapView, label: MapLabels | None) -> Response:
    """Return the points as JSON, or in binary if `Accept` names it; 304 for a client that has them already."""
    is_binary = BINARY_MEDIA_TYPE in request.headers.get("accept", "")
    errors = compute_error_ranks(searcher, view)
    data = _dump_points_bytes(view, errors, label) if is_binary else _dump_points_json(view, errors, label)
    etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": CACHE_AND_REVALIDATE, "Vary": "Accept, Accept-Encoding"}
    if is_not_modified(request, etag):
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        data, headers = gzip.compress(data, 1, mtime=0), {**headers, "Content-Encoding": "gzip"}
    return Response(data, headers=headers, media_type=BINARY_MEDIA_TYPE if is_binary else "application/json")


def _dump_points_json(view: MapView, errors: FloatArray, label: MapLabels | None) -> bytes:
    """Encode the fields of MapPointsResponse, without a model: validation takes too long for 50,000 points."""
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
    """Encode the points as binary columns, little-endian.

    The columns are: n as uint32, 0 as uint32, ids float64, x float32, y float32, place int32, cluster uint16, density
    uint8, error uint8 (0 to 254 for 0 to 1), label uint8. The largest number of a type stands for null.
    """
    clusters = np.where(view.clusters < 0, 65535, view.clusters)
    label_ids = np.full(len(view.ids), -1) if label is None else label.label_ids
    columns = [
        np.array([len(view.ids), 0], "<u4"),
        view.ids.astype("<f8"),
        view.points[:, 0].astype("<f4"),
        view.points[:, 1].astype("<f4"),
        view.map_rows.astype("<i4"),
        clusters.astype("<u2"),
        _quantise_to_bytes(view.density),
        _quantise_to_bytes(errors),
        np.where(label_ids < 0, UNKNOWN_BYTE, label_ids).astype(np.uint8),
    ]
    return b"".join(column.tobytes() for column in columns)


def _quantise_to_bytes(values: FloatArray) -> NDArray[np.uint8]:
    scaled = np.nan_to_num(values) * (UNKNOWN_BYTE - 1)
    return np.where(np.isfinite(values), scaled, UNKNOWN_BYTE).round().astype(np.uint8)


def _round_values(values: FloatArray, digits: int) -> list[float | None]:
    return [None if value != value else round(value, digits) for value in values.tolist()]  # noqa: PLR0124  # NaN


def _replace_negatives(values: NDArray[Any]) -> list[int | None]:
    return [None if value < 0 else value for value in values.tolist()]
