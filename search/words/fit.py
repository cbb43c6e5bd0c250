"""Learn the words of a collection from the images that have them.

The direction of a word is the difference of two means after whitening (Fisher's discriminant; covariance shrunk as in
Ledoit and Wolf 2004), which for all words together takes one product of matrices. Five folds give each image a score by
a direction that was learned without it. These held-out scores give the AUC and, by a logistic curve (Platt 1999), the
probability of the word.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.stats import rankdata
from sklearn.covariance import LedoitWolf

from simile.core.records import Float64Array, FloatArray
from simile.search.words.examples import FOLDER_SOURCE, TaggedImages, read_tagged_images
from simile.search.words.vocabulary import Vocabulary, Word
from simile.store.catalogue.catalogue import Catalogue
from simile.store.index.flat import Ids, is_member
from simile.store.index.snapshot import Snapshot

FOLDS = 5
MIN_IMAGES = 2 * FOLDS  # with a word, and without it
MIN_AUC = 0.65  # below it, a list of 100 images with a rare word would be chance
MIN_STANDARD_ERRORS = 3.0  # above an AUC of 0.5: one of a thousand meaningless words gets so far by chance
MAX_WORDS = 5000
MAX_REFUSED = 5000  # rare words that are stored with their number
MAX_SCORES = 20_000_000  # held in memory: images x words
MAX_IMAGES = 200_000  # that words are learned from, drawn at random from those of a larger collection
NEWTON_STEPS = 30


@dataclass(frozen=True)
class _FittedWord:
    """What was learned about a word, in whitened space."""

    word: Word
    direction: Float64Array  # (d,), with the slope of the curve
    bias: float


def learn_words(catalogue: Catalogue, snapshot: Snapshot, stop_event: threading.Event) -> Vocabulary | None:
    """Learn all words of the indexed images; None if the event was set."""
    tagged = read_tagged_images(catalogue)
    live_ids = snapshot.get_live_ids()
    refused: dict[str, str] = {}
    groups: dict[frozenset[str], list[tuple[str, Ids]]] = {}
    by_count = sorted(tagged.words.items(), key=lambda item: (-len(item[1].positive_ids), item[0]))
    for text, examples in by_count[: MAX_WORDS + MAX_REFUSED]:
        ids = np.unique(np.array(examples.positive_ids, np.int64))
        ids = ids[is_member(ids, live_ids)]
        if len(ids) < MIN_IMAGES or sum(map(len, groups.values())) >= MAX_WORDS:
            refused[text] = f"{len(ids)} images have it, and at least {MIN_IMAGES} are needed"
        else:
            groups.setdefault(frozenset(examples.sources), []).append((text, ids))
    fitted: list[tuple[Word, FloatArray, float]] = []
    for sources, words in groups.items():
        if stop_event.is_set():
            return None
        fitted += _learn_group(tagged, sources, words, snapshot, refused)
    fitted.sort(key=lambda item: item[0].text)
    return Vocabulary(
        encoder=snapshot.encoder.fingerprint,
        segment=snapshot.base_segment_id,
        changes=snapshot.state.changes,
        words=tuple(word for word, _, _ in fitted),
        weights=np.array([weights for _, weights, _ in fitted], np.float32).reshape(
            len(fitted), snapshot.encoder.indexed_dimensions
        ),
        biases=np.array([bias for _, _, bias in fitted], np.float64),
        refused=refused,
    )


def _learn_group(
    tagged: TaggedImages,
    sources: frozenset[str],
    words: list[tuple[str, Ids]],
    snapshot: Snapshot,
    refused: dict[str, str],
) -> Iterator[tuple[Word, FloatArray, float]]:
    """Yield the words from the same sources that are offered, each with its weights and bias."""
    random = np.random.default_rng(0)
    ids, vectors = snapshot.get_vectors(_draw(tagged.get_ids(sources), random))
    usable: list[tuple[str, Ids]] = []
    for text, positive_ids in words:
        count = int(is_member(positive_ids, ids).sum())
        if len(ids) - count >= MIN_IMAGES and count >= MIN_IMAGES:
            usable.append((text, positive_ids))
        elif sources != {FOLDER_SOURCE}:  # folders above all images are no words
            refused[text] = f"{len(ids) - count} images with other tags lack it, and at least {MIN_IMAGES} are needed"
    if not usable:
        return
    mean = vectors.mean(axis=0, dtype=np.float64)
    covariance = LedoitWolf(assume_centered=True).fit(vectors - mean).covariance_
    values, axes = np.linalg.eigh(covariance)
    whitening = axes / np.sqrt(np.maximum(values, 1e-9 * values[-1] + 1e-30))  # (d, d)
    whitened = ((vectors - mean) @ whitening).astype(np.float32)
    folds = random.permutation(len(ids)) % FOLDS
    chunk = max(1, MAX_SCORES // len(ids))
    for start in range(0, len(usable), chunk):
        part = usable[start : start + chunk]
        is_positive = np.stack([is_member(ids, positive_ids) for _, positive_ids in part])  # (words, images)
        for result in _fit_words([text for text, _ in part], is_positive, whitened, folds):
            word = result.word
            if word.auc < MIN_AUC or word.auc - 0.5 < MIN_STANDARD_ERRORS * compute_auc_error(word):
                refused[word.text] = f"its {word.count} images look like others (AUC {word.auc:.2f}, chance is 0.5)"
                continue
            weights = whitening @ result.direction
            yield word, weights.astype(np.float32), result.bias - float(mean @ weights)


def _draw(ids: Ids, random: np.random.Generator) -> Ids:
    return ids if len(ids) <= MAX_IMAGES else np.sort(random.choice(ids, MAX_IMAGES, replace=False))


def _fit_words(
    texts: Sequence[str], is_positive: NDArray[np.bool_], whitened: FloatArray, folds: NDArray[np.int64]
) -> Iterator[_FittedWord]:
    """Learn each word (n) from whitened vectors (m, d); is_positive: (n, m)."""
    in_fold = folds == np.arange(FOLDS)[:, None]  # (folds, m)
    totals = np.stack([whitened[members].sum(axis=0, dtype=np.float64) for members in in_fold])  # (folds, d)
    sizes = in_fold.sum(axis=1)
    sums = np.stack([csr_array((is_positive & members).astype(np.float32)) @ whitened for members in in_fold], axis=1)
    counts = np.stack([(is_positive & members).sum(axis=1) for members in in_fold], axis=1)  # (n, folds), as `sums`
    scores = np.empty(is_positive.shape, np.float32)
    for fold, members in enumerate(in_fold):
        others = np.arange(FOLDS) != fold
        directions = _subtract_means(
            sums[:, others].sum(1), counts[:, others].sum(1), totals[others].sum(0), int(sizes[others].sum())
        )
        scores[:, members] = (directions @ whitened[members].T).astype(np.float32)
    directions = _subtract_means(sums.sum(1), counts.sum(1), totals.sum(0), int(sizes.sum()))
    for row, text in enumerate(texts):
        positive, held_out = is_positive[row], scores[row].astype(np.float64)
        slope, bias = fit_logistic_curve(held_out, positive)
        count = int(positive.sum())
        word = Word(text, compute_auc(held_out, positive), count, len(positive) - count)
        yield _FittedWord(word, slope * directions[row], bias)


def _subtract_means(sums: Float64Array, counts: NDArray[np.int64], total: Float64Array, size: int) -> Float64Array:
    """Return the mean with each word minus the mean without it, (n, d), from the sums (n, d) and the total (d,)."""
    with_word = np.maximum(counts, 1)[:, None]
    difference: Float64Array = sums / with_word - (total - sums) / np.maximum(size - counts, 1)[:, None]
    return difference


def compute_auc(scores: Float64Array, is_positive: NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve: how often an image with the word has a higher score than one without."""
    count = int(is_positive.sum())
    ranks = rankdata(scores)[is_positive].sum() - count * (count + 1) / 2
    return float(ranks / (count * (len(scores) - count)))


def compute_auc_error(word: Word) -> float:
    """Return the standard error that the AUC would have if the word were random (Mann and Whitney 1947)."""
    return float(np.sqrt((word.count + word.others + 1) / (12 * word.count * word.others)))


def fit_logistic_curve(scores: Float64Array, is_positive: NDArray[np.bool_]) -> tuple[float, float]:
    """Fit slope and bias of the log-odds by Newton's method, with the smoothed targets of Platt (1999).

    The slope is never negative: a direction that is wrong on held-out images says nothing.
    """
    count, others = int(is_positive.sum()), int((~is_positive).sum())
    targets = np.where(is_positive, (count + 1) / (count + 2), 1 / (others + 2))
    scale = float(scores.std()) or 1.0
    design = np.stack([scores / scale, np.ones_like(scores)])  # (2, n)
    parameters = np.array([0.0, np.log((count + 1) / (others + 1))])
    for _ in range(NEWTON_STEPS):
        probabilities = 1 / (1 + np.exp(-np.clip(parameters @ design, -500, 500)))
        gradient = design @ (probabilities - targets)
        curvature = (design * (probabilities * (1 - probabilities))) @ design.T + 1e-6 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        parameters -= np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-6:
            break
    if parameters[0] <= 0:
        return 0.0, float(np.log((count + 1) / (others + 1)))
    return float(parameters[0] / scale), float(parameters[1])
