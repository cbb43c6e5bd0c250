"""Adding a picture that may be there already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from simile.dedup.detection.lookup import ImageMatch, find_existing_copies
from simile.indexer.pipeline.uploads import add_upload
from simile.search.searcher import Searcher
from simile.service.errors import TYPE_PREFIX, ProblemDetails
from simile.service.schemas.search import AddImageResponse, ImageResponse
from simile.service.serializers.duplicates import make_match_response
from simile.service.serializers.search import make_image_response, replace_surrogates

_MAX_NAMED_COPIES = 3  # copies in the words of a refusal; its `duplicates` has all


@dataclass(frozen=True)
class AddImageResult:
    """The picture that stands for an upload now, and whether it was new; or why nothing was stored."""

    image: AddImageResponse
    is_new: bool
    problem: ProblemDetails | None = None


def store_upload(
    searcher: Searcher,
    data: bytes,
    name: str,
    if_duplicate: Literal["reject", "link", "keep"] | None,
    metadata: Mapping[str, str] | None = None,
) -> AddImageResult:
    """Stores an upload, unless it is a copy and the caller wants no copies. if_duplicate None: nobody looks for any.

    `said`: metadata of it; of a picture that stands for it nothing new is said.

    Raises UnreadableImage, NothingIndexed (no encoder yet), HomeNotWritable.
    """
    searcher.validate_upload(data, name)
    copies = [] if if_duplicate is None else find_existing_copies(searcher, data, name)
    if copies and if_duplicate != "keep":
        image = _load_added_image(searcher, copies[0].image_id)
        out = _make_add_response(image, copies, copies[0].image_id)
        return AddImageResult(out, False, _make_duplicate_problem(name, copies) if if_duplicate == "reject" else None)
    image_id, created = add_upload(searcher, data, name=name, metadata=metadata)
    image = _load_added_image(searcher, image_id)
    return AddImageResult(_make_add_response(image, None if if_duplicate is None else copies), created)


def _load_added_image(searcher: Searcher, image_id: int) -> ImageResponse:
    return make_image_response(searcher.get_image(image_id), searcher.get_metadata(image_id))


def _make_add_response(
    image: ImageResponse, copies: Sequence[ImageMatch] | None, duplicate_of: int | None = None
) -> AddImageResponse:
    """Only what was asked for is set."""
    more: dict[str, object] = {} if copies is None else {"duplicates": [make_match_response(copy) for copy in copies]}
    if duplicate_of is not None:
        more["duplicate_of"] = duplicate_of
    return AddImageResponse.model_validate(image.model_dump() | more)


def _make_duplicate_problem(name: str, copies: Sequence[ImageMatch]) -> ProblemDetails:
    named = ", ".join(
        f"image {copy.image_id} ({replace_surrogates(copy.path)}: {copy.reason})" for copy in copies[:_MAX_NAMED_COPIES]
    )
    more = f" and {len(copies) - _MAX_NAMED_COPIES} more" if len(copies) > _MAX_NAMED_COPIES else ""
    return ProblemDetails(
        409,
        "Duplicate",
        f"{name} is there already: {named}{more}. Nothing was stored. Use that picture, or send this one again with "
        "if_duplicate=keep.",
        TYPE_PREFIX + "duplicate",
        extensions={"duplicates": [make_match_response(copy).model_dump() for copy in copies]},
    )
