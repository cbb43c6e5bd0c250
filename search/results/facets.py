"""Facets: how many images there are with each value of a field, among those that match a filter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simile.core.filters.expression import Condition
from simile.core.records import Filter
from simile.store.facets.facet_index import FacetIndex
from simile.store.facets.file_values import PERIOD_LENGTHS, FileMask, FileValues
from simile.store.index.index import Index

USUAL_FIELDS = ("format", "camera", "rating", "year", "month", "keyword")  # besides metadata
MAX_USUAL_VALUES = 200  # of metadata: a name with more different values, such as a title, does not form classes
MAX_USUAL_NAMES = 20  # of metadata


@dataclass(frozen=True)
class FacetValue:
    """A value, the number of images with it, and the filter condition for them."""

    value: str
    count: int
    condition: Condition


@dataclass(frozen=True)
class Facet:
    """A field with its most frequent values; `value_count` is the number of all its values."""

    name: str
    value_count: int
    values: list[FacetValue]


@dataclass(frozen=True)
class FacetCounts:
    """The number of images that match, and their facets."""

    total: int
    facets: list[Facet]


def count_facets(
    index: Index, facet_index: FacetIndex, filter: Filter | None = None, names: Sequence[str] = (), limit: int = 20
) -> FacetCounts:
    """Count images by the values of fields.

    Args:
        index: Finds the images that match the filter.
        facet_index: Has the values.
        filter: Which images are counted; None: all.
        names: Metadata or fields; none: the fields with values that form classes.
        limit: Number of values of each field.

    Returns:
        The facets in the order of the names, each with the most frequent values first. Without names, fields without
        values are left out.

    Raises:
        BadSetting: No file can have such a field.
    """
    matching_ids = index.find_matching_ids(filter)
    field_names = names or [*facet_index.get_metadata_names()[:MAX_USUAL_NAMES], *USUAL_FIELDS]
    files, values_by_name = facet_index.read(dict.fromkeys(field_names))
    mask = None if matching_ids is None else files.find_files(matching_ids)
    facets = [
        _make_facet(name, values, mask, limit)
        for name, values in values_by_name.items()
        if names or 0 < len(values.texts) <= MAX_USUAL_VALUES or (values.texts and name in USUAL_FIELDS)
    ]
    total = files.image_count if matching_ids is None else len(matching_ids)
    return FacetCounts(total, facets if names else [facet for facet in facets if facet.values])


def _make_facet(name: str, values: FileValues, mask: FileMask | None, limit: int) -> Facet:
    counts = values.count_images(mask)
    found = np.flatnonzero(counts)
    ordered = sorted(found.tolist(), key=lambda code: (-counts[code], values.texts[code]))
    field = "taken" if name in PERIOD_LENGTHS else name
    return Facet(
        name,
        len(found),
        [
            FacetValue(values.texts[code], int(counts[code]), Condition(field, "=", values.texts[code]))
            for code in ordered[:limit]
        ],
    )
