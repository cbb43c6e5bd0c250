"""Python objects in and out of a home: images as paths, Pillow images or arrays, and data frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from simile.core.records import FloatArray
from simile.core.settings import Settings, load_settings
from simile.images.formats import Limits
from simile.images.loading.loader import prepare_image
from simile.images.sources.reader import read_bytes
from simile.indexer.maintenance.export import read_table
from simile.indexer.pipeline.add_images import AddedImages, add_images, encode_item, is_path
from simile.models.inference.encoder import TrainedEncoder
from simile.models.pretrained import SHIPPED
from simile.search.encoder_registry import find_encoder
from simile.search.searcher import Searcher
from simile.store.home import Home


class OpenHome(Searcher):
    """A `Searcher` of one home that also adds images and gives data frames."""

    def __enter__(self) -> OpenHome:
        return self

    def add_images(
        self,
        images: Any,
        *,
        names: Sequence[str] | None = None,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        path_column: str = "path",
    ) -> AddedImages:
        """Store and index images; see `simile.add_images`."""
        return add_images(self.settings, images, names=names, metadata=metadata, path_column=path_column)

    def to_arrow(self, encoder: str | None = None) -> Any:
        """Return every image with a vector as a `pyarrow.Table`: the columns of `simile export -o images.parquet`.

        `encoder` is the fingerprint of the encoder, or its start; None for the active one. Raises NothingIndexed,
        NoSuchEncoder.
        """
        return read_table(self.catalogue, self.home, encoder)

    def to_pandas(self, encoder: str | None = None) -> Any:
        """Return `to_arrow` as a `pandas.DataFrame`; needs pandas."""
        return self.to_arrow(encoder).to_pandas()

    def to_polars(self, encoder: str | None = None) -> Any:
        """Return `to_arrow` as a `polars.DataFrame`; needs polars."""
        import polars  # noqa: PLC0415  # optional

        return polars.from_arrow(self.to_arrow(encoder))


def embed(images: Iterable[Any], *, encoder: str = SHIPPED, settings: Settings | None = None) -> FloatArray:
    """Return the embeddings μ of images as float32 (n, d); `Searcher.by_vector` takes a row of them.

    Args:
        images: Paths, Pillow images and arrays (H, W), (H, W, 3) or (H, W, 4) of uint8, in any mixture.
        encoder: "shipped", the folder of an encoder, or a fingerprint in the home of the settings.
        settings: None: those of the environment.

    Raises:
        UnreadableImage, ImageTooLarge: A file can't be used.
        BadSetting: An object is no image.
        NoSuchEncoder: There is no such encoder.
    """
    settings = settings or load_settings()
    loaded = _load_encoder(settings.home, encoder, settings.device, settings.runtime)
    limits = Limits.from_settings(settings)
    means: list[FloatArray] = []
    batch: list[Any] = []
    for number, item in enumerate(images):
        name = str(item) if is_path(item) else f"image {number}"
        data = read_bytes(str(item), limits) if is_path(item) else encode_item(number, item)
        batch.append(prepare_image(data, name, loaded.preprocessing, limits).array)
        if len(batch) == settings.batch_size:
            means.append(loaded.encode(np.stack(batch)).mu)
            batch = []
    if batch:
        means.append(loaded.encode(np.stack(batch)).mu)
    return np.concatenate(means) if means else np.empty((0, loaded.latent_dim), np.float32)


@lru_cache(maxsize=2)
def _load_encoder(home: Path, reference: str, device: str, runtime: str) -> TrainedEncoder:
    """Load an encoder once for several calls."""
    return find_encoder(Home.from_settings(load_settings(home=home)), reference, device, runtime)
