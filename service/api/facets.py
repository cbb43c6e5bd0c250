"""Counts of images by the values of their fields."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from simile.core.filters.expression import format_condition
from simile.search.results.facets import Facet
from simile.service import urls
from simile.service.dependencies import ComputePoolDep, SearcherDep
from simile.service.openapi.install import document_errors
from simile.service.schemas.facets import FacetListResponse, FacetOptions, FacetResponse, FacetValueResponse

router = APIRouter(prefix=f"{urls.API}/facets", tags=["images"])


@router.get("", responses=document_errors(422, 503))
async def count_facets(
    searcher: SearcherDep, pool: ComputePoolDep, options: Annotated[FacetOptions, Query()]
) -> FacetListResponse:
    """Count the images that match the filter, by the values of metadata, format, camera, rating, time and keywords.

    An image with several values of a field, such as keywords, counts for each of them.
    """

    def count() -> FacetListResponse:
        counts = searcher.count_facets(options.to_filter(), options.fields, options.limit)
        return FacetListResponse(total=counts.total, facets=[_make_facet(facet) for facet in counts.facets])

    return await pool.run(count)


def _make_facet(facet: Facet) -> FacetResponse:
    values = [
        FacetValueResponse(value=item.value, count=item.count, where=format_condition(item.condition))
        for item in facet.values
    ]
    return FacetResponse(name=facet.name, value_count=facet.value_count, values=values)
