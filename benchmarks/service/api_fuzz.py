"""schemathesis over the whole OpenAPI document of a real service: no 5xx, nothing outside the schema, no other status.

Served once for each round, on a fresh copy of the home: open on this machine, with a key of each scope, and with a key
but asked without one. `--home`: a home with some pictures indexed; made of digits if not given.

    .venv/bin/python -m benchmarks.service.api_fuzz --examples 100
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import Request, urlopen

from benchmarks.service.fuzz_hooks import PICTURES

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
LOG = 20_000  # characters of the service's log that are shown after a finding
ROUNDS = ("open", "admin", "write", "search", "no key")


def main() -> None:
    """Runs the rounds that were asked for; exit code 1 if one of them found something."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, help="home to copy [default: one of digits, made now]")
    parser.add_argument("--examples", type=int, default=100, help="made-up requests for each operation [100]")
    parser.add_argument("--phases", default="examples,coverage,fuzzing,stateful")
    parser.add_argument("--rounds", nargs="+", default=ROUNDS, choices=ROUNDS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=".*", help="regular expression of paths")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        failed = [name for name in given.rounds if not fuzz(Path(folder) / name.replace(" ", "-"), name, given)]
    print(f"findings in: {', '.join(failed)}" if failed else "nothing found")
    sys.exit(bool(failed))


def fuzz(folder: Path, name: str, given: argparse.Namespace) -> bool:
    """One round; whether nothing was found."""
    folder.mkdir()
    home = make_home(folder, given.home)
    key = None if name == "open" else make_key(home, "admin" if name == "no key" else name)
    with serving(home, pictures_of(folder)) as address:
        document = folder / "openapi.json"
        document.write_bytes(fetched(f"{address}/openapi.json", key))
        command = command_for(document, address, None if name == "no key" else key, given)
        started = time.monotonic()
        code = subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(HERE)}, check=False).returncode
        print(f"{name}: exit code {code} after {time.monotonic() - started:.0f} s", flush=True)
    if code:
        print(f"the end of the service's log:\n{(folder / 'service.log').read_text()[-LOG:]}")
    return code == 0


def command_for(document: Path, address: str, key: str | None, given: argparse.Namespace) -> list[str | Path]:
    """schemathesis, with what was asked for."""
    return [
        BIN / "schemathesis", "--config-file", HERE / "api_fuzz.toml", "--no-color", "run", document, "--url", address,
        "--phases", given.phases, "--max-examples", str(given.examples), "--seed", str(given.seed),
        "--include-path-regex", given.only, "--suppress-health-check", "all", "--generation-database", "none",
        "--request-timeout", "60", "--warnings", "off", "--continue-on-failure",
        *([] if key is None else ["-H", f"Authorization: Bearer {key}"]),
    ]  # fmt: skip


def make_home(folder: Path, source: Path | None) -> Path:
    """A home to do as one likes with: a copy, or one of digits."""
    home = folder / "home"
    if source is not None:
        return Path(shutil.copytree(source, home))
    subprocess.run([BIN / "simile", "demo", "--no-serve", "--minutes", "0.3", "--home", home], check=True)
    return home


def make_key(home: Path, scope: str) -> str:
    """A key of that scope. From now on the home's service wants one."""
    command = [
        BIN / "simile",
        "keys",
        "create",
        "fuzz",
        "--scope",
        scope,
        "--rate",
        "1000000",
        "--home",
        home,
        "--json",
    ]
    return str(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["key"])


def pictures_of(folder: Path) -> Path:
    """A few pictures for jobs to index."""
    pictures = folder / "pictures"
    pictures.mkdir()
    for n, data in enumerate(PICTURES):
        (pictures / f"{n}.png").write_bytes(data)
    return pictures


def fetched(address: str, key: str | None) -> bytes:
    """What a GET answers."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    with urlopen(Request(address, headers=headers), timeout=60) as answer:
        return bytes(answer.read())


@contextmanager
def serving(home: Path, photos: Path) -> Iterator[str]:
    """The address of a service of this home; its log lies beside the home."""
    log = home.with_name("service.log")
    environment = os.environ | {"SIMILE_ROOTS": f"photos={photos}", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as said:
        command = [BIN / "simile", "serve", "--home", home, "--port", str(free_port())]
        server = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stderr=said)
        try:
            yield until_it_listens(server, log)
        finally:
            server.terminate()
            server.wait(60)


def free_port() -> int:
    """One that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def until_it_listens(server: subprocess.Popen[bytes], log: Path) -> str:
    """The address in its log, once it answers that it is ready."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        if found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text()):
            with suppress(OSError):
                fetched(f"{found[0]}/readyz", None)
                return found[0]
        time.sleep(0.1)
    raise SystemExit(f"the service does not answer:\n{log.read_text()}")


if __name__ == "__main__":
    main()
