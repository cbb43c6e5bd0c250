"""The index as a query sees it: the current segment, and everything committed since."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace

from simile.core.errors import EncoderMismatch, IndexDamaged, NothingIndexed, SimileError
from simile.core.records import Filter, FloatArray
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.encoders import get_encoder
from simile.store.catalogue.filters import matching
from simile.store.catalogue.records import EncoderRecord, SegmentRecord, State
from simile.store.database.transactions import read_state
from simile.store.home import writing
from simile.store.index.build import Wanted
from simile.store.index.delta import NewerRows
from simile.store.index.flat import NO_IDS, Ids, Neighbours, VectorIndex
from simile.store.index.segments import (
    HASHED,
    clear_segments,
    deletions_since,
    open_segment,
    read_segment,
    unfinished,
    write_segment,
)
from simile.store.index.snapshot import Part, Snapshot, indexed_vectors
from simile.store.index.vector_file import write_vectors

log = logging.getLogger(__name__)

Hits = list[tuple[int, float]]

LARGE = 20_000  # rows: a segment of fewer is made again in a second, however little has changed
LARGE_SHARE = 0.01  # of a larger segment: more changes would double the time of a search
FILTERS_KEPT = 8


class Index:
    """Finds vectors by vectors. Safe to share between threads; each process has its own.

    A commit is visible to every search that starts after it, whichever process made it: each search first asks
    the catalogue for its change counter, and reads what is new if it moved. A new segment is opened behind the
    searches: until it is there, they go on with the one before, and what is newer.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._home = catalogue.home
        self._refreshing = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._opening: threading.Thread | None = None
        self.large = LARGE
        self._filters: dict[tuple[int, Filter], Ids] = {}

    def close(self) -> None:
        """Waits for what is being opened. The index may be used again; the catalogue must still be open."""
        if self._opening is not None:
            self._opening.join()

    def current(self, encoder: str | None = None) -> Snapshot:
        """What a search that starts now searches. Raises NothingIndexed, in a home without pictures too.

        `encoder`: the fingerprint that made the queries. Raises EncoderMismatch if another one is in use by now.
        """
        snapshot = self._current()
        if not len(snapshot):
            raise NothingIndexed(f"{self._home.root} holds no pictures yet. Run `simile index PHOTOS`.")
        if encoder not in (None, snapshot.encoder.fingerprint):
            raise EncoderMismatch(
                f"The query was made by encoder {encoder}, but {snapshot.encoder.fingerprint} is in use now. "
                "Search again."
            )
        return snapshot

    def search(self, queries: FloatArray, k: int, encoder: str | None = None, only: Filter | None = None) -> list[Hits]:
        """For each query (n, d'), as distances.to_indexed gives it, its k nearest (image id, Euclidean distance).

        `encoder`: the fingerprint that made the queries; another one may have been put in use meanwhile.
        Ascending, ties by id; fewer if there are fewer. Raises NothingIndexed, EncoderMismatch, NotFinite.
        """
        snapshot = self.current(encoder)
        return [_hits(answer) for answer in snapshot.search(queries, k, self.matching(only))]

    def range(
        self, queries: FloatArray, radius: float, encoder: str | None = None, only: Filter | None = None
    ) -> list[Hits]:
        """As search, but all images at a distance of at most `radius`, whatever the kind of index."""
        snapshot = self.current(encoder)
        return [_hits(answer) for answer in snapshot.range(queries, radius, self.matching(only))]

    def matching(self, only: Filter | None) -> Ids | None:
        """The ids of the images that satisfy the filter, as of now, ascending; None where there is no filter."""
        if only is None:
            return None
        with self._catalogue.reading() as connection:
            key = read_state(connection).changes, only
            if key not in self._filters:
                found = matching(connection, only)
                newest = list(self._filters.items())[1 - FILTERS_KEPT :]
                self._filters = dict([*newest, (key, found)])  # a new one: other threads may be reading
                return found
            return self._filters[key]

    def __len__(self) -> int:
        """How many images a search would compare."""
        try:
            return len(self._current())
        except NothingIndexed:
            return 0

    def pending(self) -> int:
        """How many rows are new, changed or deleted since the current segment. Raises NothingIndexed."""
        return self._on_the_newest().pending

    def publish(
        self, *, kind: str = "auto", recall: float = 0.98, memory: int = 1 << 30, if_large: bool = False
    ) -> None:
        """Puts everything that is pending into a new segment; clears away what a writer that died left in segments/.

        kind, recall, memory: the settings `index`, `recall` and `index_memory`. `if_large`: leaves a few changes to a
        large segment for later; searches find them all the same. The caller holds the home's lock.
        Raises NothingIndexed if there is no encoder, HomeNotWritable.
        """
        snapshot = self._on_the_newest()
        least = LARGE_SHARE * len(snapshot) if if_large and len(snapshot.parts[0]) > self.large else 0
        if snapshot.pending > least:
            self.rebuild(kind=kind, recall=recall, memory=memory)
        else:
            clear_segments(self._home, self._catalogue.segment_files())

    def rebuild(self, *, kind: str = "auto", recall: float = 0.98, memory: int = 1 << 30) -> None:
        """Makes a new segment from the rows alone: without the pictures, without a network, without the old one.

        The caller holds the home's lock. Parameters and errors as in publish.
        """
        self._build(_active(self._catalogue.state()), Wanted(kind, recall, memory), activate=False)

    def switch(self, fingerprint: str, *, kind: str = "auto", recall: float = 0.98, memory: int = 1 << 30) -> None:
        """Makes a segment of all rows of another encoder while the one in use serves, then puts it in use.

        The segment, the pointer to it and the encoder in use change in one transaction. The caller holds the home's
        lock. Raises NoSuchEncoder, HomeNotWritable; parameters as in publish.
        """
        self._build(fingerprint, Wanted(kind, recall, memory), activate=True)

    def _build(self, fingerprint: str, wanted: Wanted, *, activate: bool) -> None:
        started = time.monotonic()
        with writing(self._home.segments), unfinished(self._home) as vectors:
            with self._catalogue.reading() as connection:  # ends before the index is made, which takes longer
                change = read_state(connection).changes
                encoder = get_encoder(connection, fingerprint)
                write_vectors(vectors, encoder.indexed_dimensions, indexed_vectors(connection, encoder))
            written = write_segment(self._home, encoder, vectors, change, wanted)
        seconds = {"build_seconds": round(time.monotonic() - started, 2)}
        written = replace(written, details=written.details | seconds)
        clear_segments(self._home, self._catalogue.publish_segment(fingerprint, written, change, activate=activate))

    def _current(self) -> Snapshot:
        """A snapshot that holds every commit made before this call."""
        state, snapshot = self._catalogue.state(), self._snapshot
        if snapshot is None or snapshot.state != state:
            with self._refreshing:
                snapshot = self._snapshot = self._refreshed(self._snapshot)
                if self._is_behind(snapshot):
                    self._open_behind()
        return snapshot

    def _on_the_newest(self) -> Snapshot:
        """The current snapshot, on the current segment."""
        if self._is_behind(self._current()):
            self.close()
        snapshot = self._current()
        return self._opened() if self._is_behind(snapshot) else snapshot

    @staticmethod
    def _is_behind(snapshot: Snapshot) -> bool:
        return snapshot.base != snapshot.state.segment_id

    def _open_behind(self) -> None:
        """Has the current segment opened by a thread of its own, unless one is at it already."""
        if self._opening is None or not self._opening.is_alive():
            self._opening = threading.Thread(target=self._swap, name="open-segment", daemon=True)
            self._opening.start()

    def _swap(self) -> None:
        try:
            opened = self._opened()
            with self._refreshing:
                self._snapshot = self._refreshed(opened)  # with what was committed meanwhile
        except SimileError as error:
            log.warning("The new segment could not be opened: %s", error)

    def _refreshed(self, old: Snapshot | None) -> Snapshot:
        """The snapshot brought up to date; one that can't be is opened anew."""
        if old is not None:
            with self._catalogue.reading() as connection:
                state = read_state(connection)
                if old.state == state:  # another thread was faster
                    return old
                segment = None if state.segment_id is None else read_segment(connection, state.segment_id)
                if _continues(old.state, state, segment):
                    return old.extended(connection, state, old.state.changes)
        return self._opened()

    def _opened(self) -> Snapshot:
        """A snapshot of the current segment, and of what is newer."""
        with self._catalogue.reading() as connection:
            state = read_state(connection)
            encoder = get_encoder(connection, _active(state))
            segment = None if state.segment_id is None else read_segment(connection, state.segment_id)
            index = self._open(encoder, segment)
            covered = 0 if segment is None or index is None else segment.change
            base = Part(NewerRows.of(encoder.indexed_dimensions) if index is None else index, NO_IDS)
            return Snapshot(state, encoder, state.segment_id, (base,)).extended(connection, state, covered)

    def _open(self, encoder: EncoderRecord, segment: SegmentRecord | None) -> VectorIndex | None:
        """The segment's index, or None if there is no usable one: then the rows are searched, slower to load."""
        if segment is None or segment.encoder != encoder.fingerprint:
            return None
        try:
            return open_segment(self._home, segment, hashed=HASHED)
        except IndexDamaged as error:
            # A file that vanished because a newer segment took its place is no damage.
            if self._catalogue.state().segment_id == segment.id:
                log.warning("%s Until then searches read the vectors from the catalogue.", error)
            return None


def _active(state: State) -> str:
    if state.active_encoder is None:
        raise NothingIndexed("The home has no encoder in use yet. Run `simile index PHOTOS`.")
    return state.active_encoder


def _continues(old: State, new: State, segment: SegmentRecord | None) -> bool:
    """Whether everything that happened since `old` is still known: the segment of `new` says which deletions are."""
    if old.active_encoder != new.active_encoder:
        return False
    return old.segment_id is None if segment is None else old.changes >= deletions_since(segment)


def _hits(answer: Neighbours) -> Hits:
    ids, distances = answer
    return list(zip(ids.tolist(), distances.tolist(), strict=True))
