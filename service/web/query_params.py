"""Query parameters of the pages, and the URLs of the pages with other parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError
from starlette.datastructures import ImmutableMultiDict

from simile.search.queries import Combination
from simile.service import urls
from simile.service.schemas.search import (
    MAX_LIMIT,
    MAX_QUERY_IMAGES,
    BoolParam,
    BoxParam,
    DistanceParam,
    FilterParams,
    ImageIdField,
)

DEFAULT_PAGE_HITS = 24  # fills rows of 2, 3, 4, 6 and 8

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
    "taken": "taken {}",
    "camera": "camera {}",
    "rating": "rating {}",
    "near": "near {}",
    "within": "within {:g}",
}

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class PageLink:
    """A link to a page with other parameters: a filter to remove, a sort order, a tab."""

    text: str
    url: str
    current: bool = False
    count: int | None = None


def validate_fields(model: type[Model], fields: Mapping[str, Any]) -> Model:
    """Return the model of the fields. Raises RequestValidationError."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_input=False)) from None


class PageParams(BaseModel):
    """The parameters of a page in its URL."""

    make_page_url: ClassVar[Callable[..., str]]
    own_fields: ClassVar[frozenset[str]] = frozenset()  # of one page: not part of the URLs of other pages

    @classmethod
    def from_params(cls, params: ImmutableMultiDict[str, Any]) -> Self:
        """Parse the parameters of a URL or a form; empty values count as missing. Raises RequestValidationError."""
        lists = {name for name, item in cls.model_fields.items() if item.default == []}
        fields: dict[str, Any] = {}
        for name in set(params.keys()):
            values = [value for value in params.getlist(name) if isinstance(value, str) and value.strip()]
            if values:
                fields[name] = values if name in lists else values[-1]
        return validate_fields(cls, fields)

    def make_url(self, **changes: object) -> str:
        """Return the URL of this page with changed parameters."""
        fields = self.model_dump(exclude=set(self.own_fields)) | changes
        defaults = {name: item.default for name, item in type(self).model_fields.items()}
        return type(self).make_page_url(**{name: fields[name] for name in fields if fields[name] != defaults[name]})


class BrowsePageParams(PageParams, FilterParams):
    """Filters in a URL."""

    def get_chips(self) -> list[PageLink]:
        """Return the active filters, each with the URL without it."""
        return [PageLink(text=text, url=self.make_url(**without)) for text, without in self._iter_filters()]

    def _iter_filters(self) -> Iterator[tuple[str, dict[str, object]]]:
        for name in ("where", "format", "keyword"):
            values: list[str] = getattr(self, name)
            for value in values:
                yield value, {name: [other for other in values if other != value]}
        for name, words in _FILTER_LABELS.items():
            bound: object = getattr(self, name, None)
            if bound is not None:
                yield words.format(bound), {name: None}


class SearchPageParams(BrowsePageParams):
    """A search on the page: by one image id, or by positive and negative images."""

    make_page_url = staticmethod(urls.search_page)

    image_id: ImageIdField | None = None
    positive_id: list[ImageIdField] = Field([], max_length=MAX_QUERY_IMAGES)
    negative_id: list[ImageIdField] = Field([], max_length=MAX_QUERY_IMAGES)
    text: str | None = Field(None, max_length=1000)
    within: DistanceParam = None
    verify: BoolParam = False
    distinct: BoolParam = False
    diversity: float = Field(0.0, ge=0, le=1, allow_inf_nan=False)
    group_by: str | None = Field(None, max_length=200)
    combine: Combination = "mean"
    box: BoxParam = None
    limit: int = Field(DEFAULT_PAGE_HITS, ge=1, le=MAX_LIMIT)

    @property
    def positives(self) -> list[int]:
        """Return every positive image once."""
        first = [] if self.image_id is None else [self.image_id]
        return list(dict.fromkeys(first + self.positive_id))

    def make_url(self, **changes: Any) -> str:
        """Return the URL of this search with changed parameters; a single positive becomes `image_id`."""
        positives = changes.pop("positive_id", self.positives)
        if len(positives) == 1 and not changes.get("negative_id", self.negative_id):
            return super().make_url(image_id=positives[0], positive_id=[], **changes)
        return super().make_url(image_id=None, positive_id=positives, **changes)

    def _iter_filters(self) -> Iterator[tuple[str, dict[str, object]]]:
        yield from super()._iter_filters()
        if self.verify:
            yield "verified first", {"verify": False}
        if self.distinct:
            yield "without copies", {"distinct": False}
        if self.diversity:
            yield f"diversity {self.diversity:g}", {"diversity": 0.0}
        if self.combine == "best":
            yield "near to any of the images", {"combine": "mean"}
        if self.box:
            yield "a part of the image", {"box": None}
        if self.group_by:
            yield f"by {self.group_by}", {"group_by": None}

    def make_more_like_url(self, image_id: int) -> str:
        """Return the URL of this search with one more positive image."""
        return self.make_url_without(image_id, positives=[image_id], limit=DEFAULT_PAGE_HITS)

    def make_less_like_url(self, image_id: int) -> str:
        """Return the URL of this search with one more negative image."""
        return self.make_url_without(image_id, negatives=[image_id], limit=DEFAULT_PAGE_HITS)

    def make_url_without(
        self, image_id: int, positives: Sequence[int] = (), negatives: Sequence[int] = (), **changes: object
    ) -> str:
        """Return the URL of this search without an image; positives, negatives: more images."""
        like = [*(item for item in self.positives if item != image_id), *positives]
        unlike = [*(item for item in self.negative_id if item != image_id), *negatives]
        return self.make_url(positive_id=like, negative_id=unlike, **changes)


class CollectionPageParams(BrowsePageParams):
    """A page of the collection. cursor: its start, from the previous page."""

    make_page_url = staticmethod(urls.collection_page)
    own_fields = frozenset({"cursor"})

    sort: Literal["newest", "id", "taken", "unlike"] = "newest"
    cursor: str | None = Field(None, max_length=200)
