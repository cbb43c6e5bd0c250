"""Authentication by API keys and sessions: looked up in the catalogue and cached for half a second.

A key that any process revokes is therefore refused by every worker within a second.
"""

from __future__ import annotations

import asyncio
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
from simile.store.database.transactions import SERVICE_REPEAT_SECONDS
from simile.store.home import Home

KEY_CACHE_SECONDS = 0.5  # seconds for which a lookup is cached
MAX_CACHED_KEYS = 1000  # valid credentials
SESSION_LIFETIME = timedelta(days=7)

T = TypeVar("T")


@dataclass(frozen=True)
class Principal:
    """The authenticated client. `credential_kind`: the key itself, or the cookie of a session."""

    name: str
    scope: Scope
    credential_kind: Literal["key", "cookie"]
    key_id: int
    rate: int | None
    quota: int | None


@dataclass(frozen=True)
class Credential:
    """The key or cookie of a request. The secret appears in no error and in no log."""

    kind: Literal["key", "cookie"]
    secret: str

    def __repr__(self) -> str:
        return f"Credential({self.kind!r})"


class Authenticator:
    """Looks up the keys of one home, for one process."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._home = Home.from_settings(settings)
        self._clock = clock
        self._catalogue: Catalogue | None = None
        self._catalogue_inode: tuple[int, int] | None = None
        self._key_requirement: tuple[bool, float] = False, float("-inf")  # with the time of its lookup
        self._valid_keys: OrderedDict[str, tuple[KeyRecord, float]] = OrderedDict()
        self._lookup_lock = asyncio.Lock()
        self._thread_limiter: CapacityLimiter | None = None

    async def requires_key(self) -> bool:
        """Return whether requests need a key: true once the home has any key, even if it is revoked or expired."""
        if not self._is_fresh(self._key_requirement):
            async with self._lookup_lock:
                if not self._is_fresh(self._key_requirement):
                    started = self._clock()
                    required = await self._query_catalogue(
                        lambda catalogue: catalogue.keys.has_any(), default=self._home.keys_reserve.exists()
                    )
                    self._key_requirement = required, started
        return self._key_requirement[0]

    async def authenticate(self, credential: Credential) -> Principal | None:
        """Return the principal of a key or session; None if it is unknown, revoked or expired."""
        mark = hash_secret(credential.secret)
        if not self._is_fresh(self._valid_keys.get(mark)):
            async with self._lookup_lock:
                if not self._is_fresh(self._valid_keys.get(mark)):
                    await self._look_up(credential, mark)
        key, _ = self._valid_keys.get(mark, (None, 0.0))
        if key is None or not key.is_usable(datetime.now(UTC)):
            return None
        return Principal(key.name, key.scope, credential.kind, key.id, key.rate, key.quota)

    def is_cached(self, credential: Credential) -> bool:
        """Return whether the credential was valid at its last lookup."""
        return hash_secret(credential.secret) in self._valid_keys

    async def open_session(self, principal: Principal) -> str:
        """Open a session for the principal's key and return its token, which does not count as a guess."""
        token = await self._query_catalogue(
            lambda catalogue: catalogue.keys.open_session(principal.key_id, SESSION_LIFETIME), default=""
        )
        await self.authenticate(Credential("cookie", token))
        return token

    async def close_session(self, token: str) -> None:
        """End a session."""
        await self._query_catalogue(lambda catalogue: catalogue.keys.close_session(token), default=None)
        self._valid_keys.pop(hash_secret(token), None)

    def close(self) -> None:
        """Close the catalogue if it was opened."""
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
        """Run a query on the catalogue in a thread; return `default` if there is no catalogue yet."""
        self._thread_limiter = self._thread_limiter or CapacityLimiter(2)  # needs a running event loop

        def answer() -> T:
            catalogue = self._open_catalogue()
            return default if catalogue is None else query(catalogue)

        return await to_thread.run_sync(answer, limiter=self._thread_limiter)

    def _open_catalogue(self) -> Catalogue | None:
        """Open the current catalogue file: it may be created or restored after the service has started."""
        if not catalogue_exists(self._home):
            return None
        path = find_catalogue_file(self._home)
        info = None if path is None else path.stat()
        found = None if info is None else (info.st_dev, info.st_ino)
        if self._catalogue is None or found != self._catalogue_inode:
            self.close()
            self._catalogue, self._catalogue_inode = Catalogue(self._home, SERVICE_REPEAT_SECONDS), found
        return self._catalogue

    def _is_fresh(self, cached: tuple[object, float] | None) -> bool:
        return cached is not None and self._clock() - cached[1] < KEY_CACHE_SECONDS


def _find_key(catalogue: Catalogue, credential: Credential) -> KeyRecord | None:
    if credential.kind == "cookie":
        return catalogue.keys.find_by_session(credential.secret)
    prefix = parse_key_prefix(credential.secret)
    key = None if prefix is None else catalogue.keys.find_by_prefix(prefix)
    return key if key is not None and matches_digest(credential.secret, key.sha256) else None
