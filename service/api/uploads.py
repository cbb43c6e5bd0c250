"""Adding a picture that may be there already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from simile.dedup.detection.lookup import Match, have_already
from simile.indexer.pipeline.uploads import add_upload
from simile.search.searcher import Searcher
from simile.service.errors import TYPE_PREFIX, Problem
from simile.service.schemas.search import AddedOut, ImageOut
from simile.service.serializers.duplicates import match_out
from simile.service.serializers.search import image_out, shown

_NAMED = 3  # copies in the words of a refusal; its `duplicates` has all


@dataclass(frozen=True)
class Added:
    """The picture that stands for an upload now, and whether it was new; or why nothing was stored."""

    image: AddedOut
    created: bool
    refused: Problem | None = None


def add_picture(
    searcher: Searcher,
    data: bytes,
    name: str,
    if_duplicate: Literal["reject", "link", "keep"] | None,
    said: Mapping[str, str] | None = None,
) -> Added:
    """Stores an upload, unless it is a copy and the caller wants no copies. if_duplicate None: nobody looks for any.

    `said`: metadata of it; of a picture that stands for it nothing new is said.

    Raises UnreadableImage, NothingIndexed (no encoder yet), HomeNotWritable.
    """
    searcher.prove(data, name)
    copies = [] if if_duplicate is None else have_already(searcher, data, name)
    if copies and if_duplicate != "keep":
        image = _image(searcher, copies[0].image_id)
        out = _added(image, copies, copies[0].image_id)
        return Added(out, False, _refusal(name, copies) if if_duplicate == "reject" else None)
    image_id, created = add_upload(searcher, data, name=name, said=said)
    image = _image(searcher, image_id)
    return Added(_added(image, None if if_duplicate is None else copies), created)


def _image(searcher: Searcher, image_id: int) -> ImageOut:
    return image_out(searcher.image(image_id), searcher.metadata(image_id))


def _added(image: ImageOut, copies: Sequence[Match] | None, duplicate_of: int | None = None) -> AddedOut:
    """Only what was asked for is set."""
    more: dict[str, object] = {} if copies is None else {"duplicates": [match_out(copy) for copy in copies]}
    if duplicate_of is not None:
        more["duplicate_of"] = duplicate_of
    return AddedOut.model_validate(image.model_dump() | more)


def _refusal(name: str, copies: Sequence[Match]) -> Problem:
    named = ", ".join(f"image {copy.image_id} ({shown(copy.path)}: {copy.reason})" for copy in copies[:_NAMED])
    more = f" and {len(copies) - _NAMED} more" if len(copies) > _NAMED else ""
    return Problem(
        409,
        "Duplicate",
        f"{name} is there already: {named}{more}. Nothing was stored. Use that picture, or send this one again with "
        "if_duplicate=keep.",
        TYPE_PREFIX + "duplicate",
        more={"duplicates": [match_out(copy).model_dump() for copy in copies]},
    )
