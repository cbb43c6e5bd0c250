"""Results of `simile dedup`: list them, store decisions, show differences, download the cleanup plan."""

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
from simile.dedup.cleanup.companions import add_companions
from simile.dedup.cleanup.plan import plan_of, plan_to_json
from simile.dedup.grouping.findings import Findings, count_similar_pairs, find_similar_pairs
from simile.dedup.grouping.groups import make_groups
from simile.dedup.grouping.scope import Scope
from simile.dedup.records import CleanupPlan, Tier
from simile.images.encoding import encode_png
from simile.images.formats import Pixels
from simile.images.matching import difference as differences
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.dependencies import ComputePoolDep, LimitParam, OffsetParam, ReviewCacheDep, SearcherDep
from simile.service.middleware.headers import make_etag_response
from simile.service.openapi.install import ResponseDocs, document_errors, document_image, json_body
from simile.service.requests.search import read_json
from simile.service.schemas import duplicates as schemas
from simile.service.schemas.search import MAX_ID
from simile.service.state.review_cache import ReviewCache, TierSelection, make_tier_selection, store_decisions

router = APIRouter(prefix=f"{urls.API}/duplicates", tags=["duplicates"])

TiersParam = Annotated[list[Tier], Query(description="One or more of bytes, pixels, near, series; or only similar.")]
ThresholdParam = Annotated[
    float | None,
    Query(
        ge=0,
        le=1e18,
        allow_inf_nan=False,
        description="Near pairs up to this distance; at most the threshold of the run, which is the default.",
    ),
]
DecidedParam = Annotated[
    bool | None, Query(description="Only groups with a decision for each pair, or only the others.")
]
ScopeParam = Annotated[
    Scope | None, Query(description="Only copies in different folders (across), or in the same folder (within).")
]
ImageIdQuery = Annotated[int, Query(ge=1, le=MAX_ID, description="The id of an indexed image.")]

NOT_RUN_HINT = "Only equal bytes are known so far. Run `simile dedup` to find equal pixels and near copies."
_DIFFERENCE_SIDE = 1024  # longer side of a difference image, in pixels
_PLAN_EXAMPLE = plan_to_json(CleanupPlan((), created_at="2026-11-26T10:00:00+00:00", home="/srv/simile"))
_PLAN_RESPONSES: ResponseDocs = {
    200: {"content": {"application/json": {"example": _PLAN_EXAMPLE}}, "description": "The plan"}
}


@router.get("", responses=document_errors(409, 422, 503))
def list_duplicates(
    searcher: SearcherDep,
    review_cache: ReviewCacheDep,
    tier: TiersParam = [],  # FastAPI copies it  # noqa: B006
    threshold: ThresholdParam = None,
    decided: DecidedParam = None,
    scope: ScopeParam = None,
    limit: LimitParam = 100,
    offset: OffsetParam = 0,
) -> schemas.DuplicateListResponse:
    """List groups of copies by tier, the most certain first, or pairs that are only similar, from `simile dedup`."""
    if "similar" in tier and len(set(tier)) > 1:
        raise HTTPException(422, "Similar pairs are not groups: request tier=similar separately from the other tiers.")
    if "similar" in tier and scope is not None:
        raise HTTPException(422, "scope is about copies, and similar images are none. Leave out scope.")
    chosen = make_tier_selection(tier, threshold, ("bytes", "pixels", "near"), scope)
    findings = review_cache.get_findings(searcher)
    groups: list[schemas.DuplicateGroupResponse] = []
    pairs: list[schemas.SimilarPairResponse] = []
    if "similar" in chosen.tiers:
        total = count_similar_pairs(searcher.catalogue, findings, threshold)
        file_pairs = find_similar_pairs(searcher.catalogue, findings, threshold=threshold, limit=limit, offset=offset)
        pairs = [schemas.make_pair_response(file_pair) for file_pair in file_pairs]
    else:
        findings, all_groups = review_cache.get_groups(searcher, chosen)
        selected = [group for group in all_groups if decided is None or group.decided == decided]
        total, groups = (
            len(selected),
            [schemas.make_group_response(group) for group in selected[offset : offset + limit]],
        )
    return schemas.DuplicateListResponse(
        run_id=findings.run_id,
        encoder=findings.encoder,
        threshold=findings.get_effective_threshold(threshold),
        calibration=findings.calibration
        and schemas.ThresholdCalibrationResponse.model_validate(findings.calibration, from_attributes=True),
        groups=groups,
        pairs=pairs,
        total=total,
        limit=limit,
        offset=offset,
        hint=_make_hint(findings),
    )


@router.post(
    "/decisions",
    responses=document_errors(400, 403, 404, 408, 409, 413, 415, 422, 503),
    openapi_extra=json_body(schemas.DecisionListRequest),
)
async def decide(request: Request, searcher: SearcherDep) -> schemas.DecisionListResponse:
    """Decide for pairs whether they show the same image. Stored permanently, by content; safe to repeat."""
    params = await read_json(request, schemas.DecisionListRequest)
    stored, removed = await run_in_threadpool(store_decisions, searcher, params.decisions)
    return schemas.DecisionListResponse(stored=stored, removed=removed)


@router.get("/plan", response_class=Response, responses=_PLAN_RESPONSES | document_errors(409, 422, 503))
def download_plan(
    searcher: SearcherDep,
    review_cache: ReviewCacheDep,
    tier: TiersParam = [],  # FastAPI copies it  # noqa: B006
    threshold: ThresholdParam = None,
    include_undecided: Annotated[bool, Query(alias="all", description="Include groups without a decision.")] = False,
    scope: ScopeParam = None,
) -> Response:
    """Return the cleanup plan, a file for `simile dedup apply`: pairs decided to be the same, or `all` groups."""
    if not {"series", "similar"}.isdisjoint(tier):
        message = "This plan removes neither similar images nor shots of a series. Request bytes, pixels or near."
        raise HTTPException(422, f"{message} `simile dedup --series keep-best --plan FILE` keeps the best shots.")
    chosen = make_tier_selection(
        tier, threshold, ("bytes", "pixels", "near") if include_undecided else ("pixels", "near"), scope
    )
    plan = _make_plan(searcher, review_cache, chosen, include_undecided=include_undecided)
    document = json.dumps(plan_to_json(add_companions(plan, searcher.catalogue)), indent=1)
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
    pool: ComputePoolDep,
    first: ImageIdQuery,
    second: ImageIdQuery,
    show: Annotated[
        Literal["difference", "overlay"], Query(description="overlay: the second image, aligned with the first.")
    ] = ("difference"),
) -> Response:
    """Draw the difference of two images after aligning the second with the first; a PNG of at most 1,024 x 1,024."""

    def respond() -> Response:
        hashes = [searcher.get_image(image_id).sha256 for image_id in (first, second)]
        return make_etag_response(
            request,
            f"{hashes[0]}-{hashes[1]}-{show}",
            lambda: (_render_difference(searcher, first, second, show), "image/png"),
        )

    return await pool.run(respond)


def _make_hint(findings: Findings) -> str | None:
    left_out = len(findings.left_out)
    hints = [] if findings.run_id is not None else [NOT_RUN_HINT]
    if left_out:
        files = "1 file is" if left_out == 1 else f"{left_out:,} files are"
        hints.append(f"{files} left out: missing, changed or unreadable. Run `simile index` on their folders.")
    return " ".join(hints) or None


def _make_plan(
    searcher: Searcher, review_cache: ReviewCache, selection: TierSelection, *, include_undecided: bool
) -> CleanupPlan:
    if include_undecided:
        return plan_of(*review_cache.get_groups(searcher, selection))
    findings = review_cache.get_findings(searcher)
    groups = make_groups(
        findings, tiers=selection.tiers, threshold=selection.threshold, decided_only=True, scope=selection.scope
    )
    return plan_of(findings, groups, only_decided=True)


def _render_difference(searcher: Searcher, first: int, second: int, show: str) -> bytes:
    try:
        pixels, other = (_downsample(searcher.get_pixels(image_id, _DIFFERENCE_SIDE)) for image_id in (first, second))
    except UnreadableImage as error:  # a file that has changed since it was indexed
        raise HTTPException(404, str(error)) from error
    if show == "difference":
        return encode_png(differences.draw_difference(pixels, other))
    aligned = differences.warp_onto(pixels, other)
    return encode_png(other if aligned is None else aligned)


def _downsample(pixels: Pixels) -> Pixels:
    """Reduce (H, W, 3) by a whole factor to less than twice _DIFFERENCE_SIDE: decoders return larger images."""
    step = max(1, max(pixels.shape[:2]) // _DIFFERENCE_SIDE)
    return np.ascontiguousarray(pixels[::step, ::step])
