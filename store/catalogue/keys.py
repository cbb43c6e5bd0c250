"""Keys of the service, and the sessions of browsers that were signed in with them. Only hashes are kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, exists, func, insert, inspect, literal, select, update
from sqlalchemy.exc import IntegrityError

from simile.core.errors import BadSetting
from simile.core.keys import SCOPES, NewKey, Scope, check_key_name, hash_secret, make_key, make_session_token
from simile.store.database.tables import KeyRow, SessionRow, UtcDateTime, utc_now
from simile.store.database.transactions import Repository

MAX_SESSIONS_PER_KEY = 100  # of one key; the oldest ones beyond end


@dataclass(frozen=True)
class KeyRecord:
    """What is known of a key. `rate`: requests a minute, None for the service's own; `sha256` is no secret to keep."""

    id: int
    name: str
    prefix: str
    sha256: str
    scope: Scope
    rate: int | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    def is_usable(self, timestamp: datetime) -> bool:
        """Neither revoked nor expired at that moment."""
        return self.revoked_at is None and (self.expires_at is None or timestamp < self.expires_at)


class KeyRepository(Repository):
    """Verbs on keys and sessions. No search depends on them, so they don't count as changes."""

    def has_any(self) -> bool:
        """Whether the home has keys, be they revoked or expired: then every request needs one.

        A home of a simile that knew no keys has none.
        """
        with self.database.begin_read() as connection:
            if not inspect(connection).has_table(KeyRow.__tablename__):
                return False
            return bool(connection.scalar(select(exists(select(KeyRow.id)))))

    def create(
        self, name: str, scope: Scope, *, rate: int | None = None, lifetime: timedelta | None = None
    ) -> tuple[NewKey, KeyRecord]:
        """A new key. Its text is here and nowhere else. Raises BadSetting, also for a name that is taken."""
        if scope not in SCOPES:
            raise BadSetting(f"There is no scope {scope!r}. Take one of {', '.join(SCOPES)}.")
        key, made = make_key(), utc_now()
        row: dict[str, object] = {
            "name": check_key_name(name),
            "prefix": key.prefix,
            "sha256": hash_secret(key.text),
            "scope": scope,
        }
        row |= {"rate": rate, "created_at": made, "expires_at": None if lifetime is None else made + lifetime}
        try:
            with self.database.begin_untracked_write() as connection:
                made_row = connection.execute(insert(KeyRow).values(row).returning(KeyRow.__table__)).one()
                return key, _make_key_record(made_row)
        except IntegrityError:
            raise BadSetting(
                f"There is a key {name!r} already. Take another name, or `simile keys forget` that one first."
            ) from None

    def get_all(self) -> list[KeyRecord]:
        """Every key, the oldest first."""
        with self.database.begin_read() as connection:
            return [_make_key_record(row) for row in connection.execute(_KEYS_QUERY.order_by(KeyRow.id))]

    def find_by_prefix(self, prefix: str) -> KeyRecord | None:
        """The key with this prefix."""
        return self._find_key(_KEYS_QUERY.where(KeyRow.prefix == prefix))

    def revoke(self, name: str) -> KeyRecord:
        """Ends a key and the sessions that were opened with it. Raises BadSetting where there is none of this name."""
        with self.database.begin_untracked_write() as connection:
            for column in (KeyRow.name, KeyRow.prefix):
                ended = update(KeyRow).where(column == name).returning(KeyRow.__table__)
                first = func.coalesce(KeyRow.revoked_at, literal(utc_now(), UtcDateTime))  # the first time counts
                row = connection.execute(ended.values(revoked_at=first)).one_or_none()
                if row is not None:
                    connection.execute(delete(SessionRow).where(SessionRow.key_id == row.id))
                    return _make_key_record(row)
        raise _make_no_key_error(name)

    def delete(self, name: str) -> None:
        """Removes what is known of a key that was revoked. Raises BadSetting for one that is in use, or unknown."""
        with self.database.begin_untracked_write() as connection:
            found = connection.execute(_KEYS_QUERY.where((KeyRow.name == name) | (KeyRow.prefix == name))).first()
            if found is None:
                raise _make_no_key_error(name)
            if _make_key_record(found).is_usable(utc_now()):
                raise BadSetting(f"The key {name!r} is in use. Revoke it first: `simile keys revoke {name}`.")
            connection.execute(delete(KeyRow).where(KeyRow.id == found.id))

    def open_session(self, key_id: int, lifetime: timedelta) -> str:
        """A new session of a key; gives the token for the cookie. Sessions that are over go, and the oldest beyond."""
        token, made = make_session_token(), utc_now()
        row = {"sha256": hash_secret(token), "key_id": key_id, "created_at": made, "expires_at": made + lifetime}
        with self.database.begin_untracked_write() as connection:
            connection.execute(delete(SessionRow).where(SessionRow.expires_at <= made))
            connection.execute(insert(SessionRow).values(row))
            connection.execute(
                delete(SessionRow).where(SessionRow.sha256.in_(_find_excess_sessions(connection, key_id)))
            )
        return token

    def find_by_session(self, token: str) -> KeyRecord | None:
        """The key that this token's session was opened with; None if there is no such session, or it is over."""
        alive = (SessionRow.sha256 == hash_secret(token)) & (SessionRow.expires_at > utc_now())
        return self._find_key(_KEYS_QUERY.join(SessionRow, SessionRow.key_id == KeyRow.id).where(alive))

    def close_session(self, token: str) -> None:
        """Ends a session; one that is over or unknown stays so."""
        with self.database.begin_untracked_write() as connection:
            connection.execute(delete(SessionRow).where(SessionRow.sha256 == hash_secret(token)))

    def _find_key(self, query: Select[Any]) -> KeyRecord | None:
        with self.database.begin_read() as connection:
            row = connection.execute(query).one_or_none()
            return None if row is None else _make_key_record(row)


_KEYS_QUERY = select(KeyRow.__table__)


def _find_excess_sessions(connection: Connection, key_id: int) -> list[str]:
    """Hashes of a key's sessions, without the newest ones."""
    newest = select(SessionRow.sha256).where(SessionRow.key_id == key_id).order_by(SessionRow.created_at.desc())
    return list(connection.scalars(newest.offset(MAX_SESSIONS_PER_KEY).limit(MAX_SESSIONS_PER_KEY)))


def _make_no_key_error(name: str) -> BadSetting:
    return BadSetting(f"There is no key {name!r}. `simile keys list` names those there are.")


def _make_key_record(row: Row[Any]) -> KeyRecord:
    return KeyRecord(**row._mapping)
