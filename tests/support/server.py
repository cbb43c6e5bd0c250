"""A real server in a thread, and clients that misbehave on purpose."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from simile.core.settings import Settings
from simile.service.server.server import DrainingServer, make_server
from tests.support.waiting import wait_until

BOUNDARY = "simile"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


@dataclass(frozen=True)
class Listening:
    """A server and its port."""

    server: DrainingServer
    port: int
    thread: threading.Thread

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def answer(self, request: bytes) -> Reply:
        """What a connection of its own brings for these bytes."""
        with self.connect() as connection:
            connection.sendall(request)
            return read_reply(connection)


@dataclass(frozen=True)
class Reply:
    """An answer: its status, its headers by name in small letters, its body."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@contextmanager
def listening(settings: Settings, **options: Any) -> Iterator[Listening]:
    """A server of this home."""
    server = make_server(settings, preload=False, **options)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    wait_until(lambda: server.started)
    try:
        yield Listening(server, listener.getsockname()[1], thread)
    finally:
        server.should_exit = True
        thread.join(timeout=60)


def form(data: bytes, name: str = "a.png") -> bytes:
    """A multipart body with one file."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    return head.encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()


def head(path: str, length: int, *more: str, method: str = "POST") -> bytes:
    """The head of a request with a form of so many bytes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {FORM}", f"Content-Length: {length}"]
    return "\r\n".join([*lines, *more, "", ""]).encode()


def get(path: str, *more: str) -> bytes:
    """A whole request without a body."""
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *more, "", ""]).encode()


def upload(path: str, data: bytes, *more: str) -> bytes:
    """A whole request with one file."""
    body = form(data)
    return head(path, len(body), *more) + body


def read_reply(connection: socket.socket) -> Reply:
    """The next answer on a connection. Raises ConnectionError where it ends before one is complete."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(connection)
    start, _, body = data.partition(b"\r\n\r\n")
    first, *lines = start.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += _more(connection)
    return Reply(int(first.split()[1]), headers, body)


def is_closed(connection: socket.socket) -> bool:
    """Whether the server ends the connection, within the connection's time."""
    try:
        return connection.recv(1) == b""
    except (ConnectionError, TimeoutError) as error:
        return isinstance(error, ConnectionError)


def _more(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise ConnectionError("closed before an answer was complete")
    return data
