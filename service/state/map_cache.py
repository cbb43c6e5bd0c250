"""Cache of the maps of the home; new maps are made in a separate process."""

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

# -c and not -m: the main module, which may be a user's script, must not run again.
_MAP_COMMAND = "import sys; sys.path[:] = {path!r}; from simile.explore.map.process import main; main()"
MAP_STOP_SECONDS = 5.0  # until the process is killed
MAP_RETRY_SECONDS = 30  # Retry-After of a map that failed; static/map.js recognises a failure by it


@dataclass(frozen=True)
class MapProgress:
    """Progress of a map that is being made. `total` is 0 if it is not known."""

    layout: str
    stage: str
    done: int
    total: int

    def __str__(self) -> str:
        return f"{self.stage}, {self.done:,} of {self.total:,}" if self.total else self.stage


class MapCache:
    """The maps of one home. Thread-safe; every method may block on the disk.

    Attributes:
        failures: By layout, why this service could not make its last map.
    """

    def __init__(self, settings: Settings) -> None:
        self.failures: dict[str, str] = {}
        self._settings = settings
        self._lock = threading.RLock()
        self._views: dict[LayoutName, tuple[Hashable, MapView]] = {}
        self._labels: tuple[Hashable, list[MapLabels]] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._reader_thread: threading.Thread | None = None
        self._progress: MapProgress | None = None
        self._is_closing = False

    def get_view(self, searcher: Searcher, layout: LayoutName) -> MapView:
        """Return the current view of a map. A missing map by PCA is started; other layouts take minutes.

        Raises:
            BeingComputed: The map, or another one, is being made.
            ProblemException: There is no map of this layout, or it could not be made.
            NothingIndexed.
        """
        with self._lock:
            view = self._load_view(searcher, layout)
            if view is not None:
                return view
            progress = self.get_progress()
            if progress is None:
                if layout in self.failures:
                    raise ProblemException(503, "map-failed", self.failures[layout], MAP_RETRY_SECONDS)
                if layout != "pca":
                    detail = f"There is no map by {layout} yet. POST to {urls.MAP} to have it computed."
                    raise ProblemException(404, "no-such-map", detail)
                progress = self.start(searcher, MapSettings())
            raise BeingComputed(f"The map is being computed: {progress}. Try again in a few seconds.")

    def get_labels(self, searcher: Searcher, view: MapView) -> list[MapLabels]:
        """Return the labels of a view."""
        key = (view.catalogue_changes, view.map.tag)
        with self._lock:
            if self._labels is None or self._labels[0] != key:
                self._labels = key, load_labels(searcher, view.ids)
            return self._labels[1]

    def start(self, searcher: Searcher, map_settings: MapSettings) -> MapProgress:
        """Start to make a map, unless one is being made. Raises NothingIndexed, BadSetting, TooFewPictures."""
        with self._lock:
            map_settings.check(len(searcher.index.get_snapshot()) or len(load_aggregate_posterior(searcher)))
            progress = self.get_progress()
            if progress is None:
                self.failures.pop(map_settings.layout, None)
                progress = self._progress = MapProgress(map_settings.layout, "starting", 0, 0)
                self._spawn(map_settings)
            return progress

    def get_progress(self) -> MapProgress | None:
        """Return the progress of the map that this service or another process makes; None if there is none."""
        with self._lock:
            if self._reader_thread is not None and self._reader_thread.is_alive():
                return self._progress
            is_running = is_map_running(self._settings.home)
            return MapProgress("", "another process is making one", 0, 0) if is_running else None

    def list_layouts(self, searcher: Searcher) -> list[LayoutName]:
        """Return the layouts that have a map."""
        return [layout for layout in LAYOUTS if find_map_path(searcher, layout) is not None]

    def close(self) -> None:
        """Stop the process that makes a map. The next request that needs the map starts again."""
        self._is_closing = True
        process, reader = self._process, self._reader_thread
        if process is None or reader is None:
            return
        with suppress(OSError):
            if process.stdin is not None:
                process.stdin.close()
        reader.join(MAP_STOP_SECONDS)
        process.kill()
        reader.join()

    def _load_view(self, searcher: Searcher, layout: LayoutName) -> MapView | None:
        path = find_map_path(searcher, layout)
        if path is None:
            return None
        key = (str(path), path.stat().st_mtime_ns, searcher.index.get_snapshot().state)
        cached = self._views.get(layout)
        if cached is None or cached[0] != key:
            latent_map = load_stored_map(searcher, layout)
            if latent_map is None:
                return None
            cached = self._views[layout] = key, make_map_view(searcher, latent_map)
        return cached[1]

    def _spawn(self, map_settings: MapSettings) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _MAP_COMMAND.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal reaches only the service, which stops the process
        )
        with suppress(BrokenPipeError):  # the process has died already: _read_progress reports it
            assert self._process.stdin is not None  # it is a pipe
            self._process.stdin.write(encode_map_request(map_settings, self._settings))
            self._process.stdin.flush()
        self._reader_thread = threading.Thread(
            target=self._read_progress, args=(self._process, map_settings.layout), name="map"
        )
        self._reader_thread.start()

    def _read_progress(self, process: subprocess.Popen[bytes], layout: str) -> None:
        """Read the messages of the process, and its exit status."""
        assert process.stdout is not None and process.stdin is not None  # pipes
        for line in process.stdout:
            message = json.loads(line)
            if "failed" in message:
                self.failures[layout] = message["failed"]
            else:
                self._progress = MapProgress(layout, **message)
        if process.wait() and not self._is_closing:
            log.error("map process for layout %s exited with %d", layout, process.returncode)
            self.failures[layout] = f"The map by {layout} could not be made. Try `simile map --layout {layout}`."
        process.stdout.close()
        with suppress(OSError):
            process.stdin.close()
