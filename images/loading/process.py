"""The parent's side of the fork server and of its worker processes (fork_server.py)."""

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
from contextlib import ExitStack
from typing import Any

from simile.core.errors import WorkersFailed
from simile.images.loading.fork_server import PROGRESS_BYTES, READY_MESSAGE, WorkBatch, receive_message, send_message

log = logging.getLogger(__name__)

FORK_SERVER_START_SECONDS = 120.0  # imports are slow on a machine under heavy load
FORK_SERVER_STOP_SECONDS = 5.0
_START_ERROR = (
    "The processes that decode images can't be started ({}). Free memory or end other processes, then try again."
)
MAX_FORK_SERVER_STARTS = 3  # starts of the fork server for one worker
# The fork server's program. `-c` and not `-m`: the main module of this process (a user's script) must not run again.
# It imports what decodes so that workers need no imports after the fork, which would take the CPU time of an item.
_FORK_SERVER_CODE = (
    "import sys; sys.path[:] = {path!r}; import simile.images.loading.sandbox; import simile.images.matching.tasks; "
    "import simile.images.privacy.strip; import simile.images.rendering.sheets; "
    "from simile.images.loading.fork_server import run_fork_server; run_fork_server(0)"
)


class WorkerProcess:
    """The parent's side of one worker process."""

    def __init__(self, pid: int, channel: socket.socket, progress_map: mmap.mmap) -> None:
        self.pid, self._channel, self._progress_map = pid, channel, progress_map

    def send_batch(self, batch: WorkBatch) -> None:
        """Send a batch. Raises OSError when the worker has ended."""
        send_message(self._channel, batch)

    def has_results(self, seconds: float) -> bool:
        """Wait at most so long; return whether results, or the end of the worker, can be received."""
        poll = select.poll()  # unlike select, it takes descriptors over 1,023
        poll.register(self._channel, select.POLLIN)
        return bool(poll.poll(1000 * seconds))

    def receive_results(self, seconds: float) -> tuple[list[Any], float]:
        """Return the results of the next batch and its CPU seconds.

        Raises OSError or EOFError if the worker has ended or hangs.

        The worker's own timer ends a batch that takes longer than `seconds`, unless it hangs in the kernel.
        """
        self._channel.settimeout(seconds + 10)
        message: tuple[list[Any], float] = receive_message(self._channel)
        self._channel.settimeout(None)
        return message

    def read_progress(self) -> tuple[int, int]:
        """Return the number of the batch that it worked on last, and the item's position in it."""
        return int.from_bytes(self._progress_map[:8], "little"), int.from_bytes(self._progress_map[8:16], "little")

    def close(self) -> None:
        """Close the channel, which ends the worker."""
        self._channel.close()
        self._progress_map.close()


class ForkServer:
    """The parent's side of the fork server. Starts at once, and again if it is killed or could not start."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._start()

    @property
    def pid(self) -> int:
        """The id of the fork server's process."""
        return self._process.pid

    def _start(self) -> None:
        """Start its process. Raises WorkersFailed."""
        try:
            self._control, child_end = socket.socketpair()
            self._ready = False
            self._process = self._spawn(child_end)
        except OSError as error:  # the system has no more processes, descriptors or memory
            raise WorkersFailed(_START_ERROR.format(error.strerror or "unknown")) from error

    def _spawn(self, child_end: socket.socket) -> subprocess.Popen[bytes]:
        # One thread in each library, because there is one process per core. A session of its own, so that Ctrl-C in
        # the terminal reaches only the job.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with child_end, ExitStack() as on_error:
            on_error.callback(self._control.close)
            process = subprocess.Popen(
                [sys.executable, "-c", _FORK_SERVER_CODE.format(path=sys.path)],
                stdin=child_end.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=None if log.isEnabledFor(logging.DEBUG) else subprocess.DEVNULL,  # libtiff prints warnings
                env=environment,
                start_new_session=True,
            )
            on_error.pop_all()
            return process

    def start_worker(self, niceness: int = 0, *, reads_ahead: bool = False) -> WorkerProcess:
        """Start a worker process that may read a batch ahead. Raises WorkersFailed; EOFError after `close`."""
        with self._lock:
            for _ in range(MAX_FORK_SERVER_STARTS):
                if self._closed:
                    raise EOFError
                try:
                    worker = self._fork_worker("fork ahead" if reads_ahead else "fork")
                    if niceness:
                        os.setpriority(os.PRIO_PROCESS, worker.pid, niceness)
                    return worker
                except (OSError, EOFError):
                    self._stop()
                    self._start()
        raise WorkersFailed(_START_ERROR.format("they end while they start; --verbose shows why"))

    def end_worker(self, worker: WorkerProcess) -> int:
        """End the worker; return its status as from `os.waitpid`."""
        worker.close()
        with self._lock:
            try:
                return int(self._send_request(f"end {worker.pid}", []))
            except (OSError, EOFError):
                return int(signal.SIGKILL)  # the fork server was killed, and its workers with it

    def close(self) -> None:
        """End the fork server and its workers, for good."""
        with self._lock:
            self._closed = True
            self._stop()

    def _fork_worker(self, command: str) -> WorkerProcess:
        self._wait_until_ready()
        parent_end, child_end = socket.socketpair()
        progress = os.memfd_create("progress")
        try:
            os.truncate(progress, PROGRESS_BYTES)
            progress_map = mmap.mmap(progress, PROGRESS_BYTES)
            with child_end:
                pid = int(self._send_request(command, [child_end.fileno(), progress]))
        except (OSError, EOFError):
            parent_end.close()
            raise
        finally:
            os.close(progress)
        return WorkerProcess(pid, parent_end, progress_map)

    def _wait_until_ready(self) -> None:
        """Wait until the fork server has imported everything. Raises OSError or EOFError."""
        if self._ready:
            return
        self._control.settimeout(FORK_SERVER_START_SECONDS)
        if self._control.recv(len(READY_MESSAGE)) != READY_MESSAGE:
            raise EOFError
        self._ready = True

    def _send_request(self, request: str, descriptors: list[int]) -> str:
        """Send a command with file descriptors and return the answer. Raises OSError or EOFError."""
        self._control.settimeout(FORK_SERVER_START_SECONDS)
        socket.send_fds(self._control, [request.encode()], descriptors)
        answer = self._control.recv(32).decode()
        if not answer:
            raise EOFError
        return answer

    def _stop(self) -> None:
        """Close the control socket: the fork server then ends its workers and itself; kill it if it does not."""
        self._control.close()
        if self._process.poll() is None and not _wait_for_exit(self._process.pid, FORK_SERVER_STOP_SECONDS):
            self._process.kill()
        self._process.wait()


def _wait_for_exit(pid: int, seconds: float) -> bool:
    """Return whether the process ends in time. Popen.wait with a timeout polls, with growing pauses."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:  # an old system, or a system that forbids it
        return False
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)
