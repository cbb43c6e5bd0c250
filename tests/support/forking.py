"""Start Python processes in milliseconds: a single-threaded server imports the product once and forks them.

`Popen` replaces subprocess.Popen in tests (conftest.py) for `python -c CODE`, `python -m MODULE`, `python SCRIPT` and
`simile`; every other command starts normally. There are two servers: one has imported the whole product, the other only
the modules of decoder processes, which must not contain torch. They import on the first request and serve both workers
of a test run. A test of the imports of an interpreter, or of the installed command, is marked `real_processes`.
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

from tests.support.servers import postgresql

ROOT = Path(__file__).resolve().parents[2]
SIMILE = str(Path(sys.executable).with_name("simile"))
SERVERS = "FORKING_SERVERS"  # environment variable with the name of the servers
SERVER_CODE = (
    "import sys; sys.path[:] = {path!r}; from tests.support import forking; forking.serve(sys.argv[1], sys.argv[2])"
)
MODULES = {
    "full": (
        *("pytest", "simile.cli.main", "simile.service.app", "simile.search.searcher", "simile.dedup.detection.job"),
        *("simile.explore.map.process", "simile.indexer.pipeline.job_process", "simile.indexer.training.train"),
        "simile.indexer.maintenance.rebuild",
        *("sklearn.datasets", "alembic.command"),
        "torch._dynamo",  # an optimiser imports it: 2 s
    ),
    "decoding": (
        "simile.images.loading.sandbox",
        "simile.images.matching.tasks",
        "simile.images.privacy.strip",
        "simile.images.rendering.sheets",
    ),
}
MAX_REQUEST_BYTES = 200_000
PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
UNSUPPORTED_OPTIONS = ("executable", "preexec_fn", "shell", "gid", "gids", "uid", "process_group")
INHERITED_VARIABLES = {"PYTHONPATH", "PYTHONIOENCODING"}  # variables that a forked process reads, too
WARNINGS = ["-W", "error"]
STARTUP_VARIABLES = {"PYTHONWARNINGS", "PYTHONUTF8", "PYTHONHASHSEED"}
RealPopen = subprocess.Popen


class Popen(RealPopen):
    """A process that is forked if possible, and started normally otherwise."""

    _channel: socket.socket | None = None

    def _execute_child(self, *given: Any) -> None:
        names = inspect.signature(RealPopen._execute_child).bind(self, *given).arguments
        args, pipes = names["args"], [names[name] for name in PIPES]
        arguments = [os.fsdecode(argument) for argument in args] if isinstance(args, list | tuple) else []
        env = dict(os.environ if names["env"] is None else names["env"])
        kind = _server_for(arguments, env)
        if kind is None or any(names[name] not in (None, False, -1) for name in UNSUPPORTED_OPTIONS):
            super()._execute_child(*given)
            return
        streams = [own if pipes[at] == -1 else pipes[at] for own, at in enumerate((0, 3, 5))]
        passed = [int(file) for file in names["pass_fds"]]
        request = {
            "arguments": arguments,
            "env": env,
            "cwd": str(names["cwd"] or Path.cwd()),
            "targets": [0, 1, 2, *passed],
            "session": names["start_new_session"],
        }
        self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.connect(_address(os.environ[SERVERS], kind))
        socket.send_fds(self._channel, [json.dumps(request).encode()], [*streams, *passed])
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

    def __del__(self, *given: Any) -> None:
        if self._channel is not None:  # asyncio waits for a child of its own, not for this object
            self._channel.close()
        super().__del__(*given)

    def _collect(self) -> None:
        with self._waitpid_lock:
            if self.returncode is None and self._channel is not None:
                self.returncode = int(self._channel.recv(16))
                self._channel.close()


def _server_for(arguments: list[str], env: dict[str, str]) -> str | None:
    """Return the name of the server that can fork this command; None if it needs a new interpreter."""
    if SERVERS not in os.environ:
        return None
    for name in {name for name in (*env, *os.environ) if name.startswith("PYTHON") and name not in INHERITED_VARIABLES}:
        if name in STARTUP_VARIABLES or env.get(name) != os.environ.get(name):
            return None  # only a new interpreter reads it
    if arguments[:1] == [SIMILE]:
        return "full"
    program, rest = _split_warnings(arguments)
    if len(rest) < 1 or program != sys.executable:
        return None
    if rest[0] == "-c":
        return "decoding" if "images.loading.fork_server" in rest[1] else "full"
    return "full" if rest[0].endswith(".py") or rest[0] == "-m" else None


def _split_warnings(arguments: list[str]) -> tuple[str, list[str]]:
    """Return the program, and its arguments without -W error."""
    program, *rest = arguments or [""]
    return program, rest[2:] if rest[:2] == WARNINGS else rest


def _address(name: str, kind: str) -> str:
    return f"\0{name}-{kind}"


@contextmanager
def servers() -> Iterator[None]:
    """Run both servers for the processes that are started inside; they end with this process at the latest."""
    os.environ[SERVERS] = f"simile-tests-{uuid.uuid4().hex}"
    path = [str(ROOT / "src"), str(ROOT), *sys.path]
    command = [sys.executable, "-c", SERVER_CODE.format(path=path), os.environ[SERVERS]]
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
    """Run a server: fork a process for each connection and report its exit code; end when stdin is closed."""
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
        request, files, *_ = socket.recv_fds(channel, MAX_REQUEST_BYTES, 16)
        pid = os.fork()
        if pid == 0:
            _run_child(json.loads(request), files)
        with suppress(OSError):  # the client is gone
            channel.sendall(str(pid).encode())
        for file in files:
            os.close(file)
        children[os.pidfd_open(pid)] = pid, channel


def _import(kind: str) -> None:
    if all(name in sys.modules for name in MODULES[kind]):
        return
    # scikit-learn imports pandas where it is installed, and pandas loads Arrow, which starts a thread. Later
    # scikit-learn takes any entry of sys.modules for the module, so the processes must not inherit None.
    sys.modules["pandas"] = None  # type: ignore[assignment]
    for name in MODULES[kind]:
        importlib.import_module(name)
    del sys.modules["pandas"]
    threads = [path.joinpath("comm").read_text() for path in Path("/proc/self/task").iterdir()]
    assert len(threads) == 1, f"a process with threads can't be forked safely: {threads}"
    gc.collect()
    gc.freeze()


def _run_child(request: dict[str, Any], files: list[int]) -> NoReturn:
    """Run a forked child. It ends like an interpreter, but does not free its memory, which takes time."""
    code: Any = 0
    try:
        _run_request(request, files)
    except SystemExit as error:
        code = error.code
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException as error:  # noqa: BLE001  # as the interpreter does
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _run_request(request: dict[str, Any], files: list[int]) -> None:
    """Set up the child and run the code as a new interpreter with these arguments does."""
    targets = request["targets"]
    for target, file in zip(targets, [fcntl(file, F_DUPFD, 500) for file in files], strict=True):
        os.dup2(file, target)
    for number in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if number not in targets:
            with suppress(OSError):
                os.close(number)
    if request["session"]:
        os.setsid()
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    subprocess.Popen = Popen
    postgresql.use_server_of_run()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.path[:0] = [path for path in os.environ.get("PYTHONPATH", "").split(":") if path]
    if encoding := os.environ.get("PYTHONIOENCODING"):
        sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding=encoding, errors="backslashreplace", closefd=False)  # noqa: SIM115
    program, arguments = _split_warnings(request["arguments"])
    if len(arguments) + 1 < len(request["arguments"]):
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
