"""Run the service with a monitor of its event loop.

    python -m tests.attacks.monitored_service PORT PAUSES

Each pause of the loop over 20 ms is a line of the file PAUSES: the time, the seconds, and the seconds of CPU time that
the loop's thread used meanwhile. The second number shows work in the loop; the first one also counts the time in which
the system ran other processes. The settings come from the environment.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from pathlib import Path
from typing import Any

from simile.core.settings import load_settings
from simile.service.server.server import DrainingServer, serve

INTERVAL_SECONDS = 0.005
MIN_PAUSE_SECONDS = 0.02


async def write_pauses(path: Path) -> None:
    """Write the pauses of the running loop to a file."""
    with path.open("w", buffering=1) as file:
        wall, cpu = time.monotonic(), time.thread_time()
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            pause, used = time.monotonic() - wall, time.thread_time() - cpu
            if pause > MIN_PAUSE_SECONDS:
                file.write(f"{time.time()} {pause:.4f} {used:.4f}\n")
            wall, cpu = wall + pause, cpu + used


def read_pauses(path: Path, since: float) -> tuple[float, float]:
    """Return the longest pause after a time, and the longest one in CPU time, in seconds."""
    lines = [tuple(map(float, line.split())) for line in path.read_text().splitlines()]
    recent = [line for line in lines if line[0] >= since]
    return max((line[1] for line in recent), default=0.0), max((line[2] for line in recent), default=0.0)


def main() -> None:
    """Serve until SIGTERM."""
    port, path = int(sys.argv[1]), Path(sys.argv[2])
    start = DrainingServer.startup
    tasks: list[asyncio.Task[None]] = []

    async def start_monitored(self: DrainingServer, *arguments: Any, **options: Any) -> None:
        tasks.append(asyncio.create_task(write_pauses(path)))
        await start(self, *arguments, **options)

    DrainingServer.startup = start_monitored  # type: ignore[method-assign]
    serve(load_settings(port=port), socket.create_server(("127.0.0.1", port)))


if __name__ == "__main__":
    main()
