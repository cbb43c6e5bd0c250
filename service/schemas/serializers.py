"""Serialise search results and images to response models."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from simile.core.errors import NoDecoder
from simile.core.records import MAX_LISTED_PATHS, PhotoMetadata
from simile.images.sources.partners import find_partners
from simile.search.queries import SearchResult, serialize_result
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.errors import ProblemDetails, make_problem_body
from simile.service.schemas.search import (
    ImageResponse,
    PhotoResponse,
    ProblemResponse,
    QualityMeasuresResponse,
    SearchBatchProblemResponse,
    SearchResponse,
)
from simile.store.catalogue.records import ImageRecord

MAX_SEARCHED_PATHS = 10  # files of an image with partners to look for, each with some dozen possible names


def make_search_response(searcher: Searcher, result: SearchResult, include: Collection[str] = ()) -> SearchResponse:
    """Return the response to a search; `include` adds `reconstruction`, if there is a decoder, and `photo`."""
    fields = serialize_result(result)
    has_decoder = False
    if "reconstruction" in include:
        fields["query"]["reconstruction"] = _make_reconstruction_url(searcher, result)
        has_decoder = searcher.get_encoder().has_decoder
    photos: dict[int, PhotoMetadata] = {}
    if "photo" in include:
        photos = searcher.catalogue.photo_metadata.get_for_images({hit.image_id for hit in result.hits})
    for hit in fields["hits"]:
        hit.update(urls.image_urls(hit["image_id"], has_decoder), photo=make_photo(photos.get(hit["image_id"])))
    return SearchResponse.model_validate(fields)


def dump_search_json(searcher: Searcher, result: SearchResult, include: Collection[str] = ()) -> bytes:
    """Return the response to a search as JSON; see `make_search_response`."""
    return make_search_response(searcher, result, include).model_dump_json().encode()


def dump_batch_items(
    searcher: Searcher, results: Sequence[SearchResult | ProblemDetails], includes: Sequence[Collection[str]]
) -> list[bytes]:
    """Return each result of a batch as JSON, or the problem of a search that failed.

    One by one: pydantic holds the interpreter lock until a model is serialised, which stops the event loop meanwhile.
    """
    return [
        SearchBatchProblemResponse(problem=ProblemResponse.model_validate(make_problem_body(result, urls.SEARCH)))
        .model_dump_json()
        .encode()
        if isinstance(result, ProblemDetails)
        else dump_search_json(searcher, result, include)
        for result, include in zip(results, includes, strict=True)
    ]


def join_batch_json(items: Sequence[bytes]) -> bytes:
    """Return the JSON of a SearchBatchResponse from that of its results."""
    return b'{"results":[' + b",".join(items) + b"]}"


def make_image_response(record: ImageRecord, metadata: Mapping[str, str | float] | None = None) -> ImageResponse:
    """Return an indexed image with its metadata."""
    return ImageResponse(**make_image_fields(record, metadata))


def make_image_fields(record: ImageRecord, metadata: Mapping[str, str | float] | None = None) -> dict[str, Any]:
    """Return the fields of an ImageResponse, for models that extend it."""
    path = record.paths[0] if record.paths else ""
    listed = {"path": path, "paths": record.paths[:MAX_LISTED_PATHS], "path_count": len(record.paths)}
    named = {"image_id": record.id, "metadata": metadata or {}, **listed}
    return vars(record) | named | urls.image_urls(record.id)


def list_partners(paths: Sequence[str]) -> list[str]:
    """Return the raw files and films that belong to an image with these files; only of the first few."""
    return [partner for path in paths[:MAX_SEARCHED_PATHS] for partner in find_partners(path)]


def make_quality(searcher: Searcher, image_id: int) -> QualityMeasuresResponse | None:
    """Return the quality of an image, None if it was not measured."""
    quality = searcher.catalogue.quality
    measures = quality.get_for_images([image_id]).get(image_id)
    if measures is None:
        return None
    return QualityMeasuresResponse.model_validate(measures).model_copy(update={"issues": quality.get_issues(image_id)})


def make_photo(photo: PhotoMetadata | None) -> PhotoResponse | None:
    """Return the metadata of a photo, None without any."""
    return None if photo is None else PhotoResponse.model_validate(photo)


def make_data_url(data: bytes, media_type: str) -> str:
    """Return an image as a data URL."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def _make_reconstruction_url(searcher: Searcher, result: SearchResult) -> str | None:
    """Return the query's reconstruction as a data URL; None without a decoder, or for a vector, which has no size."""
    query = result.query
    if query.width is None or query.height is None:
        return None
    try:
        data = searcher.reconstruct_latent(query.mu, query.width, query.height, result.encoder)
    except NoDecoder:
        return None
    return make_data_url(data, "image/png")
