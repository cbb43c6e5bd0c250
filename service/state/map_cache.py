"""The maps of the home for the service: kept between requests, and made in a process of their own."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass

from simile.core.errors import BeingComputed
from simile.core.settings import Settings
from simile.explore.latent.aggregate_posterior import load_aggregate_posterior
from simile.explore.map.map import MapSettings, find_map_path, load_stored_map
from simile.explore.map.process import encode_map_request, is_map_running
from simile.explore.map.projection import LAYOUTS, LayoutName
from simile.explore.map.view import MapLabels, MapView, load_labels, make_map_view
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.errors import ProblemException

log = logging.getLogger(__name__)

# -c and not -m: the module that was started (a script of the user's) must not run again.
_MAP_COMMAND = "import sys; sys.path[:] = {path!r}; from simile.explore.map.process import main; main()"
MAP_STOP_SECONDS = 5.0
MAP_RETRY_SECONDS = 30


@dataclass(frozen=True)
class MapProgress:
    """How far a map is that is being made. stage: in words."""

    layout: str
    stage: str = "starting"
    done: int = 0
    total: int = 0

    def __str__(self) -> str:
        return f"{self.stage}, {self.done:,} of {self.total:,}" if self.total else self.stage


class MapCache:
    """The maps of one home. Safe to share between threads; every verb may block on the disk."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.RLock()
        self._views: dict[LayoutName, tuple[Hashable, MapView]] = {}
        self._labels: tuple[Hashable, list[MapLabels]] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._reader_thread: threading.Thread | None = None
        self._progress: MapProgress | None = None
        self._failures: dict[str, str] = {}
        self._is_closing = False

    def get_view(self, searcher: Searcher, layout: LayoutName) -> MapView:
        """The map as of now. Where there is none, that by PCA is begun; the others take minutes, and are asked for.

        Raises BeingComputed, NothingIndexed, Refusal.
        """
        with self._lock:
            found = self._load_view(searcher, layout)
            if found is not None:
                return found
            at_work = self.get_progress()
            if at_work is None:
                if layout in self._failures:
                    raise ProblemException(503, "map-failed", self._failures[layout], MAP_RETRY_SECONDS)
                if layout != "pca":
                    detail = f"There is no map by {layout} yet. POST to {urls.MAP} to have it computed."
                    raise ProblemException(404, "no-such-map", detail)
                at_work = self.start(searcher, MapSettings())
            raise BeingComputed(f"The map is being computed: {at_work}. Ask again in some seconds.")

    def get_labels(self, searcher: Searcher, view: MapView) -> list[MapLabels]:
        """What tells the pictures of a view apart by name."""
        key = (view.catalogue_changes, view.map.tag)
        with self._lock:
            if self._labels is None or self._labels[0] != key:
                self._labels = key, load_labels(searcher, view.ids)
            return self._labels[1]

    def start(self, searcher: Searcher, wish: MapSettings) -> MapProgress:
        """Has a map made, unless one is: how far that is. Raises NothingIndexed, BadSetting, TooFewPictures."""
        with self._lock:
            wish.check(len(searcher.index.get_snapshot()) or len(load_aggregate_posterior(searcher)))
            at_work = self.get_progress()
            if at_work is None:
                self._failures.pop(wish.layout, None)
                at_work = self._progress = MapProgress(wish.layout)
                self._spawn(wish)
            return at_work

    def get_progress(self) -> MapProgress | None:
        """What is being made, by this process or another one."""
        with self._lock:
            if self._reader_thread is not None and self._reader_thread.is_alive():
                return self._progress
            return MapProgress("", "another process is making one") if is_map_running(self._settings.home) else None

    def get_failure(self, layout: str) -> str | None:
        """Why the last map of this layout could not be made here."""
        return self._failures.get(layout)

    def list_layouts(self, searcher: Searcher) -> list[LayoutName]:
        """The layouts that there is a map of."""
        return [one for one in LAYOUTS if find_map_path(searcher, one) is not None]

    def close(self) -> None:
        """Ends what is being made: it is begun anew by whoever needs it next."""
        self._is_closing = True
        child, following = self._process, self._reader_thread
        if child is None or following is None:
            return
        with suppress(OSError):
            if child.stdin is not None:
                child.stdin.close()
        following.join(MAP_STOP_SECONDS)
        child.kill()
        following.join()

    def _load_view(self, searcher: Searcher, layout: LayoutName) -> MapView | None:
        path = find_map_path(searcher, layout)
        if path is None:
            return None
        key = (str(path), path.stat().st_mtime_ns, searcher.index.get_snapshot().state)
        kept = self._views.get(layout)
        if kept is None or kept[0] != key:
            made = load_stored_map(searcher, layout)
            if made is None:
                return None
            kept = self._views[layout] = key, make_map_view(searcher, made)
        return kept[1]

    def _spawn(self, wish: MapSettings) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _MAP_COMMAND.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal reaches the service alone, which ends it
        )
        with suppress(BrokenPipeError):  # it has died already, which is seen below
            assert self._process.stdin is not None  # as asked for
            self._process.stdin.write(encode_map_request(wish, self._settings))
            self._process.stdin.flush()
        self._reader_thread = threading.Thread(
            target=self._read_progress, args=(self._process, wish.layout), name="map"
        )
        self._reader_thread.start()

    def _read_progress(self, process: subprocess.Popen[bytes], layout: str) -> None:
        """Notes what the process says, and how it ended."""
        assert process.stdout is not None and process.stdin is not None  # as asked for
        for line in process.stdout:
            said = json.loads(line)
            if "failed" in said:
                self._failures[layout] = said["failed"]
            else:
                self._progress = MapProgress(layout, **said)
        if process.wait() and not self._is_closing:
            log.error("the map by %s could not be made: its process ended with %d", layout, process.returncode)
            self._failures[layout] = f"The map by {layout} could not be made. Try `simile map --layout {layout}`."
        process.stdout.close()
        with suppress(OSError):
            process.stdin.close()
