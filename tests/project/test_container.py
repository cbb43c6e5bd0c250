"""What the image promises, without an image: another user, no capabilities, and nothing to write but /data and /tmp."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest

from simile.core.settings import Settings
from simile.images.encoding import encode_png
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home
from tests.service.test_workers import SIMILE, free_port
from tests.support.server import BOUNDARY, form

ROOT = Path(__file__).parents[2]
USER = 10001

# A root of its own that shows the system, this Python and this code, and lets nobody write. $1: where to build it,
# $2: the volume, $3: folders to show; then the command, which becomes the first process there.
INSIDE = r"""
set -e; root=$1; volume=$2; shown=$3; shift 3
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$root"
mkdir -p "$root/tmp" "$root/data" "$root/proc" "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount --rbind /dev "$root/dev"
for folder in $shown; do
    mkdir -p "$root$folder"; mount --bind "$folder" "$root$folder"; mount -o remount,bind,ro "$root$folder"
done
mount --bind "$volume" "$root/data"
mount -t proc proc "$root/proc"
mount -o remount,ro "$root"
exec chroot "$root" setpriv --reuid __USER__ --regid __USER__ --clear-groups --no-new-privs --bounding-set=-all \
    --inh-caps=-all sh -c 'cd /data && exec "$@"' sh "$@"
""".replace("__USER__", str(USER))


def _why_not() -> str | None:
    if os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("setpriv"):
        return "needs root, unshare and setpriv, to make a file system of its own"
    if subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False).returncode:
        return "this machine lets nobody make a file system of its own"
    if not all(Path(place).stat().st_mode & 0o005 == 0o005 for place in (ROOT, sys.prefix, sys.base_prefix)):
        return "other users may not read this code or this Python"
    return None


REASON = _why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=REASON or "")


@pytest.fixture
def volume(home_with_digits: Settings) -> Settings:
    """A home that belongs to the user of the container."""
    for path in (home_with_digits.home, *home_with_digits.home.rglob("*")):
        os.chown(path, USER, USER)
    return home_with_digits


@contextmanager
def container(
    volume: Settings, log: Path, *command: str, **variables: str
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process in it that has begun, and the number of what is the first one inside."""
    system = [place for place in ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc") if Path(place).is_dir()]
    shown = " ".join(dict.fromkeys([*system, sys.base_prefix, sys.prefix, str(ROOT)]))
    built = log.parent / "root"
    built.mkdir(exist_ok=True)
    arguments = ["bash", "-c", INSIDE, "inside", str(built), str(volume.home), shown, *command]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/nowhere", "SIMILE_HOME": "/data"}
    with log.open("w") as out:
        process = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", *arguments],
            stdout=out,
            stderr=out,
            text=True,
            env=environment | {"PYTHONDONTWRITEBYTECODE": "1"} | variables,
        )
    try:
        yield process, _child(process)
    finally:
        process.kill()
        process.wait()


def _child(process: subprocess.Popen[str]) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < until:
        if found := children.read_text().split():
            return int(found[0])
        time.sleep(0.01)
    raise AssertionError("it did not begin")


def until_said(log: Path, text: str) -> None:
    end = time.monotonic() + 60
    while text not in log.read_text():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.02)


def asked(port: int, method: str, path: str, data: bytes | None = None, key: str | None = None) -> tuple[int, bytes]:
    """The status and the body; 0 where nobody answers."""
    headers = {} if data is None else {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    headers |= {} if key is None else {"Authorization": f"Bearer {key}"}
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, None if data is None else form(data), headers)
        response = connection.getresponse()
        return response.status, response.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()


def health_check(port: int) -> int:
    """What the Dockerfile's health check ends with."""
    written = re.search(r"HEALTHCHECK.*?CMD (\[.*?\])\n", (ROOT / "Dockerfile").read_text(), re.DOTALL)
    assert written is not None
    python, *arguments = json.loads(written.group(1))
    assert python == "python"
    command = [sys.executable, *(one.replace(":8000/", f":{port}/") for one in arguments)]
    return subprocess.run(command, capture_output=True, check=False).returncode


def test_it_serves_as_another_user_with_nothing_to_write_but_its_volume(volume: Settings, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    with Catalogue(Home(volume.home)) as catalogue:
        key = catalogue.keys.create("me", "write")[0].text
    for path in volume.home.glob("catalogue.sqlite*"):
        os.chown(path, USER, USER)
    pixels = np.random.default_rng(0).integers(0, 256, (800, 800, 3)).astype(np.uint8)
    large = encode_png(pixels)
    assert len(large) > 1 << 20  # it comes in through /tmp
    with container(volume, log, SIMILE, "serve", SIMILE_HOST="0.0.0.0", SIMILE_PORT=str(port)) as (process, first):
        end = time.monotonic() + 60
        while asked(port, "GET", "/readyz")[0] != 200:
            assert time.monotonic() < end and process.poll() is None, log.read_text()
            time.sleep(0.1)
        status = Path(f"/proc/{first}/status").read_text()
        assert f"Uid:\t{USER}\t{USER}" in status and re.search(r"CapEff:\t0+\n", status) and "NoNewPrivs:\t1" in status
        assert health_check(port) == 0
        assert asked(port, "GET", "/v1/images")[0] == 401
        code, body = asked(port, "POST", "/v1/images", large, key)
        assert code == 201, body
        code, body = asked(port, "POST", "/v1/search", large, key)
        assert code == 200 and json.loads(body)["hits"][0]["distance"] < 0.05
        os.kill(first, signal.SIGTERM)
        assert process.wait(45) == 0, log.read_text()
        assert health_check(port) != 0


def test_told_to_stop_while_it_starts_it_ends(volume: Settings, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with container(volume, log, SIMILE, "serve", SIMILE_PORT=str(free_port())) as (process, first):
        until_said(log, "simile is running at")
        os.kill(first, signal.SIGTERM)
        assert process.wait(20) == 0, log.read_text()


def test_without_a_key_it_refuses_and_elsewhere_nothing_can_be_written(volume: Settings, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with container(volume, log, SIMILE, "serve", SIMILE_HOST="0.0.0.0") as (process, _):
        assert process.wait(30) == 1 and "has no keys" in log.read_text()
    tries = "for place in / /etc /usr/lib " + str(ROOT) + "; do touch $place/x && exit 3; done; touch /data/x /tmp/x"
    with container(volume, log, "sh", "-c", tries) as (process, _):
        assert process.wait(30) == 0 and log.read_text().count("Read-only file system") == 4, log.read_text()
