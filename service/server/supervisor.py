"""Several server processes on one socket, and a supervisor that replaces those that die.

Each has its own copy of the encoder and the index; what one commits the others see through the catalogue. The
supervisor itself opens nothing of the home: it is a few megabytes, and outlives whatever a worker may meet.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
import threading
import time
from multiprocessing import connection, get_context, parent_process
from multiprocessing.context import SpawnProcess
from multiprocessing.reduction import DupFd  # noqa: F401  # teaches pickle to hand sockets to a new process
from types import FrameType

from simile.core import logs
from simile.core.errors import BadSetting
from simile.core.settings import Settings
from simile.service.observability.metrics import FOLDER, all_processes, forget_process, metrics_listener

STOP_SECONDS = 45.0  # for a worker to drain, before it is killed
QUICK = 5.0  # seconds: who dies sooner did not live
MOST_QUICK = 6  # deaths like that in a row: another start would end the same way
LONGEST_PAUSE = 5.0  # seconds between two starts

log = logging.getLogger(__name__)


def supervise(settings: Settings, listener: socket.socket, verbose: bool = False) -> None:
    """Serves with so many workers until SIGTERM or Ctrl-C. Raises BadSetting if they can't start."""
    share = max(1, len(os.sched_getaffinity(0)) // settings.serve_workers)
    os.environ.setdefault("OMP_NUM_THREADS", str(share))  # workers that all take all cores hinder each other
    with tempfile.TemporaryDirectory(prefix="simile-metrics-") as folder, listener:
        os.environ[FOLDER] = folder
        with metrics_listener(settings, all_processes()):
            Crew(settings, listener, verbose).run()


class Crew:
    """The workers."""

    def __init__(self, settings: Settings, listener: socket.socket, verbose: bool) -> None:
        self._arguments = (settings, listener, verbose)
        self._count = settings.serve_workers
        self._workers: dict[SpawnProcess, float] = {}  # and when they were started
        self._stopping = False
        self._quick = 0

    def run(self) -> None:
        """Starts them, replaces those that die, and ends them when a signal says so."""
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            while not self._stopping and self._quick < MOST_QUICK:
                self._fill()
                connection.wait([worker.sentinel for worker in self._workers], timeout=0.2)
                self._bury()
        finally:
            self._end()
            for number, handler in before.items():
                signal.signal(number, handler)
        if not self._stopping:
            raise BadSetting(f"{self._quick} workers ended as soon as they were started. The log above says why.")

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _fill(self) -> None:
        """Starts who is missing; after quick deaths it waits, longer each time."""
        if self._quick:
            time.sleep(min(LONGEST_PAUSE, 0.1 * 2**self._quick))
        while len(self._workers) < self._count and not self._stopping:
            # Not forked: a child would share the parent's threads' locks, held or not.
            worker = get_context("spawn").Process(target=work, args=self._arguments, name="simile-worker")
            worker.start()
            self._workers[worker] = time.monotonic()

    def _bury(self) -> None:
        for worker in [worker for worker in self._workers if not worker.is_alive()]:
            lived = time.monotonic() - self._workers.pop(worker)
            self._quick = self._quick + 1 if lived < QUICK else 0
            if not self._stopping:
                log.warning("Worker %s ended (%s); another takes its place.", worker.pid, worker.exitcode)
            forget_process(worker.pid or 0)

    def _end(self) -> None:
        """Tells them to stop, waits while they drain, and kills who is left."""
        for worker in self._workers:
            worker.terminate()
        until = time.monotonic() + STOP_SECONDS
        for worker in self._workers:
            worker.join(max(0.0, until - time.monotonic()))
            if worker.is_alive():
                log.error("Worker %s did not stop within %g seconds and is killed.", worker.pid, STOP_SECONDS)
                worker.kill()
                worker.join()


def work(settings: Settings, listener: socket.socket, verbose: bool) -> None:
    """What a worker process does."""
    from simile.service.server.server import ending_quietly, make_server  # noqa: PLC0415  # torch and FAISS: not in the supervisor

    logs.set_up(verbose, settings.log == "json")
    threading.Thread(target=_end_with_the_supervisor, daemon=True).start()
    server = make_server(settings)
    with listener, ending_quietly():
        server.run(sockets=[listener])


def _end_with_the_supervisor() -> None:
    """A worker whose supervisor was killed would hold the port for ever."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
