"""From what the rooms below say to what goes over the wire."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from simile.core.errors import NoDecoder
from simile.core.records import Hit
from simile.search.searcher import Searcher, SearchResult
from simile.service import urls
from simile.service.errors import ProblemDetails, make_problem_body
from simile.service.schemas.search import (
    HitResponse,
    ImageResponse,
    MetadataResponse,
    ProblemResponse,
    QueryImageResponse,
    QueryResponse,
    SearchBatchProblemResponse,
    SearchBatchResponse,
    SearchResponse,
)
from simile.store.catalogue.records import ImageRecord


def make_search_response(searcher: Searcher, result: SearchResult, include: Collection[str] = ()) -> SearchResponse:
    """The answer to a search; include: `reconstruction`, `metadata`.

    An encoder without a decoder has null where a reconstruction was asked for.
    """
    wanted = "reconstruction" in include
    seen = make_reconstruction_data_url(searcher, result) if wanted else None
    shown = wanted and searcher.get_encoder().has_decoder
    return SearchResponse(
        query=_make_query_response(result, seen),
        hits=[make_hit_response(hit, with_reconstruction=shown) for hit in result.hits],
        score_calibrated=result.is_calibrated,
    )


def dump_search_json(searcher: Searcher, result: SearchResult, include: Collection[str] = ()) -> bytes:
    """The same as it goes over the wire."""
    return make_search_response(searcher, result, include).model_dump_json().encode()


def dump_batch_json(
    searcher: Searcher, search_results: Sequence[SearchResult | ProblemDetails], includes: Sequence[Collection[str]]
) -> bytes:
    """The answers of a batch, or what was wrong with each, in order."""
    results = [
        SearchBatchProblemResponse(problem=ProblemResponse.model_validate(make_problem_body(found, urls.SEARCH)))
        if isinstance(found, ProblemDetails)
        else make_search_response(searcher, found, include)
        for found, include in zip(search_results, includes, strict=True)
    ]
    return SearchBatchResponse(results=results).model_dump_json().encode()


def make_image_response(record: ImageRecord, metadata: Mapping[str, str | float] | None = None) -> ImageResponse:
    """What is known of an indexed image, and said of it."""
    return ImageResponse(**make_image_fields(record, metadata))


def make_image_fields(record: ImageRecord, metadata: Mapping[str, str | float] | None = None) -> dict[str, Any]:
    """The fields of an ImageOut, for what has more."""
    paths = [replace_surrogates(path) for path in record.paths]
    return {
        "image_id": record.id,
        "path": paths[0] if paths else "",
        "paths": paths,
        "width": record.width,
        "height": record.height,
        "format": record.format,
        "size": record.size,
        "sha256": record.sha256,
        "created_at": record.created_at,
        "reconstruction_error": record.reconstruction_error,
        "metadata": make_metadata_response(metadata or {}),
        "file_url": urls.file(record.id),
        "thumbnail_url": urls.thumbnail(record.id),
        "reconstruction_url": urls.reconstruction(record.id),
    }


def make_reconstruction_data_url(searcher: Searcher, result: SearchResult) -> str | None:
    """What the model saw in the query, as a data URL; None for an encoder without a decoder, or a bare vector."""
    query = result.query
    if query.width is None or query.height is None:
        return None
    try:
        return make_data_url(
            searcher.reconstruct_latent(query.mu, query.width, query.height, result.encoder), "image/png"
        )
    except NoDecoder:
        return None


def make_data_url(data: bytes, media_type: str) -> str:
    """A picture written into the text itself."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def _make_query_response(result: SearchResult, reconstruction: str | None) -> QueryResponse:
    query, certainty = result.query, result.confidence
    return QueryResponse(
        name=query.name,
        image_id=query.image_id,
        width=query.width,
        height=query.height,
        format=query.format,
        reconstruction_error=query.reconstruction_error,
        error_percentile=certainty.error_percentile,
        sigma=certainty.sigma,
        unlike=certainty.unlike,
        unlike_reason=certainty.reason,
        false_alarm_rate=certainty.false_alarm_rate,
        false_alarm_among=certainty.among,
        positives=[QueryImageResponse(image_id=one.image_id, name=one.name) for one in query.positives],
        negatives=[QueryImageResponse(image_id=one.image_id, name=one.name) for one in query.negatives],
        reconstruction=reconstruction,
    )


def make_hit_response(hit: Hit, *, with_reconstruction: bool) -> HitResponse:
    """One similar image."""
    return HitResponse(
        image_id=hit.image_id,
        distance=hit.distance,
        score=hit.score,
        spread=hit.spread,
        path=replace_surrogates(hit.path),
        width=hit.width,
        height=hit.height,
        format=hit.format,
        file_url=urls.file(hit.image_id),
        thumbnail_url=urls.thumbnail(hit.image_id),
        reconstruction_url=urls.reconstruction(hit.image_id) if with_reconstruction else None,
        metadata=None if hit.metadata is None else make_metadata_response(hit.metadata),
    )


def make_metadata_response(metadata: Mapping[str, str | float]) -> MetadataResponse:
    """Metadata that JSON can carry."""
    return {
        replace_surrogates(name): replace_surrogates(value) if isinstance(value, str) else value
        for name, value in metadata.items()
    }


def replace_surrogates(text: str) -> str:
    """A path that JSON can carry: names on disk may be no valid Unicode."""
    return text.encode("utf-8", "replace").decode("utf-8")
