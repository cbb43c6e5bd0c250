"""Query parameters of the pages, and the URLs of related searches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self

from fastapi.exceptions import RequestValidationError
from pydantic import Field, ValidationError
from starlette.datastructures import ImmutableMultiDict

from simile.service import urls
from simile.service.schemas.search import MAX_LIMIT, MAX_QUERY_IMAGES, FilterParams, ImageIdField

DEFAULT_PAGE_HITS = 24  # fills rows of 2, 3, 4, 6 and 8
COLLECTION_PAGE_SIZE = 60  # images on a page of the collection: fills rows of 2, 3, 4, 5 and 6

CollectionSort = Literal["newest", "id", "unlike"]

_FILTER_LABELS = {
    "under": "in {}",
    "since": "from {}",
    "until": "to {}",
    "min_bytes": "at least {:,} bytes",
    "max_bytes": "at most {:,} bytes",
    "min_width": "at least {:,} wide",
    "max_width": "at most {:,} wide",
    "min_height": "at least {:,} high",
    "max_height": "at most {:,} high",
    "within": "within {:g}",
}


@dataclass(frozen=True)
class FilterChip:
    """An active filter and the URL without it."""

    text: str
    url: str


class BrowsePageParams(FilterParams):
    """Filters in a URL."""

    @classmethod
    def from_params(cls, params: ImmutableMultiDict[str, Any]) -> Self:
        """Parse the parameters of a URL or a form; empty values count as missing. Raises RequestValidationError."""
        lists = {name for name, item in cls.model_fields.items() if item.default == []}
        fields: dict[str, Any] = {}
        for name in set(params.keys()):
            values = [value for value in params.getlist(name) if isinstance(value, str) and value.strip()]
            if values:
                fields[name] = values if name in lists else values[-1]
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise RequestValidationError(error.errors(include_url=False, include_input=False)) from None

    def make_url(self, **changes: object) -> str:
        """Return the URL of this page with changed parameters."""
        raise NotImplementedError

    def get_chips(self) -> list[FilterChip]:
        """Return the active filters."""
        return [FilterChip(text, self.make_url(**without)) for text, without in self._iter_filters()]

    def get_set_fields(self) -> dict[str, Any]:
        """Return every field that is set, by name."""
        return {name: value for name, value in self.model_dump().items() if value not in (None, [])}

    def _iter_filters(self) -> Iterator[tuple[str, dict[str, object]]]:
        for name in ("where", "format"):
            values: list[str] = getattr(self, name)
            for value in values:
                yield value, {name: [other for other in values if other != value]}
        for name, words in _FILTER_LABELS.items():
            bound: object = getattr(self, name, None)
            if bound is not None:
                yield words.format(bound), {name: None}


class SearchPageParams(BrowsePageParams):
    """A search on the page: by one image id, or by positive and negative images."""

    image_id: ImageIdField | None = None
    positive_id: list[ImageIdField] = Field([], max_length=MAX_QUERY_IMAGES)
    negative_id: list[ImageIdField] = Field([], max_length=MAX_QUERY_IMAGES)
    within: float | None = Field(None, ge=0, le=1e18, allow_inf_nan=False)
    limit: int = Field(DEFAULT_PAGE_HITS, ge=1, le=MAX_LIMIT)

    @property
    def positives(self) -> list[int]:
        """Return every positive image once."""
        first = [] if self.image_id is None else [self.image_id]
        return list(dict.fromkeys(first + self.positive_id))

    def make_url(self, **changes: object) -> str:
        """Return the URL of this search with changed parameters; a single positive becomes `image_id`."""
        parameters = self.get_set_fields() | {"image_id": None, "positive_id": self.positives} | changes
        if len(parameters["positive_id"]) == 1 and not parameters.get("negative_id"):
            parameters |= {"image_id": parameters["positive_id"][0], "positive_id": None}
        if parameters.get("limit") == DEFAULT_PAGE_HITS:
            parameters["limit"] = None
        return urls.search_page(**parameters)

    def make_more_like_url(self, image_id: int) -> str:
        """Return the URL of this search with one more positive image."""
        unlike = [item for item in self.negative_id if item != image_id]
        like = [*(item for item in self.positives if item != image_id), image_id]
        return self.make_url(positive_id=like, negative_id=unlike, limit=DEFAULT_PAGE_HITS)

    def make_less_like_url(self, image_id: int) -> str:
        """Return the URL of this search with one more negative image."""
        like = [item for item in self.positives if item != image_id]
        unlike = [*(item for item in self.negative_id if item != image_id), image_id]
        return self.make_url(positive_id=like, negative_id=unlike, limit=DEFAULT_PAGE_HITS)

    def make_url_without(self, image_id: int) -> str:
        """Return the URL of this search without an image; the start page if no positive image is left."""
        like = [item for item in self.positives if item != image_id]
        unlike = [item for item in self.negative_id if item != image_id]
        return self.make_url(positive_id=like, negative_id=unlike)


class CollectionPageParams(BrowsePageParams):
    """A page of the collection. cursor: its start, from the previous page."""

    sort: CollectionSort = "newest"
    cursor: str | None = Field(None, max_length=512)

    def make_url(self, **changes: object) -> str:
        """Return the URL of the collection with changed parameters, from the beginning unless a cursor is given."""
        parameters = self.get_set_fields() | {"cursor": None} | changes
        if parameters.get("sort") == "newest":
            parameters["sort"] = None
        return urls.collection_page(**parameters)
