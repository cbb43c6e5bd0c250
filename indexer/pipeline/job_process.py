"""One indexing job in a process of its own: at low priority, its progress in a row, gone with whoever started it.

    service --stdin: an Order--> this process --row in jobs--> every worker of the service

The starter keeps the other end of stdin open: when that closes, however its process ended, this one stops too.
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

NICENESS = 10  # searches come first
PROGRESS_INTERVAL_SECONDS = 0.5
CANCEL_POLL_SECONDS = 0.3  # for somebody who cancels it
HOME_LOCK_TIMEOUT_SECONDS = 30.0  # for a home that a command holds
STOP_TIMEOUT_SECONDS = {"cancelled": 30.0, "interrupted": 5.0}  # to finish what is in hand; then it ends at once
INDEX_RESUME_HINT = "What was stored is kept: a new job goes on from there."


@dataclass(frozen=True)
class IndexJobSpec:
    """What to do: job `job_id` on `folder`. `lock`: descriptor of the lock that says that this process lives."""

    job_id: int
    folder: str
    prune: bool
    lock: int
    settings: dict[str, Any]

    def to_line(self) -> bytes:
        """One line of JSON: its settings may hold a password, so it is no argument."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> IndexJobSpec:
        return cls(**json.loads(line))


def make_index_job_spec(job_id: int, folder: Path, prune: bool, lock: int, settings: Settings) -> IndexJobSpec:
    """The order for one job, as `main` takes it from stdin."""
    return IndexJobSpec(job_id, str(folder), prune, lock, settings.model_dump(mode="json"))


def main() -> None:
    """The whole life of the process."""
    order = IndexJobSpec.from_line(sys.stdin.buffer.readline())
    configure_logging()
    os.set_inheritable(order.lock, False)
    os.nice(NICENESS)
    settings = load_settings(**order.settings)
    with Catalogue(Home(settings.home, settings.database_url)) as catalogue:
        stopping = JobStopper(catalogue, order.job_id)
        status, message, result = _run_index_job(settings, order, JobProgressWriter(catalogue, order.job_id), stopping)
        catalogue.jobs.finish(order.job_id, status, message, result)
    os.close(order.lock)
    os._exit(0)  # what torch and its kind still have to tear down takes a second, and nobody needs it


def _run_index_job(
    settings: Settings, spec: IndexJobSpec, progress_writer: JobProgressWriter, stopper: JobStopper
) -> tuple[str, str | None, dict[str, Any] | None]:
    """Status, message and result of the job."""
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
        return stopper.stop_reason, f"It was stopped. {INDEX_RESUME_HINT}", None
    except SimileError as error:
        stopper.done_event.set()
        return "failed", str(error), None
    return "finished", None, _make_job_result(summary)


def _make_job_result(summary: IndexSummary) -> dict[str, Any]:
    counts = {name: value for name, value in vars(summary).items() if isinstance(value, int | float)}
    del counts["run_id"]
    return {**counts, "failed": len(summary.failures), "images_per_second": summary.images_per_second}


class JobProgressWriter:
    """What stands in the job's row while it runs: at most twice a second, each change of the stage at once."""

    def __init__(self, catalogue: Catalogue, job_id: int) -> None:
        self._catalogue, self._job_id = catalogue, job_id
        self._stage, self._next_update_at = "looking", 0.0

    def on_run(self, run_id: int) -> None:
        self._catalogue.jobs.update(self._job_id, run=run_id)

    def on_training(self, progress: TrainingProgress) -> None:
        self._update_job_row(
            "training",
            done=progress.step,
            total=progress.total_steps,
            per_second=progress.images_per_second,
            seconds_left=progress.seconds_left,
        )

    def on_progress(self, summary: IndexSummary, total: int) -> None:
        speed = summary.done / summary.seconds if summary.seconds else None
        self._update_job_row(
            "publishing" if summary.done >= total else "indexing",
            done=summary.done,
            total=total,
            per_second=speed,
            seconds_left=(total - summary.done) / speed if speed else None,
            failed=len(summary.failures),
        )

    def _update_job_row(self, stage: str, **values: Any) -> None:
        if stage == self._stage and time.monotonic() < self._next_update_at:
            return
        self._stage, self._next_update_at = stage, time.monotonic() + PROGRESS_INTERVAL_SECONDS
        self._catalogue.jobs.update(self._job_id, stage=stage, **values)


class JobStopper:
    """Stops the job when somebody cancels it, or when its starter is gone; by force if it takes too long.

    over: set once there is nothing left to stop.
    """

    def __init__(self, catalogue: Catalogue, job_id: int) -> None:
        self._catalogue, self._job_id = catalogue, job_id
        self.stop_reason = "interrupted"
        self.done_event = threading.Event()

    def start(self) -> None:
        """From now on. Called in the main thread, where KeyboardInterrupt is to be raised."""
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
        os.kill(os.getpid(), signal.SIGKILL)  # a batch at a time is stored: nothing is half there

    def _wait_for_stop_reason(self) -> str:
        while not self._is_parent_gone(CANCEL_POLL_SECONDS):
            if self._is_cancelled():
                return "cancelled"
        return "interrupted"

    def _is_cancelled(self) -> bool:
        try:
            return self._catalogue.jobs.get(self._job_id).cancelling
        except SimileError:  # a busy catalogue answers the next time
            return False

    @staticmethod
    def _is_parent_gone(seconds: float) -> bool:
        """Whether stdin ends within that time: nothing more is ever written to it."""
        return bool(select.select([sys.stdin.fileno()], [], [], seconds)[0])
