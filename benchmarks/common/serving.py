"""A server started as a user starts it, and requests to it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from benchmarks.common.runs import SIMILE, simile

BOUNDARY = "simile"
READY_SECONDS = 120  # a new process imports torch, and starts a runtime


def find_free_port() -> int:
    """Return a port of this machine that no process uses now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def make_form(data: bytes, name: str = "query.jpg") -> bytes:
    """Return a multipart body with one image."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    return head.encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()


def send(connection: HTTPConnection, method: str, path: str, data: bytes | None = None) -> tuple[int, str, Any]:
    """Send a request, with an image as a form if `data` is given.

    Returns:
        Status; the prefix of the request id, which identifies the worker process; and the body, parsed if it is JSON.
    """
    headers = {} if data is None else {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    connection.request(method, path, None if data is None else make_form(data), headers)
    response = connection.getresponse()
    body = response.read()
    is_json = body and "json" in response.headers.get("content-type", "")
    worker = response.headers.get("x-request-id", "").split("-")[0]
    return response.status, worker, json.loads(body) if is_json else body


def fetch_json(address: str) -> Any:
    """Return the parsed answer to a GET request."""
    with urllib.request.urlopen(address, timeout=600) as response:
        return json.load(response)


def make_serve_command(home: Path, port: int, *options: object) -> list[object]:
    """Return the command line of `simile serve`."""
    return [SIMILE, "serve", "--home", home, "--port", port, *options]


@contextmanager
def start_process(
    command: Sequence[object], environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in its own process group, its output appended to `log`; terminate it at the end."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            list(map(str, command)), stderr=file, stdout=file, env={**os.environ, **environment}, start_new_session=True
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(port: int, process: subprocess.Popen[bytes], log: Path, path: str = "/readyz") -> None:
    """Return when the server answers with 200.

    Raises:
        SystemExit: The process ended, or there was no answer in time; the message has the log.
    """
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            if send(connection, "GET", path)[0] == 200:
                return
        except (OSError, HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.1)
    raise SystemExit(f"the server does not answer on port {port}:\n{log.read_text()}")


@contextmanager
def serve(
    home: Path, log: Path, *options: object, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Run `simile serve` on a free port; yield port and process when it is ready."""
    port = find_free_port()
    with start_process(make_serve_command(home, port, *options), environment or {}, log) as process:
        wait_until_ready(port, process, log)
        yield port, process


@contextmanager
def serve_address(home: Path) -> Iterator[str]:
    """Run `simile serve`; yield its address. The log is a file beside the home."""
    with serve(home, home.with_name("service.log")) as (port, _):
        yield f"http://127.0.0.1:{port}"


def copy_home(source: Path | None, target: Path) -> Path:
    """Copy a home, so that the benchmark can change it; without a source make one of handwritten digits."""
    if source is not None:
        shutil.copytree(source, target)
    else:
        simile("demo", "--no-serve", "--minutes", "0.3", home=target)
    return target
