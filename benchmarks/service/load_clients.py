"""Clients that upload prepared bodies as fast as they get answers; the results go to OUTPUT as JSON.

    python -m benchmarks.service.load_clients PORT BODIES CLIENTS SECONDS PATH OUTPUT

BODIES is a pickled list of bytes: complete forms with one image each and the boundary `simile`. Each client has its own
connection, sends the next body after each answer, and waits for the time of a Retry-After header.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import resource
import sys
import time
from pathlib import Path
from typing import Any

import uvloop


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, crowd: Crowd) -> None:
        self.crowd = crowd
        self.buffer = bytearray()
        self.expected = -1
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self.transport = transport
        self.crowd.open += 1
        self.send()

    def send(self) -> None:
        """Send the next request, or close the connection after the end of the run."""
        if time.perf_counter() >= self.crowd.until or self.transport.is_closing():
            return self.transport.close()
        self.started = time.perf_counter()
        return self.transport.write(self.crowd.next_request())

    def data_received(self, data: bytes) -> None:
        """Collect an answer by its Content-Length."""
        self.buffer += data
        if self.expected < 0:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self.head = bytes(self.buffer[:end]).lower()
            self.expected = end + 4 + int(self.get_header(b"content-length") or 0)
        if len(self.buffer) >= self.expected:
            self.finish_answer()

    def finish_answer(self) -> None:
        """Record the answer, and send the next request now or after Retry-After."""
        status, pause = int(self.head[9:12]), float(self.get_header(b"retry-after") or 0)
        self.crowd.record(status, time.perf_counter() - self.started)
        self.buffer.clear()
        self.expected = -1
        if pause:
            asyncio.get_running_loop().call_later(pause, self.send)
        else:
            self.send()

    def get_header(self, name: bytes) -> bytes | None:
        """Return a header of the answer."""
        _, found, rest = self.head.partition(b"\r\n" + name + b":")
        return rest.partition(b"\r\n")[0].strip() if found else None

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a lost connection, and open another one."""
        self.crowd.open -= 1
        if exc is not None or self.expected >= 0:
            self.crowd.lost += 1
        self.crowd.replace()


class Crowd:
    """A number of clients for a number of seconds."""

    def __init__(self, port: int, bodies: list[bytes], clients: int, seconds: float, path: str) -> None:
        self.port, self.clients = port, clients
        self.until = time.perf_counter() + seconds
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=simile\r\n"
        self.requests = [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]
        self.sent = self.open = self.lost = 0
        self.times: dict[int, list[float]] = {}

    def next_request(self) -> bytes:
        """Return the next request; the bodies take turns."""
        self.sent += 1
        return self.requests[self.sent % len(self.requests)]

    def record(self, status: int, seconds: float) -> None:
        """Record an answer."""
        self.times.setdefault(status, []).append(seconds)

    def replace(self) -> None:
        """Open another connection after the server closed one."""
        if time.perf_counter() < self.until:
            asyncio.get_running_loop().call_later(0.2, lambda: asyncio.ensure_future(self.connect()))

    async def connect(self) -> None:
        """Open a connection."""
        try:
            await asyncio.get_running_loop().create_connection(lambda: Client(self), "127.0.0.1", self.port)
        except OSError:
            self.lost += 1
            self.replace()

    async def run(self) -> None:
        """Run all clients, and wait at most a minute for the last answers."""
        for _ in range(self.clients):
            await self.connect()
        while self.open or time.perf_counter() < self.until:
            await asyncio.sleep(0.05)
            if time.perf_counter() > self.until + 60:
                break


def main() -> None:
    """Run the clients and write their results."""
    port, bodies, clients, seconds, path, output = sys.argv[1:]
    loaded = pickle.loads(Path(bodies).read_bytes())  # written by load.py
    crowd = Crowd(int(port), loaded, int(clients), float(seconds), path)
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    uvloop.run(crowd.run())
    after, wall = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - started
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    # A file, not stdout: uvloop makes a pipe non-blocking, which truncates a long line.
    results = {"load": busy / wall, "seconds": float(seconds), "lost": crowd.lost, "times": crowd.times}
    Path(output).write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
