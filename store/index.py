"""The index as a query sees it: the current segment, and everything committed since."""

from __future__ import annotations

import logging
import threading

from core.errors import EncoderMismatch, IndexDamaged, NothingIndexed
from core.records import FloatArray
from store.catalogue import Catalogue
from store.encoders import get_encoder
from store.records import EncoderRecord, SegmentRecord, State
from store.segments import clear_segments, open_segment, read_segment, write_segment
from store.snapshot import Part, Snapshot, read_index
from store.transactions import read_state
from store.vectors import NO_IDS, FlatIndex, Neighbours, VectorIndex

log = logging.getLogger(__name__)

Hits = list[tuple[int, float]]


class Index:
    """Finds vectors by vectors. Safe to share between threads; each process has its own.

    A commit is visible to every search that starts after it, whichever process made it: each search first asks
    the catalogue for its change counter, and reads what is new if it moved.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._home = catalogue.home
        self._refreshing = threading.Lock()
        self._snapshot: Snapshot | None = None

    def search(self, queries: FloatArray, k: int, encoder: str | None = None) -> list[Hits]:
        """For each query (n, d'), as distances.to_indexed gives it, its k nearest (image id, Euclidean distance).

        `encoder`: the fingerprint that made the queries; another one may have been put in use meanwhile.
        Ascending, ties by id; fewer if there are fewer. Raises NothingIndexed, EncoderMismatch, NotFinite.
        """
        snapshot = self._filled()
        if encoder is not None and encoder != snapshot.encoder.fingerprint:
            raise EncoderMismatch(
                f"The query was made by encoder {encoder}, but {snapshot.encoder.fingerprint} is in use now. "
                "Search again."
            )
        return [_hits(answer) for answer in snapshot.search(queries, k)]

    def range(self, queries: FloatArray, radius: float) -> list[Hits]:
        """As search, but all images at a distance of at most `radius`."""
        return [_hits(answer) for answer in self._filled().range(queries, radius)]

    def __len__(self) -> int:
        """How many images a search would compare."""
        try:
            return len(self._current())
        except NothingIndexed:
            return 0

    def pending(self) -> int:
        """How many rows are new, changed or deleted since the current segment. Raises NothingIndexed."""
        return self._current().pending

    def publish(self) -> None:
        """Puts everything that is pending into a new segment; clears away what a writer that died left in segments/.

        The caller holds the home's lock. Raises NothingIndexed if there is no encoder, HomeNotWritable.
        """
        if self._current().pending:
            self.rebuild()
        else:
            clear_segments(self._home, self._catalogue.segment_files())

    def rebuild(self) -> None:
        """Makes a new segment from the rows alone: without the pictures, without a network, without the old one.

        The caller holds the home's lock. Raises as publish.
        """
        with self._catalogue.reading() as connection:
            state = read_state(connection)
            encoder = get_encoder(connection, _active(state))
            index = read_index(connection, encoder)
        file, sha256 = write_segment(self._home, encoder, index, state.changes)
        kept = self._catalogue.publish_segment(encoder.fingerprint, file, len(index), state.changes, sha256)
        clear_segments(self._home, kept)

    def _filled(self) -> Snapshot:
        snapshot = self._current()
        if not len(snapshot):
            raise NothingIndexed(f"{self._home.root} holds no pictures yet. Run `simile index PHOTOS`.")
        return snapshot

    def _current(self) -> Snapshot:
        """A snapshot that holds every commit made before this call."""
        state, snapshot = self._catalogue.state(), self._snapshot
        if snapshot is None or snapshot.state != state:
            with self._refreshing:
                snapshot = self._snapshot = self._refreshed(self._snapshot)
        return snapshot

    def _refreshed(self, old: Snapshot | None) -> Snapshot:
        with self._catalogue.reading() as connection:
            state = read_state(connection)
            if old is not None and old.state == state:  # another thread was faster
                return old
            if old is not None and _continues(old.state, state):
                return old.extended(connection, state, old.state.changes)
            encoder = get_encoder(connection, _active(state))
            segment = None if state.segment_id is None else read_segment(connection, state.segment_id)
            index = self._open(encoder, segment)
            covered = 0 if segment is None or index is None else segment.change
            base = Part(FlatIndex(encoder.indexed_dimensions) if index is None else index, NO_IDS)
            return Snapshot(state, encoder, (base,)).extended(connection, state, covered)

    def _open(self, encoder: EncoderRecord, segment: SegmentRecord | None) -> VectorIndex | None:
        """The segment's index, or None if there is no usable one: then the rows are searched, slower to load."""
        if segment is None or segment.encoder != encoder.fingerprint:
            return None
        try:
            return open_segment(self._home, segment)
        except IndexDamaged as error:
            # A file that vanished because a newer segment took its place is no damage.
            if self._catalogue.state().segment_id == segment.id:
                log.warning("%s Until then searches read the vectors from the catalogue.", error)
            return None


def _active(state: State) -> str:
    if state.active_encoder is None:
        raise NothingIndexed("The home has no encoder in use yet. Run `simile index PHOTOS`.")
    return state.active_encoder


def _continues(old: State, new: State) -> bool:
    """Whether `new` is `old` and some commits more: deletions are kept only until the pointer moves."""
    return old[1:] == new[1:] and old.changes < new.changes


def _hits(answer: Neighbours) -> Hits:
    ids, distances = answer
    return list(zip(ids.tolist(), distances.tolist(), strict=True))
