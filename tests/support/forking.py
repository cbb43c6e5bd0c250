"""Python processes that start in milliseconds: a server imports what they need once, single-threaded, and forks them.

`Popen` takes the place of subprocess.Popen in tests (conftest.py), for `python -c CODE`, `python SCRIPT` and `simile`
alike; every other command is started as always. There are two servers: one that holds all of the product, and one for
the processes that decode, which must not hold torch. They import when they are first asked, and serve both workers of
a test run. A test of what an interpreter imports, or of how the installed command starts, is marked `real_processes`.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import inspect
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import F_DUPFD, fcntl
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
SIMILE = str(Path(sys.executable).with_name("simile"))
SERVERS = "FORKING_SERVERS"  # the variable that tells processes below what the servers are called
START = "import sys; sys.path[:] = {path!r}; from tests.support import forking; forking.serve(sys.argv[1], sys.argv[2])"
MODULES = {
    "full": (
        *("pytest", "simile.cli.main", "simile.service.app", "simile.search.searcher", "simile.dedup.detection.job"),
        *("simile.explore.map.process", "simile.indexer.pipeline.job_process", "simile.indexer.training.train"),
        "simile.indexer.maintenance.rebuild",
        *("sklearn.datasets", "alembic.command"),
        "torch._dynamo",  # an optimiser imports it: 2 s
    ),
    "decoding": ("simile.images.loading.loader", "simile.images.loading.fork_server"),
}
MOST = 200_000  # bytes of what is wanted
PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
CANNOT = ("executable", "preexec_fn", "shell", "gid", "gids", "uid", "process_group")
READ = {"PYTHONPATH", "PYTHONIOENCODING"}  # by a fork too
WARNINGS = ["-W", "error"]
STARTING = {"PYTHONWARNINGS", "PYTHONUTF8", "PYTHONHASHSEED"}
RealPopen = subprocess.Popen


class Popen(RealPopen):
    """A process that is forked where that can be done."""

    _channel: socket.socket | None = None

    def _execute_child(self, *given: Any) -> None:
        names = inspect.signature(RealPopen._execute_child).bind(self, *given).arguments
        args, pipes = names["args"], [names[name] for name in PIPES]
        arguments = [os.fsdecode(one) for one in args] if isinstance(args, list | tuple) else []
        env = dict(os.environ if names["env"] is None else names["env"])
        kind = _server_for(arguments, env)
        if kind is None or any(names[name] not in (None, False, -1) for name in CANNOT):
            super()._execute_child(*given)
            return
        streams = [own if pipes[at] == -1 else pipes[at] for own, at in enumerate((0, 3, 5))]
        passed = [int(file) for file in names["pass_fds"]]
        wanted = {
            "arguments": arguments,
            "env": env,
            "cwd": str(names["cwd"] or Path.cwd()),
            "targets": [0, 1, 2, *passed],
            "session": names["start_new_session"],
        }
        self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.connect(_address(os.environ[SERVERS], kind))
        socket.send_fds(self._channel, [json.dumps(wanted).encode()], [*streams, *passed])
        self.pid = int(self._channel.recv(16))
        self._child_created = True
        self._close_pipe_fds(*pipes)

    def _internal_poll(self, *given: Any, **named: Any) -> int | None:
        if self._channel is None:
            return super()._internal_poll(*given, **named)
        if self.returncode is None and select.select([self._channel], [], [], 0)[0]:
            self._collect()
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        if self._channel is None:
            return super()._wait(timeout)
        if self.returncode is None and not select.select([self._channel], [], [], timeout)[0]:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        self._collect()
        return int(self.returncode)

    def _collect(self) -> None:
        with self._waitpid_lock:
            if self.returncode is None and self._channel is not None:
                self.returncode = int(self._channel.recv(16))
                self._channel.close()


def _server_for(arguments: list[str], env: dict[str, str]) -> str | None:
    """Which server forks this command; None if none can."""
    if SERVERS not in os.environ:
        return None
    for name in {name for name in (*env, *os.environ) if name.startswith("PYTHON") and name not in READ}:
        if name in STARTING or env.get(name) != os.environ.get(name):
            return None  # the interpreter reads it as it starts
    if arguments[:1] == [SIMILE]:
        return "full"
    program, rest = _warnings_apart(arguments)
    if len(rest) < 1 or program != sys.executable:
        return None
    if rest[0] == "-c":
        return "decoding" if "images.loading.fork_server" in rest[1] else "full"
    return "full" if rest[0].endswith(".py") or rest[0] == "-m" else None


def _warnings_apart(arguments: list[str]) -> tuple[str, list[str]]:
    """The program, and its arguments without -W error."""
    program, *rest = arguments or [""]
    return program, rest[2:] if rest[:2] == WARNINGS else rest


def _address(name: str, kind: str) -> str:
    return f"\0{name}-{kind}"


@contextmanager
def servers() -> Iterator[None]:
    """Servers for all processes that are started within. They end with this process, at the latest."""
    os.environ[SERVERS] = f"simile-tests-{uuid.uuid4().hex}"
    path = [str(ROOT / "src"), str(ROOT), *sys.path]
    command = [sys.executable, "-c", START.format(path=path), os.environ[SERVERS]]
    single = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    started = [
        RealPopen([*command, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=single, start_new_session=True)
        for kind in MODULES
    ]
    for process in started:
        assert process.stdout is not None and process.stdout.readline() == b"listening\n"
    try:
        yield
    finally:
        for process in started:
            process.communicate()
        del os.environ[SERVERS]


def serve(name: str, kind: str) -> None:
    """A server's life: forks for whoever connects, and tells how that process ended; ends when its stdin is closed."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(_address(name, kind))
    listener.listen(64)
    os.write(1, b"listening\n")
    os.dup2(2, 1)
    children: dict[int, tuple[int, socket.socket]] = {}  # by the descriptor of the process
    while True:
        ready = select.select([0, listener, *children], [], [])[0]
        if 0 in ready:
            return
        for ended in children.keys() & set(ready):
            pid, channel = children.pop(ended)
            os.close(ended)
            with suppress(OSError), channel:
                channel.sendall(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
        if listener not in ready:
            continue
        _import(kind)
        channel, _ = listener.accept()
        wanted, files, *_ = socket.recv_fds(channel, MOST, 16)
        pid = os.fork()
        if pid == 0:
            _live(json.loads(wanted), files)
        with suppress(OSError):  # the client is gone
            channel.sendall(str(pid).encode())
        for file in files:
            os.close(file)
        children[os.pidfd_open(pid)] = pid, channel


def _import(kind: str) -> None:
    if all(name in sys.modules for name in MODULES[kind]):
        return
    for name in MODULES[kind]:
        importlib.import_module(name)
    threads = [path.joinpath("comm").read_text() for path in Path("/proc/self/task").iterdir()]
    assert len(threads) == 1, f"a process with threads can't be forked safely: {threads}"
    gc.collect()
    gc.freeze()


def _live(wanted: dict[str, Any], files: list[int]) -> NoReturn:
    """A child's life. It ends as an interpreter does, but does not take the time to free its memory."""
    code: Any = 0
    try:
        _become(wanted, files)
    except SystemExit as asked:
        code = asked.code
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException as error:  # noqa: BLE001  # the interpreter would do the same
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _become(wanted: dict[str, Any], files: list[int]) -> None:
    """What an interpreter that starts with these arguments does."""
    targets = wanted["targets"]
    for target, file in zip(targets, [fcntl(file, F_DUPFD, 500) for file in files], strict=True):
        os.dup2(file, target)
    for number in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if number not in targets:
            with suppress(OSError):
                os.close(number)
    if wanted["session"]:
        os.setsid()
    os.environ.clear()
    os.environ.update(wanted["env"])
    os.chdir(wanted["cwd"])
    subprocess.Popen = Popen
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.path[:0] = [one for one in os.environ.get("PYTHONPATH", "").split(":") if one]
    if encoding := os.environ.get("PYTHONIOENCODING"):
        sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding=encoding, errors="backslashreplace", closefd=False)  # noqa: SIM115
    program, arguments = _warnings_apart(wanted["arguments"])
    if len(arguments) + 1 < len(wanted["arguments"]):
        warnings.simplefilter("error")
    if program == SIMILE:
        from simile.cli.main import run as simile

        sys.argv = [program, *arguments]
        simile()
    elif arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        sys.path.insert(0, "")
        main = sys.modules["__main__"].__dict__
        exec(compile(arguments[1], "<string>", "exec"), main)
    elif arguments[0] == "-m":
        sys.argv = arguments[1:]
        sys.path.insert(0, str(Path.cwd()))
        sys.modules.pop("__main__")
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(arguments[0]).parent))
        sys.modules.pop("__main__")
        runpy.run_path(arguments[0], run_name="__main__")
