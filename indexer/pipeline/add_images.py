"""Add images from Python: paths, Pillow images, arrays, and the rows of data frames."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simile.core.errors import BadSetting
from simile.core.records import Failure
from simile.core.settings import Settings
from simile.images.datasets.values import select_texts
from simile.images.encoding import encode_object
from simile.images.sources.sources import is_path_missing
from simile.indexer.pipeline.job import IndexRequest, index
from simile.indexer.pipeline.uploads import store_upload
from simile.store.catalogue.catalogue import Catalogue
from simile.store.database.transactions import split_chunks
from simile.store.home import Home

NAME = "name"  # the metadata with the name of an image that has no file
METADATA_BATCH_SIZE = 500


@dataclass(frozen=True, kw_only=True)
class AddedImages:
    """What was added.

    Attributes:
        ids: The id of each image, in the order they were given; None for one that failed.
        failures: The images that could not be used.
    """

    ids: list[int | None]
    failures: list[Failure] = field(default_factory=list)


def add_images(
    settings: Settings,
    images: Any,
    *,
    names: Sequence[str] | None = None,
    metadata: Sequence[Mapping[str, Any] | None] | None = None,
    path_column: str = "path",
) -> AddedImages:
    """Store and index images; the next search finds them. A new home gets the encoder that comes with simile.

    A file stays where it is. A Pillow image or an array has no file: it is written as PNG into the home's `uploads`
    folder, named by its content, like an image that is added over HTTP.

    Args:
        settings: Settings with the home.
        images: Paths, Pillow images and arrays (H, W), (H, W, 3) or (H, W, 4) of uint8, in any mixture; or a data frame
            of pandas or polars (anything with `__arrow_c_stream__`) with a column of paths and metadata in the others.
        names: A name for each image; it becomes the metadata `name`.
        metadata: Names and values for each image; None keeps the metadata that it has.
        path_column: The column of paths.

    Raises:
        BadSetting: The lengths differ, an object is no image, or the frame has no such column.
        HomeBusy, HomeNotWritable: The home can't be used.
    """
    if hasattr(images, "__arrow_c_stream__"):
        if names is not None or metadata is not None:
            raise BadSetting("A data frame has its names and metadata in its columns: leave out names and metadata.")
        images, metadata = _split_frame(images, path_column)
    items = list(images)
    texts = _format_metadata(len(items), names, metadata)
    home = Home.from_settings(settings)
    paths = [_get_path(home, number, item) for number, item in enumerate(items)]
    missing = {path: Failure(path, "there is no such file") for path in paths if is_path_missing(path)}
    present = [path for path in dict.fromkeys(paths) if path not in missing]
    if not present:
        return AddedImages(ids=[None] * len(paths), failures=list(missing.values()))
    summary = index(settings, present, IndexRequest())
    with Catalogue(home) as catalogue:
        known = catalogue.files.get_many(paths)
        given = ((path, text) for path, text in zip(paths, texts, strict=True) if text is not None)
        for batch in split_chunks(given, METADATA_BATCH_SIZE):
            catalogue.metadata.set_for_files(dict(batch))
    ids = [known[path].image_id if path in known and not known[path].failed else None for path in paths]
    return AddedImages(ids=ids, failures=[*missing.values(), *summary.failures])


def encode_item(number: int, item: object) -> bytes:
    """Return an image without a file as PNG. Raises BadSetting, which tells its number."""
    try:
        return encode_object(item)
    except (ValueError, TypeError, OSError) as error:
        raise BadSetting(f"Image {number} can't be used: {error}.") from error


def is_path(item: object) -> bool:
    """Return whether an item of the caller is a path."""
    return isinstance(item, str | os.PathLike)


def _get_path(home: Home, number: int, item: Any) -> str:
    """Return the absolute path of a file, or of the PNG that is written for an object."""
    if is_path(item):
        path = os.path.abspath(str(item))  # links are not resolved, as in folders  # noqa: PTH100
        if Path(path).is_dir():
            raise BadSetting(f"Image {number} is a folder: {path}. Use simile.index for folders.")
        return path
    if home.objects.is_shared:
        raise BadSetting("Images without a file can't be added to an object store: write files, or use the HTTP API.")
    data = encode_item(number, item)
    return store_upload(home.create(), f"{hashlib.sha256(data).hexdigest()}.png", data).path


def _format_metadata(
    count: int, names: Sequence[str] | None, metadata: Sequence[Mapping[str, Any] | None] | None
) -> list[dict[str, str] | None]:
    """Return the metadata of each image as texts. Raises BadSetting."""
    for argument, values in (("names", names), ("metadata", metadata)):
        if values is not None and len(values) != count:
            raise BadSetting(f"{argument} has {len(values)} items for {count} images. Give one for each image.")
    rows: list[Mapping[str, Any] | None] = [None] * count if metadata is None else list(metadata)
    if names is not None:
        rows = [{**(row or {}), NAME: name} for row, name in zip(rows, names, strict=True)]
    try:
        return [None if row is None else select_texts(row) for row in rows]
    except ValueError as error:
        raise BadSetting(f"metadata can't be stored: {error}. Shorten or remove it.") from error


def _split_frame(frame: Any, path_column: str) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the paths and the other columns of a data frame. Raises BadSetting."""
    import pyarrow as pa  # noqa: PLC0415  # takes half a second

    table = pa.table(frame)
    if path_column not in table.column_names:
        columns = ", ".join(table.column_names)
        raise BadSetting(f"The data frame has no column {path_column!r}, only {columns}. Name it with path_column.")
    others = [name for name in table.column_names if name != path_column and not name.startswith("__index_level_")]
    paths = table.column(path_column).to_pylist()
    if not all(isinstance(path, str) and path for path in paths):
        raise BadSetting(f"The column {path_column!r} has rows without a path. Remove these rows.")
    return paths, table.select(others).to_pylist() if others else [{} for _ in paths]
