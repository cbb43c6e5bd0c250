"""The page at `/latent`: mix two images, move attributes and dimensions, generate images, and search from each."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from simile.core.errors import BadSetting
from simile.search import attributes as attributes_module
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.dependencies import ComputePoolDep, LatentCacheDep
from simile.service.requests.latents import LatentRequest
from simile.service.schemas.latents import compute_latent_response
from simile.service.state.latent_cache import LatentCache
from simile.service.web.rendering import View, show_page
from simile.service.web.search import load_image, select_spread_images

MAX_PAGE_DIMENSIONS = 8  # sliders, of the most active dimensions
MAX_IMAGE_CHOICES = 24  # images to choose from
PAGE_NEAREST_COUNT = 8

router = APIRouter(include_in_schema=False)


@router.get(urls.LATENT_PAGE)
async def show_latent_page(request: Request, latent_cache: LatentCacheDep, pool: ComputePoolDep) -> Response:
    """Show the latent vector of the query string. The page is a form that works without JavaScript."""
    return await show_page(
        request,
        "latent.html",
        dict,
        lambda searcher, query: make_latent_view(searcher, latent_cache, query),
        pool=pool,
    )


def make_latent_view(searcher: Searcher, latent_cache: LatentCache, query: Mapping[str, str]) -> View:
    """Make the content of the page. Raises BadSetting, NoSuchImage.

    Args:
        query: The query string: a, b (ids), share (weight of b, 0 to 1), how, attr.NAME, dim.N.
    """
    total = searcher.count_images()
    if not total:
        return {}
    choices = select_spread_images(searcher, MAX_IMAGE_CHOICES)
    a = load_image(searcher, int(_parse_number(query, "a", choices[0].image_id)))
    b = load_image(searcher, int(_parse_number(query, "b", choices[len(choices) // 2].image_id)))
    share = min(max(_parse_number(query, "share", 0.5), 0.0), 1.0)
    strengths, dims = _parse_slider_values(query, "attr."), _parse_slider_values(query, "dim.")
    fields = {
        "parts": [{"image_id": a.image_id, "weight": 1 - share}, {"image_id": b.image_id, "weight": share}],
        "how": "spherical" if query.get("how") == "spherical" else "linear",
        "attributes": strengths,
        "dims": dims,
        "nearest": PAGE_NEAREST_COUNT,
    }
    try:
        arithmetic = LatentRequest.model_validate(fields)
    except ValidationError as error:
        raise BadSetting(
            f"The address of this page is not valid: {error.errors()[0]['msg']}. Go to {urls.latent_page()}."
        ) from None
    encoder = searcher.get_encoder()
    active = [str(dim) for dim in latent_cache.get_ranges(searcher).activity_order[:MAX_PAGE_DIMENSIONS]]
    return {
        "a": a,
        "b": b,
        "mix_ratio": share,
        "how": fields["how"],
        "latent": compute_latent_response(searcher, latent_cache, arithmetic),
        "attributes": attributes_module.load_attributes(searcher.home, encoder.fingerprint),
        "strengths": strengths,
        # All dimensions of the query string have a slider.
        "dims": {dim: dims.get(dim, 0.0) for dim in (*active, *dims)},
        "choices": choices,
        "total": total,
        "encoder": encoder,
    }


def _parse_slider_values(query: Mapping[str, str], prefix: str) -> dict[str, float]:
    names = [name.removeprefix(prefix) for name in query if name.startswith(prefix)]
    return {name: _parse_number(query, prefix + name, 0.0) for name in names}


def _parse_number(query: Mapping[str, str], name: str, default: float) -> float:
    text = query.get(name, "")
    try:
        number = float(text or default)
    except ValueError:
        number = float("nan")
    if not -(2.0**63) < number < 2.0**63:  # an id is a BIGINT of SQL
        raise BadSetting(f"{name} can't be {text[:40]!r} in the address of this page. Give a number.")
    return number
