"""Encoders: which networks made the vectors, and which one is active."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, delete, func, insert, select, update

from simile.core.atomic_write import REPLACED
from simile.core.errors import BadSetting, NoSuchEncoder
from simile.store.catalogue.records import EncoderRecord
from simile.store.database.tables import EmbeddingRow, EncoderRow, SegmentRow, StateRow, utc_now
from simile.store.database.transactions import Repository, read_records, read_state
from simile.store.home import Home


class EncoderRepository(Repository):
    """Queries and updates of encoders. A fingerprint identifies weights, architecture and preprocessing together."""

    def register(
        self,
        fingerprint: str,
        name: str,
        recipe: str,
        dimensions: int,
        index_dims: int | list[int] | None = None,
        metric: str = "l2",
    ) -> EncoderRecord:
        """Store an encoder, unless it is known already. It becomes active only by `activate`."""
        with self.database.begin_write() as (connection, _):
            if find_encoder_record(connection, fingerprint) is None:
                row = {"fingerprint": fingerprint, "name": name, "recipe": recipe, "dimensions": dimensions}
                row |= {"index_dims": index_dims, "metric": metric, "created_at": utc_now()}
                connection.execute(insert(EncoderRow).values(row))
            return get_encoder_record(connection, fingerprint)

    def get_all(self) -> list[EncoderRecord]:
        """Return all encoders, oldest first."""
        return self.read_all(EncoderRecord, _ENCODERS_QUERY.order_by(EncoderRow.created_at, EncoderRow.fingerprint))

    def get(self, fingerprint: str) -> EncoderRecord:
        """Return an encoder. Raises NoSuchEncoder."""
        with self.database.begin_read() as connection:
            return get_encoder_record(connection, fingerprint)

    def find_active(self) -> EncoderRecord | None:
        """Return the active encoder, or None if there is none yet."""
        with self.database.begin_read() as connection:
            fingerprint = read_state(connection).active_encoder
            return None if fingerprint is None else get_encoder_record(connection, fingerprint)

    def activate(self, fingerprint: str) -> None:
        """Make an encoder active: searches that start from now on use its vectors. Raises NoSuchEncoder."""
        with self.database.begin_write() as (connection, _):
            get_encoder_record(connection, fingerprint)
            connection.execute(update(StateRow).values(active_encoder=fingerprint))

    def count_embeddings(self) -> dict[str, int]:
        """Return how many images each encoder has embedded; encoders without embeddings are left out."""
        query = select(EmbeddingRow.encoder, func.count()).group_by(EmbeddingRow.encoder)
        with self.database.begin_read() as connection:
            return dict(connection.execute(query).all())

    def delete(self, fingerprint: str) -> int:
        """Delete an encoder with its vectors and segments, and return how many vectors it had.

        Vectors are deleted in batches, so that other writers do not wait long. After a crash some are left, and the
        encoder is still known. Raises NoSuchEncoder, or BadSetting for the active encoder.
        """
        deleted_count = 0
        batch = select(EmbeddingRow.image_id).where(EmbeddingRow.encoder == fingerprint).limit(VECTOR_DELETE_ROWS)
        in_batch = (EmbeddingRow.encoder == fingerprint) & EmbeddingRow.image_id.in_(batch)
        segments = select(SegmentRow.id).where(SegmentRow.encoder == fingerprint)
        while True:
            with self.database.begin_write() as (connection, _):
                _refuse_active_encoder(connection, fingerprint)
                batch_count = connection.execute(delete(EmbeddingRow).where(in_batch)).rowcount
                deleted_count += batch_count
                if not batch_count:
                    # The segments' files are deleted with the next segment, or together with the encoder's folder.
                    connection.execute(
                        update(StateRow).where(StateRow.segment_id.in_(segments)).values(segment_id=None)
                    )
                    connection.execute(delete(SegmentRow).where(SegmentRow.encoder == fingerprint))
                    connection.execute(delete(EncoderRow).where(EncoderRow.fingerprint == fingerprint))
                    return deleted_count


VECTOR_DELETE_ROWS = 20_000  # vectors deleted in one transaction: 20 MB of log at 128 dimensions

_ENCODERS_QUERY = select(EncoderRow.__table__)


def find_fingerprint(home: Home, reference: str, known: Iterable[str] = ()) -> str:
    """Return the fingerprint that a user means. All commands resolve references here.

    `reference` is a fingerprint, or the start of exactly one, of the home's folders or `known` from the catalogue.
    Raises NoSuchEncoder.
    """
    if any(home.encoders.glob(f"{REPLACED}*")):
        home.recover()
    names = {*known, *list_encoder_folders(home)}
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


def list_encoder_folders(home: Home) -> set[str]:
    """Return the names of the encoders' folders; the name of an unfinished one starts with a dot."""
    shared = {stored.name.split("/")[1] for stored in home.objects.names("encoders/")} if home.objects.is_shared else ()
    if not home.encoders.is_dir():
        return set(shared)
    return {path.name for path in home.encoders.iterdir() if path.is_dir() and path.name[0] != "."}.union(shared)


def find_encoder_record(connection: Connection, fingerprint: str) -> EncoderRecord | None:
    """Return an encoder, or None."""
    query = _ENCODERS_QUERY.where(EncoderRow.fingerprint == fingerprint)
    return next(iter(read_records(connection, EncoderRecord, query)), None)


def get_encoder_record(connection: Connection, fingerprint: str) -> EncoderRecord:
    """Return an encoder. Raises NoSuchEncoder."""
    record = find_encoder_record(connection, fingerprint)
    if record is None:
        raise NoSuchEncoder(f"The catalogue has no encoder {fingerprint}. Run `simile encoders` to list all.")
    return record


def _refuse_active_encoder(connection: Connection, fingerprint: str) -> None:
    get_encoder_record(connection, fingerprint)
    if read_state(connection).active_encoder == fingerprint:
        raise BadSetting(
            f"Encoder {fingerprint} is active and can't be removed. "
            "Activate another one first: `simile encoders activate FINGERPRINT`."
        )
