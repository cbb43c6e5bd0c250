"""The end of a run: build a segment from the stored rows, and activate a new encoder that has all vectors."""

from __future__ import annotations

import logging
from contextlib import closing
from pathlib import Path

from simile.core.records import IndexSummary
from simile.core.settings import Settings
from simile.images.sources.buckets import is_remote
from simile.images.sources.sources import is_path_missing
from simile.store.catalogue.catalogue import Catalogue

log = logging.getLogger(__name__)


def publish_rows(
    catalogue: Catalogue, settings: Settings, fingerprint: str, summary: IndexSummary, *, is_switch: bool, prune: bool
) -> None:
    """Activate the encoder of a run, and merge new and deleted rows into a segment if there are any.

    Args:
        catalogue: The home's catalogue.
        settings: The kind of index.
        fingerprint: The encoder.
        summary: Receives the counts.
        is_switch: Whether another encoder is active.
        prune: Whether to forget missing files if they prevent a switch.
    """
    lacking = _count_missing_vectors(catalogue, fingerprint) if is_switch or summary.embedded else 0
    if is_switch and lacking and prune:
        summary.removed += _forget_missing_files(catalogue, fingerprint)
        lacking = _count_missing_vectors(catalogue, fingerprint)
    if is_switch and lacking:
        summary.lacking = lacking
        log.warning(
            "%s images could not be embedded by encoder %s: their files are missing or unreadable. The active encoder "
            "stays the same. Restore the files, or run the same command with --prune to forget missing ones, or "
            "activate the encoder anyway with `simile encoders activate %s`.",
            *(f"{lacking:,}", fingerprint, fingerprint),
        )
        return
    if lacking:
        log.warning(
            "%d images have no vector by the active encoder: no search finds them until `simile index` runs on "
            "their folders",
            lacking,
        )
    if catalogue.images.are_published(fingerprint):
        return
    # These import FAISS, which a run without changes does not need.
    from simile.indexer.maintenance.rebuild import get_index_options  # noqa: PLC0415
    from simile.store.index.index import Index  # noqa: PLC0415

    active, options = catalogue.encoders.find_active(), get_index_options(settings)
    with closing(Index(catalogue)) as index:
        if active is None or active.fingerprint != fingerprint:
            index.switch_encoder(fingerprint, **options)
        else:
            index.publish(**options, if_large=True)


def _count_missing_vectors(catalogue: Catalogue, fingerprint: str) -> int:
    return catalogue.images.count() - catalogue.embeddings.count(fingerprint)


def _forget_missing_files(catalogue: Catalogue, fingerprint: str) -> int:
    """Forget the missing files of images that can no longer be embedded; return their number.

    Files in an empty folder are kept, because a disk may not be mounted.
    """

    def find_missing_paths() -> list[str]:
        rows = catalogue.files.iterate_without_embedding(fingerprint)
        return [file.path for _, file in rows if is_path_missing(file.path)]

    missing = catalogue.repeat(find_missing_paths)
    missing = [path for path in missing if is_remote(path) or _is_nonempty_folder(Path(path).parent)]
    catalogue.files.delete(missing)
    return len(missing)


def _is_nonempty_folder(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except OSError:
        return False
