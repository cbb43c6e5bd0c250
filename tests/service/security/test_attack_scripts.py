"""The attacks of tests/attacks in their short form: what they get, and that the event loop goes on."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from simile.core.settings import Settings
from tests.attacks import hostile_connections, hostile_queries, hostile_requests, hostile_uploads
from tests.attacks.hostile_files import make_png
from tests.attacks.monitored_service import read_pauses
from tests.attacks.target import Target
from tests.support.images import noise
from tests.support.waiting import wait_until

MODULES = (hostile_requests, hostile_connections, hostile_queries, hostile_uploads)
ATTACKS = [attack for module in MODULES for attack in module.ATTACKS]
MAX_PAUSE_SECONDS = 0.1  # of CPU time of the loop's thread: other processes do not count


@pytest.fixture(scope="module")
def service(shared_home: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Target, Path]]:
    """A monitored service with a key in a process of its own, and the file of its pauses."""
    from simile.store.catalogue.catalogue import Catalogue
    from simile.store.home import Home

    with Catalogue(Home(shared_home.home)) as catalogue:
        key, _ = catalogue.keys.create("attack", "write")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    pauses = tmp_path_factory.mktemp("attacks") / "pauses.txt"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.attacks.monitored_service", str(port), str(pauses)],
        env={**os.environ, "SIMILE_HOME": str(shared_home.home), "SIMILE_RUNTIME": "torch", "SIMILE_WORKERS": "2"},
        stderr=subprocess.DEVNULL,
    )
    target = Target(
        port=port, key=key.text, image=noise(0), large_image_id=0, size=600_000, side=600, count=2, is_short=True
    )
    try:
        wait_until(lambda: target.request("GET", "/readyz").status == 200, seconds=120)
        created = json.loads(target.upload("/v1/images", make_png(b"", 2500)).body)
        yield Target(**{**vars(target), "large_image_id": created["image_id"]}), pauses
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.__name__.removeprefix("attack_") for attack in ATTACKS])
def test_an_attack_is_answered_and_stops_nothing(service: tuple[Target, Path], attack: Callable[[Target], str]) -> None:
    target, pauses = service
    for _ in range(3):  # a pause that the attack causes comes each time
        started = time.time()
        attack(target)
        assert target.request("GET", "/livez").status == 200
        assert target.upload("/v1/search", target.image).status == 200
        pause = read_pauses(pauses, started)[1]
        if pause < MAX_PAUSE_SECONDS:
            return
    pytest.fail(f"the event loop stood still for {pause:.3f} s")
