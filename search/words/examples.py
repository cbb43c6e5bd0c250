"""The words of the images in a catalogue: tags, labels, keywords and folder names, and the images that have each."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePosixPath

import numpy as np

from simile.store.catalogue.catalogue import Catalogue
from simile.store.index.flat import Ids

MAX_PHRASE_WORDS, MAX_PHRASE_LENGTH = 4, 64
FOLDER_SOURCE = ""  # the names of metadata are not empty
KEYWORD_SOURCE = "keywords"  # in photos; metadata of this name mean the same

_YES, _NO = frozenset({"yes", "true", "1"}), frozenset({"no", "false", "0", "-1"})
_SEPARATORS = re.compile(r"[;,|/\\\n\t]+")  # between the items of a list, and the levels of a hierarchy
_NEGATIONS = frozenset({"no", "not", "without", "non"})


@dataclass
class WordExamples:
    """The images that have a word, and the places that it comes from."""

    positive_ids: list[int] = field(default_factory=list)  # may repeat an id
    sources: set[str] = field(default_factory=set)  # names of metadata, KEYWORD_SOURCE, FOLDER_SOURCE for folder names


@dataclass
class TaggedImages:
    """All words of a catalogue.

    An image counts as one without a word only if it has something in a source of the word: nothing is known about
    an image without tags.
    """

    words: dict[str, WordExamples] = field(default_factory=dict)
    ids_by_source: dict[str, list[int]] = field(default_factory=dict)

    def add(self, image_id: int, source: str, words: tuple[str, ...]) -> None:
        """Add the words of an image from one source."""
        self.ids_by_source.setdefault(source, []).append(image_id)
        for word in words:
            examples = self.words.setdefault(word, WordExamples())
            examples.positive_ids.append(image_id)
            examples.sources.add(source)

    def get_ids(self, sources: frozenset[str]) -> Ids:
        """Return the ids of the images that have something in one of the sources, ascending."""
        return np.unique(np.concatenate([np.array(self.ids_by_source[source], np.int64) for source in sources]))


def read_tagged_images(catalogue: Catalogue) -> TaggedImages:
    """Read the words of all images. Words of uploads come from their metadata alone."""
    return catalogue.repeat(lambda: _read_tagged_images(catalogue))


def _read_tagged_images(catalogue: Catalogue) -> TaggedImages:
    tagged, home = TaggedImages(), catalogue.home
    flags = {name for name in catalogue.metadata.get_names() if _is_flag(catalogue.metadata.get_values(name, 8))}
    for image_id, name, text in catalogue.metadata.iterate_items():
        if name in flags:
            tagged.add(image_id, name, tuple(split_item(name)) if normalise_words(text) in _YES else ())
        elif words := split_words(text):
            tagged.add(image_id, name, words)
    for image_id, keyword in catalogue.photo_metadata.iterate_keywords():
        if words := split_words(keyword):
            tagged.add(image_id, KEYWORD_SOURCE, words)
    for image_id, path in catalogue.files.iterate_paths():
        if not home.is_upload(path):
            tagged.add(image_id, FOLDER_SOURCE, split_words(str(PurePosixPath(path).parent)))
    return tagged


def _is_flag(values: list[str]) -> bool:
    """Tell whether metadata with these values says yes or no, so that its name is the word."""
    return {normalise_words(value) for value in values} <= _YES | _NO


@lru_cache(maxsize=65536)
def split_words(text: str) -> tuple[str, ...]:
    """Return the words in a value of metadata or a path, each once: of every item, itself and its single words."""
    return tuple(dict.fromkeys(word for item in _SEPARATORS.split(text) for word in split_item(item)))


def split_item(item: str) -> Iterator[str]:
    """Yield a phrase, `red dress`, and its words, `red` and `dress`; `not smiling` is only a phrase."""
    phrase = normalise_words(item)
    words = phrase.split()
    if not words:
        return
    if len(words) <= MAX_PHRASE_WORDS and len(phrase) <= MAX_PHRASE_LENGTH:
        yield phrase
    if words[0] not in _NEGATIONS:
        yield from (word for word in map(normalise_words, words) if word and len(word) <= MAX_PHRASE_LENGTH)


def normalise_words(text: str) -> str:
    """Return text in one form: small letters, single spaces, no punctuation around it."""
    text = " ".join(unicodedata.normalize("NFKC", text).casefold().replace("_", " ").split())
    start, end = 0, len(text)
    while start < end and not text[start].isalnum():
        start += 1
    while end > start and not text[end - 1].isalnum():
        end -= 1
    return text[start:end]
