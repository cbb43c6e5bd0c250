"""Requests and responses of the API about facets."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from simile.service.schemas.search import DisplayText, FilterParams


def _split_names(value: object) -> object:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(item, str) for item in names):
        return names
    return [name for item in names for name in item.split(",") if name]


FieldNames = Annotated[list[Annotated[str, Field(max_length=200)]], BeforeValidator(_split_names), Field(max_length=32)]


class FacetOptions(FilterParams):
    """Which images to count, and by which fields."""

    fields: FieldNames = Field(
        [],
        description="Names of metadata, or `format`, `camera`, `rating`, `year`, `month`, `keyword` …, repeated or "
        "separated by commas. None: all that form classes.",
    )
    limit: int = Field(20, ge=1, le=1000, description="Maximum number of values of each field.")


class FacetValueResponse(BaseModel):
    """A value, and the number of images with it."""

    value: DisplayText
    count: int
    where: DisplayText = Field(description="The condition for these images, for `where`.")


class FacetResponse(BaseModel):
    """A field and its most frequent values."""

    model_config = ConfigDict(from_attributes=True)

    name: DisplayText
    value_count: int = Field(description="Number of different values, of which `values` are the most frequent.")
    values: list[FacetValueResponse]


class FacetListResponse(BaseModel):
    """The fields in the requested order."""

    total: int = Field(description="Number of images that match the filter.")
    facets: list[FacetResponse]
