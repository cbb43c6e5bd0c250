"""What goes in and out as JSON about maps."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from simile.explore.map.projection import LayoutName


class MapRequest(BaseModel):
    """What map is to be made."""

    model_config = ConfigDict(extra="forbid")

    layout: LayoutName = Field("pca", description="`pca`: in seconds. `tsne`, `umap`: in minutes for many pictures.")
    clusters: Literal["kmeans", "hdbscan"] = Field(
        "kmeans",
        description="`hdbscan`: thick places only, among 10,000 pictures at most; others go with the nearest of them.",
    )
    count: int | None = Field(
        None, ge=2, le=1_000_000, description="kmeans: how many clusters, up to 200; hdbscan: pictures of the smallest."
    )
    seed: int = Field(0, ge=0, le=2**32 - 1)


class MapProgressResponse(BaseModel):
    """A map that is being made. `total` 0: nobody can say."""

    layout: str
    stage: str
    done: int
    total: int


class ClusterResponse(BaseModel):
    """Pictures that go together. `label`: what at least half of them are called. x, y: the middle of them."""

    cluster: int
    size: int
    typical: int
    x: float
    y: float
    label: str | None
    thumbnail_url: str


class MapLabelsResponse(BaseModel):
    """Names that tell pictures apart: of their folders, or of what is said of them. At most 20, the commonest."""

    by: str
    names: list[str]


class MapResponse(BaseModel):
    """A map as of now. Coordinates lie within [-1, 1].

    `newer`: pictures that came after it was made, put beside those they are like; `missing`: not shown, as they are too
    many for that: have it made anew. `errors`: pictures whose reconstruction error is known.
    """

    layout: LayoutName
    map: str = Field(description="Names what is in it: another one, another map.")
    layouts: list[LayoutName] = Field(description="Of which there is a map.")
    images: int
    newer: int
    missing: int
    method: Literal["kmeans", "hdbscan"]
    clusters: list[ClusterResponse]
    labels: list[MapLabelsResponse]
    errors: int
    tiles: int = Field(description="Of thumbnails: the picture at `place` p is in tile p // 256, as its p % 256 th.")
    tile_side: int = Field(description="Pixels of a thumbnail; there are 16 beside each other.")
    computing: MapProgressResponse | None
    failed: str | None = Field(description="Why the last map of this layout could not be made.")


class MapPointsResponse(BaseModel):
    """Every picture of a map, in columns. null: of no cluster, not known, or of none of the label's names.

    `density`: the share of pictures that lie less thickly. `error`: the share that are reconstructed better.
    `place`: where it is in the tiles, null for a picture that is newer than the map.
    """

    ids: list[int]
    x: list[float]
    y: list[float]
    place: list[int | None]
    cluster: list[int | None]
    density: list[float | None]
    error: list[float | None]
    label: list[int | None] | None
