"""From what the rooms below say to what goes over the wire."""

from __future__ import annotations

import base64

from core.errors import NoDecoder
from core.records import Hit
from search.searcher import Answer, Query, Searcher
from service import urls
from service.schemas import HitOut, ImageOut, QueryOut, SearchOut
from store.records import ImageRecord


def search_out(searcher: Searcher, answer: Answer, *, with_reconstruction: bool) -> SearchOut:
    """The answer to a search. An encoder without a decoder has null where a reconstruction was asked for."""
    seen = reconstruction_of(searcher, answer.query) if with_reconstruction else None
    shown = with_reconstruction and searcher.encoder().has_decoder
    return SearchOut(
        query=_query_out(answer.query, seen),
        hits=[_hit_out(hit, with_reconstruction=shown) for hit in answer.hits],
    )


def image_out(record: ImageRecord) -> ImageOut:
    """What is known of an indexed image."""
    paths = [shown(path) for path in record.paths]
    return ImageOut(
        image_id=record.id,
        path=paths[0] if paths else "",
        paths=paths,
        width=record.width,
        height=record.height,
        format=record.format,
        size=record.size,
        sha256=record.sha256,
        created_at=record.created_at,
        reconstruction_error=record.reconstruction_error,
        file_url=urls.file(record.id),
        thumbnail_url=urls.thumbnail(record.id),
        reconstruction_url=urls.reconstruction(record.id),
    )


def reconstruction_of(searcher: Searcher, query: Query) -> str | None:
    """What the model saw in the query, as a data URL; None for an encoder without a decoder, or a bare vector."""
    if query.width is None or query.height is None:
        return None
    try:
        return data_url(searcher.reconstruct_mu(query.mu, query.width, query.height), "image/png")
    except NoDecoder:
        return None


def data_url(data: bytes, media_type: str) -> str:
    """A picture written into the text itself."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def _query_out(query: Query, reconstruction: str | None) -> QueryOut:
    return QueryOut(
        name=query.name,
        image_id=query.image_id,
        width=query.width,
        height=query.height,
        format=query.format,
        reconstruction_error=query.reconstruction_error,
        reconstruction=reconstruction,
    )


def _hit_out(hit: Hit, *, with_reconstruction: bool) -> HitOut:
    return HitOut(
        image_id=hit.image_id,
        distance=hit.distance,
        score=hit.score,
        path=shown(hit.path),
        width=hit.width,
        height=hit.height,
        format=hit.format,
        file_url=urls.file(hit.image_id),
        thumbnail_url=urls.thumbnail(hit.image_id),
        reconstruction_url=urls.reconstruction(hit.image_id) if with_reconstruction else None,
    )


def shown(path: str) -> str:
    """A path that JSON can carry: names on disk may be no valid Unicode."""
    return path.encode("utf-8", "replace").decode("utf-8")
