"""The job's ends of the processes that decode: the nursery, and the workers that it forks (models/nursery.py)."""

from __future__ import annotations

import logging
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

from simile.images.loading.fork_server import PROGRESS_BYTES, READY_MESSAGE, WorkBatch, receive_message, send_message

log = logging.getLogger(__name__)

FORK_SERVER_START_SECONDS = 120.0  # a machine under heavy load imports slowly
FORK_SERVER_STOP_SECONDS = 5.0
MAX_FORK_SERVER_STARTS = 3  # of the nursery, for one worker
# What the nursery runs. -c and not -m: the module that was started (a script of the user's) must not run again.
_FORK_SERVER_CODE = "import sys; sys.path[:] = {path!r}; import simile.images.loading.loader, simile.images.loading.fork_server as n; n.run_fork_server(0)"


class WorkersFailed(RuntimeError):
    """The worker processes can't be started, or end before they begin to work."""


class WorkerProcess:
    """The job's end of one worker process."""

    def __init__(self, pid: int, channel: socket.socket, progress_map: mmap.mmap) -> None:
        self.pid, self._channel, self._progress_map = pid, channel, progress_map

    def send_batch(self, batch: WorkBatch) -> None:
        send_message(self._channel, batch)

    def receive_results(self, seconds: float) -> list[Any]:
        """The next group's results. The worker's own clock ends it first, unless it hangs in the kernel."""
        self._channel.settimeout(seconds + 10)
        results: list[Any] = receive_message(self._channel)
        self._channel.settimeout(None)
        return results

    def read_progress(self) -> tuple[int, int]:
        """Number of the group that it worked on last, and the place in it."""
        return int.from_bytes(self._progress_map[:8], "little"), int.from_bytes(self._progress_map[8:16], "little")

    def close(self) -> None:
        self._channel.close()
        self._progress_map.close()


class ForkServer:
    """The job's end of the process that forks workers. Starts at once, and again should it be killed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._start()

    def _start(self) -> None:
        self._control, theirs = socket.socketpair()
        self._ready = False
        # One thread in each library: the cores are shared out by process. A session of its own, so that Ctrl-C in the
        # terminal reaches the job alone.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _FORK_SERVER_CODE.format(path=sys.path)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=None if log.isEnabledFor(logging.DEBUG) else subprocess.DEVNULL,  # libtiff says a lot
                env=environment,
                start_new_session=True,
            )

    def start_worker(self) -> WorkerProcess:
        """A new worker process. Raises WorkersFailed."""
        with self._lock:
            for _ in range(MAX_FORK_SERVER_STARTS):
                if self._closed:
                    raise EOFError
                try:
                    return self._fork_worker()
                except (OSError, EOFError):
                    self._stop()
                    self._start()
        raise WorkersFailed("The processes that decode pictures can't be started. Run with --verbose to see why.")

    def end_worker(self, worker: WorkerProcess) -> int:
        """Ends the worker; gives how it ended, as `os.waitpid` says it."""
        worker.close()
        with self._lock:
            try:
                return int(self._send_request(f"end {worker.pid}", []))
            except (OSError, EOFError):
                return int(signal.SIGKILL)  # the nursery was killed, and its workers with it

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._stop()

    def _fork_worker(self) -> WorkerProcess:
        self._wait_until_ready()
        ours, theirs = socket.socketpair()
        progress = os.memfd_create("progress")
        try:
            os.truncate(progress, PROGRESS_BYTES)
            place = mmap.mmap(progress, PROGRESS_BYTES)
            with theirs:
                pid = int(self._send_request("fork", [theirs.fileno(), progress]))
        except (OSError, EOFError):
            ours.close()
            raise
        finally:
            os.close(progress)
        return WorkerProcess(pid, ours, place)

    def _wait_until_ready(self) -> None:
        if self._ready:
            return
        self._control.settimeout(FORK_SERVER_START_SECONDS)
        if self._control.recv(len(READY_MESSAGE)) != READY_MESSAGE:
            raise EOFError
        self._ready = True

    def _send_request(self, request: str, descriptors: list[int]) -> str:
        self._control.settimeout(FORK_SERVER_START_SECONDS)
        socket.send_fds(self._control, [request.encode()], descriptors)
        answer = self._control.recv(32).decode()
        if not answer:
            raise EOFError
        return answer

    def _stop(self) -> None:
        """The nursery ends its workers and itself when nobody is at the other end."""
        self._control.close()
        if not _wait_for_exit(self._process.pid, FORK_SERVER_STOP_SECONDS):
            self._process.kill()
        self._process.wait()


def _wait_for_exit(pid: int, seconds: float) -> bool:
    """Whether the process ends in time. Popen.wait with a limit would look only now and then."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:  # an old system, or one that forbids it
        return False
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)
