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

RUNS_SHOWN = 5
UNDER_WAY = ("running", "interrupted", "failed")


def read_status(
    settings: Settings, *, upgrade: bool = False, runs: int = RUNS_SHOWN, failures: int | None = None
) -> dict[str, Any]:
    """Counts, the encoder in use and the others, the segment, and the latest runs, fit for JSON.

    `failures`: so many of each run at most. Raises NothingIndexed, HomeOutdated, HomeTooNew.
    """
    home = Home(settings.home, settings.database_url)
    if upgrade and schema.revision(home) is not None:
        schema.upgrade(home)
    schema.check(home)
    with Catalogue(home) as catalogue:
        active, state = catalogue.active_encoder(), catalogue.state()
        segment = catalogue.segment(state.segment_id) if state.segment_id is not None else None
        return {
            "home": str(home.root),
            "bytes": _bytes(home),
            "images": catalogue.count_images(),
            "encoder": vars(active) if active else None,
            "segment": vars(segment) if segment else None,
            "pending": Index(catalogue).pending() if active else 0,
            "others": _others(catalogue, active),
            "runs": [_run(home, catalogue, run, failures) for run in catalogue.runs(runs)],
        }


def _run(home: Home, catalogue: Catalogue, run: RunRecord, limit: int | None) -> dict[str, Any]:
    """One that was killed could not say so: nobody holds its lock any more."""
    listed = [vars(failure) for failure in catalogue.failures(run.id, limit)]
    status = "interrupted" if run.status == "running" and not home.is_held() else run.status
    return {**vars(run), "status": status, "failed": catalogue.count_failures(run.id), "failures": listed}


def _others(catalogue: Catalogue, active: EncoderRecord | None) -> list[dict[str, Any]]:
    """Encoders with vectors that are not in use; one of them is in the making where the last run was for it."""
    in_use = active.fingerprint if active else None
    last = next((run for run in catalogue.runs(1) if run.kind == "index" and run.status in UNDER_WAY), None)
    wanted = last.settings.get("encoder") if last else None
    return [
        {"fingerprint": fingerprint, "vectors": vectors, "in_the_making": fingerprint == wanted}
        for fingerprint, vectors in sorted(catalogue.vectors_by_encoder().items())
        if fingerprint != in_use
    ]


def _bytes(home: Home) -> int:
    """What the home takes on the disk; a file that is cleared away meanwhile counts for nothing."""
    return sum(map(_size, home.root.rglob("*")))


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size if path.is_file() else 0
    except OSError:
        return 0
