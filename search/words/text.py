"""Understand a text query by the words that a collection knows: `red dress -striped`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from simile.core.errors import BadSetting
from simile.images.sources.real_folders import find_nearest
from simile.search.words.examples import MAX_PHRASE_WORDS, normalise_words
from simile.search.words.vocabulary import Vocabulary, Word

MAX_QUERY_WORDS = 32
MAX_NEAREST_WORDS = 5
_TOKEN = re.compile(r'(?P<sign>[-+]?)(?:"(?P<quoted>[^"]*)"|(?P<plain>\S+))')
_IGNORED = frozenset({"a", "an", "the", "and", "with"})  # unless the collection knows them


@dataclass(frozen=True)
class TextTerm:
    """A word of a text query."""

    word: Word
    is_absent: bool  # whether the hits should lack it


def parse_text(text: str, vocabulary: Vocabulary) -> list[TextTerm]:
    """Return the words of a text, the longest known phrases first: `ankle boot` before `ankle`.

    A minus before a word, or before a phrase in quotes, asks for images without it. Raises BadSetting for a word that
    is not known; the message names the nearest ones.
    """
    terms: dict[str, TextTerm] = {}
    unknown: list[str] = []
    for phrase, is_absent in _split_phrases(text, vocabulary):
        row = vocabulary.rows.get(phrase)
        if row is None:
            unknown.append(phrase)
        elif terms.setdefault(phrase, TextTerm(vocabulary.words[row], is_absent)).is_absent != is_absent:
            raise BadSetting(f"text has {phrase!r} both with and without a minus. Leave one out.")
    if unknown:
        raise BadSetting(_explain_unknown(list(dict.fromkeys(unknown)), vocabulary))
    if not 1 <= len(terms) <= MAX_QUERY_WORDS:
        raise BadSetting(f"text can't be {text!r}. Write 1 to {MAX_QUERY_WORDS} words, such as: red dress.")
    return list(terms.values())


def split_signs(text: str) -> tuple[str, list[str]]:
    """Return a text without what has a minus, for an encoder that reads whole sentences, and each part with a minus."""
    present: list[str] = []
    absent: list[str] = []
    for match in _TOKEN.finditer(text):
        part = match["plain"] if match["quoted"] is None else match["quoted"]
        (absent if match["sign"] == "-" else present).append(part)
    return " ".join(present).strip(), [part for part in absent if part.strip()]


def suggest_words(beginning: str, vocabulary: Vocabulary) -> list[Word]:
    """Return the known words that begin so, then those with a part that does; the most frequent first."""
    start = normalise_words(beginning)
    found = [word for word in vocabulary.words if f" {word.text}".find(f" {start}") >= 0]
    return sorted(found, key=lambda word: (not word.text.startswith(start), -word.count, word.text))


def _split_phrases(text: str, vocabulary: Vocabulary) -> Iterator[tuple[str, bool]]:
    """Yield each phrase in one form, and whether a minus is before it."""
    run: list[str] = []  # words between signs and quotes, which may form phrases
    for match in _TOKEN.finditer(text):
        is_absent, quoted = match["sign"] == "-", match["quoted"]
        word = normalise_words(match["plain"] if quoted is None else quoted)
        if not word:
            continue
        if quoted is None and not is_absent:
            run += word.split()
            continue
        yield from _match_longest(run, vocabulary)
        run = []
        yield word, is_absent
    yield from _match_longest(run, vocabulary)


def _match_longest(words: list[str], vocabulary: Vocabulary) -> Iterator[tuple[str, bool]]:
    position = 0
    while position < len(words):
        phrases = (
            " ".join(words[position : position + length])
            for length in range(min(MAX_PHRASE_WORDS, len(words) - position), 0, -1)
        )
        known = next((phrase for phrase in phrases if phrase in vocabulary.rows), None)
        if known is None and words[position] in _IGNORED:
            position += 1
            continue
        yield known or words[position], False
        position += 1 if known is None else len(known.split())


def _explain_unknown(phrases: list[str], vocabulary: Vocabulary) -> str:
    if not vocabulary.words:
        return (
            f"text can't be {' '.join(phrases)!r}: no word is known here. Words are learned from tags, labels and "
            "folder names that tell images apart, each from 10 images or more: index a manifest with tags, or edit "
            "the metadata."
        )
    sentences = []
    for phrase in phrases:
        nearest = ", ".join(find_nearest(phrase, vocabulary.rows, MAX_NEAREST_WORDS))
        reason = vocabulary.refused.get(phrase)
        why = f"is not offered: {reason}" if reason else "is not known here"
        sentences.append(f"The word {phrase!r} {why}. The nearest known words are {nearest}.")
    return " ".join([*sentences, "`simile words` and GET /v1/words list all."])
