"""Examples of an attribute: from two sets of folders, from a class of labels, or from image metadata."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from simile.core.errors import BadSetting, TooFewPictures
from simile.core.filters.parser import make_filter
from simile.core.records import FloatArray
from simile.explore.arrays import OnProgress
from simile.explore.attributes.directions import AttributeExamples, make_text_attribute
from simile.explore.latent.aggregate_posterior import load_aggregate_posterior
from simile.images.formats import Limits
from simile.images.loading.loader import PreparedImage, prepare_files
from simile.images.sources.labels import LabelClasses, read_labels
from simile.images.sources.sources import get_reading_order, walk_sources
from simile.models.inference.encoder import ENCODER_CHUNK_SIZE
from simile.search.attributes import Attribute
from simile.search.searcher import Searcher
from simile.store.filter_check import resolve_filter

MAX_COVARIANCE_IMAGES = 20_000  # that the covariance of a collection is estimated from


def read_examples_from_files(
    searcher: Searcher, positive: Sequence[Path], negative: Sequence[Path], on_progress: OnProgress
) -> AttributeExamples:
    """Encode images of files and folders, which need not be indexed, by the active encoder.

    Raises NoSuchPath, and TooFewPictures if one side has no readable image.
    """
    (positive_paths, failures), (negative_paths, more_failures) = (
        _list_images(searcher, sources) for sources in (positive, negative)
    )
    sides = [(positive_paths, positive), (negative_paths, negative)]
    return _encode_sides(searcher, sides, failures + more_failures, on_progress)


def read_examples_from_labels(
    searcher: Searcher, sources: Sequence[Path], labels: str, class_name: str, on_progress: OnProgress
) -> AttributeExamples:
    """Encode the images of one class against the images of all other classes, without unlabelled images.

    `labels` is `folders`, or a CSV file; see images/sources/labels.py. Raises NoSuchPath, BadSetting if no image has
    this label, and TooFewPictures if one side has no readable image.
    """
    paths, failures = _list_images(searcher, sources)
    image_labels = read_labels(labels, paths, sources)
    classes = LabelClasses.from_labels(image_labels).names
    if class_name not in classes:
        known = ", ".join(classes[:10]) + (" …" if len(classes) > 10 else "")
        raise BadSetting(f"No image has the label {class_name!r} (known: {known}). Name a known label with --of.")
    labelled = list(zip(paths, image_labels, strict=True))
    positive = [path for path, label in labelled if label == class_name]
    negative = [path for path, label in labelled if label not in (None, class_name)]
    return _encode_sides(searcher, [(positive, sources), (negative, sources)], failures, on_progress)


def load_examples_from_metadata(searcher: Searcher, where: Sequence[str]) -> AttributeExamples:
    """Load the indexed images that satisfy all conditions, against all others.

    Raises BadSetting without a condition, or for one that can't be parsed or that no image satisfies, NothingIndexed.
    """
    image_filter = make_filter(where=where)
    if image_filter is None:
        raise BadSetting("Give a condition with --where, such as smile=yes.")
    posterior = load_aggregate_posterior(searcher)
    matching = searcher.index.find_matching_ids(resolve_filter(searcher.catalogue, image_filter))
    assert matching is not None  # there is a filter
    return make_indexed_examples(posterior.mu, np.isin(posterior.ids, matching), posterior.ids)


def make_attribute_of_texts(searcher: Searcher, name: str, text: str, against: str) -> Attribute:
    """Make an attribute of two texts, if the active encoder has a text tower.

    Raises BadSetting if it has none, or as `make_text_attribute`, and NothingIndexed.
    """
    encoder = searcher.get_encoder()
    positive, negative = encoder.encode_texts([text, against])
    posterior = load_aggregate_posterior(searcher).sample(MAX_COVARIANCE_IMAGES, 0)
    return make_text_attribute(name, encoder.fingerprint, (positive, negative), posterior.mu, encoder.metric)


def make_indexed_examples(mu: FloatArray, is_positive: np.ndarray, ids: np.ndarray) -> AttributeExamples:
    """Make examples of indexed images: each file content has one id, so the id serves as its digest."""
    return AttributeExamples(mu, is_positive, [str(image_id) for image_id in ids.tolist()])


def _encode_sides(
    searcher: Searcher, sides: Sequence[tuple[list[str], Sequence[Path]]], failures: int, on_progress: OnProgress
) -> AttributeExamples:
    """Encode the positive and the negative side: paths, and the sources that they come from.

    `failures` is the number of files that were no images.
    """
    mus, digests = zip(*(_encode_images(searcher, *side, on_progress) for side in sides), strict=True)
    is_positive = np.repeat([True, False], [len(mu) for mu in mus])
    unreadable = failures + sum(len(paths) for paths, _ in sides) - len(is_positive)
    return AttributeExamples(np.concatenate(mus), is_positive, [*digests[0], *digests[1]], unreadable)


def _list_images(searcher: Searcher, sources: Sequence[Path]) -> tuple[list[str], int]:
    """Return the paths of the image files, in the fastest reading order, and the number of other files."""
    listing = walk_sources(sources, searcher.home.own_folders)
    return [listing.files[row].path for row in get_reading_order(listing.files)], len(listing.failures)


def _encode_images(
    searcher: Searcher, paths: Sequence[str], sources: Sequence[Path], on_progress: OnProgress
) -> tuple[FloatArray, list[str]]:
    """Return mu (n, d) and SHA-256 of each readable image. Raises TooFewPictures if no image is readable."""
    settings, encoder = searcher.settings, searcher.get_encoder()
    results = prepare_files(paths, encoder.preprocessing, Limits.from_settings(settings), settings.workers)
    mus: list[FloatArray] = []
    digests: list[str] = []
    stage = f"reading {', '.join(source.name for source in sources)}"
    done = 0
    while batch := list(islice(results, ENCODER_CHUNK_SIZE)):
        readable = [result for result in batch if isinstance(result, PreparedImage)]
        if readable:
            mus.append(encoder.encode(np.stack([result.array for result in readable])).mu)
            digests += [result.sha256 for result in readable]
        done += len(batch)
        on_progress(stage, done, len(paths))
    if not mus:
        raise TooFewPictures(f"{', '.join(map(str, sources))}: no readable image there. Name other folders.")
    return np.concatenate(mus), digests
