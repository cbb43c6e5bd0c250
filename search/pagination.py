"""The collection, page by page."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Literal

from simile.core.errors import BadSetting, BeingComputed
from simile.core.records import Filter
from simile.search.outlier_ranking import Ranking
from simile.search.searcher import Searcher
from simile.store.catalogue.records import ImageRecord
from simile.store.index.flat import Ids

Sort = Literal["id", "newest", "unlike"]


@dataclass(frozen=True)
class Browse:
    """Which part of the collection is wanted. sort `unlike`: the least like the rest first.

    after: the `next` of the page before; then `offset` counts from there.
    """

    only: Filter | None = None
    sort: Sort = "id"
    limit: int = 100
    offset: int = 0
    after: str | None = None


@dataclass(frozen=True)
class Page:
    """Some images, of `total` that the filter lets through. next: what to ask `after` for more; None at the end.

    distances: with sort `unlike`, of each how far it lies from its 10th neighbour.
    """

    images: list[ImageRecord]
    total: int
    next: str | None
    distances: dict[int, float] | None = None


def browse(searcher: Searcher, wanted: Browse) -> Page:
    """A page of the collection.

    Raises BadSetting for a cursor that is none of this sort, BeingComputed and NothingIndexed with sort `unlike`.
    """
    last = None if wanted.after is None else _last(wanted.after, wanted.sort)
    among = searcher.index.matching(wanted.only)
    if wanted.sort == "unlike":
        return _unlike(searcher, wanted, among, last)
    total = searcher.count() if among is None else len(among)
    is_newest = wanted.sort == "newest"
    after = None if last is None else int(last[-1])
    one_more = wanted.limit + 1
    if among is None:
        ids = searcher.catalogue.image_ids(one_more, wanted.offset, after=after, newest=is_newest)
    else:
        ids = _slice(among, after, newest=is_newest)[wanted.offset :][:one_more].tolist()
    records = list(searcher.catalogue.images(ids[: wanted.limit]).values())
    follows = _cursor("newest" if is_newest else "id", ids[wanted.limit - 1]) if len(ids) > wanted.limit else None
    return Page(records, total, follows)


def ranking_of(searcher: Searcher) -> Ranking:
    """The whole collection, the least like the rest first. Raises BeingComputed until it is known, NothingIndexed."""
    snapshot = searcher.index.current()
    known = searcher.rankings.current(snapshot)
    if known is None:
        searcher.rankings.start(snapshot)
        raise BeingComputed("How unlike the rest each picture is, is being computed. Ask again in some seconds.")
    if not known.fits(len(snapshot)) or known.segment != snapshot.base:
        searcher.rankings.start(snapshot)
    return known.completed(snapshot)


def _unlike(searcher: Searcher, wanted: Browse, among: Ids | None, last: list[float] | None) -> Page:
    ranking = ranking_of(searcher)
    if among is not None:
        ranking = ranking.among(among)
    start = wanted.offset + (0 if last is None else ranking.after(last[0], int(last[1])))
    ids = ranking.ids[start : start + wanted.limit].tolist()
    distances = dict(zip(ids, ranking.distances[start : start + wanted.limit].tolist(), strict=True))
    records = list(searcher.catalogue.images(ids).values())
    is_last = start + wanted.limit >= len(ranking.ids) or not ids
    follows = None if is_last else _cursor("unlike", distances[ids[-1]], ids[-1])
    return Page(records, len(ranking.ids), follows, distances)


def _slice(ids: Ids, after: int | None, *, newest: bool) -> Ids:
    """The ids (n,), ascending, in the order asked for, from behind `after` on."""
    if newest:
        return (ids if after is None else ids[ids < after])[::-1]
    return ids if after is None else ids[ids > after]


def _cursor(*parts: float | str) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


def _last(cursor: str, sort: Sort) -> list[float]:
    """Where the page before ended."""
    try:
        said, *last = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        numbers = [float(one) if isinstance(one, float) else int(one) for one in last]
        if said == sort and len(numbers) == (2 if sort == "unlike" else 1) and 0 <= numbers[-1] < 2**63:
            return numbers
    except (ValueError, TypeError, binascii.Error, OverflowError):
        pass
    raise BadSetting(f"cursor can't be {cursor!r}. Send the `next` of a page with the same sort, or leave it out.")
