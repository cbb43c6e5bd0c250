"""What a home holds: pictures, encoders, index and the latest runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simile.core.settings import Settings
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import EncoderRecord, RunRecord
from simile.store.database import schema
from simile.store.home import Home
from simile.store.index.index import Index

DEFAULT_RUN_COUNT = 5
UNFINISHED_STATUSES = ("running", "interrupted", "failed")


def read_status(
    settings: Settings, *, upgrade: bool = False, runs: int = DEFAULT_RUN_COUNT, failures: int | None = None
) -> dict[str, Any]:
    """Counts, the encoder in use and the others, the segment, and the latest runs, fit for JSON.

    `failures`: so many of each run at most. Raises NothingIndexed, HomeOutdated, HomeTooNew.
    """
    home = Home(settings.home, settings.database_url)
    if upgrade and schema.read_revision(home) is not None:
        schema.upgrade_schema(home)
    schema.check_schema(home)
    with Catalogue(home) as catalogue:
        active, state = catalogue.encoders.find_active(), catalogue.get_state()
        segment = catalogue.segments.find(state.segment_id) if state.segment_id is not None else None
        return {
            "home": str(home.root),
            "bytes": _compute_home_size(home),
            "images": catalogue.images.count(),
            "encoder": vars(active) if active else None,
            "segment": vars(segment) if segment else None,
            "pending": Index(catalogue).count_pending() if active else 0,
            "others": _list_other_encoders(catalogue, active),
            "runs": [_make_run_json(home, catalogue, run, failures) for run in catalogue.runs.get_latest(runs)],
        }


def _make_run_json(home: Home, catalogue: Catalogue, run: RunRecord, limit: int | None) -> dict[str, Any]:
    """One that was killed could not say so: nobody holds its lock any more."""
    listed = [vars(failure) for failure in catalogue.runs.get_failures(run.id, limit)]
    status = "interrupted" if run.status == "running" and not home.is_locked() else run.status
    return {**vars(run), "status": status, "failed": catalogue.runs.count_failures(run.id), "failures": listed}


def _list_other_encoders(catalogue: Catalogue, active: EncoderRecord | None) -> list[dict[str, Any]]:
    """Encoders with vectors that are not in use; one of them is in the making where the last run was for it."""
    in_use = active.fingerprint if active else None
    last = next(
        (run for run in catalogue.runs.get_latest(1) if run.kind == "index" and run.status in UNFINISHED_STATUSES), None
    )
    wanted = last.settings.get("encoder") if last else None
    return [
        {"fingerprint": fingerprint, "vectors": vectors, "in_the_making": fingerprint == wanted}
        for fingerprint, vectors in sorted(catalogue.encoders.count_embeddings().items())
        if fingerprint != in_use
    ]


def _compute_home_size(home: Home) -> int:
    """What the home takes on the disk; a file that is cleared away meanwhile counts for nothing."""
    return sum(map(_get_file_size, home.root.rglob("*")))


def _get_file_size(path: Path) -> int:
    try:
        return path.lstat().st_size if path.is_file() else 0
    except OSError:
        return 0
