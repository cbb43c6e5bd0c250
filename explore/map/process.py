"""Make one map in its own process, at low priority, with progress messages on stdout.

The parent keeps the other end of stdin open. When it closes, for whatever reason, this process exits too.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from simile.core.errors import SimileError
from simile.core.logs import configure_logging
from simile.core.settings import Settings, load_settings
from simile.explore.map.map import MapSettings, make_map, measure_reconstruction_errors
from simile.search.searcher import Searcher
from simile.store.home import translate_write_errors

MAP_PROCESS_NICENESS = 10  # searches have priority
MAP_LOCK_NAME = "maps.lock"  # file in the home, locked while a map is made


def encode_map_request(map_settings: MapSettings, settings: Settings) -> bytes:
    """Encode the request that `main` reads from stdin: settings may contain a password, which no argument may."""
    return json.dumps({"map": asdict(map_settings), "settings": settings.model_dump(mode="json")}).encode() + b"\n"


def is_map_running(home: Path) -> bool:
    """Return whether a process is making a map in this home."""
    try:
        with (home / MAP_LOCK_NAME).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def main() -> None:
    """Run the process. Messages on stdout are lines of JSON: {"stage", "done", "total"}; {"failed"} after an error."""
    request = json.loads(sys.stdin.buffer.readline())
    configure_logging()
    os.nice(MAP_PROCESS_NICENESS)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        _make_map(MapSettings(**request["map"]), load_settings(**request["settings"]))
    except SimileError as error:
        _write_message(failed=str(error))
    os._exit(0)  # skips a clean-up of the libraries that takes a second


def _make_map(map_settings: MapSettings, settings: Settings) -> None:
    path = settings.home / MAP_LOCK_NAME
    with translate_write_errors(path):
        file = path.open("wb")
    with file:
        if not _acquire_lock(file):  # another process makes a map
            return
        with Searcher(settings) as searcher:
            latent_map = make_map(searcher, map_settings, _report_progress)
            measure_reconstruction_errors(searcher, latent_map.ids, _report_progress)


def _acquire_lock(file: IO[bytes]) -> bool:
    """Try for a second to acquire the lock: `is_map_running` holds it for a moment too."""
    for _ in range(20):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
        else:
            return True
    return False


def _report_progress(stage: str, done: int, total: int) -> None:
    _write_message(stage=stage, done=done, total=total)


def _write_message(**fields: Any) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def _exit_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)
