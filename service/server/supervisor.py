"""Run several server processes on one socket and replace those that die.

Each process has its own copy of the encoder and the index; the others see its commits through the catalogue. The
supervisor itself opens nothing in the home, so that it stays small and survives any failure of a worker.
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
from simile.service.observability.metrics import (
    MULTIPROC_DIR_VARIABLE,
    make_multiprocess_registry,
    mark_worker_dead,
    serve_metrics,
)

WORKER_STOP_SECONDS = 45.0  # for a worker to drain before it is killed
QUICK_EXIT_SECONDS = 5.0  # a worker that ends sooner failed to start
MAX_QUICK_EXITS = 6  # in a row: another start would fail as well
MAX_RESTART_DELAY = 5.0  # between two starts

log = logging.getLogger(__name__)


def supervise(settings: Settings, listener: socket.socket, verbose: bool = False) -> None:
    """Serve with several workers until SIGTERM or Ctrl-C. Raises BadSetting if they fail to start."""
    share = max(1, len(os.sched_getaffinity(0)) // settings.serve_workers)
    os.environ.setdefault("OMP_NUM_THREADS", str(share))  # workers that each use all cores slow each other down
    with tempfile.TemporaryDirectory(prefix="simile-metrics-") as folder, listener:
        os.environ[MULTIPROC_DIR_VARIABLE] = folder
        with serve_metrics(settings, make_multiprocess_registry()):
            WorkerSupervisor(settings, listener, verbose).run()


class WorkerSupervisor:
    """Starts, replaces and stops the workers."""

    def __init__(self, settings: Settings, listener: socket.socket, verbose: bool) -> None:
        self._arguments = (settings, listener, verbose)
        self._worker_count = settings.serve_workers
        self._workers: dict[SpawnProcess, float] = {}  # with their start times
        self._is_stopping = False
        self._quick_exits = 0

    def run(self) -> None:
        """Start the workers, replace dead ones, and stop all of them on a signal."""
        previous = {number: signal.signal(number, self._handle_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            while not self._is_stopping and self._quick_exits < MAX_QUICK_EXITS:
                self._start_missing()
                connection.wait([worker.sentinel for worker in self._workers], timeout=0.2)
                self._reap_exited()
        finally:
            self._stop_workers()
            for number, handler in previous.items():
                signal.signal(number, handler)
        if not self._is_stopping:
            detail = "workers ended right after their start. The log above has the reason."
            raise BadSetting(f"{self._quick_exits} {detail}")

    def _handle_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._is_stopping = True

    def _start_missing(self) -> None:
        """Start missing workers; after quick exits it waits first, longer each time."""
        if self._quick_exits:
            time.sleep(min(MAX_RESTART_DELAY, 0.1 * 2**self._quick_exits))
        while len(self._workers) < self._worker_count and not self._is_stopping:
            # Not forked: a child would inherit locks that the parent's threads hold.
            worker = get_context("spawn").Process(target=run_worker, args=self._arguments, name="simile-worker")
            worker.start()
            self._workers[worker] = time.monotonic()

    def _reap_exited(self) -> None:
        for worker in [worker for worker in self._workers if not worker.is_alive()]:
            lifetime = time.monotonic() - self._workers.pop(worker)
            self._quick_exits = self._quick_exits + 1 if lifetime < QUICK_EXIT_SECONDS else 0
            if not self._is_stopping:
                log.warning("Worker %s ended (%s); a new one is started.", worker.pid, worker.exitcode)
            mark_worker_dead(worker.pid or 0)

    def _stop_workers(self) -> None:
        """Tell the workers to stop, wait while they drain, and kill the rest."""
        for worker in self._workers:
            worker.terminate()
        deadline = time.monotonic() + WORKER_STOP_SECONDS
        for worker in self._workers:
            worker.join(max(0.0, deadline - time.monotonic()))
            if worker.is_alive():
                log.error("Worker %s did not stop within %g seconds and is killed.", worker.pid, WORKER_STOP_SECONDS)
                worker.kill()
                worker.join()


def run_worker(settings: Settings, listener: socket.socket, verbose: bool) -> None:
    """Run a worker; the entry point of its process."""
    # Here, because torch and FAISS do not belong into the supervisor.
    from simile.service.server.server import make_server, stop_on_sigterm  # noqa: PLC0415

    logs.configure_logging(verbose, settings.log == "json", queued=True)
    threading.Thread(target=_exit_with_supervisor, daemon=True).start()
    server = make_server(settings)
    with listener, stop_on_sigterm(server):
        server.run(sockets=[listener])


def _exit_with_supervisor() -> None:
    """End this worker when its supervisor dies; else it would keep the port."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
