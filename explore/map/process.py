"""One map in a process of its own: at low priority, its progress on stdout, gone with whoever started it.

The starter keeps the other end of stdin open: when that closes, however its process ended, this one stops too.
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

MAP_PROCESS_NICENESS = 10  # searches come first
MAP_LOCK_NAME = "maps.lock"  # in the home: held while a map is made


def encode_map_request(map_settings: MapSettings, settings: Settings) -> bytes:
    """One line of JSON, as `main` takes it from stdin: its settings may hold a password, so it is no argument."""
    return json.dumps({"wish": asdict(map_settings), "settings": settings.model_dump(mode="json")}).encode() + b"\n"


def is_map_running(home: Path) -> bool:
    """Whether some process makes a map in this home."""
    try:
        with (home / MAP_LOCK_NAME).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def main() -> None:
    """The whole life of the process. Lines on stdout: {"stage", "done", "total"}, and last of all maybe {"failed"}."""
    order = json.loads(sys.stdin.buffer.readline())
    configure_logging()
    os.nice(MAP_PROCESS_NICENESS)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        _compute_map(MapSettings(**order["wish"]), load_settings(**order["settings"]))
    except SimileError as error:
        _write_message(failed=str(error))
    os._exit(0)  # what is left to tear down takes a second, and nobody needs it


def _compute_map(map_settings: MapSettings, settings: Settings) -> None:
    path = settings.home / MAP_LOCK_NAME
    with translate_write_errors(path):
        file = path.open("wb")
    with file:
        if not _acquire_lock(file):  # another one is at it, and was asked first
            return
        with Searcher(settings) as searcher:
            made = make_map(searcher, map_settings, _report_progress)
            measure_reconstruction_errors(searcher, made.ids, _report_progress)


def _acquire_lock(file: IO[bytes]) -> bool:
    """Whether the lock was free. Who only looks whether it is holds it for a moment, too."""
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
