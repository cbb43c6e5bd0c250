"""An indexing job in a separate process with a low priority, which the service starts.

    service --stdin: an IndexJobSpec--> this process --row in jobs--> every worker of the service

The parent process keeps the other end of stdin open. When it closes, however the parent ended, this process stops.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from simile.core.errors import SimileError
from simile.core.logs import configure_logging
from simile.core.records import IndexSummary
from simile.core.settings import Settings, load_settings
from simile.indexer.pipeline.job import IndexRequest, index
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home

if TYPE_CHECKING:
    from simile.models.training.loop import TrainingProgress

NICENESS = 10  # searches have priority
PROGRESS_INTERVAL_SECONDS = 0.5
CANCEL_POLL_SECONDS = 0.3  # how often to check for a cancellation
HOME_LOCK_TIMEOUT_SECONDS = 30.0  # if a command has locked the home
STOP_TIMEOUT_SECONDS = {"cancelled": 30.0, "interrupted": 5.0}  # for the current batch; then the process is killed
INDEX_RESUME_HINT = "Stored images are kept: a new job continues from there."


@dataclass(frozen=True, kw_only=True)
class IndexJobSpec:
    """The input of the process, as JSON on stdin."""

    job_id: int
    folder: str
    prune: bool
    lock: int  # descriptor of the lock that shows that this process is alive
    settings: dict[str, Any]

    def to_line(self) -> bytes:
        """Return a line of JSON; it is not a command-line argument because the settings may contain a password."""
        return json.dumps(asdict(self)).encode() + b"\n"


def make_index_job_spec(job_id: int, folder: Path, prune: bool, lock: int, settings: Settings) -> IndexJobSpec:
    """Return the spec of a job."""
    values = settings.model_dump(mode="json")
    return IndexJobSpec(job_id=job_id, folder=str(folder), prune=prune, lock=lock, settings=values)


def main() -> None:
    """Run the job of the spec on stdin, store its result, and end the process."""
    spec = IndexJobSpec(**json.loads(sys.stdin.buffer.readline()))
    configure_logging()
    os.set_inheritable(spec.lock, False)
    os.nice(NICENESS)
    settings = load_settings(**spec.settings)
    with Catalogue(Home.from_settings(settings)) as catalogue:
        stopper = JobStopper(catalogue, spec.job_id)
        status, message, result = _run_index_job(settings, spec, JobProgressWriter(catalogue, spec.job_id), stopper)
        catalogue.jobs.finish(spec.job_id, status, message, result)
    os.close(spec.lock)
    os._exit(0)  # a normal exit of torch and other libraries takes a second


def _run_index_job(
    settings: Settings, spec: IndexJobSpec, progress_writer: JobProgressWriter, stopper: JobStopper
) -> tuple[str, str | None, dict[str, Any] | None]:
    """Run the job and return its status, message and result."""
    request = IndexRequest(
        prune=spec.prune,
        on_training=progress_writer.on_training,
        on_progress=progress_writer.on_progress,
        on_run=progress_writer.on_run,
        wait=HOME_LOCK_TIMEOUT_SECONDS,
    )
    try:
        stopper.start()
        summary = index(settings, [spec.folder], request)
        stopper.done_event.set()
    except KeyboardInterrupt:
        return stopper.stop_reason, f"The job was stopped. {INDEX_RESUME_HINT}", None
    except SimileError as error:
        stopper.done_event.set()
        return "failed", str(error), None
    return "finished", None, _make_job_result(summary)


def _make_job_result(summary: IndexSummary) -> dict[str, Any]:
    counts = {name: value for name, value in vars(summary).items() if isinstance(value, int | float)}
    del counts["run_id"]
    return {**counts, "failed": len(summary.failures), "images_per_second": summary.images_per_second}


class JobProgressWriter:
    """Writes progress to the job's row, at most twice a second; a change of the stage is written at once."""

    def __init__(self, catalogue: Catalogue, job_id: int) -> None:
        self._catalogue, self._job_id = catalogue, job_id
        self._stage, self._next_update_at = "looking", 0.0

    def on_run(self, run_id: int) -> None:
        """Store the id of the indexing run."""
        self._catalogue.jobs.update(self._job_id, run=run_id)

    def on_training(self, progress: TrainingProgress) -> None:
        """Store the progress of the training."""
        speed = {"per_second": progress.images_per_second, "seconds_left": progress.seconds_left}
        self._update_job_row("training", done=progress.step, total=progress.total_steps, **speed)

    def on_progress(self, summary: IndexSummary, total: int) -> None:
        """Store the progress of the indexing of `total` files."""
        stage = "publishing" if summary.done >= total else "indexing"
        speed, left = summary.get_speed(total)
        counts = {"done": summary.done, "total": total, "failed": len(summary.failures)}
        self._update_job_row(stage, **counts, per_second=speed, seconds_left=left)

    def _update_job_row(self, stage: str, **values: Any) -> None:
        if stage == self._stage and time.monotonic() < self._next_update_at:
            return
        self._stage, self._next_update_at = stage, time.monotonic() + PROGRESS_INTERVAL_SECONDS
        self._catalogue.jobs.update(self._job_id, stage=stage, **values)


class JobStopper:
    """Stops the job when a user cancels it or the parent process ends; kills the process if that takes too long.

    Attributes:
        stop_reason: "cancelled" or "interrupted".
        done_event: Set when there is nothing left to stop.
    """

    def __init__(self, catalogue: Catalogue, job_id: int) -> None:
        self._catalogue, self._job_id = catalogue, job_id
        self.stop_reason = "interrupted"
        self.done_event = threading.Event()

    def start(self) -> None:
        """Start watching. Must be called in the main thread, where KeyboardInterrupt is raised."""
        signal.signal(signal.SIGINT, self._handle_interrupt)
        threading.Thread(target=self._watch_for_stop, name="stopping", daemon=True).start()

    def _handle_interrupt(self, _number: int, _frame: FrameType | None) -> None:
        if not self.done_event.is_set():
            self.done_event.set()
            raise KeyboardInterrupt

    def _watch_for_stop(self) -> None:
        self.stop_reason = self._wait_for_stop_reason()
        os.kill(os.getpid(), signal.SIGINT)
        if self.stop_reason == "cancelled" and self._is_parent_gone(STOP_TIMEOUT_SECONDS["cancelled"]):
            self.stop_reason = "interrupted"
        time.sleep(STOP_TIMEOUT_SECONDS["interrupted"])
        os.kill(os.getpid(), signal.SIGKILL)  # batches are stored in transactions, so nothing is incomplete

    def _wait_for_stop_reason(self) -> str:
        while not self._is_parent_gone(CANCEL_POLL_SECONDS):
            if self._is_cancelled():
                return "cancelled"
        return "interrupted"

    def _is_cancelled(self) -> bool:
        try:
            self._catalogue.jobs.mark_alive(self._job_id)
            return self._catalogue.jobs.get(self._job_id).cancelling
        except SimileError:  # the catalogue is busy: ask again later
            return False

    @staticmethod
    def _is_parent_gone(seconds: float) -> bool:
        """Return whether stdin closes within that time; nothing else is written to it."""
        return bool(select.select([sys.stdin.fileno()], [], [], seconds)[0])
