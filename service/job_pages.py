"""What the page of indexing jobs shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.job_schemas import JobOut, JobResult, job_out
from service.jobs import Jobs

SHOWN = 20

_STAGES = {
    "looking": "Looking at the folder",
    "training": "Training",
    "indexing": "Indexing",
    "publishing": "Putting it in use",
}
_DID = (
    ("new", "new"),
    ("changed", "changed"),
    ("moved", "moved"),
    ("removed", "forgotten"),
    ("missing", "whose files are gone"),
    ("unchanged", "unchanged"),
)


@dataclass(frozen=True)
class JobsView:
    """The latest jobs, the newest first, and the folders that can be indexed from here."""

    jobs: Sequence[JobOut] = ()
    roots: Sequence[str] = ()

    @property
    def running(self) -> bool:
        return any(job.status == "running" for job in self.jobs)


def latest(jobs: Jobs) -> JobsView:
    """The latest jobs. Raises what keeps the home from being read."""
    return JobsView([job_out(job) for job in jobs.latest(SHOWN)], sorted(jobs.roots))


def job_words(job: JobOut) -> str:
    """How a job stands, for people; static/jobs.js says the same of one that runs."""
    if job.status != "running":
        return _did(job.result) if job.result else f"{job.done:,} files looked into" if job.done else ""
    parts = [_STAGES[job.stage]]
    if job.total:
        parts.append(f"{job.done:,} of {job.total:,}")
    elif job.done:
        parts.append(f"{job.done:,}")
    if job.per_second:
        parts.append(f"{job.per_second:,.0f} a second")
    return " · ".join(parts)


def _did(result: JobResult) -> str:
    counts = [(getattr(result, name), words) for name, words in _DID]
    done = ", ".join(f"{count:,} {words}" for count, words in counts if count) or "no pictures there"
    return f"{done} · {_duration(result.seconds)}" if result.seconds >= 0.1 else done


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
