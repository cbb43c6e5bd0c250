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
from simile.core.logs import set_up
from simile.core.settings import Settings, load_settings
from simile.explore.map.map import Wish, make_map, measure_errors
from simile.search.searcher import Searcher
from simile.store.home import writing

NICENESS = 10  # searches come first
LOCK = "maps.lock"  # in the home: held while a map is made


def order_of(wish: Wish, settings: Settings) -> bytes:
    """One line of JSON, as `main` takes it from stdin: its settings may hold a password, so it is no argument."""
    return json.dumps({"wish": asdict(wish), "settings": settings.model_dump(mode="json")}).encode() + b"\n"


def is_held(home: Path) -> bool:
    """Whether some process makes a map in this home."""
    try:
        with (home / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def main() -> None:
    """The whole life of the process. Lines on stdout: {"stage", "done", "total"}, and last of all maybe {"failed"}."""
    order = json.loads(sys.stdin.buffer.readline())
    set_up()
    os.nice(NICENESS)
    threading.Thread(target=_end_with_starter, daemon=True).start()
    try:
        _make(Wish(**order["wish"]), load_settings(**order["settings"]))
    except SimileError as error:
        _say(failed=str(error))
    os._exit(0)  # what is left to tear down takes a second, and nobody needs it


def _make(wish: Wish, settings: Settings) -> None:
    path = settings.home / LOCK
    with writing(path):
        file = path.open("wb")
    with file:
        if not _taken(file):  # another one is at it, and was asked first
            return
        with Searcher(settings) as searcher:
            made = make_map(searcher, wish, _progress)
            measure_errors(searcher, made.ids, _progress)


def _taken(file: IO[bytes]) -> bool:
    """Whether the lock was free. Who only looks whether it is holds it for a moment, too."""
    for _ in range(20):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
        else:
            return True
    return False


def _progress(stage: str, done: int, total: int) -> None:
    _say(stage=stage, done=done, total=total)


def _say(**said: Any) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


def _end_with_starter() -> None:
    sys.stdin.buffer.read()
    os._exit(0)
