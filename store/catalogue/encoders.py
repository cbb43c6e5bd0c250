"""Encoders: which network made which vectors, and which one is in use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from simile.core.atomic_write import REPLACED
from simile.core.errors import BadSetting, NoSuchEncoder
from simile.store.catalogue.records import EncoderRecord
from simile.store.database.tables import EmbeddingRow, EncoderRow, SegmentRow, StateRow, utc_now
from simile.store.database.transactions import Repository, read_state
from simile.store.home import Home


class EncoderRepository(Repository):
    """Verbs on encoders. A fingerprint names weights, architecture and preprocessing together."""

    def register(
        self,
        fingerprint: str,
        name: str,
        recipe: str,
        dimensions: int,
        index_dims: int | list[int] | None = None,
        metric: str = "l2",
    ) -> EncoderRecord:
        """Notes an encoder; one that is known already stays as it is. It is not in use until `activate`."""
        with self.database.begin_write() as (connection, _):
            if find_encoder_record(connection, fingerprint) is None:
                row = {"fingerprint": fingerprint, "name": name, "recipe": recipe, "dimensions": dimensions}
                row |= {"index_dims": index_dims, "metric": metric, "created_at": utc_now()}
                connection.execute(insert(EncoderRow).values(row))
            return get_encoder_record(connection, fingerprint)

    def get_all(self) -> list[EncoderRecord]:
        """Every encoder, the oldest first."""
        with self.database.begin_read() as connection:
            rows = connection.execute(_ENCODERS_QUERY.order_by(EncoderRow.created_at, EncoderRow.fingerprint))
            return [_make_encoder_record(row) for row in rows]

    def get(self, fingerprint: str) -> EncoderRecord:
        """One encoder. Raises NoSuchEncoder."""
        with self.database.begin_read() as connection:
            return get_encoder_record(connection, fingerprint)

    def find_active(self) -> EncoderRecord | None:
        """The encoder in use, or None in a home that has none yet."""
        with self.database.begin_read() as connection:
            fingerprint = read_state(connection).active_encoder
            return None if fingerprint is None else get_encoder_record(connection, fingerprint)

    def activate(self, fingerprint: str) -> None:
        """Puts the encoder in use: queries that start from now on see its vectors only. Raises NoSuchEncoder."""
        with self.database.begin_write() as (connection, _):
            get_encoder_record(connection, fingerprint)
            connection.execute(update(StateRow).values(active_encoder=fingerprint))

    def count_embeddings(self) -> dict[str, int]:
        """How many pictures each encoder has seen; those that have seen none are left out."""
        query = select(EmbeddingRow.encoder, func.count()).group_by(EmbeddingRow.encoder)
        with self.database.begin_read() as connection:
            return dict(connection.execute(query).all())

    def delete(self, fingerprint: str) -> int:
        """Forgets an encoder with its vectors and segments; gives how many vectors there were.

        Vectors go in portions, so that nobody waits long for a turn to write: after a crash some are left, and the
        encoder is still known. Raises NoSuchEncoder, and BadSetting for the one in use.
        """
        removed = 0
        while True:
            with self.database.begin_write() as (connection, _):
                _refuse_active_encoder(connection, fingerprint)
                gone = _delete_vector_batch(connection, fingerprint)
                removed += gone
                if not gone:
                    _delete_encoder_segments(connection, fingerprint)
                    connection.execute(delete(EncoderRow).where(EncoderRow.fingerprint == fingerprint))
                    return removed


VECTOR_DELETE_ROWS = 20_000  # vectors removed in one transaction: 20 MB of log at 128 dimensions

_ENCODERS_QUERY = select(EncoderRow.__table__)


def find_fingerprint(home: Home, reference: str, known: Iterable[str] = ()) -> str:
    """Return the fingerprint that `reference` is or starts, of the home's folders and of `known`.

    This is the only place that decides which encoder a person means. Raises NoSuchEncoder.
    """
    if any(home.encoders.glob(f"{REPLACED}*")):
        home.recover()
    names = {*known, *encoder_folders(home)}
    matching = sorted(name for name in names if reference and name.startswith(reference))
    if reference in names or len(matching) == 1:
        return reference if reference in names else matching[0]
    if matching:
        raise NoSuchEncoder(
            f"{reference!r} is the start of several encoders: {', '.join(matching)}. "
            "Give more of the fingerprint. `simile encoders` lists them."
        )
    listed = ", ".join(sorted(names)) or "none"
    raise NoSuchEncoder(f"This home has no encoder {reference!r} (it has: {listed}). `simile encoders` lists them.")


def encoder_folders(home: Home) -> set[str]:
    """Return the names of the encoders' folders; the name of an unfinished one starts with a dot."""
    if not home.encoders.is_dir():
        return set()
    return {path.name for path in home.encoders.iterdir() if path.is_dir() and not path.name.startswith(".")}


def find_encoder_record(connection: Connection, fingerprint: str) -> EncoderRecord | None:
    row = connection.execute(_ENCODERS_QUERY.where(EncoderRow.fingerprint == fingerprint)).one_or_none()
    return None if row is None else _make_encoder_record(row)


def get_encoder_record(connection: Connection, fingerprint: str) -> EncoderRecord:
    """As find_encoder, but raises NoSuchEncoder."""
    record = find_encoder_record(connection, fingerprint)
    if record is None:
        raise NoSuchEncoder(
            f"The catalogue knows no encoder {fingerprint}. Run `simile encoders` to see those it knows."
        )
    return record


def _refuse_active_encoder(connection: Connection, fingerprint: str) -> None:
    get_encoder_record(connection, fingerprint)
    if read_state(connection).active_encoder == fingerprint:
        raise BadSetting(
            f"Encoder {fingerprint} is in use and can't be removed. "
            "Put another one in use first: `simile encoders activate FINGERPRINT`."
        )


def _delete_vector_batch(connection: Connection, fingerprint: str) -> int:
    some = select(EmbeddingRow.image_id).where(EmbeddingRow.encoder == fingerprint).limit(VECTOR_DELETE_ROWS)
    of_encoder = (EmbeddingRow.encoder == fingerprint) & EmbeddingRow.image_id.in_(some)
    return connection.execute(delete(EmbeddingRow).where(of_encoder)).rowcount


def _delete_encoder_segments(connection: Connection, fingerprint: str) -> None:
    """The rows; the files are cleared away with the next segment, or by whoever removes the encoder's folder."""
    old = select(SegmentRow.id).where(SegmentRow.encoder == fingerprint)
    connection.execute(update(StateRow).where(StateRow.segment_id.in_(old)).values(segment_id=None))
    connection.execute(delete(SegmentRow).where(SegmentRow.encoder == fingerprint))


def _make_encoder_record(row: Row[Any]) -> EncoderRecord:
    values = dict(row._mapping)
    if isinstance(values["index_dims"], list):
        values["index_dims"] = tuple(values["index_dims"])
    return EncoderRecord(**values)
