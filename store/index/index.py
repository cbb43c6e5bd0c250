"""Vector search over the current segment and everything committed since."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from pathlib import Path

from simile.core.errors import EncoderMismatch, IndexDamaged, NothingIndexed, ObjectsUnavailable, SimileError
from simile.core.records import Filter, FloatArray
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.encoders import get_encoder_record
from simile.store.catalogue.filters import find_matching_ids
from simile.store.catalogue.records import EncoderRecord, SegmentRecord
from simile.store.catalogue.segments import find_segment_record
from simile.store.database.transactions import CatalogueState, read_state
from simile.store.home import translate_write_errors
from simile.store.index.build import MIN_REUSE_ROWS, IndexOptions, PreviousLists
from simile.store.index.flat import NO_IDS, FlatIndex, Ids, Neighbours, VectorIndex
from simile.store.index.ivf import IvfIndex
from simile.store.index.segments import (
    MAX_HASHED_BYTES,
    delete_fetched_segment_files,
    delete_unused_segment_files,
    make_temporary_file,
    open_segment,
    write_segment,
)
from simile.store.index.snapshot import IndexSegment, Snapshot, iterate_index_vectors
from simile.store.index.vector_file import write_vector_file

log = logging.getLogger(__name__)

ImageDistances = list[tuple[int, float]]

LARGE_SEGMENT_ROWS = 20_000  # a smaller segment is rebuilt in a second, however little has changed
LARGE_SEGMENT_CHANGE_SHARE = 0.01  # of a larger segment's rows: more changes would double the time of a search
FILTER_CACHE_SIZE = 8


class Index:
    """The vector index of a home. Threads may share it; each process has its own.

    A commit is visible to every search that starts after it, whichever process made it: each search reads the
    catalogue's change counter, and loads what is new if the counter has moved. A new segment is opened in the
    background; until then, searches use the previous segment and everything that is newer.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._home = catalogue.home
        self._refresh_lock = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._opener_thread: threading.Thread | None = None
        self.large_segment_rows, self.min_reuse_rows = LARGE_SEGMENT_ROWS, MIN_REUSE_ROWS
        self._filter_cache: dict[tuple[int, Filter], Ids] = {}

    def close(self) -> None:
        """Wait until no segment is being opened. The index may be used again while the catalogue is open."""
        if self._opener_thread is not None:
            self._opener_thread.join()

    def get_snapshot(self, encoder_fingerprint: str | None = None) -> Snapshot:
        """Return the vectors that a search starting now sees.

        Raises NothingIndexed if the home has no active encoder or no images, and EncoderMismatch if another encoder
        than that of the queries is active.
        """
        snapshot = self._get_current_snapshot()
        if not len(snapshot):
            raise NothingIndexed(f"{self._home.root} holds no images yet. Run `simile index PHOTOS`.")
        if encoder_fingerprint not in (None, snapshot.encoder.fingerprint):
            raise EncoderMismatch(
                f"The query was made by encoder {encoder_fingerprint}, but "
                f"{snapshot.encoder.fingerprint} is active now. Search again."
            )
        return snapshot

    def search(
        self, queries: FloatArray, k: int, encoder_fingerprint: str | None = None, filter: Filter | None = None
    ) -> list[ImageDistances]:
        """Find the k nearest images of each query (n, d'), made by `make_index_vectors`; fewer if there are fewer.

        Return for each query (image id, Euclidean distance), ascending by distance, ties by id. Raises NothingIndexed,
        EncoderMismatch (another encoder has become active meanwhile), NotFinite.
        """
        snapshot = self.get_snapshot(encoder_fingerprint)
        return list(map(_make_image_distances, snapshot.search(queries, k, self.find_matching_ids(filter))))

    def range(
        self, queries: FloatArray, radius: float, encoder_fingerprint: str | None = None, filter: Filter | None = None
    ) -> list[ImageDistances]:
        """Find all images at a distance of at most `radius`: exact for every kind of index. See `search`."""
        snapshot = self.get_snapshot(encoder_fingerprint)
        return list(map(_make_image_distances, snapshot.range(queries, radius, self.find_matching_ids(filter))))

    def find_matching_ids(self, filter: Filter | None) -> Ids | None:
        """Return the ids of the images that match the filter now, ascending; None if there is no filter."""
        return None if filter is None else self.catalogue.repeat(lambda: self._find_matching_ids(filter))

    def _find_matching_ids(self, filter: Filter) -> Ids:
        with self.catalogue.begin_read() as connection:
            key = read_state(connection).changes, filter
            if key not in self._filter_cache:
                ids = find_matching_ids(connection, filter)
                newest = list(self._filter_cache.items())[1 - FILTER_CACHE_SIZE :]
                self._filter_cache = dict([*newest, (key, ids)])  # a new dict, because other threads may be reading
                return ids
            return self._filter_cache[key]

    def __len__(self) -> int:
        """Return how many images a search compares."""
        try:
            return len(self._get_current_snapshot())
        except NothingIndexed:
            return 0

    def count_pending(self) -> int:
        """Return how many rows are new, changed or deleted since the current segment. Raises NothingIndexed."""
        return self._get_newest_snapshot().pending_count

    def publish(
        self, *, kind: str = "auto", recall: float = 0.98, memory: int = 1 << 30, if_large: bool = False
    ) -> None:
        """Build a new segment if changes are pending; otherwise delete unused files in segments/.

        The caller must hold the home's lock. `kind`, `recall` and `memory` are the fields of IndexOptions. With
        `if_large`, a few changes to a large segment are left for later; searches find them anyway. Raises
        NothingIndexed if there is no active encoder, and HomeNotWritable.
        """
        snapshot = self._get_newest_snapshot()
        ignored_changes = 0.0
        if if_large and len(snapshot.segments[0]) > self.large_segment_rows:
            ignored_changes = LARGE_SEGMENT_CHANGE_SHARE * len(snapshot)
        if snapshot.pending_count > ignored_changes:
            fingerprint = snapshot.encoder.fingerprint
            previous = self._open_previous_lists(fingerprint)
            self._build_segment(fingerprint, IndexOptions(kind, recall, memory), activate=False, previous=previous)
        else:
            delete_unused_segment_files(self._home, self.catalogue.segments.get_file_names())

    def rebuild(self, *, kind: str = "auto", recall: float = 0.98, memory: int = 1 << 30) -> None:
        """Build a new segment from the catalogue's rows, without images, a network or the old segment and its lists.

        The caller must hold the home's lock. Parameters and errors as in `publish`.
        """
        fingerprint = _get_active_fingerprint(self.catalogue.get_state())
        self._build_segment(fingerprint, IndexOptions(kind, recall, memory), activate=False)

    def switch_encoder(
        self, fingerprint: str, *, kind: str = "auto", recall: float = 0.98, memory: int = 1 << 30
    ) -> None:
        """Build a segment of another encoder's vectors while the active one serves, then make that encoder active.

        One transaction changes the segment, the pointer to it and the active encoder. The caller must hold the home's
        lock. Raises NoSuchEncoder, HomeNotWritable; parameters as in `publish`.
        """
        self._build_segment(fingerprint, IndexOptions(kind, recall, memory), activate=True)

    def _open_previous_lists(self, fingerprint: str) -> PreviousLists | None:
        """Open the lists of the current segment if it is large, to use their centroids again."""
        segment_id = self.catalogue.get_state().segment_id
        segment = None if segment_id is None else self.catalogue.segments.find(segment_id)
        if segment is None or segment.encoder != fingerprint or segment.rows < self.min_reuse_rows:
            return None
        try:
            index = open_segment(self._home, segment, max_hashed_bytes=MAX_HASHED_BYTES)
        except (IndexDamaged, ObjectsUnavailable) as error:
            log.warning("The new segment gets new lists: %s", error)
            return None
        if not isinstance(index, IvfIndex):
            return None
        details = {"trained_rows": segment.rows, "trained_nprobe": index.tuning.nprobe} | segment.details
        return PreviousLists(index, details["trained_rows"], details["trained_nprobe"])

    def _build_segment(
        self, fingerprint: str, options: IndexOptions, *, activate: bool, previous: PreviousLists | None = None
    ) -> None:
        started = time.monotonic()
        with translate_write_errors(self._home.segments), make_temporary_file(self._home) as vectors:
            change, encoder = self.catalogue.repeat(lambda: self._copy_vectors(fingerprint, vectors))
            written = write_segment(self._home, encoder, vectors, change, options, previous)
        build_time = {"build_seconds": round(time.monotonic() - started, 2)}
        written = replace(written, details=written.details | build_time)
        used_names = self.catalogue.segments.publish(fingerprint, written, change, activate=activate)
        delete_unused_segment_files(self._home, used_names)

    def _copy_vectors(self, fingerprint: str, target: Path) -> tuple[int, EncoderRecord]:
        """Write an encoder's vectors to a file in one transaction, which ends before the index is built."""
        with self.catalogue.begin_read() as connection:
            change = read_state(connection).changes
            encoder = get_encoder_record(connection, fingerprint)
            write_vector_file(target, encoder.indexed_dimensions, iterate_index_vectors(connection, encoder))
        return change, encoder

    def _get_current_snapshot(self) -> Snapshot:
        """Return a snapshot that holds every commit made before this call."""
        state, snapshot = self.catalogue.get_state(), self._snapshot
        if snapshot is None or snapshot.state != state:
            with self._refresh_lock:
                snapshot = self._snapshot = self._refresh_snapshot(self._snapshot)
                is_opening = self._opener_thread is not None and self._opener_thread.is_alive()
                if _is_outdated(snapshot) and not is_opening:
                    self._opener_thread = threading.Thread(target=self._open_and_swap, name="open-segment", daemon=True)
                    self._opener_thread.start()
        return snapshot

    def _get_newest_snapshot(self) -> Snapshot:
        """Return the current snapshot, based on the current segment."""
        if _is_outdated(self._get_current_snapshot()):
            self.close()
        snapshot = self._get_current_snapshot()
        return self._open_snapshot() if _is_outdated(snapshot) else snapshot

    def _open_and_swap(self) -> None:
        try:
            opened = self._open_snapshot(is_required=False)
            with self._refresh_lock:
                self._snapshot = self._refresh_snapshot(opened)  # adds what was committed meanwhile
            if self._home.objects.is_shared:
                delete_fetched_segment_files(self._home, self.catalogue.segments.get_file_names())
        except SimileError as error:
            log.warning("The new segment could not be opened: %s", error)

    def _refresh_snapshot(self, old: Snapshot | None) -> Snapshot:
        """Extend a snapshot to the current state; open a new one if that is not possible."""

        def refresh() -> Snapshot:
            extended = self._extend_snapshot(old)
            return self._open_snapshot() if extended is None else extended

        return self.catalogue.repeat(refresh)

    def _extend_snapshot(self, old: Snapshot | None) -> Snapshot | None:
        """Return a snapshot that is extended to the current state; None if that is not possible."""
        if old is not None:
            with self.catalogue.begin_read() as connection:
                state = read_state(connection)
                if old.state == state:  # another thread has refreshed it
                    return old
                segment = find_segment_record(connection, state.segment_id)
                if _can_extend(old.state, state, segment):
                    return old.extend(connection, state, old.state.changes)
        return None

    def _open_snapshot(self, *, is_required: bool = True) -> Snapshot:
        """Open a snapshot of the current segment and everything newer.

        If the segment must be fetched from an object store that can't be reached, ObjectsUnavailable is raised. If the
        snapshot is required, its vectors are read from the rows instead, and the segment counts as not opened yet.
        """
        while True:
            # Not in the transaction below: fetching the files of a segment may take minutes.
            before = self.catalogue.get_state()
            segment = None if before.segment_id is None else self.catalogue.segments.find(before.segment_id)
            try:
                index = self._open_segment_index(before, segment)
            except ObjectsUnavailable as error:
                if not is_required:
                    raise
                log.warning("%s Until then searches read the vectors from the catalogue.", error)
                segment = index = None
            with self.catalogue.begin_read() as connection:
                state = read_state(connection)
                if (state.segment_id, state.active_encoder) != (before.segment_id, before.active_encoder):
                    continue  # a newer segment was published meanwhile
                encoder = get_encoder_record(connection, _get_active_fingerprint(state))
                covered_change = 0 if segment is None or index is None else segment.change
                base = IndexSegment(FlatIndex(encoder.indexed_dimensions) if index is None else index, NO_IDS)
                base_id = None if segment is None else segment.id
                return Snapshot(state, encoder, base_id, (base,)).extend(connection, state, covered_change)

    def _open_segment_index(self, state: CatalogueState, segment: SegmentRecord | None) -> VectorIndex | None:
        """Open the segment's index; return None if it can't be used. Then the vectors come from the rows: slower."""
        if segment is None or segment.encoder != state.active_encoder:
            return None
        try:
            return open_segment(self._home, segment, max_hashed_bytes=MAX_HASHED_BYTES)
        except IndexDamaged as error:
            # If a newer segment has been published, the old file was deleted and nothing is damaged.
            if self.catalogue.get_state().segment_id == segment.id:
                log.warning("%s Until then searches read the vectors from the catalogue.", error)
            return None


def _get_active_fingerprint(state: CatalogueState) -> str:
    if state.active_encoder is None:
        raise NothingIndexed("The home has no active encoder yet. Run `simile index PHOTOS`.")
    return state.active_encoder


def _is_outdated(snapshot: Snapshot) -> bool:
    return snapshot.base_segment_id != snapshot.state.segment_id


def _can_extend(old: CatalogueState, new: CatalogueState, segment: SegmentRecord | None) -> bool:
    """Return whether all changes since `old` are known: the deletions before some change are forgotten."""
    if old.active_encoder != new.active_encoder:
        return False
    return old.segment_id is None if segment is None else old.changes >= segment.first_tracked_deletion


def _make_image_distances(neighbours: Neighbours) -> ImageDistances:
    ids, distances = neighbours
    return list(zip(ids.tolist(), distances.tolist(), strict=True))
