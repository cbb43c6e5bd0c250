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
from simile.explore.latent.aggregate_posterior import aggregate_of
from simile.explore.map.map import Wish, stored_map, stored_path
from simile.explore.map.process import is_held, order_of
from simile.explore.map.projection import LAYOUTS, LayoutName
from simile.explore.map.view import Labels, MapView, all_labels, view_of
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.errors import Refusal

log = logging.getLogger(__name__)

# -c and not -m: the module that was started (a script of the user's) must not run again.
_CHILD = "import sys; sys.path[:] = {path!r}; from simile.explore.map.process import main; main()"
CLOSING_SECONDS = 5.0
FAILED_SECONDS = 30


@dataclass(frozen=True)
class Computing:
    """How far a map is that is being made. stage: in words."""

    layout: str
    stage: str = "starting"
    done: int = 0
    total: int = 0

    def __str__(self) -> str:
        return f"{self.stage}, {self.done:,} of {self.total:,}" if self.total else self.stage


class Maps:
    """The maps of one home. Safe to share between threads; every verb may block on the disk."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.RLock()
        self._views: dict[LayoutName, tuple[Hashable, MapView]] = {}
        self._labels: tuple[Hashable, list[Labels]] | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._following: threading.Thread | None = None
        self._computing: Computing | None = None
        self._failed: dict[str, str] = {}
        self._closing = False

    def view(self, searcher: Searcher, layout: LayoutName) -> MapView:
        """The map as of now. Where there is none, that by PCA is begun; the others take minutes, and are asked for.

        Raises BeingComputed, NothingIndexed, Refusal.
        """
        with self._lock:
            found = self._found(searcher, layout)
            if found is not None:
                return found
            at_work = self.computing()
            if at_work is None:
                if layout in self._failed:
                    raise Refusal(503, "map-failed", self._failed[layout], FAILED_SECONDS)
                if layout != "pca":
                    detail = f"There is no map by {layout} yet. POST to {urls.MAP} to have it computed."
                    raise Refusal(404, "no-such-map", detail)
                at_work = self.start(searcher, Wish())
            raise BeingComputed(f"The map is being computed: {at_work}. Ask again in some seconds.")

    def labels(self, searcher: Searcher, view: MapView) -> list[Labels]:
        """What tells the pictures of a view apart by name."""
        key = (view.change, view.map.tag)
        with self._lock:
            if self._labels is None or self._labels[0] != key:
                self._labels = key, all_labels(searcher, view.ids)
            return self._labels[1]

    def start(self, searcher: Searcher, wish: Wish) -> Computing:
        """Has a map made, unless one is: how far that is. Raises NothingIndexed, BadSetting, TooFewPictures."""
        with self._lock:
            wish.check(len(searcher.index.current()) or len(aggregate_of(searcher)))
            at_work = self.computing()
            if at_work is None:
                self._failed.pop(wish.layout, None)
                at_work = self._computing = Computing(wish.layout)
                self._spawn(wish)
            return at_work

    def computing(self) -> Computing | None:
        """What is being made, by this process or another one."""
        with self._lock:
            if self._following is not None and self._following.is_alive():
                return self._computing
            return Computing("", "another process is making one") if is_held(self._settings.home) else None

    def failed(self, layout: str) -> str | None:
        """Why the last map of this layout could not be made here."""
        return self._failed.get(layout)

    def stored(self, searcher: Searcher) -> list[LayoutName]:
        """The layouts that there is a map of."""
        return [one for one in LAYOUTS if stored_path(searcher, one) is not None]

    def close(self) -> None:
        """Ends what is being made: it is begun anew by whoever needs it next."""
        self._closing = True
        child, following = self._child, self._following
        if child is None or following is None:
            return
        with suppress(OSError):
            if child.stdin is not None:
                child.stdin.close()
        following.join(CLOSING_SECONDS)
        child.kill()
        following.join()

    def _found(self, searcher: Searcher, layout: LayoutName) -> MapView | None:
        path = stored_path(searcher, layout)
        if path is None:
            return None
        key = (str(path), path.stat().st_mtime_ns, searcher.index.current().state)
        kept = self._views.get(layout)
        if kept is None or kept[0] != key:
            made = stored_map(searcher, layout)
            if made is None:
                return None
            kept = self._views[layout] = key, view_of(searcher, made)
        return kept[1]

    def _spawn(self, wish: Wish) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-c", _CHILD.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal reaches the service alone, which ends it
        )
        with suppress(BrokenPipeError):  # it has died already, which is seen below
            assert self._child.stdin is not None  # as asked for
            self._child.stdin.write(order_of(wish, self._settings))
            self._child.stdin.flush()
        self._following = threading.Thread(target=self._follow, args=(self._child, wish.layout), name="map")
        self._following.start()

    def _follow(self, child: subprocess.Popen[bytes], layout: str) -> None:
        """Notes what the process says, and how it ended."""
        assert child.stdout is not None and child.stdin is not None  # as asked for
        for line in child.stdout:
            said = json.loads(line)
            if "failed" in said:
                self._failed[layout] = said["failed"]
            else:
                self._computing = Computing(layout, **said)
        if child.wait() and not self._closing:
            log.error("the map by %s could not be made: its process ended with %d", layout, child.returncode)
            self._failed[layout] = f"The map by {layout} could not be made. Try `simile map --layout {layout}`."
        child.stdout.close()
        with suppress(OSError):
            child.stdin.close()
