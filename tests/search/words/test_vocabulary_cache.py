"""When a vocabulary is learned again: at once at the command line, behind the searches in a service."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from simile.core.errors import BeingComputed
from simile.search.searcher import Searcher
from simile.search.words import cache, fit
from simile.search.words.cache import VocabularyCache
from simile.search.words.vocabulary import Vocabulary
from simile.store.index.snapshot import Snapshot


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[int], threading.Event]]:
    """The changes of the catalogue that were learned from; nothing is learned while the event is not set."""
    changes: list[int] = []
    is_free = threading.Event()
    is_free.set()

    def learn(_: object, snapshot: Snapshot, __: threading.Event) -> Vocabulary:
        is_free.wait()
        changes.append(snapshot.state.changes)
        return Vocabulary(
            encoder=snapshot.encoder.fingerprint,
            segment=snapshot.base_segment_id,
            changes=snapshot.state.changes,
            words=(),
            weights=np.empty((0, snapshot.encoder.indexed_dimensions), np.float32),
            biases=np.empty(0),
            refused={},
        )

    monkeypatch.setattr(fit, "learn_words", learn)
    yield changes, is_free
    is_free.set()


def change(snapshot: Snapshot) -> Snapshot:
    return replace(snapshot, state=snapshot.state._replace(changes=snapshot.state.changes + 1))


def test_a_command_waits_for_the_words_of_the_catalogue_as_it_is(
    searcher: Searcher, learned: tuple[list[int], threading.Event]
) -> None:
    vocabularies, first = VocabularyCache(searcher.catalogue, background=False), searcher.index.get_snapshot()
    second = change(first)
    for snapshot in (first, first, second, second):
        assert vocabularies.get(snapshot).changes == snapshot.state.changes
    assert learned[0] == [first.state.changes, second.state.changes]
    vocabularies.close()


def test_a_service_returns_the_previous_words_while_new_ones_are_learned(
    searcher: Searcher, learned: tuple[list[int], threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, is_free = learned
    vocabularies, first = VocabularyCache(searcher.catalogue, background=True), searcher.index.get_snapshot()
    assert vocabularies.find(first) is None
    monkeypatch.setattr(cache, "WAIT_SECONDS", 0.01)
    is_free.clear()
    with pytest.raises(BeingComputed, match="being learned"):
        vocabularies.get(first)
    is_free.set()
    monkeypatch.setattr(cache, "WAIT_SECONDS", 30)
    known = vocabularies.get(first)
    second = change(first)
    assert vocabularies.get(second) is known  # indexing changes the catalogue many times a minute
    assert changes == [first.state.changes]
    vocabularies._next_check = 0
    is_free.clear()
    assert vocabularies.get(second) is known
    is_free.set()
    vocabularies._cache.wait()
    assert changes == [first.state.changes, second.state.changes]
    vocabularies._next_check = 0
    assert vocabularies.get(second).changes == second.state.changes
    assert vocabularies.find(second) is not None
    vocabularies.close()
