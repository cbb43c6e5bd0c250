"""Listening: one server process, and how it ends.

A server that is told to stop turns new pictures away first (503, and /readyz says so), answers what it took in, and
only then closes its socket. Each step has a bound, so that whoever stops it need not kill it.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI

from simile.core.errors import BadSetting
from simile.core.hosts import is_loopback
from simile.core.settings import Settings
from simile.service.app import create_app
from simile.service.observability.metrics import serve_metrics
from simile.service.server.connections import HEADER_SECONDS, ConnectionLimits, GuardedConnection
from simile.store.catalogue.catalogue import Catalogue
from simile.store.database.engine import catalogue_exists
from simile.store.home import Home

DRAIN_SECONDS = 20.0  # for what was taken in to be answered
CLOSE_SECONDS = 5  # for connections to end
KEEP_ALIVE_SECONDS = 15  # of a connection between two requests


class DrainingServer(uvicorn.Server):
    """A server that drains before it closes."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self.app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.app.state.drain()
        until = time.monotonic() + DRAIN_SECONDS
        while self.app.state.upload_limiter.inside and time.monotonic() < until and not self.force_exit:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)
        if self.force_exit:  # uvicorn then leaves out what ends the app's threads, which the interpreter waits for
            await self.lifespan.shutdown()


def make_server(settings: Settings, *, preload: bool = True, header_seconds: float = HEADER_SECONDS) -> DrainingServer:
    """A server of the home, not yet listening. `prepared`: see create_app."""
    app = create_app(settings, preload=preload)
    guard = ConnectionLimits(settings.connections, settings.answer_seconds, header_seconds)
    connections: Any = partial(GuardedConnection, limits=guard)  # called as the class is
    config = uvicorn.Config(
        app,
        http=connections,
        loop="uvloop",
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=CLOSE_SECONDS,
        proxy_headers=False,  # uvicorn would believe anyone on this machine; service/access.py asks the settings
        server_header=False,
        access_log=False,  # service/request_logs.py writes it
        log_config=None,
        log_level="warning",
    )
    return DrainingServer(config, app)


def serve(settings: Settings, listener: socket.socket) -> None:
    """Serves until SIGTERM or Ctrl-C, and returns when everything that was taken in is answered."""
    server = make_server(settings)
    registry = server.app.state.metrics.registry
    with listener, serve_metrics(settings, registry), suppress_final_signal():
        server.run(sockets=[listener])


@contextmanager
def suppress_final_signal() -> Iterator[None]:
    """A server sends itself the signal that ended it once more: here it ends a block, not the process."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def check_binding(settings: Settings) -> None:
    """Raises BadSetting for an address that others can reach, in front of a home that has no keys."""
    if is_loopback(settings.host) or settings.insecure or _has_keys(settings):
        return
    raise BadSetting(
        f"On {settings.host} others can reach the service, and {settings.home} has no keys. Make one: "
        "`simile keys create NAME --scope write`; or listen on 127.0.0.1. "
        "--insecure (SIMILE_INSECURE=1) serves without keys to everybody."
    )


def _has_keys(settings: Settings) -> bool:
    home = Home(settings.home, settings.database_url)
    if not catalogue_exists(home):
        return False
    with Catalogue(home) as catalogue:
        return catalogue.keys.has_any()
