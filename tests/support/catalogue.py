"""Rows for tests of the catalogue, made without images or an encoder."""

from __future__ import annotations

from typing import Any

import numpy as np

from simile.core.records import FileStat
from simile.store.catalogue.records import NewImage


def make_new_image(number: int, mu: Any, path: str | None = None, **fields: Any) -> NewImage:
    """Return an image to store; its SHA-256 is its number, and its path /photos/<number>.png unless given."""
    file = FileStat(path or f"/photos/{number}.png", size=1, mtime_ns=1)
    values = {"sha256": f"{number:064}", "size": 1, "format": "PNG", "width": 8, "height": 8, "file": file, **fields}
    return NewImage(mu=np.asarray(mu, np.float32), **values)
