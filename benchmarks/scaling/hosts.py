"""Two hosts in network namespaces with disks of their own, one PostgreSQL, one object store, HAProxy before them.

    python -m benchmarks.scaling.hosts [--uploads 1000] [--clients 16]      # as root; needs ip, haproxy and moto

1. Each upload at one host must be the first hit of the next search at the other host.
2. Searches of several clients go through HAProxy while one host is killed with -9: the share of answers that failed.
3. Two `simile index` at once: the second must name the first.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import numpy as np
from moto.server import ThreadedMotoServer

from benchmarks.common.runs import SIMILE, make_parser, open_work_folder
from benchmarks.common.serving import send, start_process
from benchmarks.scaling.failover import make_image, write_images
from tests.support.servers.postgresql import Postgres, running_server

BRIDGE, GATEWAY = "br-simile", "10.77.0.1"
ADDRESSES = ("10.77.0.11", "10.77.0.12")
PORT, BALANCER_PORT = 8000, 8077
SECONDS_BEFORE_KILL, SECONDS_AFTER_KILL = 10, 20


def main() -> None:
    """Parse the options, start everything, and run the three parts."""
    parser = make_parser(__doc__, work=True)
    parser.add_argument("--uploads", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random = np.random.default_rng(options.seed)
    with ExitStack() as stack:
        work = stack.enter_context(open_work_folder(options.work))
        stack.enter_context(open_namespaces())
        configuration = f"listen_addresses = '127.0.0.1,{GATEWAY}'"
        server = stack.enter_context(running_server(configuration))
        with (server.folder / "pg_hba.conf").open("a") as file:
            file.write("host all all 10.77.0.0/24 trust\n")
        server.execute("SELECT pg_reload_conf()")
        server.execute("CREATE DATABASE catalogue")
        logging.getLogger("werkzeug").setLevel(logging.WARNING)
        objects = ThreadedMotoServer(ip_address=GATEWAY, port=0, verbose=False)
        objects.start()
        stack.callback(objects.stop)
        endpoint = f"http://{GATEWAY}:{objects.get_host_and_port()[1]}"
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/simile", method="PUT")).close()
        environment = {
            "SIMILE_DATABASE_URL": f"postgresql+psycopg://postgres@{GATEWAY}:{server.port}/catalogue",
            "SIMILE_OBJECTS": "s3://simile/home",
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "SIMILE_WORKERS": "1",
            "SIMILE_ALLOWED_HOSTS": ",".join(["localhost", GATEWAY, *ADDRESSES]),
        }
        write_images(work / "first", 64, random)
        with start_process(run_on_host(0, work, "index", work / "first"), environment, work / "index.log") as process:
            assert process.wait(300) == 0, (work / "index.log").read_text()
        hosts = []
        for host, address in enumerate(ADDRESSES):
            command = run_on_host(host, work, "serve", "--host", address, "--port", PORT, "--insecure")
            hosts.append(stack.enter_context(start_process(command, environment, work / f"host-{host}.log")))
        for address in ADDRESSES:
            wait_until_ready(address)
        measure_uploads(options.uploads, random)
        print_second_index(work, server, environment, random)
        measure_kill(stack, work, hosts[1], options.clients, random)


@contextmanager
def open_namespaces() -> Iterator[None]:
    """Make two network namespaces on one bridge, on which this process is 10.77.0.1."""
    names = [f"simile{number}" for number in range(len(ADDRESSES))]
    commands = [f"link add {BRIDGE} type bridge", f"addr add {GATEWAY}/24 dev {BRIDGE}", f"link set {BRIDGE} up"]
    for name, address in zip(names, ADDRESSES, strict=True):
        commands += [
            f"netns add {name}",
            f"link add v-{name} type veth peer name eth0 netns {name}",
            f"link set v-{name} master {BRIDGE} up",
            f"-n {name} addr add {address}/24 dev eth0",
            f"-n {name} link set eth0 up",
            f"-n {name} link set lo up",
        ]
    try:
        for command in commands:
            subprocess.run(["ip", *command.split()], check=True)
        yield
    finally:
        for command in [f"netns del {name}" for name in names] + [f"link del {BRIDGE}"]:
            subprocess.run(["ip", *command.split()], check=False)


def run_on_host(host: int, work: Path, *arguments: object) -> list[object]:
    """Return the command line of simile on a host: it sees an empty disk in place of the other host's home."""
    homes = [work / f"home-{number}" for number in range(len(ADDRESSES))]
    for home in homes:
        home.mkdir(exist_ok=True)
    hidden = f'mount -t tmpfs none {homes[1 - host]}; exec "$@"'
    command = [SIMILE, arguments[0], "--home", homes[host], *arguments[1:]]
    return ["ip", "netns", "exec", f"simile{host}", "unshare", "-m", "sh", "-c", hidden, "sh", *command]


def wait_until_ready(address: str, port: int = PORT) -> None:
    """Return when /readyz answers with 200."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        try:
            if send(HTTPConnection(address, port, timeout=5), "GET", "/readyz")[0] == 200:
                return
        except (OSError, HTTPException):
            pass
        time.sleep(0.2)
    raise SystemExit(f"{address}:{port} is not ready.")


def measure_uploads(count: int, random: np.random.Generator) -> None:
    """Upload at the hosts in turn, and search for the image at the other one."""
    connections = [HTTPConnection(address, PORT, timeout=60) for address in ADDRESSES]
    found = 0
    for number in range(count):
        here, there = connections[number % 2], connections[1 - number % 2]
        data = make_image(random)
        status, _, body = send(here, "POST", "/v1/images", data)
        assert status == 201, body
        status, _, result = send(there, "POST", "/v1/search", data)
        found += status == 200 and result["hits"][0]["image_id"] == body["image_id"]
    print(f"{count:,} uploads: {found:,} were the first hit of the next search at the other host", flush=True)


def print_second_index(work: Path, server: Postgres, environment: dict[str, str], random: np.random.Generator) -> None:
    """Index at both hosts at once, and print the answer to the second."""
    write_images(work / "many", 3000, random)
    lock = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"
    with start_process(run_on_host(0, work, "index", work / "many"), environment, work / "index-0.log") as first:
        while not server.execute(lock, "catalogue"):
            time.sleep(0.02)
        second = subprocess.run(
            list(map(str, run_on_host(1, work, "index", work / "first"))),
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert first.wait(600) == 0
    print(f"second `simile index`: exit code {second.returncode}, {second.stderr.strip()}", flush=True)


def measure_kill(
    stack: ExitStack, work: Path, victim: subprocess.Popen[bytes], clients: int, random: np.random.Generator
) -> None:
    """Search through HAProxy, kill one host, and print the share of answers that failed."""
    text = (Path(__file__).parents[2] / "deploy" / "haproxy.cfg").read_text()
    for name, address in zip(("simile-a", "simile-b"), ADDRESSES, strict=True):
        text = text.replace(f"{name}:8000", f"{address}:{PORT}")
    (work / "haproxy.cfg").write_text(text.replace("bind :8000", f"bind {GATEWAY}:{BALANCER_PORT}"))
    haproxy = shutil.which("haproxy") or "haproxy"
    stack.enter_context(start_process([haproxy, "-db", "-f", work / "haproxy.cfg"], {}, work / "haproxy.log"))
    wait_until_ready(GATEWAY, BALANCER_PORT)
    data, stop, counts, lock = make_image(random), threading.Event(), {"answers": 0, "failed": 0}, threading.Lock()

    def search() -> None:
        while not stop.is_set():
            try:
                connection = HTTPConnection(GATEWAY, BALANCER_PORT, timeout=30)
                is_failed = send(connection, "POST", "/v1/search", data)[0] != 200
                connection.close()
            except (OSError, HTTPException):
                is_failed = True
            with lock:
                counts["answers"] += 1
                counts["failed"] += is_failed

    threads = [threading.Thread(target=search) for _ in range(clients)]
    for thread in threads:
        thread.start()
    time.sleep(SECONDS_BEFORE_KILL)
    subprocess.run(["pkill", "-9", "-s", str(victim.pid)], check=True)  # the service and its helpers
    time.sleep(SECONDS_AFTER_KILL)
    stop.set()
    for thread in threads:
        thread.join()
    share = counts["failed"] / counts["answers"]
    print(f"one host killed under {clients} clients: {counts['failed']} of {counts['answers']:,} failed, {share:.3%}")


if __name__ == "__main__":
    main()
