"""The collection, page by page."""

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

SortOrder = Literal["id", "newest", "unlike"]


@dataclass(frozen=True)
class ImagePageRequest:
    """Which part of the collection is wanted. sort `unlike`: the least like the rest first.

    after: the `next` of the page before; then `offset` counts from there.
    """

    filter: Filter | None = None
    sort: SortOrder = "id"
    limit: int = 100
    offset: int = 0
    cursor: str | None = None


@dataclass(frozen=True)
class ImagePageResult:
    """Some images, of `total` that the filter lets through. next: what to ask `after` for more; None at the end.

    distances: with sort `unlike`, of each how far it lies from its 10th neighbour.
    """

    images: list[ImageRecord]
    total: int
    next_cursor: str | None
    distances: dict[int, float] | None = None


def get_image_page(searcher: Searcher, request: ImagePageRequest) -> ImagePageResult:
    """A page of the collection.

    Raises BadSetting for a cursor that is none of this sort, BeingComputed and NothingIndexed with sort `unlike`.
    """
    last = None if request.cursor is None else _decode_cursor(request.cursor, request.sort)
    among = searcher.index.find_matching_ids(request.filter)
    if request.sort == "unlike":
        return _get_outlier_page(searcher, request, among, last)
    total = searcher.count_images() if among is None else len(among)
    is_newest = request.sort == "newest"
    after = None if last is None else int(last[-1])
    one_more = request.limit + 1
    if among is None:
        ids = searcher.catalogue.images.get_ids(one_more, request.offset, after_id=after, newest_first=is_newest)
    else:
        ids = _ids_after(among, after, newest=is_newest)[request.offset :][:one_more].tolist()
    records = list(searcher.catalogue.images.get_many(ids[: request.limit]).values())
    follows = (
        _encode_cursor("newest" if is_newest else "id", ids[request.limit - 1]) if len(ids) > request.limit else None
    )
    return ImagePageResult(records, total, follows)


def get_outlier_ranking(searcher: Searcher) -> OutlierRanking:
    """The whole collection, the least like the rest first. Raises BeingComputed until it is known, NothingIndexed."""
    snapshot = searcher.index.get_snapshot()
    known = searcher.outlier_rankings.get(snapshot)
    if known is None:
        searcher.outlier_rankings.start(snapshot)
        raise BeingComputed("How unlike the rest each picture is, is being computed. Ask again in some seconds.")
    if not known.fits(len(snapshot)) or known.segment != snapshot.base_segment_id:
        searcher.outlier_rankings.start(snapshot)
    return known.update_to(snapshot)


def _get_outlier_page(
    searcher: Searcher, request: ImagePageRequest, matching_ids: Ids | None, last_key: list[float] | None
) -> ImagePageResult:
    ranking = get_outlier_ranking(searcher)
    if matching_ids is not None:
        ranking = ranking.restrict_to(matching_ids)
    start = request.offset + (0 if last_key is None else ranking.find_position_after(last_key[0], int(last_key[1])))
    ids = ranking.ids[start : start + request.limit].tolist()
    distances = dict(zip(ids, ranking.distances[start : start + request.limit].tolist(), strict=True))
    records = list(searcher.catalogue.images.get_many(ids).values())
    is_last = start + request.limit >= len(ranking.ids) or not ids
    follows = None if is_last else _encode_cursor("unlike", distances[ids[-1]], ids[-1])
    return ImagePageResult(records, len(ranking.ids), follows, distances)


def _ids_after(ids: Ids, after: int | None, *, newest: bool) -> Ids:
    """The ids (n,), ascending, in the order asked for, from behind `after` on."""
    if newest:
        return (ids if after is None else ids[ids < after])[::-1]
    return ids if after is None else ids[ids > after]


def _encode_cursor(*values: float | str) -> str:
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")


def _decode_cursor(cursor: str, sort: SortOrder) -> list[float]:
    """Where the page before ended."""
    try:
        said, *last = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        numbers = [float(one) if isinstance(one, float) else int(one) for one in last]
        if said == sort and len(numbers) == (2 if sort == "unlike" else 1) and 0 <= numbers[-1] < 2**63:
            return numbers
    except (ValueError, TypeError, binascii.Error, OverflowError):
        pass
    raise BadSetting(f"cursor can't be {cursor!r}. Send the `next` of a page with the same sort, or leave it out.")
