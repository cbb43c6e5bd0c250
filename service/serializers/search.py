"""From what the rooms below say to what goes over the wire."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from simile.core.errors import NoDecoder
from simile.core.records import Hit
from simile.search.searcher import Answer, Searcher
from simile.service import urls
from simile.service.errors import Problem, body
from simile.service.schemas.search import (
    AskedWithOut,
    BatchOut,
    BatchProblemOut,
    HitOut,
    ImageOut,
    MetadataOut,
    ProblemOut,
    QueryOut,
    SearchOut,
)
from simile.store.catalogue.records import ImageRecord


def search_out(searcher: Searcher, answer: Answer, include: Collection[str] = ()) -> SearchOut:
    """The answer to a search; include: `reconstruction`, `metadata`.

    An encoder without a decoder has null where a reconstruction was asked for.
    """
    wanted = "reconstruction" in include
    seen = reconstruction_of(searcher, answer) if wanted else None
    shown = wanted and searcher.encoder().has_decoder
    return SearchOut(
        query=_query_out(answer, seen),
        hits=[hit_out(hit, with_reconstruction=shown) for hit in answer.hits],
        score_calibrated=answer.calibrated,
    )


def search_json(searcher: Searcher, answer: Answer, include: Collection[str] = ()) -> bytes:
    """The same as it goes over the wire."""
    return search_out(searcher, answer, include).model_dump_json().encode()


def batch_json(searcher: Searcher, answers: Sequence[Answer | Problem], includes: Sequence[Collection[str]]) -> bytes:
    """The answers of a batch, or what was wrong with each, in order."""
    results = [
        BatchProblemOut(problem=ProblemOut.model_validate(body(found, urls.SEARCH)))
        if isinstance(found, Problem)
        else search_out(searcher, found, include)
        for found, include in zip(answers, includes, strict=True)
    ]
    return BatchOut(results=results).model_dump_json().encode()


def image_out(record: ImageRecord, metadata: Mapping[str, str | float] | None = None) -> ImageOut:
    """What is known of an indexed image, and said of it."""
    return ImageOut(**image_fields(record, metadata))


def image_fields(record: ImageRecord, metadata: Mapping[str, str | float] | None = None) -> dict[str, Any]:
    """The fields of an ImageOut, for what has more."""
    paths = [shown(path) for path in record.paths]
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
        "metadata": said(metadata or {}),
        "file_url": urls.file(record.id),
        "thumbnail_url": urls.thumbnail(record.id),
        "reconstruction_url": urls.reconstruction(record.id),
    }


def reconstruction_of(searcher: Searcher, answer: Answer) -> str | None:
    """What the model saw in the query, as a data URL; None for an encoder without a decoder, or a bare vector."""
    query = answer.query
    if query.width is None or query.height is None:
        return None
    try:
        return data_url(searcher.reconstruct_mu(query.mu, query.width, query.height, answer.encoder), "image/png")
    except NoDecoder:
        return None


def data_url(data: bytes, media_type: str) -> str:
    """A picture written into the text itself."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def _query_out(answer: Answer, reconstruction: str | None) -> QueryOut:
    query, certainty = answer.query, answer.certainty
    return QueryOut(
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
        positives=[AskedWithOut(image_id=one.image_id, name=one.name) for one in query.positives],
        negatives=[AskedWithOut(image_id=one.image_id, name=one.name) for one in query.negatives],
        reconstruction=reconstruction,
    )


def hit_out(hit: Hit, *, with_reconstruction: bool) -> HitOut:
    """One similar image."""
    return HitOut(
        image_id=hit.image_id,
        distance=hit.distance,
        score=hit.score,
        spread=hit.spread,
        path=shown(hit.path),
        width=hit.width,
        height=hit.height,
        format=hit.format,
        file_url=urls.file(hit.image_id),
        thumbnail_url=urls.thumbnail(hit.image_id),
        reconstruction_url=urls.reconstruction(hit.image_id) if with_reconstruction else None,
        metadata=None if hit.metadata is None else said(hit.metadata),
    )


def said(metadata: Mapping[str, str | float]) -> MetadataOut:
    """Metadata that JSON can carry."""
    return {shown(name): shown(value) if isinstance(value, str) else value for name, value in metadata.items()}


def shown(path: str) -> str:
    """A path that JSON can carry: names on disk may be no valid Unicode."""
    return path.encode("utf-8", "replace").decode("utf-8")
