"""Serialise search results to JSON-ready values, for the command line and the HTTP API.

The field names are those of the HTTP API, which adds its URLs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simile.core.records import Hit

if TYPE_CHECKING:  # the command line imports this module at start, and those take long
    from simile.search.queries import EncodedQuery, SearchResult


def serialize_result(result: SearchResult) -> dict[str, Any]:
    """Serialise a result: `query`, `hits` and `score_calibrated`."""
    return {
        "query": serialize_query(result),
        "hits": [serialize_hit(hit) for hit in result.hits],
        "score_calibrated": result.is_calibrated,
    }


def serialize_query(result: SearchResult) -> dict[str, Any]:
    """Serialise the query of a result and its confidence; the latent vectors are left out."""
    query = result.query
    return {
        "name": query.name,
        "image_id": query.image_id,
        "width": query.width,
        "height": query.height,
        "format": query.format,
        "reconstruction_error": query.reconstruction_error,
        **vars(result.confidence),
        "positives": [_serialize_term(term) for term in query.positives],
        "negatives": [_serialize_term(term) for term in query.negatives],
    }


def serialize_hit(hit: Hit) -> dict[str, Any]:
    """Serialise one hit; `metadata` is None if the search did not include it."""
    return {
        "image_id": hit.image_id,
        "distance": hit.distance,
        "score": hit.score,
        "spread": hit.spread,
        "path": hit.path,
        "width": hit.width,
        "height": hit.height,
        "format": hit.format,
        "metadata": hit.metadata,
    }


def _serialize_term(term: EncodedQuery) -> dict[str, Any]:
    return {"image_id": term.image_id, "name": term.name}
