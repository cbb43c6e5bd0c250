"""The end of a run: build a segment from the stored rows, and activate a new encoder that has all vectors."""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simile.core.records import IndexSummary
from simile.core.settings import Settings
from simile.images.sources.sources import is_path_missing
from simile.store.catalogue.catalogue import Catalogue

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IndexPublisher:
    """Publishes the rows of a run. With `prune` missing files are forgotten if they prevent a switch of encoders."""

    catalogue: Catalogue
    settings: Settings
    prune: bool

    def publish(self, fingerprint: str, is_switch: bool, summary: IndexSummary) -> None:
        """Activate the encoder, and merge new and deleted rows into a segment if there are any.

        Args:
            fingerprint: The encoder of the run.
            is_switch: Whether another encoder is active.
            summary: Receives the counts.
        """
        lacking = self._count_missing_vectors(fingerprint) if is_switch or summary.embedded else 0
        if is_switch and lacking and self.prune:
            summary.removed += self._forget_missing_files(fingerprint)
            lacking = self._count_missing_vectors(fingerprint)
        if is_switch and lacking:
            summary.lacking = lacking
            log.warning("%s", make_not_switched_message(lacking, fingerprint))
            return
        if lacking:
            log.warning(
                "%d images have no vector by the active encoder: no search finds them until `simile index` runs on "
                "their folders",
                lacking,
            )
        if self.catalogue.images.are_published(fingerprint):
            return
        self._build_index(fingerprint)

    def _build_index(self, fingerprint: str) -> None:
        from simile.store.index.index import Index  # noqa: PLC0415  # imports FAISS, which a run without changes does not need

        settings, active = self.settings, self.catalogue.encoders.find_active()
        options: dict[str, Any] = {"kind": settings.index, "recall": settings.recall, "memory": settings.index_memory}
        with closing(Index(self.catalogue)) as index:
            if active is None or active.fingerprint != fingerprint:
                index.switch_encoder(fingerprint, **options)
            else:
                index.publish(**options, if_large=True)

    def _count_missing_vectors(self, fingerprint: str) -> int:
        return self.catalogue.images.count() - self.catalogue.embeddings.count(fingerprint)

    def _forget_missing_files(self, fingerprint: str) -> int:
        """Forget the missing files of images that can no longer be embedded; return their number.

        Files in an empty folder are kept, because a disk may not be mounted.
        """
        missing = [
            file.path
            for _, file in self.catalogue.files.iterate_without_embedding(fingerprint)
            if is_path_missing(file.path)
        ]
        missing = [path for path in missing if _is_nonempty_folder(Path(path).parent)]
        self.catalogue.files.delete(missing)
        return len(missing)


def make_not_switched_message(missing_count: int, fingerprint: str) -> str:
    """Return why the requested encoder was not activated, and what to do."""
    return (
        f"{missing_count:,} images could not be embedded by encoder {fingerprint}: their files are missing or "
        "unreadable. The active encoder stays the same. Restore the files, or run the same command with --prune to "
        f"forget missing ones, or activate the encoder anyway with `simile encoders activate {fingerprint}`."
    )


def _is_nonempty_folder(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except OSError:
        return False
