"""Clients that upload ready-made bodies as fast as they are answered; what they saw goes to OUTPUT as JSON.

    python -m benchmarks.service.load_clients PORT BODIES CLIENTS SECONDS PATH OUTPUT

BODIES is a file of pickled bytes: whole forms with one picture each, all with the boundary `simile`. Each client has a
connection of its own, sends the next body when it has been answered, and waits as long as a Retry-After says.
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

BOUNDARY = b"simile"


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, crowd: Crowd) -> None:
        self.crowd = crowd
        self.buffer = bytearray()
        self.expected = -1
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.crowd.open += 1
        self.send()

    def send(self) -> None:
        if time.perf_counter() >= self.crowd.until or self.transport.is_closing():
            return self.transport.close()
        self.started = time.perf_counter()
        return self.transport.write(self.crowd.next_request())

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.expected < 0:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self.head = bytes(self.buffer[:end]).lower()
            self.expected = end + 4 + int(self.field(b"content-length") or 0)
        if len(self.buffer) >= self.expected:
            self.answered()

    def answered(self) -> None:
        status, pause = int(self.head[9:12]), float(self.field(b"retry-after") or 0)
        self.crowd.note(status, time.perf_counter() - self.started)
        self.buffer.clear()
        self.expected = -1
        if pause:
            asyncio.get_running_loop().call_later(pause, self.send)
        else:
            self.send()

    def field(self, name: bytes) -> bytes | None:
        _, found, rest = self.head.partition(b"\r\n" + name + b":")
        return rest.partition(b"\r\n")[0].strip() if found else None

    def connection_lost(self, exc: Exception | None) -> None:
        self.crowd.open -= 1
        if exc is not None or self.expected >= 0:
            self.crowd.lost += 1
        self.crowd.replace()


class Crowd:
    """So many clients for so many seconds."""

    def __init__(self, port: int, bodies: list[bytes], clients: int, seconds: float, path: str) -> None:
        self.port, self.clients = port, clients
        self.until = time.perf_counter() + seconds
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=simile\r\n"
        self.requests = [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]
        self.sent = self.open = self.lost = 0
        self.times: dict[int, list[float]] = {}

    def next_request(self) -> bytes:
        self.sent += 1
        return self.requests[self.sent % len(self.requests)]

    def note(self, status: int, seconds: float) -> None:
        self.times.setdefault(status, []).append(seconds)

    def replace(self) -> None:
        """A connection that the server ended is followed by another."""
        if time.perf_counter() < self.until:
            asyncio.get_running_loop().call_later(0.2, lambda: asyncio.ensure_future(self.connect()))

    async def connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: Client(self), "127.0.0.1", self.port)
        except OSError:
            self.lost += 1
            self.replace()

    async def run(self) -> None:
        for _ in range(self.clients):
            await self.connect()
        while self.open or time.perf_counter() < self.until:
            await asyncio.sleep(0.05)
            if time.perf_counter() > self.until + 60:
                break


def main() -> None:
    port, bodies, clients, seconds, path, output = sys.argv[1:]
    loaded = pickle.loads(Path(bodies).read_bytes())  # made a moment ago by load.py
    crowd = Crowd(int(port), loaded, int(clients), float(seconds), path)
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    uvloop.run(crowd.run())
    after, wall = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - began
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    # Not to stdout: uvloop leaves a pipe unblocked, and a long line is cut off in it.
    seen = {"load": busy / wall, "seconds": float(seconds), "lost": crowd.lost, "times": crowd.times}
    Path(output).write_text(json.dumps(seen), encoding="utf-8")


if __name__ == "__main__":
    main()
