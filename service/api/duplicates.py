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
from simile.dedup.cleanup.plan import plan_json, plan_of
from simile.dedup.grouping.findings import count_similar, similar_pairs
from simile.dedup.grouping.groups import make_groups
from simile.dedup.records import Plan, Tier
from simile.images.encoding import encode_png
from simile.images.matching import difference as differences
from simile.images.transforms import Pixels
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.dependencies import Limit, Offset, ThePool, TheReviews, TheSearcher
from simile.service.middleware.headers import picture
from simile.service.openapi.install import Responses, errors, json_body, pictures
from simile.service.requests.search import read_json
from simile.service.schemas.duplicates import DecisionsIn, DecisionsOut, DuplicatesOut, GroupOut, PairOut
from simile.service.schemas.search import MAX_ID
from simile.service.serializers.duplicates import calibration_out, group_out, pair_out, store_decisions
from simile.service.state.review_cache import Chosen, Reviews, chosen_of

router = APIRouter(prefix=f"{urls.API}/duplicates", tags=["duplicates"])

Tiers = Annotated[list[Tier], Query(description="One or more of bytes, pixels, near; or similar alone.")]
Threshold = Annotated[
    float | None,
    Query(
        ge=0,
        le=1e18,
        allow_inf_nan=False,
        description="Near pairs up to this distance; that of the run if not given, or if it is lower.",
    ),
]
Decided = Annotated[bool | None, Query(description="Only groups that people have decided, or only the others.")]
PictureId = Annotated[int, Query(ge=1, le=MAX_ID, description="The id of an indexed image.")]

NOT_RUN = "Only same bytes are known so far. Run `simile dedup` to find same pixels and near copies."
_SIDE = 1024  # pixels of the longer side that a difference is drawn at
_PLAN: Responses = {200: {"content": {"application/json": {}}, "description": "The plan"}}


@router.get("", responses=errors(409, 422, 503))
def list_duplicates(
    searcher: TheSearcher,
    reviews: TheReviews,
    tier: Tiers = [],  # noqa: B006  # FastAPI copies it
    threshold: Threshold = None,
    decided: Decided = None,
    limit: Limit = 100,
    offset: Offset = 0,
) -> DuplicatesOut:
    """Groups of copies by tier, the surest first, or pairs that are only similar. Made by `simile dedup`."""
    if "similar" in tier and len(set(tier)) > 1:
        raise HTTPException(422, "Similar pairs are no groups: ask for tier=similar alone, and for the others apart.")
    chosen = chosen_of(tier, threshold, ("bytes", "pixels", "near"))
    findings = reviews.findings(searcher)
    groups: list[GroupOut] = []
    pairs: list[PairOut] = []
    if "similar" in chosen.tiers:
        total = count_similar(searcher.catalogue, findings, threshold)
        found = similar_pairs(searcher.catalogue, findings, threshold=threshold, limit=limit, offset=offset)
        pairs = [pair_out(one) for one in found]
    else:
        findings, all_groups = reviews.groups(searcher, chosen)
        wanted = [group for group in all_groups if decided is None or group.decided == decided]
        total, groups = len(wanted), [group_out(group) for group in wanted[offset : offset + limit]]
    return DuplicatesOut(
        run_id=findings.run_id,
        encoder=findings.encoder,
        threshold=findings.reach(threshold),
        calibration=calibration_out(findings.calibration),
        groups=groups,
        pairs=pairs,
        total=total,
        limit=limit,
        offset=offset,
        hint=NOT_RUN if findings.run_id is None else None,
    )


@router.post(
    "/decisions", responses=errors(400, 403, 404, 408, 409, 413, 415, 422, 503), openapi_extra=json_body(DecisionsIn)
)
async def decide(request: Request, searcher: TheSearcher) -> DecisionsOut:
    """Say of pairs whether they are the same picture. Remembered for good, by content; safe to repeat."""
    said = await read_json(request, DecisionsIn)
    stored, removed = await run_in_threadpool(lambda: store_decisions(searcher, said.decisions))
    return DecisionsOut(stored=stored, removed=removed)


@router.get("/plan", response_class=Response, responses=_PLAN | errors(409, 422, 503))
def download_plan(
    searcher: TheSearcher,
    reviews: TheReviews,
    tier: Tiers = [],  # noqa: B006  # FastAPI copies it
    threshold: Threshold = None,
    everything: Annotated[bool, Query(alias="all", description="Also what nobody has decided.")] = False,
) -> Response:
    """What would be removed, a file for `simile dedup apply`: pairs that people called the same, or `all` groups."""
    if "similar" in tier:
        raise HTTPException(422, "Nothing is removed because it is similar. Ask for bytes, pixels or near.")
    chosen = chosen_of(tier, threshold, ("bytes", "pixels", "near") if everything else ("pixels", "near"))
    document = json.dumps(plan_json(_plan(searcher, reviews, chosen, everything=everything)), indent=1)
    name = f"simile-plan-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return Response(document.encode(), headers=headers, media_type="application/json")


@router.get(
    "/difference", response_class=Response, responses=pictures("image/png", keeps=True) | errors(404, 409, 422, 503)
)
async def difference(
    request: Request,
    searcher: TheSearcher,
    pool: ThePool,
    first: PictureId,
    second: PictureId,
    show: Annotated[Literal["difference", "overlay"], Query(description="overlay: the second, laid on the first.")] = (
        "difference"
    ),
) -> Response:
    """What differs between two pictures once the second is laid on the first, a PNG of at most 1,024 pixels a side."""

    def answer() -> Response:
        shas = [searcher.image(image_id).sha256 for image_id in (first, second)]
        return picture(
            request, f"{shas[0]}-{shas[1]}-{show}", lambda: (_drawn(searcher, first, second, show), "image/png")
        )

    return await pool.run(answer)


def _plan(searcher: Searcher, reviews: Reviews, chosen: Chosen, *, everything: bool) -> Plan:
    if everything:
        return plan_of(*reviews.groups(searcher, chosen))
    findings = reviews.findings(searcher)
    groups = make_groups(findings, tiers=chosen.tiers, threshold=chosen.threshold, decided_only=True)
    return plan_of(findings, groups, only_decided=True)


def _drawn(searcher: Searcher, first: int, second: int, show: str) -> bytes:
    try:
        one, other = (_at_most(searcher.pixels(image_id, _SIDE)) for image_id in (first, second))
    except UnreadableImage as error:  # a file that has changed since it was indexed
        raise HTTPException(404, str(error)) from error
    if show == "difference":
        return encode_png(differences.difference(one, other))
    laid = differences.laid_over(one, other)
    return encode_png(other if laid is None else laid)


def _at_most(pixels: Pixels) -> Pixels:
    """(H, W, 3) reduced by a whole factor to at most twice _SIDE: decoders give more than was asked for."""
    step = max(1, max(pixels.shape[:2]) // _SIDE)
    return np.ascontiguousarray(pixels[::step, ::step])
