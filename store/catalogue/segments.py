"""Segments: the rows of published indexes, and the pointer to the current one. Their files: store/index/segments.py."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select, update

from simile.core.errors import HomeBusy
from simile.store.catalogue.records import SegmentRecord, WrittenSegment
from simile.store.database.tables import DeletionRow, SegmentRow, StateRow, utc_now
from simile.store.database.transactions import Repository, read_records, read_state

RETAINED_SEGMENTS = 2  # the current one, and the previous one for a process that is just opening it


class SegmentRepository(Repository):
    """Queries and updates of segments."""

    def find(self, segment_id: int) -> SegmentRecord | None:
        """Return a segment, or None if it has been deleted."""
        with self.database.begin_read() as connection:
            return find_segment_record(connection, segment_id)

    def publish(self, encoder: str, written: WrittenSegment, change: int, *, activate: bool = False) -> set[str]:
        """Make a written segment the current one.

        The row and the pointer are written in one transaction. A segment that covers less than the current one is not
        published, because the deletions that it misses are already forgotten.

        Args:
            encoder: The encoder's fingerprint.
            written: The segment's files.
            change: The last change that the segment covers.
            activate: Whether the same transaction makes the encoder active.

        Returns the names of the files in segments/ that are in use. Raises HomeBusy if there is a newer segment, so
        that the encoder can't be made active.
        """
        with self.database.begin_write() as (connection, number_change):
            number_change()  # no other writer changes the state meanwhile
            current = find_segment_record(connection, read_state(connection).segment_id)
            if current is None or current.change <= change:
                # Deletions since the current segment are kept: other processes search that one until they have opened
                # the new one, and these deletions bring it up to date.
                since = change if current is None else current.change
                values = {**vars(written), "encoder": encoder, "change": change, "created_at": utc_now()}
                values["details"] = written.details | {"deletions_since": since}
                segment_id = connection.execute(insert(SegmentRow).values(values).returning(SegmentRow.id)).scalar_one()
                pointers = {"segment_id": segment_id} | ({"active_encoder": encoder} if activate else {})
                connection.execute(update(StateRow).values(pointers))
                connection.execute(delete(DeletionRow).where(DeletionRow.change <= since))
            elif activate:
                raise HomeBusy("Another process has published a newer segment. Run the command again.")
            # Delete the rows of old segments.
            newest = select(SegmentRow.id).order_by(SegmentRow.id.desc()).limit(RETAINED_SEGMENTS)
            retained = list(connection.scalars(newest))
            connection.execute(delete(SegmentRow).where(SegmentRow.id.not_in(retained)))
            return read_files_in_use(connection)

    def get_file_names(self) -> set[str]:
        """Return the names of the files in segments/ that are in use."""
        with self.database.begin_read() as connection:
            return read_files_in_use(connection)


def find_segment_record(connection: Connection, segment_id: int | None) -> SegmentRecord | None:
    """Return a segment; None if it has been deleted, or without an id."""
    query = select(SegmentRow.__table__).where(SegmentRow.id == segment_id)
    return next(iter(read_records(connection, SegmentRecord, query)), None) if segment_id else None


def read_segments(connection: Connection) -> list[SegmentRecord]:
    """Return all segments in the catalogue."""
    return read_records(connection, SegmentRecord, select(SegmentRow.__table__))


def read_files_in_use(connection: Connection) -> set[str]:
    """Return the names of all files of all segments in the catalogue."""
    return {name for segment in read_segments(connection) for name in segment.file_hashes}
