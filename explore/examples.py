"""Where the examples of an attribute come from: two sets of folders, or a condition on what is said of the pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from core.conditions import make_filter
from core.errors import BadSetting, TooFewPictures
from core.records import FloatArray
from explore.aggregate import aggregate_of
from explore.attributes import Examples
from models.collection import Prepared, prepare_files
from models.encoder import CHUNK
from models.images import Limits
from models.walk import reading_order, walk
from search.searcher import Searcher

OnProgress = Callable[[str, int, int], None]  # stage, done, total


def from_files(
    searcher: Searcher, positive: Sequence[Path], negative: Sequence[Path], on_progress: OnProgress
) -> Examples:
    """Files and folders, which need not be indexed, by the encoder in use; what can't be read is counted.

    Raises NoSuchPath, TooFewPictures.
    """
    sides = [_encoded(searcher, sources, on_progress) for sources in (positive, negative)]
    mu = np.concatenate([side[0] for side in sides])
    has = np.repeat([True, False], [len(side[0]) for side in sides])
    return Examples(mu, has, [*sides[0][1], *sides[1][1]], sides[0][2] + sides[1][2])


def from_metadata(searcher: Searcher, where: Sequence[str]) -> Examples:
    """The indexed pictures that satisfy all conditions, against all others. Raises BadSetting, NothingIndexed."""
    only = make_filter(where=where)
    if only is None:
        raise BadSetting("Name a condition with --where, such as smile=yes.")
    everything = aggregate_of(searcher)
    matching = searcher.index.matching(only)
    assert matching is not None
    has = np.isin(everything.ids, matching)
    return Examples(everything.mu, has, [str(image_id) for image_id in everything.ids.tolist()])  # ids: one a content


def _encoded(searcher: Searcher, sources: Sequence[Path], on_progress: OnProgress) -> tuple[FloatArray, list[str], int]:
    """mu (n, d) and SHA-256 of every picture, and how many could not be read."""
    settings, encoder = searcher.settings, searcher.encoder()
    found = walk(sources, [searcher.home.encoders])
    limits = Limits(settings.max_pixels, settings.max_bytes, settings.decode_seconds)
    paths = [found.files[row].path for row in reading_order(found.files)]
    results = prepare_files(paths, encoder.preprocessing, limits, settings.workers)
    mus: list[FloatArray] = []
    digests: list[str] = []
    stage = f"reading {', '.join(source.name for source in sources)}"
    done = 0
    while batch := list(islice(results, CHUNK)):
        good = [result for result in batch if isinstance(result, Prepared)]
        if good:
            mus.append(encoder.encode(np.stack([result.array for result in good])).mu)
            digests += [result.sha256 for result in good]
        done += len(batch)
        on_progress(stage, done, len(paths))
    if not mus:
        raise TooFewPictures(f"{', '.join(map(str, sources))}: no picture there can be read. Name other folders.")
    return np.concatenate(mus), digests, len(paths) - len(digests) + len(found.failures)
