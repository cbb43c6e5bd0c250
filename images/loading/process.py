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

from simile.images.loading.fork_server import PROGRESS_BYTES, READY, Work, receive, send

log = logging.getLogger(__name__)

START_SECONDS = 120.0  # a machine under heavy load imports slowly
STOP_SECONDS = 5.0
MOST_STARTS = 3  # of the nursery, for one worker
# What the nursery runs. -c and not -m: the module that was started (a script of the user's) must not run again.
_NURSERY = "import sys; sys.path[:] = {path!r}; import simile.images.loading.loader, simile.images.loading.fork_server as n; n.run(0)"


class WorkersFailed(RuntimeError):
    """The worker processes can't be started, or end before they begin to work."""


class WorkerProcess:
    """The job's end of one worker process."""

    def __init__(self, pid: int, channel: socket.socket, place: mmap.mmap) -> None:
        self.pid, self._channel, self._place = pid, channel, place

    def give(self, work: Work) -> None:
        send(self._channel, work)

    def receive(self, seconds: float) -> list[Any]:
        """The next group's results. The worker's own clock ends it first, unless it hangs in the kernel."""
        self._channel.settimeout(seconds + 10)
        results: list[Any] = receive(self._channel)
        self._channel.settimeout(None)
        return results

    def progress(self) -> tuple[int, int]:
        """Number of the group that it worked on last, and the place in it."""
        return int.from_bytes(self._place[:8], "little"), int.from_bytes(self._place[8:16], "little")

    def close(self) -> None:
        self._channel.close()
        self._place.close()


class Nursery:
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
                [sys.executable, "-c", _NURSERY.format(path=sys.path)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=None if log.isEnabledFor(logging.DEBUG) else subprocess.DEVNULL,  # libtiff says a lot
                env=environment,
                start_new_session=True,
            )

    def worker(self) -> WorkerProcess:
        """A new worker process. Raises WorkersFailed."""
        with self._lock:
            for _ in range(MOST_STARTS):
                if self._closed:
                    raise EOFError
                try:
                    return self._fork()
                except (OSError, EOFError):
                    self._stop()
                    self._start()
        raise WorkersFailed("The processes that decode pictures can't be started. Run with --verbose to see why.")

    def end(self, worker: WorkerProcess) -> int:
        """Ends the worker; gives how it ended, as `os.waitpid` says it."""
        worker.close()
        with self._lock:
            try:
                return int(self._ask(f"end {worker.pid}", []))
            except (OSError, EOFError):
                return int(signal.SIGKILL)  # the nursery was killed, and its workers with it

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._stop()

    def _fork(self) -> WorkerProcess:
        self._wait_until_ready()
        ours, theirs = socket.socketpair()
        progress = os.memfd_create("progress")
        try:
            os.truncate(progress, PROGRESS_BYTES)
            place = mmap.mmap(progress, PROGRESS_BYTES)
            with theirs:
                pid = int(self._ask("fork", [theirs.fileno(), progress]))
        except (OSError, EOFError):
            ours.close()
            raise
        finally:
            os.close(progress)
        return WorkerProcess(pid, ours, place)

    def _wait_until_ready(self) -> None:
        if self._ready:
            return
        self._control.settimeout(START_SECONDS)
        if self._control.recv(len(READY)) != READY:
            raise EOFError
        self._ready = True

    def _ask(self, question: str, descriptors: list[int]) -> str:
        self._control.settimeout(START_SECONDS)
        socket.send_fds(self._control, [question.encode()], descriptors)
        answer = self._control.recv(32).decode()
        if not answer:
            raise EOFError
        return answer

    def _stop(self) -> None:
        """The nursery ends its workers and itself when nobody is at the other end."""
        self._control.close()
        if not _ends(self._process.pid, STOP_SECONDS):
            self._process.kill()
        self._process.wait()


def _ends(pid: int, seconds: float) -> bool:
    """Whether the process ends in time. Popen.wait with a limit would look only now and then."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:  # an old system, or one that forbids it
        return False
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)
