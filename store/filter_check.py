"""Check a filter that a user gave against the catalogue: one that no indexed file satisfies is probably misspelt."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from simile.core.errors import BadSetting
from simile.core.filters.expression import Condition, Expression, iterate_conditions
from simile.core.filters.parser import parse_number
from simile.core.records import Filter
from simile.images.formats import FORMATS
from simile.images.sources.real_folders import RealFolder, describe_nearest_folders, find_nearest
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.filters import FIELDS, find_matching_ids, read_value_range
from simile.store.quality.issues import ISSUES

MAX_LISTED_NAMES = 10
MAX_COMPARED_VALUES = 10_000


def resolve_filter(catalogue: Catalogue, filter: Filter | None) -> Filter | None:
    """Return the filter with all names of its folder under which files are indexed.

    A search with it may still find nothing. Raises BadSetting if no indexed file satisfies it: the message names the
    option, and values that there are.
    """
    if filter is None:
        return None
    if filter.under is not None:
        names = RealFolder(filter.under).find_other_names(catalogue.files.get_folders())
        filter = replace(filter, under_names=tuple(names))
    if filter.formats:
        unknown = {*filter.formats} - {*map(str.lower, FORMATS), *catalogue.images.get_formats()}
        if unknown:
            raise BadSetting(_explain_option(catalogue, "formats", sorted(unknown)))
    if _fits_any(catalogue, filter) or not catalogue.images.count():
        return filter
    for option in (field.name for field in fields(Filter)):
        value = getattr(filter, option)
        if option == "where":
            for expression in value:
                if not _fits_any(catalogue, Filter(where=(expression,))):
                    raise BadSetting(_explain_expression(catalogue, expression))
        elif (
            option != "under_names" and value not in (None, ()) and not _fits_any(catalogue, _make_part(filter, option))
        ):
            raise BadSetting(_explain_option(catalogue, option, value))
    raise BadSetting("No indexed file satisfies all of these filters together. Leave one out.")


def _fits_any(catalogue: Catalogue, filter: Filter) -> bool:
    with catalogue.begin_read() as connection:
        return len(find_matching_ids(connection, filter)) > 0


def _make_part(filter: Filter, option: str) -> Filter:
    """Return the filter with only this option."""
    names = filter.under_names if option == "under" else ()
    return replace(Filter(), **{option: getattr(filter, option), "under_names": names})


def _explain_expression(catalogue: Catalogue, expression: Expression) -> str:
    """Explain the first condition that no file satisfies, if there is such a condition."""
    conditions = list(iterate_conditions(expression))
    for condition in conditions:
        if not _fits_any(catalogue, Filter(where=(condition,))):
            return _explain_condition(catalogue, condition)
    return f"where can't combine {', '.join(map(str, conditions))} so: no indexed file satisfies it. Leave a part out."


def _explain_condition(catalogue: Catalogue, condition: Condition) -> str:
    """Say which names or values of metadata there are."""
    name, operator, text = condition
    names = catalogue.metadata.get_names()
    start = f"where can't be {str(condition)!r}: no indexed file has"
    if name in FIELDS and name not in names:
        return f"{start} such a value.{_explain_field(catalogue, name)}"
    if not names:
        return f"{start} metadata. Index a manifest with it: `simile index photos.csv`."
    if name not in names:
        nearest = find_nearest(name, names, MAX_LISTED_NAMES)
        return f"{start} metadata of this name. The names are {_list_names(nearest, len(names))}."
    values = catalogue.metadata.get_values(name, MAX_COMPARED_VALUES)
    if operator != "=":
        numbers = sorted(number for number in map(parse_number, values) if number is not None)
        ordered = sorted(values) if parse_number(text) is None else [f"{number:g}" for number in numbers]
        what = "values" if ordered else "no numbers"
        return f"{start} such a value. There are {what}" + (f" from {ordered[0]} to {ordered[-1]}." if ordered else ".")
    nearest = find_nearest(text, values, MAX_LISTED_NAMES)
    return f"{start} this value. The values are {_list_names(nearest, len(values))}."


def _explain_field(catalogue: Catalogue, name: str) -> str:
    """Say what to do about a field of the quality of images that none has."""
    if not FIELDS[name].is_of_quality:
        return ""
    if not catalogue.quality.count():
        return " No image was measured: run `simile quality --measure`."
    return f" The issues are {', '.join(ISSUES)}." if name == "quality" else ""


def _explain_option(catalogue: Catalogue, option: str, value: Any) -> str:
    """Say what there is for any other option."""
    if option == "under":
        nearest = describe_nearest_folders(value, catalogue.files.get_folders())
        return f"under can't be {value!r}: no indexed file is in that folder. {nearest}"
    if option == "formats":
        known = ", ".join(catalogue.images.get_formats())
        return f"format can't be {', '.join(value)!r}: no indexed image has that format. The formats are {known}."
    with catalogue.begin_read() as connection:
        low, high = read_value_range(connection, option)
    return f"{option} can't be {value}: no indexed file satisfies it. There are values from {low} to {high}."


def _list_names(names: list[str], count: int) -> str:
    return ", ".join(names) + (f" and {count - len(names):,} more" if count > len(names) else "")
