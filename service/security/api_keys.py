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

from simile.core.keys import Scope, hash_secret, matches_digest, parse_key_prefix
from simile.core.settings import Settings
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import KeyRecord
from simile.store.database.engine import catalogue_exists, find_catalogue_file
from simile.store.home import Home

KEY_CACHE_SECONDS = 0.5  # seconds that an answer of the catalogue holds
MAX_CACHED_KEYS = 1000  # credentials that were good lately
SESSION_LIFETIME = timedelta(days=7)  # of a session

T = TypeVar("T")


@dataclass(frozen=True)
class Principal:
    """Somebody with a key. `by`: what they showed, the key itself or the cookie that it was traded for."""

    name: str
    scope: Scope
    credential_kind: Literal["key", "cookie"]
    key_id: int
    rate: int | None


@dataclass(frozen=True)
class Credential:
    """What a request shows. The text is in no error and in no log."""

    kind: Literal["key", "cookie"]
    secret: str

    def __repr__(self) -> str:
        return f"Credential({self.kind!r})"


class Authenticator:
    """The keys of one home, for one process."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._home = Home(settings.home, settings.database_url)
        self._clock = clock
        self._catalogue: Catalogue | None = None
        self._catalogue_inode: tuple[int, int] | None = None
        self._cached_key_requirement: tuple[bool, float] = False, float("-inf")
        self._valid_keys: OrderedDict[str, tuple[KeyRecord, float]] = OrderedDict()
        self._lookup_lock = asyncio.Lock()
        self._thread_limiter: CapacityLimiter | None = None

    async def requires_key(self) -> bool:
        """Whether requests need a key: the home has some, though they be revoked or expired."""
        if not self._is_fresh(self._cached_key_requirement[1]):
            async with self._lookup_lock:
                if not self._is_fresh(self._cached_key_requirement[1]):
                    started = self._clock()
                    self._cached_key_requirement = (
                        await self._query_catalogue(lambda catalogue: catalogue.keys.has_any(), default=False),
                        started,
                    )
        return self._cached_key_requirement[0]

    async def authenticate(self, credential: Credential) -> Principal | None:
        """Whose key or session that is; None for one that is unknown, revoked or expired."""
        mark = hash_secret(credential.secret)
        if not self._is_fresh(self._valid_keys.get(mark, (None, float("-inf")))[1]):
            async with self._lookup_lock:
                if not self._is_fresh(self._valid_keys.get(mark, (None, float("-inf")))[1]):
                    await self._look_up(credential, mark)
        found = self._valid_keys.get(mark)
        if found is None or not found[0].is_usable(datetime.now(UTC)):
            return None
        key = found[0]
        return Principal(key.name, key.scope, credential.kind, key.id, key.rate)

    def is_cached(self, credential: Credential) -> bool:
        """Whether it was good when it was last looked up."""
        return hash_secret(credential.secret) in self._valid_keys

    async def open_session(self, principal: Principal) -> str:
        """The token for a new session of the visitor's key."""
        return await self._query_catalogue(
            lambda catalogue: catalogue.keys.open_session(principal.key_id, SESSION_LIFETIME), default=""
        )

    async def close_session(self, token: str) -> None:
        """Ends a session."""
        await self._query_catalogue(lambda catalogue: catalogue.keys.close_session(token), default=None)
        self._valid_keys.pop(hash_secret(token), None)

    def close(self) -> None:
        """Closes the catalogue, if it was ever opened."""
        if self._catalogue is not None:
            self._catalogue.close()

    async def _look_up(self, credential: Credential, token_hash: str) -> None:
        started = self._clock()
        key = await self._query_catalogue(lambda catalogue: _find_key(catalogue, credential), default=None)
        if key is None:
            self._valid_keys.pop(token_hash, None)
            return
        self._valid_keys[token_hash] = key, started
        self._valid_keys.move_to_end(token_hash)
        if len(self._valid_keys) > MAX_CACHED_KEYS:
            self._valid_keys.popitem(last=False)

    async def _query_catalogue(self, query: Callable[[Catalogue], T], *, default: T) -> T:
        """What the catalogue says, in a thread: `otherwise` where there is no catalogue yet."""
        self._thread_limiter = self._thread_limiter or CapacityLimiter(2)  # needs a running event loop

        def answer() -> T:
            catalogue = self._open_catalogue()
            return default if catalogue is None else query(catalogue)

        return await to_thread.run_sync(answer, limiter=self._thread_limiter)

    def _open_catalogue(self) -> Catalogue | None:
        """The catalogue that is there now: the file may be made after the service, or be restored under it."""
        if not catalogue_exists(self._home):
            return None
        path = find_catalogue_file(self._home)
        found = None if path is None else _get_inode(path)
        if self._catalogue is None or found != self._catalogue_inode:
            self.close()
            self._catalogue, self._catalogue_inode = Catalogue(self._home), found
        return self._catalogue

    def _is_fresh(self, since: float) -> bool:
        return self._clock() - since < KEY_CACHE_SECONDS


def _get_inode(path: os.PathLike[str]) -> tuple[int, int]:
    facts = os.stat(path)  # noqa: PTH116
    return facts.st_dev, facts.st_ino


def _find_key(catalogue: Catalogue, credential: Credential) -> KeyRecord | None:
    if credential.kind == "cookie":
        return catalogue.keys.find_by_session(credential.secret)
    prefix = parse_key_prefix(credential.secret)
    key = None if prefix is None else catalogue.keys.find_by_prefix(prefix)
    return key if key is not None and matches_digest(credential.secret, key.sha256) else None
