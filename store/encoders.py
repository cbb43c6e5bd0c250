"""Encoders: which network made which vectors, and which one is in use."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from core.errors import NoSuchEncoder
from store.records import EncoderRecord
from store.tables import EncoderRow, StateRow, now
from store.transactions import Transactions, read_state


class Encoders(Transactions):
    """Verbs on encoders. A fingerprint names weights, architecture and preprocessing together."""

    def register_encoder(
        self,
        fingerprint: str,
        name: str,
        recipe: str,
        dimensions: int,
        index_dims: int | list[int] | None = None,
        metric: str = "l2",
    ) -> EncoderRecord:
        """Notes an encoder; one that is known already stays as it is. It is not in use until `activate`."""
        with self.writing() as (connection, _):
            if find_encoder(connection, fingerprint) is None:
                row = {"fingerprint": fingerprint, "name": name, "recipe": recipe, "dimensions": dimensions}
                row |= {"index_dims": index_dims, "metric": metric, "created_at": now()}
                connection.execute(insert(EncoderRow).values(row))
            return get_encoder(connection, fingerprint)

    def encoders(self) -> list[EncoderRecord]:
        """Every encoder, the oldest first."""
        with self.reading() as connection:
            rows = connection.execute(_COLUMNS.order_by(EncoderRow.created_at, EncoderRow.fingerprint))
            return [_record(row) for row in rows]

    def encoder(self, fingerprint: str) -> EncoderRecord:
        """One encoder. Raises NoSuchEncoder."""
        with self.reading() as connection:
            return get_encoder(connection, fingerprint)

    def active_encoder(self) -> EncoderRecord | None:
        """The encoder in use, or None in a home that has none yet."""
        with self.reading() as connection:
            fingerprint = read_state(connection).active_encoder
            return None if fingerprint is None else get_encoder(connection, fingerprint)

    def activate(self, fingerprint: str) -> None:
        """Puts the encoder in use: queries that start from now on see its vectors only. Raises NoSuchEncoder."""
        with self.writing() as (connection, _):
            get_encoder(connection, fingerprint)
            connection.execute(update(StateRow).values(active_encoder=fingerprint))


_COLUMNS = select(EncoderRow.__table__)


def find_encoder(connection: Connection, fingerprint: str) -> EncoderRecord | None:
    row = connection.execute(_COLUMNS.where(EncoderRow.fingerprint == fingerprint)).one_or_none()
    return None if row is None else _record(row)


def get_encoder(connection: Connection, fingerprint: str) -> EncoderRecord:
    """As find_encoder, but raises NoSuchEncoder."""
    record = find_encoder(connection, fingerprint)
    if record is None:
        raise NoSuchEncoder(
            f"The catalogue knows no encoder {fingerprint}. Run `simile encoders` to see those it knows."
        )
    return record


def _record(row: Row[Any]) -> EncoderRecord:
    values = dict(row._mapping)
    if isinstance(values["index_dims"], list):
        values["index_dims"] = tuple(values["index_dims"])
    return EncoderRecord(**values)
