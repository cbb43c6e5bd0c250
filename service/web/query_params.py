"""What the address of a page asks for, and the addresses of what a reader may ask next."""

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
COLLECTION_PAGE_SIZE = 60  # pictures of the collection at a time: rows of 2, 3, 4, 5 and 6

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
    """A filter in use, and the address of the same without it."""

    text: str
    url: str


class BrowsePageParams(FilterParams):
    """Filters in an address."""

    @classmethod
    def from_params(cls, params: ImmutableMultiDict[str, Any]) -> Self:
        """What an address or a form says; what was left empty counts as not given. Raises RequestValidationError."""
        lists = {name for name, one in cls.model_fields.items() if one.default == []}
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
        """The address of this page with something else in it."""
        raise NotImplementedError

    def get_chips(self) -> list[FilterChip]:
        """The filters in use."""
        return [FilterChip(text, self.make_url(**without)) for text, without in self._iter_filters()]

    def get_set_fields(self) -> dict[str, Any]:
        """Every field that says something, by name."""
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
    """One search of the page. image_id: what is similar to it; or pictures to be like, and pictures to be unlike."""

    image_id: ImageIdField | None = None
    positive_id: list[ImageIdField] = Field([], max_length=MAX_QUERY_IMAGES)
    negative_id: list[ImageIdField] = Field([], max_length=MAX_QUERY_IMAGES)
    within: float | None = Field(None, ge=0, le=1e18, allow_inf_nan=False)
    limit: int = Field(DEFAULT_PAGE_HITS, ge=1, le=MAX_LIMIT)

    @property
    def positives(self) -> list[int]:
        """Every picture that is asked with, each once."""
        first = [] if self.image_id is None else [self.image_id]
        return list(dict.fromkeys(first + self.positive_id))

    def make_url(self, **changes: object) -> str:
        """This search with something else in it; one picture alone is called by its own name."""
        asked = self.get_set_fields() | {"image_id": None, "positive_id": self.positives} | changes
        if len(asked["positive_id"]) == 1 and not asked.get("negative_id"):
            asked |= {"image_id": asked["positive_id"][0], "positive_id": None}
        if asked.get("limit") == DEFAULT_PAGE_HITS:
            asked["limit"] = None
        return urls.search_page(**asked)

    def make_more_like_url(self, image_id: int) -> str:
        """The same, and like this picture too."""
        unlike = [one for one in self.negative_id if one != image_id]
        like = [*(one for one in self.positives if one != image_id), image_id]
        return self.make_url(positive_id=like, negative_id=unlike, limit=DEFAULT_PAGE_HITS)

    def make_less_like_url(self, image_id: int) -> str:
        """The same, and unlike this picture."""
        like = [one for one in self.positives if one != image_id]
        unlike = [*(one for one in self.negative_id if one != image_id), image_id]
        return self.make_url(positive_id=like, negative_id=unlike, limit=DEFAULT_PAGE_HITS)

    def make_url_without(self, image_id: int) -> str:
        """The same without this picture; without any to be like, the start."""
        like = [one for one in self.positives if one != image_id]
        unlike = [one for one in self.negative_id if one != image_id]
        return self.make_url(positive_id=like, negative_id=unlike)


class CollectionPageParams(BrowsePageParams):
    """A stretch of the collection. cursor: where it begins, as the stretch before said."""

    sort: CollectionSort = "newest"
    cursor: str | None = Field(None, max_length=512)

    def make_url(self, **changes: object) -> str:
        """The collection with something else asked of it, from its beginning unless a cursor is named."""
        asked = self.get_set_fields() | {"cursor": None} | changes
        if asked.get("sort") == "newest":
            asked["sort"] = None
        return urls.collection_page(**asked)
