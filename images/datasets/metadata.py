"""The metadata that a dataset keeps with its images: imagefolder, WebDataset, and a file of annotations."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from simile.images.datasets.annotations import Annotations, read_annotations
from simile.images.datasets.image_folders import FolderMetadata
from simile.images.datasets.tar_samples import read_sample_metadata
from simile.images.sources.archives import is_archive
from simile.images.sources.buckets import is_remote

OnFailure = Callable[[str, str], object]  # gets a path, and why its metadata can't be used


class DatasetMetadata:
    """Finds the metadata of the files of a walk. A file that can't be used is a failure, and its images have none."""

    def __init__(self, labels: Path | None, sources: Sequence[str], on_failure: OnFailure) -> None:
        """Read the file of labels, if any, for the sources. Raises NoSuchPath, BadSetting."""
        self._labels, self._on_failure = labels, on_failure
        self._folders = FolderMetadata(on_failure)
        self._annotations: Annotations | None = None if labels is None else read_annotations(labels, sources)

    def find(self, root: str | None, paths: Sequence[str]) -> list[dict[str, str] | None]:
        """Return the metadata of each path; None if there is none.

        Args:
            root: The folder or archive with the files; None for listed ones, which have annotations only.
            paths: Files of one folder, or all images of an archive.
        """
        found: list[dict[str, str] | None] = [None] * len(paths)
        if root is not None and paths and not is_remote(root):
            found = self._find_in_root(root, paths)
        if self._annotations is not None:
            for number, path in enumerate(paths):
                found[number] = self._add_annotations(path, found[number], self._annotations)
        return found

    def report_unused(self) -> None:
        """Record a failure if no image has one of the annotations."""
        reason = None if self._annotations is None else self._annotations.describe_unused()
        if reason is not None:
            self._on_failure(str(self._labels), reason)

    def _find_in_root(self, root: str, paths: Sequence[str]) -> list[dict[str, str] | None]:
        if is_archive(root) and not Path(root).is_dir():
            table = read_sample_metadata(root, self._on_failure)
            return [table.get(path[len(root) + 1 :]) for path in paths]
        table = self._folders.find_table(root, os.path.dirname(paths[0]))  # noqa: PTH120  # for every folder
        return [table.get(path) for path in paths] if table else [None] * len(paths)

    def _add_annotations(
        self, path: str, metadata: dict[str, str] | None, annotations: Annotations
    ) -> dict[str, str] | None:
        """Return the metadata with the annotations of an image, which take precedence."""
        try:
            found = annotations.find(path)
        except ValueError as error:
            self._on_failure(path, f"the labels can't be used: {error}")
            return metadata
        return metadata if found is None else {**(metadata or {}), **found}
