"""The end of a run: what was stored becomes a segment, and a new encoder comes into use once it has seen everything."""

from __future__ import annotations

import logging
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
    """How to publish. `prune`: forget files that are gone, where they keep another encoder from coming into use."""

    catalogue: Catalogue
    settings: Settings
    prune: bool

    def publish(self, fingerprint: str, is_switch: bool, summary: IndexSummary) -> None:
        """Puts the encoder in use and folds new and deleted rows into a segment, where there are any."""
        lacking = self._count_missing_vectors(fingerprint) if is_switch or summary.embedded else 0
        if is_switch and lacking and self.prune:
            summary.removed += self._forget_missing_files(fingerprint)
            lacking = self._count_missing_vectors(fingerprint)
        if is_switch and lacking:
            summary.lacking = lacking
            log.warning("%s", make_not_switched_message(lacking, fingerprint))
            return
        if lacking:
            found_again = "no search finds them until `simile index` runs on their folders"
            log.warning("%d pictures have no vector by the encoder in use: %s", lacking, found_again)
        if self.catalogue.images.are_published(fingerprint):
            return
        self._build_index(fingerprint)

    def _build_index(self, fingerprint: str) -> None:
        from simile.store.index.index import Index  # noqa: PLC0415  # FAISS, which a run without a change does not need

        settings = self.settings
        vectors = Index(self.catalogue)
        active = self.catalogue.encoders.find_active()
        wanted: dict[str, Any] = {
            "kind": settings.index, "recall": settings.recall, "memory": settings.index_memory
        }  # fmt: skip
        try:
            if active is None or active.fingerprint != fingerprint:
                vectors.switch_encoder(fingerprint, **wanted)
            else:
                vectors.publish(**wanted, if_large=True)
        finally:
            vectors.close()

    def _count_missing_vectors(self, fingerprint: str) -> int:
        return self.catalogue.images.count() - self.catalogue.embeddings.count(fingerprint)

    def _forget_missing_files(self, fingerprint: str) -> int:
        """Forgets files that are gone, of images that nobody can embed any more; gives how many files there were.

        Only where their folder still holds something: else a disk may not be mounted.
        """
        gone = [
            file.path
            for _, file in self.catalogue.files.iterate_without_embedding(fingerprint)
            if is_path_missing(file.path)
        ]
        forgotten = [path for path in gone if _is_nonempty_folder(Path(path).parent)]
        self.catalogue.files.delete(forgotten)
        return len(forgotten)


def make_not_switched_message(missing_count: int, fingerprint: str) -> str:
    """Why the encoder that was asked for is not in use, and what to do."""
    return (
        f"{missing_count:,} pictures could not be embedded by encoder {fingerprint}: their files are gone or unreadable. The "
        "encoder in use stays. Put the files back, or run the same command with --prune to forget those that are "
        f"gone, or switch all the same with `simile encoders activate {fingerprint}`."
    )


def _is_nonempty_folder(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except OSError:
        return False
