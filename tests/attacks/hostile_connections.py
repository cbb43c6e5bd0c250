"""Connections that send nothing, too much at once, or slowly."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack, suppress

from tests.attacks.target import Reply, Target, describe
from tests.support.server import form, head


def attack_with_silent_connections(target: Target) -> str:
    """Open more connections than the service keeps, and send nothing."""
    with ExitStack() as stack:
        for _ in range(600):
            with suppress(OSError):
                stack.enter_context(target.connect())
        return describe(_probe(target, 10), (200,))


def attack_by_pipelining(target: Target) -> str:
    """Send megabytes of requests on each connection without reading a response."""
    requests = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n" * (target.size // 40 + 1)
    with ExitStack() as stack:
        for _ in range(10 * target.count):
            with suppress(OSError):
                connection = stack.enter_context(target.connect())
                connection.settimeout(0.05)
                connection.sendall(requests)
        return describe(_probe(target, 10), (200,))


def attack_with_slow_uploads(target: Target) -> str:
    """Start large uploads, send most of each and stop; another upload is accepted or refused, and not a 500."""
    size = 1_500_000 if target.is_short else 49_000_000
    start = _make_head(target, size) + form(b"").partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    with ExitStack() as stack:
        for _ in range(target.count):
            with suppress(OSError):
                connection = stack.enter_context(target.connect())
                connection.sendall(start + bytes(size - 100_000))
        return describe([target.upload("/v1/search", target.image), *_probe(target, 5)], (200, 429, 503))


def attack_by_leaving(target: Target) -> str:
    """Send uploads and reset the connection at once."""
    body = form(target.image)
    start = _make_head(target, len(body))
    for _ in range(20 * target.count):
        with suppress(OSError), target.connect() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset, no orderly end
            connection.sendall(start + body)
    return describe(_probe(target, 5), (200,))


def _make_head(target: Target, length: int) -> bytes:
    """Return the head of an upload."""
    return head("/v1/search", length, f"X-API-Key: {target.key}")


def _probe(target: Target, count: int) -> list[Reply]:
    """Request /livez several times, 100 ms apart."""
    replies = []
    for _ in range(count):
        replies.append(target.request("GET", "/livez"))
        time.sleep(0.1)
    return replies


ATTACKS = (
    attack_with_silent_connections,
    attack_by_pipelining,
    attack_with_slow_uploads,
    attack_by_leaving,
)
