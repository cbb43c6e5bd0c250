"""A file, an id or a vector in; similar images out."""

from __future__ import annotations

from fastapi import APIRouter

from search.searcher import Answer, Searcher
from service import urls
from service.answers import search_out
from service.bodies import SearchRequest
from service.deps import ThePool, TheSearch, TheSearcher
from service.openapi import errors, search_body
from service.schemas import SearchOut

router = APIRouter(prefix=urls.API, tags=["search"])


@router.post("/search", responses=errors(400, 403, 404, 409, 413, 415, 422, 503), openapi_extra=search_body())
async def search(wanted: TheSearch, searcher: TheSearcher, pool: ThePool) -> SearchOut:
    """Find the images most similar to a picture (multipart field `file`), an `image_id` or a `vector` (JSON).

    An indexed image is left out of its own neighbours. 409 while nothing is indexed.
    """
    return await pool.run(lambda: _search(searcher, wanted))


def _search(searcher: Searcher, wanted: SearchRequest) -> SearchOut:
    return search_out(searcher, _find(searcher, wanted), with_reconstruction="reconstruction" in wanted.options.include)


def _find(searcher: Searcher, wanted: SearchRequest) -> Answer:
    options = wanted.options
    limit, offset, only, within = options.limit, options.offset, options.only(), options.within
    if wanted.upload is not None:
        data, name = wanted.upload.read(), wanted.upload.name
        return searcher.by_file(data, name=name, limit=limit, offset=offset, only=only, within=within)
    if wanted.image_id is not None:
        return searcher.by_id(wanted.image_id, limit=limit, offset=offset, only=only, within=within)
    return searcher.by_vector(wanted.vector or [], limit=limit, offset=offset, only=only, within=within)
