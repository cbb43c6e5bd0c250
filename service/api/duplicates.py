"""What `simile dedup` found: list it, decide, look at what differs, take the plan home."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from simile.core.errors import UnreadableImage
from simile.dedup.cleanup.plan import plan_of, plan_to_json
from simile.dedup.grouping.findings import count_similar_pairs, find_similar_pairs
from simile.dedup.grouping.groups import make_groups
from simile.dedup.records import CleanupPlan, Tier
from simile.images.encoding import encode_png
from simile.images.formats import Pixels
from simile.images.matching import difference as differences
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.dependencies import EncodingPoolDep, LimitParam, OffsetParam, ReviewCacheDep, SearcherDep
from simile.service.middleware.headers import make_etag_response
from simile.service.openapi.install import ResponseDocs, document_errors, document_image, json_body
from simile.service.requests.search import read_json
from simile.service.schemas.duplicates import (
    DecisionListRequest,
    DecisionListResponse,
    DuplicateGroupResponse,
    DuplicateListResponse,
    SimilarPairResponse,
)
from simile.service.schemas.search import MAX_ID
from simile.service.serializers.duplicates import (
    make_calibration_response,
    make_group_response,
    make_pair_response,
    store_decisions,
)
from simile.service.state.review_cache import ReviewCache, TierSelection, make_tier_selection

router = APIRouter(prefix=f"{urls.API}/duplicates", tags=["duplicates"])

TiersParam = Annotated[list[Tier], Query(description="One or more of bytes, pixels, near; or similar alone.")]
ThresholdParam = Annotated[
    float | None,
    Query(
        ge=0,
        le=1e18,
        allow_inf_nan=False,
        description="Near pairs up to this distance; that of the run if not given, or if it is lower.",
    ),
]
DecidedParam = Annotated[bool | None, Query(description="Only groups that people have decided, or only the others.")]
ImageIdQuery = Annotated[int, Query(ge=1, le=MAX_ID, description="The id of an indexed image.")]

NOT_RUN_HINT = "Only same bytes are known so far. Run `simile dedup` to find same pixels and near copies."
_DIFFERENCE_SIDE = 1024  # pixels of the longer side that a difference is drawn at
_PLAN_RESPONSES: ResponseDocs = {200: {"content": {"application/json": {}}, "description": "The plan"}}


@router.get("", responses=document_errors(409, 422, 503))
def list_duplicates(
    searcher: SearcherDep,
    review_cache: ReviewCacheDep,
    tier: TiersParam = [],  # FastAPI copies it  # noqa: B006
    threshold: ThresholdParam = None,
    decided: DecidedParam = None,
    limit: LimitParam = 100,
    offset: OffsetParam = 0,
) -> DuplicateListResponse:
    """Groups of copies by tier, the surest first, or pairs that are only similar. Made by `simile dedup`."""
    if "similar" in tier and len(set(tier)) > 1:
        raise HTTPException(422, "Similar pairs are no groups: ask for tier=similar alone, and for the others apart.")
    chosen = make_tier_selection(tier, threshold, ("bytes", "pixels", "near"))
    findings = review_cache.get_findings(searcher)
    groups: list[DuplicateGroupResponse] = []
    pairs: list[SimilarPairResponse] = []
    if "similar" in chosen.tiers:
        total = count_similar_pairs(searcher.catalogue, findings, threshold)
        found = find_similar_pairs(searcher.catalogue, findings, threshold=threshold, limit=limit, offset=offset)
        pairs = [make_pair_response(one) for one in found]
    else:
        findings, all_groups = review_cache.get_groups(searcher, chosen)
        wanted = [group for group in all_groups if decided is None or group.decided == decided]
        total, groups = len(wanted), [make_group_response(group) for group in wanted[offset : offset + limit]]
    return DuplicateListResponse(
        run_id=findings.run_id,
        encoder=findings.encoder,
        threshold=findings.get_effective_threshold(threshold),
        calibration=make_calibration_response(findings.calibration),
        groups=groups,
        pairs=pairs,
        total=total,
        limit=limit,
        offset=offset,
        hint=NOT_RUN_HINT if findings.run_id is None else None,
    )


@router.post(
    "/decisions",
    responses=document_errors(400, 403, 404, 408, 409, 413, 415, 422, 503),
    openapi_extra=json_body(DecisionListRequest),
)
async def decide(request: Request, searcher: SearcherDep) -> DecisionListResponse:
    """Say of pairs whether they are the same picture. Remembered for good, by content; safe to repeat."""
    said = await read_json(request, DecisionListRequest)
    stored, removed = await run_in_threadpool(lambda: store_decisions(searcher, said.decisions))
    return DecisionListResponse(stored=stored, removed=removed)


@router.get("/plan", response_class=Response, responses=_PLAN_RESPONSES | document_errors(409, 422, 503))
def download_plan(
    searcher: SearcherDep,
    review_cache: ReviewCacheDep,
    tier: TiersParam = [],  # FastAPI copies it  # noqa: B006
    threshold: ThresholdParam = None,
    include_undecided: Annotated[bool, Query(alias="all", description="Also what nobody has decided.")] = False,
) -> Response:
    """What would be removed, a file for `simile dedup apply`: pairs that people called the same, or `all` groups."""
    if "similar" in tier:
        raise HTTPException(422, "Nothing is removed because it is similar. Ask for bytes, pixels or near.")
    chosen = make_tier_selection(
        tier, threshold, ("bytes", "pixels", "near") if include_undecided else ("pixels", "near")
    )
    document = json.dumps(
        plan_to_json(_make_plan(searcher, review_cache, chosen, include_undecided=include_undecided)), indent=1
    )
    name = f"simile-plan-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return Response(document.encode(), headers=headers, media_type="application/json")


@router.get(
    "/difference",
    response_class=Response,
    responses=document_image("image/png", cacheable=True) | document_errors(404, 409, 422, 503),
)
async def difference(
    request: Request,
    searcher: SearcherDep,
    pool: EncodingPoolDep,
    first: ImageIdQuery,
    second: ImageIdQuery,
    show: Annotated[Literal["difference", "overlay"], Query(description="overlay: the second, laid on the first.")] = (
        "difference"
    ),
) -> Response:
    """What differs between two pictures once the second is laid on the first, a PNG of at most 1,024 pixels a side."""

    def answer() -> Response:
        shas = [searcher.get_image(image_id).sha256 for image_id in (first, second)]
        return make_etag_response(
            request,
            f"{shas[0]}-{shas[1]}-{show}",
            lambda: (_render_difference(searcher, first, second, show), "image/png"),
        )

    return await pool.run(answer)


def _make_plan(
    searcher: Searcher, review_cache: ReviewCache, selection: TierSelection, *, include_undecided: bool
) -> CleanupPlan:
    if include_undecided:
        return plan_of(*review_cache.get_groups(searcher, selection))
    findings = review_cache.get_findings(searcher)
    groups = make_groups(findings, tiers=selection.tiers, threshold=selection.threshold, decided_only=True)
    return plan_of(findings, groups, only_decided=True)


def _render_difference(searcher: Searcher, first: int, second: int, show: str) -> bytes:
    try:
        one, other = (_downsample(searcher.get_pixels(image_id, _DIFFERENCE_SIDE)) for image_id in (first, second))
    except UnreadableImage as error:  # a file that has changed since it was indexed
        raise HTTPException(404, str(error)) from error
    if show == "difference":
        return encode_png(differences.draw_difference(one, other))
    laid = differences.warp_onto(one, other)
    return encode_png(other if laid is None else laid)


def _downsample(pixels: Pixels) -> Pixels:
    """(H, W, 3) reduced by a whole factor to at most twice _SIDE: decoders give more than was asked for."""
    step = max(1, max(pixels.shape[:2]) // _DIFFERENCE_SIDE)
    return np.ascontiguousarray(pixels[::step, ::step])
