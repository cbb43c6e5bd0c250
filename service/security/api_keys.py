"""Who asks: keys and sessions looked up in the catalogue, remembered for half a second.

So a key that is revoked, by whatever process, opens nothing a second later in any worker.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeVar

from anyio import CapacityLimiter, to_thread

from simile.core.keys import Scope, digest, prefix_of, same
from simile.core.settings import Settings
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.keys import KeyRecord
from simile.store.database.engine import catalogue_file, exists
from simile.store.home import Home

FRESH = 0.5  # seconds that an answer of the catalogue holds
KEPT = 1000  # credentials that were good lately
LIFETIME = timedelta(days=7)  # of a session

T = TypeVar("T")


@dataclass(frozen=True)
class Visitor:
    """Somebody with a key. `by`: what they showed, the key itself or the cookie that it was traded for."""

    name: str
    scope: Scope
    by: Literal["key", "cookie"]
    key_id: int
    rate: int | None


@dataclass(frozen=True)
class Credential:
    """What a request shows. The text is in no error and in no log."""

    by: Literal["key", "cookie"]
    text: str

    def __repr__(self) -> str:
        return f"Credential({self.by!r})"


class Keyring:
    """The keys of one home, for one process."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._home = Home(settings.home, settings.database_url)
        self._clock = clock
        self._catalogue: Catalogue | None = None
        self._file: tuple[int, int] | None = None
        self._locked: tuple[bool, float] = False, float("-inf")
        self._good: OrderedDict[str, tuple[KeyRecord, float]] = OrderedDict()
        self._looking = asyncio.Lock()
        self._threads: CapacityLimiter | None = None

    async def locked(self) -> bool:
        """Whether requests need a key: the home has some, though they be revoked or expired."""
        if not self._fresh(self._locked[1]):
            async with self._looking:
                if not self._fresh(self._locked[1]):
                    started = self._clock()
                    self._locked = await self._ask(lambda catalogue: catalogue.has_keys(), otherwise=False), started
        return self._locked[0]

    async def visitor(self, shown: Credential) -> Visitor | None:
        """Whose key or session that is; None for one that is unknown, revoked or expired."""
        mark = digest(shown.text)
        if not self._fresh(self._good.get(mark, (None, float("-inf")))[1]):
            async with self._looking:
                if not self._fresh(self._good.get(mark, (None, float("-inf")))[1]):
                    await self._look_up(shown, mark)
        found = self._good.get(mark)
        if found is None or not found[0].usable(datetime.now(UTC)):
            return None
        key = found[0]
        return Visitor(key.name, key.scope, shown.by, key.id, key.rate)

    def was_good(self, shown: Credential) -> bool:
        """Whether it was good when it was last looked up."""
        return digest(shown.text) in self._good

    async def open_session(self, visitor: Visitor) -> str:
        """The token for a new session of the visitor's key."""
        return await self._ask(lambda catalogue: catalogue.open_session(visitor.key_id, LIFETIME), otherwise="")

    async def close_session(self, token: str) -> None:
        """Ends a session."""
        await self._ask(lambda catalogue: catalogue.close_session(token), otherwise=None)
        self._good.pop(digest(token), None)

    def close(self) -> None:
        """Closes the catalogue, if it was ever opened."""
        if self._catalogue is not None:
            self._catalogue.close()

    async def _look_up(self, shown: Credential, mark: str) -> None:
        started = self._clock()
        key = await self._ask(lambda catalogue: _key_of(catalogue, shown), otherwise=None)
        if key is None:
            self._good.pop(mark, None)
            return
        self._good[mark] = key, started
        self._good.move_to_end(mark)
        if len(self._good) > KEPT:
            self._good.popitem(last=False)

    async def _ask(self, question: Callable[[Catalogue], T], *, otherwise: T) -> T:
        """What the catalogue says, in a thread: `otherwise` where there is no catalogue yet."""
        self._threads = self._threads or CapacityLimiter(2)  # needs a running event loop

        def answer() -> T:
            catalogue = self._opened()
            return otherwise if catalogue is None else question(catalogue)

        return await to_thread.run_sync(answer, limiter=self._threads)

    def _opened(self) -> Catalogue | None:
        """The catalogue that is there now: the file may be made after the service, or be restored under it."""
        if not exists(self._home):
            return None
        path = catalogue_file(self._home)
        found = None if path is None else _identity(path)
        if self._catalogue is None or found != self._file:
            self.close()
            self._catalogue, self._file = Catalogue(self._home), found
        return self._catalogue

    def _fresh(self, since: float) -> bool:
        return self._clock() - since < FRESH


def _identity(path: os.PathLike[str]) -> tuple[int, int]:
    facts = os.stat(path)  # noqa: PTH116
    return facts.st_dev, facts.st_ino


def _key_of(catalogue: Catalogue, shown: Credential) -> KeyRecord | None:
    if shown.by == "cookie":
        return catalogue.session_key(shown.text)
    prefix = prefix_of(shown.text)
    key = None if prefix is None else catalogue.key_of(prefix)
    return key if key is not None and same(shown.text, key.sha256) else None
