"""The metadata files of Hugging Face's imagefolder: metadata.jsonl, .csv or .parquet in the folder of the images.

A file describes the images in its folder and below it, by paths relative to that folder in the column `file_name`; of
several folders with such a file, the nearest to the image counts.
https://huggingface.co/docs/datasets/image_dataset#imagefolder
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from simile.core.errors import BadSetting
from simile.images.datasets.values import TextBudget
from simile.images.sources.folders import METADATA_FILE_NAMES
from simile.images.sources.manifests import read_manifest

Table = dict[str, dict[str, str]]  # metadata by the absolute path of the image


class FolderMetadata:
    """Finds the metadata of the images of a folder. Only the tables of the folders around it are in memory."""

    def __init__(self, on_failure: Callable[[str, str], object]) -> None:
        """Prepare for a walk; `on_failure` gets the file, or its line, and the reason if it can't be used."""
        self._on_failure = on_failure
        self._tables: dict[str, Table] = {}  # of the current folder and those around it; the outermost first

    def find_table(self, root: str, folder: str) -> Table:
        """Return the metadata of the images in a folder at or below `root`; empty if there is none."""
        parts = Path(folder).relative_to(root).parts
        folders = [os.path.join(root, *parts[:end]) for end in range(len(parts) + 1)]  # noqa: PTH118
        self._tables = {name: table for name, table in self._tables.items() if name in folders}
        nearest: Table = {}
        for name in folders:
            if name not in self._tables:
                self._tables[name] = self._read_table(name) or nearest
            nearest = self._tables[name]
        return nearest

    def _read_table(self, folder: str) -> Table:
        """Return the metadata of the first metadata file in a folder. What was read before a failure is kept."""
        table: Table = {}
        file = next(filter(os.path.isfile, (os.path.join(folder, name) for name in METADATA_FILE_NAMES)), None)  # noqa: PTH118
        if file is None:
            return table
        budget = TextBudget(file)
        try:
            for path, metadata in read_manifest(file, self._on_failure):
                budget.spend({path: "", **metadata})
                table[path] = metadata
        except BadSetting as error:
            self._on_failure(file, f"the metadata can't be used: {error}")
        return table
