"""What the benchmarks of the service share: a server as a person starts it, and requests to it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from benchmarks.common.simile_runs import SIMILE

BOUNDARY = "simile"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def form(data: bytes, name: str = "query.jpg") -> bytes:
    """A multipart body with one picture."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    return head.encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()


def ask(connection: HTTPConnection, method: str, path: str, data: bytes | None = None) -> tuple[int, str, Any]:
    """Status, the letters that mark the process that answered, and the answer."""
    headers = {} if data is None else {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    connection.request(method, path, None if data is None else form(data), headers)
    response = connection.getresponse()
    body = response.read()
    kind = response.headers.get("content-type", "")
    return (
        response.status,
        response.headers.get("x-request-id", "").split("-")[0],
        json.loads(body) if body and "json" in kind else body,
    )


@contextmanager
def started(command: Sequence[object], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, killed at the end."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            list(map(str, command)), stderr=out, stdout=out, env={**os.environ, **environment}, start_new_session=True
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def serve_command(home: Path, port: int, *more: object) -> list[object]:
    return [SIMILE, "serve", "--home", home, "--port", port, *more]


def wait_until_ready(port: int, path: str = "/readyz", seconds: float = 120) -> None:
    """Returns when the server answers with 200."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            if ask(connection, "GET", path)[0] == 200:
                return
        except (OSError, HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.2)
    raise SystemExit(f"nothing answers on port {port}")
