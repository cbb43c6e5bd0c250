"""The index as a query sees it: the current segment, and everything committed since."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace

from simile.core.errors import EncoderMismatch, IndexDamaged, NothingIndexed, SimileError
from simile.core.records import Filter, FloatArray
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.encoders import get_encoder_record
from simile.store.catalogue.filters import find_matching_ids
from simile.store.catalogue.records import CatalogueState, EncoderRecord, SegmentRecord
from simile.store.database.transactions import read_state
from simile.store.home import translate_write_errors
from simile.store.index.build import IndexOptions
from simile.store.index.delta import DeltaIndex
from simile.store.index.flat import NO_IDS, Ids, Neighbours, VectorIndex
from simile.store.index.segments import (
    MAX_HASHED_BYTES,
    delete_unused_segment_files,
    find_segment_record,
    get_first_tracked_deletion,
    make_temporary_file,
    open_segment,
    write_segment,
)
from simile.store.index.snapshot import IndexSegment, Snapshot, iterate_index_vectors
from simile.store.index.vector_file import write_vector_file

log = logging.getLogger(__name__)

ImageDistances = list[tuple[int, float]]

LARGE_SEGMENT_ROWS = 20_000  # rows: a segment of fewer is made again in a second, however little has changed
LARGE_SEGMENT_CHANGE_SHARE = 0.01  # of a larger segment: more changes would double the time of a search
FILTER_CACHE_SIZE = 8


class Index:
    """Finds vectors by vectors. Safe to share between threads; each process has its own.

    A commit is visible to every search that starts after it, whichever process made it: each search first asks
    the catalogue for its change counter, and reads what is new if it moved. A new segment is opened behind the
    searches: until it is there, they go on with the one before, and what is newer.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._home = catalogue.home
        self._refresh_lock = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._opener_thread: threading.Thread | None = None
        self.large_segment_rows = LARGE_SEGMENT_ROWS
        self._filter_cache: dict[tuple[int, Filter], Ids] = {}

    def close(self) -> None:
        """Waits for what is being opened. The index may be used again; the catalogue must still be open."""
        if self._opener_thread is not None:
            self._opener_thread.join()

    def get_snapshot(self, encoder_fingerprint: str | None = None) -> Snapshot:
        """What a search that starts now searches. Raises NothingIndexed, in a home without pictures too.

        `encoder`: the fingerprint that made the queries. Raises EncoderMismatch if another one is in use by now.
        """
        snapshot = self._get_current_snapshot()
        if not len(snapshot):
            raise NothingIndexed(f"{self._home.root} holds no pictures yet. Run `simile index PHOTOS`.")
        if encoder_fingerprint not in (None, snapshot.encoder.fingerprint):
            raise EncoderMismatch(
                f"The query was made by encoder {encoder_fingerprint}, but {snapshot.encoder.fingerprint} is in use now. "
                "Search again."
            )
        return snapshot

    def search(
        self, queries: FloatArray, k: int, encoder_fingerprint: str | None = None, filter: Filter | None = None
    ) -> list[ImageDistances]:
        """For each query (n, d'), as distances.to_indexed gives it, its k nearest (image id, Euclidean distance).

        `encoder`: the fingerprint that made the queries; another one may have been put in use meanwhile.
        Ascending, ties by id; fewer if there are fewer. Raises NothingIndexed, EncoderMismatch, NotFinite.
        """
        snapshot = self.get_snapshot(encoder_fingerprint)
        return [_make_image_distances(answer) for answer in snapshot.search(queries, k, self.find_matching_ids(filter))]

    def range(
        self, queries: FloatArray, radius: float, encoder_fingerprint: str | None = None, filter: Filter | None = None
    ) -> list[ImageDistances]:
        """As search, but all images at a distance of at most `radius`, whatever the kind of index."""
        snapshot = self.get_snapshot(encoder_fingerprint)
        return [
            _make_image_distances(answer) for answer in snapshot.range(queries, radius, self.find_matching_ids(filter))
        ]

    def find_matching_ids(self, filter: Filter | None) -> Ids | None:
        """The ids of the images that satisfy the filter, as of now, ascending; None where there is no filter."""
        if filter is None:
            return None
        with self._catalogue.begin_read() as connection:
            key = read_state(connection).changes, filter
            if key not in self._filter_cache:
                found = find_matching_ids(connection, filter)
                newest = list(self._filter_cache.items())[1 - FILTER_CACHE_SIZE :]
                self._filter_cache = dict([*newest, (key, found)])  # a new one: other threads may be reading
                return found
            return self._filter_cache[key]

    def __len__(self) -> int:
        """How many images a search would compare."""
        try:
            return len(self._get_current_snapshot())
        except NothingIndexed:
            return 0

    def count_pending(self) -> int:
        """How many rows are new, changed or deleted since the current segment. Raises NothingIndexed."""
        return self._get_newest_snapshot().pending_count

    def publish(
        self, *, kind: str = "auto", recall: float = 0.98, memory: int = 1 << 30, if_large: bool = False
    ) -> None:
        """Puts everything that is pending into a new segment; clears away what a writer that died left in segments/.

        kind, recall, memory: the settings `index`, `recall` and `index_memory`. `if_large`: leaves a few changes to a
        large segment for later; searches find them all the same. The caller holds the home's lock.
        Raises NothingIndexed if there is no encoder, HomeNotWritable.
        """
        snapshot = self._get_newest_snapshot()
        least = (
            LARGE_SEGMENT_CHANGE_SHARE * len(snapshot)
            if if_large and len(snapshot.segments[0]) > self.large_segment_rows
            else 0
        )
        if snapshot.pending_count > least:
            self.rebuild(kind=kind, recall=recall, memory=memory)
        else:
            delete_unused_segment_files(self._home, self._catalogue.segments.get_file_names())

    def rebuild(self, *, kind: str = "auto", recall: float = 0.98, memory: int = 1 << 30) -> None:
        """Makes a new segment from the rows alone: without the pictures, without a network, without the old one.

        The caller holds the home's lock. Parameters and errors as in publish.
        """
        self._build_segment(
            _get_active_fingerprint(self._catalogue.get_state()), IndexOptions(kind, recall, memory), activate=False
        )

    def switch_encoder(
        self, fingerprint: str, *, kind: str = "auto", recall: float = 0.98, memory: int = 1 << 30
    ) -> None:
        """Makes a segment of all rows of another encoder while the one in use serves, then puts it in use.

        The segment, the pointer to it and the encoder in use change in one transaction. The caller holds the home's
        lock. Raises NoSuchEncoder, HomeNotWritable; parameters as in publish.
        """
        self._build_segment(fingerprint, IndexOptions(kind, recall, memory), activate=True)

    def _build_segment(self, fingerprint: str, options: IndexOptions, *, activate: bool) -> None:
        started = time.monotonic()
        with translate_write_errors(self._home.segments), make_temporary_file(self._home) as vectors:
            with self._catalogue.begin_read() as connection:  # ends before the index is made, which takes longer
                change = read_state(connection).changes
                encoder = get_encoder_record(connection, fingerprint)
                write_vector_file(vectors, encoder.indexed_dimensions, iterate_index_vectors(connection, encoder))
            written = write_segment(self._home, encoder, vectors, change, options)
        seconds = {"build_seconds": round(time.monotonic() - started, 2)}
        written = replace(written, details=written.details | seconds)
        delete_unused_segment_files(
            self._home, self._catalogue.segments.publish(fingerprint, written, change, activate=activate)
        )

    def _get_current_snapshot(self) -> Snapshot:
        """A snapshot that holds every commit made before this call."""
        state, snapshot = self._catalogue.get_state(), self._snapshot
        if snapshot is None or snapshot.state != state:
            with self._refresh_lock:
                snapshot = self._snapshot = self._refresh_snapshot(self._snapshot)
                if self._is_outdated(snapshot):
                    self._open_in_background()
        return snapshot

    def _get_newest_snapshot(self) -> Snapshot:
        """The current snapshot, on the current segment."""
        if self._is_outdated(self._get_current_snapshot()):
            self.close()
        snapshot = self._get_current_snapshot()
        return self._open_snapshot() if self._is_outdated(snapshot) else snapshot

    @staticmethod
    def _is_outdated(snapshot: Snapshot) -> bool:
        return snapshot.base_segment_id != snapshot.state.segment_id

    def _open_in_background(self) -> None:
        """Has the current segment opened by a thread of its own, unless one is at it already."""
        if self._opener_thread is None or not self._opener_thread.is_alive():
            self._opener_thread = threading.Thread(target=self._open_and_swap, name="open-segment", daemon=True)
            self._opener_thread.start()

    def _open_and_swap(self) -> None:
        try:
            opened = self._open_snapshot()
            with self._refresh_lock:
                self._snapshot = self._refresh_snapshot(opened)  # with what was committed meanwhile
        except SimileError as error:
            log.warning("The new segment could not be opened: %s", error)

    def _refresh_snapshot(self, old: Snapshot | None) -> Snapshot:
        """The snapshot brought up to date; one that can't be is opened anew."""
        if old is not None:
            with self._catalogue.begin_read() as connection:
                state = read_state(connection)
                if old.state == state:  # another thread was faster
                    return old
                segment = None if state.segment_id is None else find_segment_record(connection, state.segment_id)
                if _can_extend(old.state, state, segment):
                    return old.extend(connection, state, old.state.changes)
        return self._open_snapshot()

    def _open_snapshot(self) -> Snapshot:
        """A snapshot of the current segment, and of what is newer."""
        with self._catalogue.begin_read() as connection:
            state = read_state(connection)
            encoder = get_encoder_record(connection, _get_active_fingerprint(state))
            segment = None if state.segment_id is None else find_segment_record(connection, state.segment_id)
            index = self._open_segment_index(encoder, segment)
            covered = 0 if segment is None or index is None else segment.change
            base = IndexSegment(DeltaIndex.from_chunks(encoder.indexed_dimensions) if index is None else index, NO_IDS)
            return Snapshot(state, encoder, state.segment_id, (base,)).extend(connection, state, covered)

    def _open_segment_index(self, encoder: EncoderRecord, segment: SegmentRecord | None) -> VectorIndex | None:
        """The segment's index, or None if there is no usable one: then the rows are searched, slower to load."""
        if segment is None or segment.encoder != encoder.fingerprint:
            return None
        try:
            return open_segment(self._home, segment, max_hashed_bytes=MAX_HASHED_BYTES)
        except IndexDamaged as error:
            # A file that vanished because a newer segment took its place is no damage.
            if self._catalogue.get_state().segment_id == segment.id:
                log.warning("%s Until then searches read the vectors from the catalogue.", error)
            return None


def _get_active_fingerprint(state: CatalogueState) -> str:
    if state.active_encoder is None:
        raise NothingIndexed("The home has no encoder in use yet. Run `simile index PHOTOS`.")
    return state.active_encoder


def _can_extend(old: CatalogueState, new: CatalogueState, segment: SegmentRecord | None) -> bool:
    """Whether everything that happened since `old` is still known: the segment of `new` says which deletions are."""
    if old.active_encoder != new.active_encoder:
        return False
    return old.segment_id is None if segment is None else old.changes >= get_first_tracked_deletion(segment)


def _make_image_distances(neighbours: Neighbours) -> ImageDistances:
    ids, distances = neighbours
    return list(zip(ids.tolist(), distances.tolist(), strict=True))
