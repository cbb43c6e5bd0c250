"""Nodes of a Ray cluster on this machine, each a tree of processes of its own, as on a host of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.forking import RealPopen
from tests.support.servers.postgresql import find_free_port
from tests.support.waiting import wait_until

OBJECT_STORE_BYTES = 80 << 20


class RayCluster:
    """A cluster. `address` is for --ray; `environment` for all processes that use it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.address = folder, f"127.0.0.1:{find_free_port()}"
        token = secrets.token_hex(32)
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_USAGE_STATS_ENABLED": "0"}
        self._nodes: list[subprocess.Popen[bytes]] = []

    def add_node(self, cores: int = 1) -> int:
        """Start a node and return its number; the first one is the head."""
        number = len(self._nodes)
        head = ["--head", "--port", self.address.split(":")[1], "--include-dashboard=false"]
        joining = ["--address", self.address]
        options = ["--node-ip-address", f"127.0.0.{number + 1}", "--num-cpus", str(cores), "--block"]
        options += ["--object-store-memory", str(OBJECT_STORE_BYTES), *([] if number else ["--temp-dir", self.folder])]
        log = self.folder / f"node-{number}.log"
        with log.open("wb") as file:
            node = RealPopen(
                [Path(sys.executable).with_name("ray"), "start", *(joining if number else head), *options],
                stdout=file,
                stderr=file,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )
        self._nodes.append(node)
        wait_until(lambda: b"Ray runtime started" in log.read_bytes() or node.poll() is not None, 120)
        assert node.poll() is None, log.read_text()
        return number

    def kill_node(self, number: int) -> None:
        """End all processes of a node with -9, as the loss of its host does."""
        node = self._nodes[number]
        for pid in find_descendants(node.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node.wait()

    def close(self) -> None:
        """End all nodes."""
        for number, node in enumerate(self._nodes):
            if node.poll() is None:
                self.kill_node(number)


def find_descendants(pid: int) -> list[int]:
    """Return the process and all that it started, directly or not."""
    pids = [pid]
    for parent in pids:
        with suppress(OSError):
            for children in Path(f"/proc/{parent}/task").glob("*/children"):
                pids += map(int, children.read_text().split())
    return pids


@contextmanager
def ray_cluster() -> Iterator[RayCluster]:
    """A cluster without nodes."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: it becomes a part of the names of sockets
    cluster = RayCluster(folder)
    try:
        yield cluster
    finally:
        cluster.close()
        shutil.rmtree(folder, ignore_errors=True)
