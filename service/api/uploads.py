"""Add an uploaded image to the collection, with an optional check for copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from simile.dedup.detection.lookup import ImageMatch, find_existing_copies
from simile.indexer.pipeline.uploads import add_upload
from simile.search.searcher import Searcher
from simile.service.errors import TYPE_PREFIX, ProblemDetails
from simile.service.schemas.search import AddImageResponse, replace_surrogates
from simile.service.serializers.duplicates import make_match_response
from simile.service.serializers.search import make_image_fields

_MAX_NAMED_COPIES = 3  # copies that the detail of a problem names; its field `duplicates` has all


@dataclass(frozen=True)
class AddImageResult:
    """The image that now represents an upload and whether it is new; `problem`: why nothing was stored."""

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
    """Store an upload, unless it is a copy and `if_duplicate` is `reject` or `link`.

    Args:
        searcher: Finds copies and stores the upload.
        data: The file.
        name: The name of the file, for messages.
        if_duplicate: What to do with a copy; None: do not look for copies.
        metadata: Metadata of a new image; an existing image keeps its own.

    Raises:
        UnreadableImage, NothingIndexed (no encoder yet), HomeNotWritable.
    """
    searcher.validate_upload(data, name)
    copies = [] if if_duplicate is None else find_existing_copies(searcher, data, name)
    if copies and if_duplicate != "keep":
        response = _make_add_response(searcher, copies[0].image_id, copies, duplicate_of=copies[0].image_id)
        problem = _make_duplicate_problem(name, copies) if if_duplicate == "reject" else None
        return AddImageResult(response, False, problem)
    image_id, is_new = add_upload(searcher, data, name=name, metadata=metadata)
    return AddImageResult(_make_add_response(searcher, image_id, None if if_duplicate is None else copies), is_new)


def _make_add_response(
    searcher: Searcher, image_id: int, copies: Sequence[ImageMatch] | None, **more: Any
) -> AddImageResponse:
    """Return the image; fields that were not requested stay unset, so that the response leaves them out."""
    fields = make_image_fields(searcher.get_image(image_id), searcher.get_metadata(image_id)) | more
    if copies is not None:
        fields["duplicates"] = [make_match_response(copy) for copy in copies]
    return AddImageResponse(**fields)


def _make_duplicate_problem(name: str, copies: Sequence[ImageMatch]) -> ProblemDetails:
    named = ", ".join(
        f"image {copy.image_id} ({replace_surrogates(copy.path)}: {copy.reason})" for copy in copies[:_MAX_NAMED_COPIES]
    )
    more = f" and {len(copies) - _MAX_NAMED_COPIES} more" if len(copies) > _MAX_NAMED_COPIES else ""
    return ProblemDetails(
        status=409,
        title="Duplicate",
        detail=f"{name} exists already: {named}{more}. Nothing was stored. Use that image, or send this one again with "
        "if_duplicate=keep.",
        type=TYPE_PREFIX + "duplicate",
        extensions={"duplicates": [make_match_response(copy).model_dump() for copy in copies]},
    )
