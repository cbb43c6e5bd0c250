"""Run one server process and shut it down.

A server that is told to stop first rejects new uploads (503, and /readyz reports it), then responds to accepted
requests, and only then closes its socket. Each step has a time limit, so that it need not be killed.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from simile.core.errors import BadSetting
from simile.core.hosts import is_loopback
from simile.core.malloc import return_freed_memory
from simile.core.settings import Settings
from simile.service.app import create_app
from simile.service.middleware.limits import UploadLimiter
from simile.service.observability.metrics import serve_metrics
from simile.service.security import scopes
from simile.service.server.connections import HEADER_SECONDS, ConnectionLimits, GuardedConnection
from simile.store.catalogue.catalogue import Catalogue
from simile.store.database.engine import catalogue_exists
from simile.store.home import Home

DRAIN_SECONDS = 20.0  # for responses to accepted requests
CLOSE_SECONDS = 5  # for connections to close
KEEP_ALIVE_SECONDS = 15  # of an idle connection between two requests


class DrainingServer(uvicorn.Server):
    """A server that responds to accepted requests before it closes."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self.app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then shut down as uvicorn does."""
        self.app.state.drain()
        limiter: UploadLimiter = self.app.state.upload_limiter
        deadline = time.monotonic() + DRAIN_SECONDS
        while limiter.active_count and time.monotonic() < deadline and not self.force_exit:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)
        if self.force_exit:  # uvicorn then skips the lifespan, which ends the app's threads
            await self.lifespan.shutdown()


def make_server(settings: Settings, *, preload: bool = True, header_seconds: float = HEADER_SECONDS) -> DrainingServer:
    """Create a server of the home that does not listen yet; `preload` as in create_app."""
    app = create_app(settings, preload=preload)
    limits = ConnectionLimits(settings.connections, settings.answer_seconds, header_seconds)
    protocol: Any = partial(GuardedConnection, limits=limits)  # uvicorn calls it like the class
    config = uvicorn.Config(
        app,
        http=protocol,
        loop="uvloop",
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=CLOSE_SECONDS,
        proxy_headers=False,  # uvicorn would trust any client on this machine; security/proxies.py uses the settings
        server_header=False,
        access_log=False,  # middleware/request_log.py writes it
        log_config=None,
        log_level="warning",
    )
    return DrainingServer(config, app)


def serve(settings: Settings, listener: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C; returns after the responses to all accepted requests."""
    return_freed_memory()
    server = make_server(settings)
    registry = server.app.state.metrics.registry
    with listener, serve_metrics(settings, registry), stop_on_sigterm(server):
        server.run(sockets=[listener])


@contextmanager
def stop_on_sigterm(server: uvicorn.Server) -> Iterator[None]:
    """Stop the server if SIGTERM arrives before uvicorn has its own handler.

    The process continues after the signal that uvicorn raises again at the end of its shutdown.
    """

    def stop(_number: int, _frame: FrameType | None) -> None:
        server.should_exit = True

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def check_binding(settings: Settings) -> None:
    """Raise BadSetting if other machines can reach the address and the home has no keys, or for a bad prefix."""
    scopes.check_root_path(settings.root_path)
    if is_loopback(settings.host) or settings.insecure or has_keys(settings):
        return
    raise BadSetting(
        f"On {settings.host} other machines can reach the service, and {settings.home} has no keys. Make one: "
        "`simile keys create NAME --scope write`; or listen on 127.0.0.1. "
        "--insecure (SIMILE_INSECURE=1) serves everyone without keys."
    )


def has_keys(settings: Settings) -> bool:
    """Return whether the home has keys; if so, write the file that shows it, which older homes lack."""
    home = Home.from_settings(settings)
    if not catalogue_exists(home):
        return home.keys_reserve.exists()
    with Catalogue(home) as catalogue:
        found = catalogue.keys.has_any()
    if found:
        home.keep_keys_reserve()
    return found
