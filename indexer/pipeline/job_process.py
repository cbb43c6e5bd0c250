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
from simile.core.logs import set_up
from simile.core.records import IndexSummary
from simile.core.settings import Settings, load_settings
from simile.indexer.pipeline.job import IndexRequest, index
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home

if TYPE_CHECKING:
    from simile.models.training.loop import Progress

NICENESS = 10  # searches come first
SECONDS_BETWEEN_NOTES = 0.5
SECONDS_BETWEEN_LOOKS = 0.3  # for somebody who cancels it
SECONDS_TO_WAIT = 30.0  # for a home that a command holds
SECONDS_TO_STOP = {"cancelled": 30.0, "interrupted": 5.0}  # to finish what is in hand; then it ends at once
RESUMES = "What was stored is kept: a new job goes on from there."


@dataclass(frozen=True)
class Order:
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
    def from_line(cls, line: bytes) -> Order:
        return cls(**json.loads(line))


def order_of(job_id: int, folder: Path, prune: bool, lock: int, settings: Settings) -> Order:
    """The order for one job, as `main` takes it from stdin."""
    return Order(job_id, str(folder), prune, lock, settings.model_dump(mode="json"))


def main() -> None:
    """The whole life of the process."""
    order = Order.from_line(sys.stdin.buffer.readline())
    set_up()
    os.set_inheritable(order.lock, False)
    os.nice(NICENESS)
    settings = load_settings(**order.settings)
    with Catalogue(Home(settings.home, settings.database_url)) as catalogue:
        stopping = Stopping(catalogue, order.job_id)
        status, message, result = _run(settings, order, Notes(catalogue, order.job_id), stopping)
        catalogue.finish_job(order.job_id, status, message, result)
    os.close(order.lock)
    os._exit(0)  # what torch and its kind still have to tear down takes a second, and nobody needs it


def _run(
    settings: Settings, order: Order, notes: Notes, stopping: Stopping
) -> tuple[str, str | None, dict[str, Any] | None]:
    """Status, message and result of the job."""
    request = IndexRequest(
        prune=order.prune,
        on_training=notes.trained,
        on_progress=notes.indexed,
        on_run=notes.began,
        wait=SECONDS_TO_WAIT,
    )
    try:
        stopping.listen()
        summary = index(settings, [order.folder], request)
        stopping.over.set()
    except KeyboardInterrupt:
        return stopping.reason, f"It was stopped. {RESUMES}", None
    except SimileError as error:
        stopping.over.set()
        return "failed", str(error), None
    return "finished", None, _result(summary)


def _result(summary: IndexSummary) -> dict[str, Any]:
    counts = {name: value for name, value in vars(summary).items() if isinstance(value, int | float)}
    del counts["run_id"]
    return {**counts, "failed": len(summary.failures), "images_per_second": summary.images_per_second}


class Notes:
    """What stands in the job's row while it runs: at most twice a second, each change of the stage at once."""

    def __init__(self, catalogue: Catalogue, job_id: int) -> None:
        self._catalogue, self._job_id = catalogue, job_id
        self._stage, self._next = "looking", 0.0

    def began(self, run_id: int) -> None:
        self._catalogue.note_job(self._job_id, run=run_id)

    def trained(self, progress: Progress) -> None:
        self._note(
            "training",
            done=progress.step,
            total=progress.total_steps,
            per_second=progress.images_per_second,
            seconds_left=progress.seconds_left,
        )

    def indexed(self, summary: IndexSummary, total: int) -> None:
        speed = summary.done / summary.seconds if summary.seconds else None
        self._note(
            "publishing" if summary.done >= total else "indexing",
            done=summary.done,
            total=total,
            per_second=speed,
            seconds_left=(total - summary.done) / speed if speed else None,
            failed=len(summary.failures),
        )

    def _note(self, stage: str, **values: Any) -> None:
        if stage == self._stage and time.monotonic() < self._next:
            return
        self._stage, self._next = stage, time.monotonic() + SECONDS_BETWEEN_NOTES
        self._catalogue.note_job(self._job_id, stage=stage, **values)


class Stopping:
    """Stops the job when somebody cancels it, or when its starter is gone; by force if it takes too long.

    over: set once there is nothing left to stop.
    """

    def __init__(self, catalogue: Catalogue, job_id: int) -> None:
        self._catalogue, self._job_id = catalogue, job_id
        self.reason = "interrupted"
        self.over = threading.Event()

    def listen(self) -> None:
        """From now on. Called in the main thread, where KeyboardInterrupt is to be raised."""
        signal.signal(signal.SIGINT, self._interrupt)
        threading.Thread(target=self._watch, name="stopping", daemon=True).start()

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        if not self.over.is_set():
            self.over.set()
            raise KeyboardInterrupt

    def _watch(self) -> None:
        self.reason = self._wait_for_a_reason()
        os.kill(os.getpid(), signal.SIGINT)
        if self.reason == "cancelled" and self._starter_is_gone(SECONDS_TO_STOP["cancelled"]):
            self.reason = "interrupted"
        time.sleep(SECONDS_TO_STOP["interrupted"])
        os.kill(os.getpid(), signal.SIGKILL)  # a batch at a time is stored: nothing is half there

    def _wait_for_a_reason(self) -> str:
        while not self._starter_is_gone(SECONDS_BETWEEN_LOOKS):
            if self._is_cancelled():
                return "cancelled"
        return "interrupted"

    def _is_cancelled(self) -> bool:
        try:
            return self._catalogue.job(self._job_id).cancelling
        except SimileError:  # a busy catalogue answers the next time
            return False

    @staticmethod
    def _starter_is_gone(seconds: float) -> bool:
        """Whether stdin ends within that time: nothing more is ever written to it."""
        return bool(select.select([sys.stdin.fileno()], [], [], seconds)[0])
