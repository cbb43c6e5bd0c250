"""Where the examples of an attribute come from: two sets of folders, a class of labels, or what is said of pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from simile.core.errors import BadSetting, TooFewPictures
from simile.core.filter_parser import make_filter
from simile.core.records import FloatArray
from simile.explore.attributes.directions import AttributeExamples
from simile.explore.latent.aggregate_posterior import load_aggregate_posterior
from simile.images.formats import Limits
from simile.images.loading.loader import PreparedImage, prepare_files
from simile.images.sources.labels import LabelClasses, read_labels
from simile.images.sources.sources import get_reading_order, walk_sources
from simile.models.inference.encoder import ENCODER_CHUNK_SIZE
from simile.search.searcher import Searcher

OnProgress = Callable[[str, int, int], None]  # stage, done, total


def read_examples_from_files(
    searcher: Searcher, positive: Sequence[Path], negative: Sequence[Path], on_progress: OnProgress
) -> AttributeExamples:
    """Files and folders, which need not be indexed, by the encoder in use; what can't be read is counted.

    Raises NoSuchPath, TooFewPictures.
    """
    sides = []
    for sources in (positive, negative):
        paths, lost = _list_images(searcher, sources)
        mu, digests = _encode_images(searcher, paths, sources, on_progress)
        sides.append((mu, digests, lost + len(paths) - len(digests)))
    return _combine_sides(*sides)


def read_examples_from_labels(
    searcher: Searcher, sources: Sequence[Path], labels: str, class_name: str, on_progress: OnProgress
) -> AttributeExamples:
    """The pictures of class `wanted` against those of all other classes; what has no label is left out.

    labels: `folders` or a CSV file, as in models/labels.py. Raises BadSetting, NoSuchPath, TooFewPictures.
    """
    paths, lost = _list_images(searcher, sources)
    said = read_labels(labels, paths, sources)
    classes = LabelClasses.from_labels(said).names
    if class_name not in classes:
        known = ", ".join(classes[:10]) + (" …" if len(classes) > 10 else "")
        raise BadSetting(f"No picture has the label {class_name!r} (known: {known}). Name one of them with --of.")
    sides = []
    for side in (True, False):
        chosen = [
            path for path, one in zip(paths, said, strict=True) if one is not None and (one == class_name) is side
        ]
        mu, digests = _encode_images(searcher, chosen, sources, on_progress)
        sides.append((mu, digests, len(chosen) - len(digests)))
    found = _combine_sides(*sides)
    return AttributeExamples(found.mu, found.is_positive, found.digests, found.unreadable + lost)


def load_examples_from_metadata(searcher: Searcher, where: Sequence[str]) -> AttributeExamples:
    """The indexed pictures that satisfy all conditions, against all others. Raises BadSetting, NothingIndexed."""
    only = make_filter(where=where)
    if only is None:
        raise BadSetting("Name a condition with --where, such as smile=yes.")
    everything = load_aggregate_posterior(searcher)
    matching = searcher.index.find_matching_ids(only)
    assert matching is not None
    has = np.isin(everything.ids, matching)
    return AttributeExamples(
        everything.mu, has, [str(image_id) for image_id in everything.ids.tolist()]
    )  # ids: one a content


_ExampleSide = tuple[FloatArray, list[str], int]  # mu (n, d), SHA-256 of each, how many could not be read


def _combine_sides(positive: _ExampleSide, negative: _ExampleSide) -> AttributeExamples:
    mu = np.concatenate([positive[0], negative[0]])
    has = np.repeat([True, False], [len(positive[0]), len(negative[0])])
    return AttributeExamples(mu, has, [*positive[1], *negative[1]], positive[2] + negative[2])


def _list_images(searcher: Searcher, sources: Sequence[Path]) -> tuple[list[str], int]:
    """The pictures there, in the order in which they are read fastest, and how many files are none."""
    found = walk_sources(sources, [searcher.home.encoders])
    return [found.files[row].path for row in get_reading_order(found.files)], len(found.failures)


def _encode_images(
    searcher: Searcher, paths: Sequence[str], sources: Sequence[Path], on_progress: OnProgress
) -> tuple[FloatArray, list[str]]:
    """mu (n, d) and SHA-256 of every picture that can be read. Raises TooFewPictures where there is none."""
    settings, encoder = searcher.settings, searcher.get_encoder()
    limits = Limits.from_settings(settings)
    results = prepare_files(paths, encoder.preprocessing, limits, settings.workers)
    mus: list[FloatArray] = []
    digests: list[str] = []
    stage = f"reading {', '.join(source.name for source in sources)}"
    done = 0
    while batch := list(islice(results, ENCODER_CHUNK_SIZE)):
        good = [result for result in batch if isinstance(result, PreparedImage)]
        if good:
            mus.append(encoder.encode(np.stack([result.array for result in good])).mu)
            digests += [result.sha256 for result in good]
        done += len(batch)
        on_progress(stage, done, len(paths))
    if not mus:
        raise TooFewPictures(f"{', '.join(map(str, sources))}: no picture there can be read. Name other folders.")
    return np.concatenate(mus), digests
