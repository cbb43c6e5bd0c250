"""Several server processes of one home: `simile serve --workers 2`, as a person starts it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from simile.core.settings import Settings
from tests.support.images import noise
from tests.support.server import FORM, form
from tests.support.waiting import free_port, wait_until

SIMILE = str(Path(sys.executable).with_name("simile"))


@dataclass
class Served:
    """`simile serve`, and a connection to each of its workers by the letters that their ids begin with.

    The service closes a connection that is idle for IDLE_SECONDS: a test calls `connect` before it uses them.
    """

    process: subprocess.Popen[str]
    port: int
    metrics_port: int
    log: Path
    connections: dict[str, HTTPConnection] = field(default_factory=dict)

    def connect(self, workers: int, seconds: float = 90) -> None:
        """Opens connections until it has an open one to each worker."""
        until = time.monotonic() + seconds
        while self._open() < workers:
            assert time.monotonic() < until and self.process.poll() is None, self.log.read_text()
            connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
            try:
                status, worker = ask(connection, "GET", "/readyz")[:2]
            except OSError:
                status, worker = 0, ""
            if status != 200:
                connection.close()
            else:  # the newer one lives longer: a server closes what is idle
                if worker in self.connections:
                    self.connections[worker].close()
                self.connections[worker] = connection
            if len(self.connections) < workers:
                time.sleep(0.1)  # leaves the cores to the workers that start

    def _open(self) -> int:
        """Uses each connection once, forgets those that the service has closed, and counts the others."""
        for worker, connection in list(self.connections.items()):
            try:
                ask(connection, "GET", "/livez")
            except OSError:
                self.connections.pop(worker).close()
        return len(self.connections)

    def disconnect(self) -> None:
        for connection in self.connections.values():
            connection.close()
        self.connections.clear()

    def kill(self) -> None:
        self.disconnect()
        self.process.kill()
        self.process.wait()

    def pids(self) -> set[int]:
        """The workers, as the system knows them."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        named: dict[int, bytes] = {}
        for pid in children:
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                named[int(pid)] = Path(f"/proc/{pid}/cmdline").read_bytes()
        return {pid for pid, line in named.items() if b"spawn_main" in line}


def ask(connection: HTTPConnection, method: str, path: str, data: bytes | None = None) -> tuple[int, str, Any]:
    """Status, the letters of the worker that answered, and the answer."""
    body = None if data is None else form(data)
    headers = {} if data is None else {"Content-Type": FORM}
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    return response.status, response.headers["x-request-id"].split("-")[0], json.loads(response.read() or b"null")


def complete_lines(log: Path) -> str:
    """The log without a last line that is still being written."""
    return log.read_text().rpartition("\n")[0]


def start(home: Path, log: Path, *arguments: str, **environment: str) -> Served:
    port, metrics_port = free_port(), free_port()
    command = [SIMILE, "serve", "--home", home, "--port", port, "--metrics-port", metrics_port, *arguments]
    with log.open("w") as out:
        process = subprocess.Popen(
            list(map(str, command)), stderr=out, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}
        )
    return Served(process, port, metrics_port, log)


@pytest.fixture(scope="module")
def served(_trained: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Two workers that all tests of this file share; they log JSON."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(_trained[0], folder / "home")
    served = start(folder / "home", folder / "log", "--workers", "2", SIMILE_LOG="json")
    try:
        served.connect(2)
        yield served
    finally:
        served.kill()


def test_what_one_worker_stores_the_other_finds_at_once(served: Served) -> None:
    served.connect(2)
    item, other = served.connections.values()
    for seed in range(100, 104):
        data = noise(seed)
        status, first, added = ask(item, "POST", "/v1/images", data)
        assert status == 201
        status, second, found = ask(other, "POST", "/v1/search?limit=1", data)
        assert status == 200 and first != second
        assert found["hits"][0]["image_id"] == added["image_id"] and found["hits"][0]["distance"] < 1e-3
        assert ask(other, "DELETE", f"/v1/images/{added['image_id']}")[0] == 204
        assert ask(item, "POST", "/v1/search?limit=1", data)[2]["hits"][0]["image_id"] != added["image_id"]


def test_the_figures_of_all_workers_are_added_up_at_an_address_of_their_own(served: Served) -> None:
    def counted() -> float:
        with closing(HTTPConnection("127.0.0.1", served.metrics_port, timeout=30)) as metrics:
            metrics.request("GET", "/metrics")
            lines = metrics.getresponse().read().decode().splitlines()
        name = 'simile_requests_total{method="GET",route="/v1/images/{image_id}",status="200"}'
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    served.connect(2)
    before = counted()
    for connection in served.connections.values():
        assert ask(connection, "GET", "/v1/images/7")[0] == 200
    wait_until(lambda: counted() == before + 2)  # a request is counted when its response has been sent


def test_a_worker_that_dies_is_replaced_and_the_other_goes_on(served: Served) -> None:
    before = served.pids()
    assert len(before) == 2
    os.kill(min(before), signal.SIGKILL)
    wait_until(lambda: len(served.pids()) == 2 and served.pids() != before)
    served.disconnect()
    served.connect(2)
    assert "a new one is started" in served.log.read_text()


def test_every_line_of_the_log_is_an_object_that_names_its_request(served: Served) -> None:
    with closing(HTTPConnection("127.0.0.1", served.port, timeout=30)) as connection:
        headers = {"X-Request-Id": "mine-7", "X-API-Key": "secret"}
        connection.request("GET", "/v1/images/7?token=secret", headers=headers)
        response = connection.getresponse()
        response.read()
    assert response.headers["x-request-id"] == "mine-7"
    wait_until(lambda: '"mine-7"' in complete_lines(served.log))  # a line is written when the response has been sent
    text = complete_lines(served.log)
    greeting = ("simile is running", "Without keys it is open")  # for the person who starts it
    lines = [json.loads(line) for line in text.splitlines() if not line.startswith(greeting)]
    (mine,) = [line for line in lines if line.get("id") == "mine-7"]
    assert (mine["method"], mine["route"], mine["status"]) == ("GET", "/v1/images/{image_id}", 200)
    assert mine["ms"] > 0 and mine["bytes_out"] > 100 and mine["key"] is None
    assert "secret" not in text


def test_connections_that_were_closed_meanwhile_are_opened_anew(served: Served) -> None:
    served.connect(2)
    for connection in served.connections.values():
        assert connection.sock is not None
        connection.sock.shutdown(socket.SHUT_RDWR)  # as if the service had closed it
    served.connect(2)
    assert [ask(item, "GET", "/livez")[0] for item in served.connections.values()] == [200, 200]


def test_sigterm_ends_all_workers_and_the_command_says_it_went_well(served: Served) -> None:
    workers = served.pids()
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(timeout=60) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert "Traceback" not in served.log.read_text()


def test_workers_do_not_outlive_a_supervisor_that_is_killed(home_with_digits: Settings, tmp_path: Path) -> None:
    served = start(home_with_digits.home, tmp_path / "log", "--workers", "2")
    wait_until(lambda: len(served.pids()) == 2)
    workers = served.pids()
    served.kill()
    wait_until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in workers), 90)


def test_workers_that_can_t_start_end_the_command(tmp_path: Path) -> None:
    taken = free_port()
    with socket.create_server(("127.0.0.1", taken)):
        done = subprocess.run(
            [SIMILE, "serve", "--home", tmp_path / "home", "--port", str(free_port()), "--metrics-port", str(taken)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 1 and "SIMILE_METRICS_PORT" in done.stderr
