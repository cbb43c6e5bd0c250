"""The status of a home: images, encoders, index and the latest runs."""

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
    """Return counts, the active encoder and the others, the segment, and the latest runs, for JSON.

    Args:
        settings: Settings with the home.
        upgrade: Upgrade the schema of the home first.
        runs: Number of runs.
        failures: Largest number of failures per run; None for all.

    Raises:
        NothingIndexed, HomeOutdated, HomeTooNew: The home can't be read.
    """
    home = Home.from_settings(settings)
    if upgrade and schema.read_revision(home) is not None:
        schema.upgrade_schema(home)
    schema.check_schema(home)
    with Catalogue(home) as catalogue:
        active, state = catalogue.encoders.find_active(), catalogue.get_state()
        segment = catalogue.segments.find(state.segment_id) if state.segment_id is not None else None
        return {
            "home": str(home.root),
            "bytes": sum(map(_get_file_size, home.root.rglob("*"))),
            "images": catalogue.images.count(),
            "encoder": vars(active) if active else None,
            "segment": vars(segment) if segment else None,
            "pending": Index(catalogue).count_pending() if active else 0,
            "others": _list_other_encoders(catalogue, active),
            "runs": [_make_run_json(home, catalogue, run, failures) for run in catalogue.runs.get_latest(runs)],
        }


def _make_run_json(home: Home, catalogue: Catalogue, run: RunRecord, limit: int | None) -> dict[str, Any]:
    """Return a run for JSON; a killed run still has the status "running", but the home is not locked any more."""
    failures = [vars(failure) for failure in catalogue.runs.get_failures(run.id, limit)]
    status = "interrupted" if run.status == "running" and not home.is_locked() else run.status
    return {**vars(run), "status": status, "failed": catalogue.runs.count_failures(run.id), "failures": failures}


def _list_other_encoders(catalogue: Catalogue, active: EncoderRecord | None) -> list[dict[str, Any]]:
    """Return the inactive encoders with vectors; "in_the_making" if the last run was for it and did not finish."""
    target = None
    for run in catalogue.runs.get_latest(1):
        if run.kind == "index" and run.status in UNFINISHED_STATUSES:
            target = run.settings.get("encoder")
    return [
        {"fingerprint": fingerprint, "vectors": vectors, "in_the_making": fingerprint == target}
        for fingerprint, vectors in sorted(catalogue.encoders.count_embeddings().items())
        if active is None or fingerprint != active.fingerprint
    ]


def _get_file_size(path: Path) -> int:
    """Return the bytes of a file; 0 if it has disappeared meanwhile."""
    try:
        return path.lstat().st_size if path.is_file() else 0
    except OSError:
        return 0
