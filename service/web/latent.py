"""The page at `/latent`: mix two pictures, push attributes, walk dimensions, make pictures, search from any of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastapi import APIRouter
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from simile.core.errors import BadSetting, NothingIndexed, SimileError
from simile.search import attributes as attributes_module
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.dependencies import EncodingPoolDep, LatentCacheDep, get_searcher
from simile.service.errors import make_problem
from simile.service.schemas.latents import LatentRequest, LatentResponse
from simile.service.schemas.search import ImageResponse
from simile.service.serializers.latents import compute_latent_response
from simile.service.serializers.search import make_image_response
from simile.service.state.latent_cache import LatentCache
from simile.service.web.rendering import render_page
from simile.service.web.search import select_spread_images

pass

router = APIRouter(include_in_schema=False)

_TEMPLATE = "latent.html"


@router.get(urls.LATENT_PAGE)
async def show_latent_page(request: Request, latent_cache: LatentCacheDep, pool: EncodingPoolDep) -> Response:
    """The place that the address names. Without a script it is a form."""
    try:
        searcher = await get_searcher(request)
        asked = dict(request.query_params)
        view = await pool.run(lambda: make_latent_view(searcher, latent_cache, asked))
        return render_page(request, _TEMPLATE, view)
    except NothingIndexed:
        return render_page(request, _TEMPLATE, LatentView())
    except (SimileError, HTTPException) as error:
        return render_page(request, _TEMPLATE, LatentView(), make_problem(error))


MAX_PAGE_DIMENSIONS = 8  # dimensions, the most active ones
MAX_IMAGE_CHOICES = 24  # pictures to choose from
PAGE_NEAREST_COUNT = 8


@dataclass(frozen=True)
class LatentSlider:
    """A slider. about: how well an attribute tells pictures apart, or nothing."""

    name: str
    value: float = 0.0
    description: str = ""


@dataclass(frozen=True)
class LatentView:
    """The place that the address names, and what can be done from there."""

    a: ImageResponse | None = None
    b: ImageResponse | None = None
    mix_ratio: float = 0.0
    how: str = "linear"
    latent: LatentResponse | None = None
    attributes: Sequence[LatentSlider] = ()
    dims: Sequence[LatentSlider] = ()
    choices: Sequence[ImageResponse] = ()
    total: int = 0
    encoder: str = ""
    has_decoder: bool = True
    has_variance: bool = True


def make_latent_view(searcher: Searcher, latent_cache: LatentCache, query: Mapping[str, str]) -> LatentView:
    """The page for an address: a, b (ids), share, how, attr.NAME, dim.N. Raises BadSetting, NoSuchImage."""
    total = searcher.count_images()
    if not total:
        return LatentView()
    choices = select_spread_images(searcher, total, MAX_IMAGE_CHOICES)
    a = _load_endpoint_image(searcher, _parse_number(query, "a", choices[0].image_id))
    b = _load_endpoint_image(searcher, _parse_number(query, "b", choices[len(choices) // 2].image_id))
    share = min(max(_parse_number(query, "share", 0.5), 0.0), 1.0)
    how = "spherical" if query.get("how") == "spherical" else "linear"
    pushed = _parse_slider_values(query, "attr.")
    dims = _parse_slider_values(query, "dim.")
    try:
        wanted = LatentRequest.model_validate(
            {
                "parts": [{"image_id": a.image_id, "weight": 1 - share}, {"image_id": b.image_id, "weight": share}],
                "how": how,
                "attributes": pushed,
                "dims": dims,
                "nearest": PAGE_NEAREST_COUNT,
            }
        )
    except ValidationError as error:
        raise BadSetting(
            f"The address can't be understood: {error.errors()[0]['msg']}. Go to {urls.LATENT_PAGE}."
        ) from None
    encoder = searcher.get_encoder()
    known = attributes_module.load_attributes(searcher.home, encoder.fingerprint)
    most = [str(dim) for dim in latent_cache.get_ranges(searcher).activity_order[:MAX_PAGE_DIMENSIONS]]
    shown = [*most, *(dim for dim in dims if dim not in most)]  # what the address moves has a slider, active or not
    return LatentView(
        a=a,
        b=b,
        mix_ratio=share,
        how=how,
        latent=compute_latent_response(searcher, latent_cache, wanted),
        attributes=[LatentSlider(one.name, pushed.get(one.name, 0.0), f"AUC {one.auc['raw']:.2f}") for one in known],
        dims=[LatentSlider(dim, dims.get(dim, 0.0)) for dim in shown],
        choices=choices,
        total=total,
        encoder=encoder.fingerprint,
        has_decoder=encoder.has_decoder,
        has_variance=encoder.has_variance,
    )


def _load_endpoint_image(searcher: Searcher, image_id: float) -> ImageResponse:
    return make_image_response(searcher.get_image(int(image_id)), searcher.get_metadata(int(image_id)))


def _parse_slider_values(query: Mapping[str, str], prefix: str) -> dict[str, float]:
    names = [name.removeprefix(prefix) for name in query if name.startswith(prefix)]
    return {name: _parse_number(query, prefix + name, 0.0) for name in names}


def _parse_number(query: Mapping[str, str], name: str, default: float) -> float:
    text = query.get(name, "")
    if not text:
        return default
    try:
        found = float(text)
    except ValueError:
        found = float("nan")
    if not -(2.0**63) < found < 2.0**63:
        raise BadSetting(f"{name} can't be {text[:40]!r} in the address of this page. Give a number.")
    return found
