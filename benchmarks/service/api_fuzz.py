"""schemathesis with the whole OpenAPI document against a real service: no 5xx, no answer outside the schema.

The service is started for each round on a new copy of the home: open on this machine, with a key of each scope, and
with a key but requests without it. `--home` is a home with some indexed images; without it a home of digits is made.

    python -m benchmarks.service.api_fuzz --examples 100
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.request import Request, urlopen

from benchmarks.common.runs import SIMILE, make_parser
from benchmarks.common.serving import copy_home, serve
from benchmarks.service.fuzz_hooks import IMAGES

HERE = Path(__file__).parent
LOG_LENGTH = 20_000  # last characters of the service's log that are printed after a finding
ROUNDS = ("open", "admin", "write", "search", "no key")


def main() -> None:
    """Run the rounds; exit with 1 if one of them has a finding."""
    parser = make_parser(__doc__)
    parser.add_argument("--home", type=Path, help="home to copy [default: a new one of digits]")
    parser.add_argument("--examples", type=int, default=100, help="generated requests for each operation [100]")
    parser.add_argument("--phases", default="examples,coverage,fuzzing,stateful")
    parser.add_argument("--rounds", nargs="+", default=ROUNDS, choices=ROUNDS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=".*", help="regular expression of paths")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        failed = [name for name in options.rounds if not fuzz(Path(folder) / name.replace(" ", "-"), name, options)]
    print(f"findings in: {', '.join(failed)}" if failed else "nothing found")
    sys.exit(bool(failed))


def fuzz(folder: Path, name: str, options: argparse.Namespace) -> bool:
    """Run one round; return whether nothing was found."""
    folder.mkdir()
    home, log = copy_home(options.home, folder / "home"), folder / "service.log"
    key = None if name == "open" else make_key(home, "admin" if name == "no key" else name)
    environment = {"SIMILE_ROOTS": f"photos={write_images(folder)}", "OMP_NUM_THREADS": "1"}
    with serve(home, log, environment=environment) as (port, _):
        address, document = f"http://127.0.0.1:{port}", folder / "openapi.json"
        document.write_bytes(fetch_document(f"{address}/openapi.json", key))
        command = make_command(document, address, None if name == "no key" else key, options)
        started = time.monotonic()
        # schemathesis imports fuzz_hooks from this folder.
        code = subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(HERE)}, check=False).returncode
        print(f"{name}: exit code {code} after {time.monotonic() - started:.0f} s", flush=True)
    if code:
        print(f"the end of the service's log:\n{log.read_text()[-LOG_LENGTH:]}")
    return code == 0


def make_command(document: Path, address: str, key: str | None, options: argparse.Namespace) -> list[str | Path]:
    """Return the command line of schemathesis."""
    return [
        Path(sys.executable).with_name("schemathesis"), "--config-file", HERE / "api_fuzz.toml", "--no-color", "run",
        document, "--url", address, "--phases", options.phases, "--max-examples", str(options.examples),
        "--seed", str(options.seed), "--include-path-regex", options.only, "--suppress-health-check", "all",
        "--generation-database", "none", "--request-timeout", "60", "--warnings", "off", "--continue-on-failure",
        *([] if key is None else ["-H", f"Authorization: Bearer {key}"]),
    ]  # fmt: skip


def make_key(home: Path, scope: str) -> str:
    """Make a key with this scope; from now on the service of the home requires one."""
    command = [SIMILE, "keys", "create", "fuzz", "--scope", scope, "--rate", "1000000", "--home", home, "--json"]
    return str(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["key"])


def write_images(folder: Path) -> Path:
    """Write some images that jobs can index."""
    images = folder / "images"
    images.mkdir()
    for number, data in enumerate(IMAGES):
        (images / f"{number}.png").write_bytes(data)
    return images


def fetch_document(address: str, key: str | None) -> bytes:
    """Return the body of the answer to a GET request with the key."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    with urlopen(Request(address, headers=headers), timeout=60) as response:
        return bytes(response.read())


if __name__ == "__main__":
    main()
