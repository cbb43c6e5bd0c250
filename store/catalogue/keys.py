"""Keys of the service, and browser sessions that were opened with them. Only hashes are stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

from sqlalchemy import Connection, delete, exists, func, insert, inspect, literal, select, update
from sqlalchemy.exc import IntegrityError

from simile.core.errors import BadSetting, QuotaExceeded, TransactionConflict
from simile.core.keys import SCOPES, NewKey, Scope, check_key_name, hash_secret, make_key, make_session_token
from simile.core.records import FileStat
from simile.store.catalogue.records import KeyRecord, RestoredKey, UploadAccount
from simile.store.database.tables import KeyRow, LocationRow, SessionRow, UploadRow, UtcDateTime, utc_now
from simile.store.database.transactions import NumberChange, Repository, once, read_records
from simile.store.home import translate_write_errors

MAX_SESSIONS_PER_KEY = 100  # the oldest sessions in excess end
_KEYS_QUERY = select(KeyRow.__table__)


class KeyRepository(Repository):
    """Queries and updates of keys and sessions. No search depends on them, so their changes do not count."""

    def has_any(self) -> bool:
        """Return whether the home has keys, even revoked or expired ones: then every request needs a key.

        A home made before keys existed has none. One that had keys still counts when its catalogue was emptied.
        """
        if self.database.home.keys_reserve.exists():
            return True
        with self.database.begin_read() as connection:
            if not inspect(connection).has_table(KeyRow.__tablename__):
                return False
            return bool(connection.scalar(select(exists(select(KeyRow.id)))))

    @once
    def create(
        self,
        name: str,
        scope: Scope,
        *,
        rate: int | None = None,
        quota: int | None = None,
        lifetime: timedelta | None = None,
    ) -> tuple[NewKey, KeyRecord]:
        """Create a key; return it, which is the only place of its secret text, and its record.

        It may make `rate` requests a minute and upload `quota` bytes (None: the service's settings), and expires after
        `lifetime` (None: never).
        Raises BadSetting if the name is invalid or taken, or the scope is unknown.
        """
        if scope not in SCOPES:
            raise BadSetting(f"There is no scope {scope!r}. Take one of {', '.join(SCOPES)}.")
        key, now = make_key(), utc_now()
        row: dict[str, Any] = {"name": check_key_name(name), "prefix": key.prefix, "sha256": hash_secret(key.text)}
        row |= {"scope": scope, "rate": rate, "quota": quota, "created_at": now}
        row["expires_at"] = None if lifetime is None else now + lifetime
        try:
            with self.database.begin_untracked_write() as connection:
                with translate_write_errors(self.database.home.keys_reserve):
                    self.database.home.keys_reserve.touch()
                statement = insert(KeyRow).values(row).returning(KeyRow.__table__)
                record = read_records(connection, KeyRecord, statement)[0]
        except (IntegrityError, TransactionConflict):
            raise BadSetting(
                f"There is a key {name!r} already. Take another name, or `simile keys forget` that one first."
            ) from None
        self.database.home.keep_keys_reserve()
        return key, record

    def get_all(self) -> list[KeyRecord]:
        """Return all keys, oldest first."""
        return self.read_all(KeyRecord, _KEYS_QUERY.order_by(KeyRow.id))

    def find_by_prefix(self, prefix: str) -> KeyRecord | None:
        """Return the key with this prefix, or None."""
        return self.read_first(KeyRecord, _KEYS_QUERY.where(KeyRow.prefix == prefix))

    def revoke(self, name: str) -> KeyRecord:
        """Revoke a key by its name or prefix, and end its sessions; also on a full disk.

        Raises BadSetting if there is no such key.
        """
        with self.database.home.use_keys_reserve(), self.database.begin_untracked_write() as connection:
            for column in (KeyRow.name, KeyRow.prefix):
                revocation = update(KeyRow).where(column == name).returning(KeyRow.__table__)
                # If the key was revoked before, that time stays.
                revoked_at = func.coalesce(KeyRow.revoked_at, literal(utc_now(), UtcDateTime))
                for key in read_records(connection, KeyRecord, revocation.values(revoked_at=revoked_at)):
                    connection.execute(delete(SessionRow).where(SessionRow.key_id == key.id))
                    return key
        raise _make_no_key_error(name)

    def count_uploaded_bytes(self) -> dict[int | None, int]:
        """Return the bytes of uploaded files by the id of their key; None: uploaded without a key."""
        with self.database.begin_read() as connection:
            query = select(UploadRow.key_id, func.sum(UploadRow.size)).group_by(UploadRow.key_id)
            return {key_id: int(size) for key_id, size in connection.execute(query)}

    def check_quota(self, account: UploadAccount, size: int) -> None:
        """Check that an account may upload so many bytes more, before the work. Raises QuotaExceeded."""
        with self.database.begin_read() as connection:
            _check_quota(connection, account, size)

    def end_all(self, *, keep_keys: bool) -> list[RestoredKey]:
        """End all sessions, and revoke all keys unless they are kept; return the keys that were not revoked before.

        The schema may be of any version that has keys.
        """
        usable = KeyRow.revoked_at.is_(None)
        with self.database.begin_untracked_write() as connection:
            if not inspect(connection).has_table(KeyRow.__tablename__):
                return []
            query = select(KeyRow.name, KeyRow.scope, KeyRow.created_at).where(usable).order_by(KeyRow.id)
            keys = read_records(connection, partial(RestoredKey, is_usable=keep_keys), query)
            connection.execute(delete(SessionRow))
            if not keep_keys:
                connection.execute(update(KeyRow).where(usable).values(revoked_at=utc_now()))
        return keys

    def delete(self, name: str) -> None:
        """Delete a revoked or expired key. Raises BadSetting for a key that is in use or unknown."""
        home = self.database.home
        with home.use_keys_reserve(), self.database.begin_untracked_write() as connection:
            query = _KEYS_QUERY.where((KeyRow.name == name) | (KeyRow.prefix == name))
            keys = read_records(connection, KeyRecord, query)
            if not keys:
                raise _make_no_key_error(name)
            if keys[0].is_usable(utc_now()):
                raise BadSetting(f"The key {name!r} is in use. Revoke it first: `simile keys revoke {name}`.")
            connection.execute(delete(KeyRow).where(KeyRow.id == keys[0].id))
            if not connection.scalar(select(exists(select(KeyRow.id)))):
                home.keys_reserve.unlink(missing_ok=True)

    def open_session(self, key_id: int, lifetime: timedelta) -> str:
        """Open a session and return the token for its cookie. Expired sessions and the oldest in excess are deleted."""
        token, now = make_session_token(), utc_now()
        row = {"sha256": hash_secret(token), "key_id": key_id, "created_at": now, "expires_at": now + lifetime}
        with self.database.begin_untracked_write() as connection:
            connection.execute(delete(SessionRow).where(SessionRow.expires_at <= now))
            connection.execute(insert(SessionRow).values(row))
            newest = select(SessionRow.sha256).where(SessionRow.key_id == key_id).order_by(SessionRow.created_at.desc())
            excess = connection.scalars(newest.offset(MAX_SESSIONS_PER_KEY).limit(MAX_SESSIONS_PER_KEY)).all()
            connection.execute(delete(SessionRow).where(SessionRow.sha256.in_(excess)))
        return token

    def find_by_session(self, token: str) -> KeyRecord | None:
        """Return the key of this token's session; None if the session does not exist or has expired."""
        alive = (SessionRow.sha256 == hash_secret(token)) & (SessionRow.expires_at > utc_now())
        query = _KEYS_QUERY.join(SessionRow, SessionRow.key_id == KeyRow.id).where(alive)
        return self.read_first(KeyRecord, query)

    def close_session(self, token: str) -> None:
        """End a session, if it exists; also on a full disk. Anybody may send a cookie, so it is read first."""
        if self.find_by_session(token) is not None:
            with self.database.home.use_keys_reserve():
                self.write_untracked(delete(SessionRow).where(SessionRow.sha256 == hash_secret(token)))


@contextmanager
def charge_uploads(
    connection: Connection, files: Iterable[FileStat], account: UploadAccount | None, number_change: NumberChange
) -> Iterator[None]:
    """Count files with new paths towards an account, around the statement that stores them.

    Raises QuotaExceeded at the end; the number of the change makes count and check one step for all writers.
    """
    if account and account.quota:
        number_change()
    sizes = {} if account is None else {file.path: file.size for file in files}
    location = select(LocationRow.id, LocationRow.path).where(LocationRow.path.in_(sizes))
    known = {path for _, path in connection.execute(location)} if sizes else set()
    yield
    rows = [
        {"location_id": location_id, "key_id": account.key_id, "size": sizes[path]}
        for location_id, path in (connection.execute(location) if account and sizes.keys() - known else ())
        if account and path not in known
    ]
    if account and rows:
        connection.execute(insert(UploadRow), rows)
        _check_quota(connection, account, 0)


def _check_quota(connection: Connection, account: UploadAccount, size: int) -> None:
    if account.quota:
        query = select(func.coalesce(func.sum(UploadRow.size), 0)).where(UploadRow.key_id == account.key_id)
        if int(connection.scalar(query) or 0) + size > account.quota:
            client, setting = ("this key", "`simile keys create --quota`, or ") if account.key_id else ("clients", "")
            raise QuotaExceeded(
                f"With this upload, those of {client} would take more than their quota of {account.quota:,} bytes "
                f"({setting}SIMILE_UPLOAD_QUOTA). Delete images that were uploaded, or ask the operator for more."
            )


def _make_no_key_error(name: str) -> BadSetting:
    return BadSetting(f"There is no key {name!r}. `simile keys list` shows all keys.")
