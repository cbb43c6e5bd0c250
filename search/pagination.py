"""List the images of the collection page by page."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Literal

from simile.core.errors import BadSetting, BeingComputed
from simile.core.records import Filter
from simile.search.outlier_ranking import OutlierRanking
from simile.search.searcher import Searcher
from simile.store.catalogue.records import ImageRecord
from simile.store.index.flat import Ids

SortOrder = Literal["id", "newest", "taken", "unlike"]


@dataclass(frozen=True, kw_only=True)
class ImagePageRequest:
    """Which page of the collection to return."""

    filter: Filter | None = None
    sort: SortOrder = "id"  # by id, newest first, `taken`: newest photo first, or `unlike`: outliers first
    limit: int = 100
    offset: int = 0  # number of images to skip, from the cursor on
    cursor: str | None = None  # `next_cursor` of the previous page


@dataclass(frozen=True)
class ImagePageResult:
    """One page of the images that match a filter."""

    images: list[ImageRecord]
    total: int  # number of images that match
    next_cursor: str | None  # cursor of the next page; None at the end
    distances: dict[int, float] | None = None  # with sort `unlike`: the distance to the 10th neighbour, by image id


def get_image_page(searcher: Searcher, request: ImagePageRequest) -> ImagePageResult:
    """Return a page of the collection.

    Raises BadSetting for the cursor of another sort, and the errors of `get_outlier_ranking` for sort `unlike`.
    """
    last_key = None if request.cursor is None else _decode_cursor(request.cursor, request.sort)
    matching_ids = searcher.index.find_matching_ids(request.filter)
    if request.sort == "unlike":
        return _get_outlier_page(searcher, request, matching_ids, last_key)
    if request.sort == "taken":
        return _get_taken_page(searcher, request, matching_ids, last_key)
    is_newest_first = request.sort == "newest"
    after_id = None if last_key is None else int(last_key[-1])
    # One more id than the page holds tells whether there is a next page.
    count = request.limit + 1
    if matching_ids is None:
        total = searcher.count_images()
        ids = searcher.catalogue.images.get_ids(count, request.offset, after_id=after_id, newest_first=is_newest_first)
    else:
        total = len(matching_ids)
        ids_after = _get_ids_after(matching_ids, after_id, newest_first=is_newest_first)
        ids = ids_after[request.offset :][:count].tolist()
    records = list(searcher.catalogue.images.get_many(ids[: request.limit]).values())
    next_cursor = _encode_cursor(request.sort, ids[request.limit - 1]) if len(ids) > request.limit else None
    return ImagePageResult(records, total, next_cursor)


def get_outlier_ranking(searcher: Searcher) -> OutlierRanking:
    """Return the ranking of the whole collection, outliers first. Raises BeingComputed, NothingIndexed."""
    snapshot = searcher.index.get_snapshot()
    ranking = searcher.outlier_rankings.get(snapshot)
    if ranking is None:
        searcher.outlier_rankings.start(snapshot)
        raise BeingComputed("The outlier ranking is being computed. Try again in a few seconds.")
    if not ranking.fits(snapshot) or ranking.segment != snapshot.base_segment_id:
        searcher.outlier_rankings.start(snapshot)
    return ranking.update_to(snapshot)


def _get_outlier_page(
    searcher: Searcher, request: ImagePageRequest, matching_ids: Ids | None, last_key: list[float] | None
) -> ImagePageResult:
    ranking = get_outlier_ranking(searcher)
    if matching_ids is not None:
        ranking = ranking.restrict_to(matching_ids)
    start = request.offset + (0 if last_key is None else ranking.find_position_after(last_key[0], int(last_key[1])))
    end = start + request.limit
    ids = ranking.ids[start:end].tolist()
    distances = dict(zip(ids, ranking.distances[start:end].tolist(), strict=True))
    records = list(searcher.catalogue.images.get_many(ids).values())
    has_next = bool(ids) and end < len(ranking.ids)
    next_cursor = _encode_cursor("unlike", distances[ids[-1]], ids[-1]) if has_next else None
    return ImagePageResult(records, len(ranking.ids), next_cursor, distances)


def _get_taken_page(
    searcher: Searcher, request: ImagePageRequest, matching_ids: Ids | None, last_key: list[float] | None
) -> ImagePageResult:
    order = searcher.get_taken_order()
    if matching_ids is not None:
        order = order.restrict_to(matching_ids)
    start = request.offset + (0 if last_key is None else order.find_position_after(int(last_key[0]), int(last_key[1])))
    end = start + request.limit
    ids = order.ids[start:end].tolist()
    records = list(searcher.catalogue.images.get_many(ids).values())
    has_next = bool(ids) and end < len(order.ids)
    return ImagePageResult(
        records, len(order.ids), _encode_cursor("taken", int(order.times[end - 1]), ids[-1]) if has_next else None
    )


def _get_ids_after(ids: Ids, after_id: int | None, *, newest_first: bool) -> Ids:
    """Return the ids (n,), given ascending, in the order of the page, from behind `after_id` on."""
    if newest_first:
        return (ids if after_id is None else ids[ids < after_id])[::-1]
    return ids if after_id is None else ids[ids > after_id]


def _encode_cursor(*values: float | str) -> str:
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")


def _decode_cursor(cursor: str, sort: SortOrder) -> list[float]:
    """Return the sort key of the last image of the previous page.

    That is [id], with `unlike` [distance, id], with `taken` [time, id].
    """
    try:
        cursor_sort, *values = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        key = [float(value) if isinstance(value, float) else int(value) for value in values]
        if cursor_sort == sort and len(key) == (2 if sort in ("unlike", "taken") else 1) and 0 <= key[-1] < 2**63:
            return key
    except (ValueError, TypeError, binascii.Error, OverflowError):
        pass
    raise BadSetting(f"cursor can't be {cursor!r}. Send the `next` of a page with the same sort, or leave it out.")
