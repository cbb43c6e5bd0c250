"""The page at `/latent`: mix two images, move attributes and dimensions, generate images, and search from each."""

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
from simile.service.requests.latents import LatentRequest
from simile.service.schemas.latents import LatentResponse, compute_latent_response
from simile.service.schemas.search import ImageResponse
from simile.service.serializers.search import make_image_response
from simile.service.state.latent_cache import LatentCache
from simile.service.web.rendering import render_page
from simile.service.web.search import select_spread_images

router = APIRouter(include_in_schema=False)

_TEMPLATE = "latent.html"


@router.get(urls.LATENT_PAGE)
async def show_latent_page(request: Request, latent_cache: LatentCacheDep, pool: EncodingPoolDep) -> Response:
    """Show the latent vector of the query string. The page is a form that works without JavaScript."""
    try:
        searcher = await get_searcher(request)
        query = dict(request.query_params)
        view = await pool.run(lambda: make_latent_view(searcher, latent_cache, query))
        return render_page(request, _TEMPLATE, view)
    except NothingIndexed:
        return render_page(request, _TEMPLATE, LatentView())
    except (SimileError, HTTPException) as error:
        return render_page(request, _TEMPLATE, LatentView(), make_problem(error))


MAX_PAGE_DIMENSIONS = 8  # sliders, of the most active dimensions
MAX_IMAGE_CHOICES = 24  # images to choose from
PAGE_NEAREST_COUNT = 8


@dataclass(frozen=True)
class LatentSlider:
    """A slider; description: the AUC of an attribute, or empty."""

    name: str
    value: float = 0.0
    description: str = ""


@dataclass(frozen=True, kw_only=True)
class LatentView:
    """The content of the page.

    Attributes:
        a: The first image; None in an empty home.
        b: The second image.
        mix_ratio: Weight of the second image, 0 to 1.
        how: Interpolation method.
        latent: The latent vector of the sliders.
        attributes: Sliders of attributes.
        dims: Sliders of dimensions.
        choices: Images to choose from.
        total: Number of images in the home.
        encoder: Fingerprint of the encoder.
        has_decoder: Whether latent vectors can be decoded.
        has_variance: Whether the prior can be sampled.
    """

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
    """Make the content of the page.

    Args:
        query: The query string: a, b (ids), share, how, attr.NAME, dim.N.

    Raises:
        BadSetting, NoSuchImage.
    """
    total = searcher.count_images()
    if not total:
        return LatentView()
    choices = select_spread_images(searcher, total, MAX_IMAGE_CHOICES)
    a = _load_endpoint_image(searcher, _parse_number(query, "a", choices[0].image_id))
    b = _load_endpoint_image(searcher, _parse_number(query, "b", choices[len(choices) // 2].image_id))
    share = min(max(_parse_number(query, "share", 0.5), 0.0), 1.0)
    how = "spherical" if query.get("how") == "spherical" else "linear"
    strengths = _parse_slider_values(query, "attr.")
    dims = _parse_slider_values(query, "dim.")
    try:
        arithmetic = LatentRequest.model_validate(
            {
                "parts": [{"image_id": a.image_id, "weight": 1 - share}, {"image_id": b.image_id, "weight": share}],
                "how": how,
                "attributes": strengths,
                "dims": dims,
                "nearest": PAGE_NEAREST_COUNT,
            }
        )
    except ValidationError as error:
        raise BadSetting(
            f"The address of this page is not valid: {error.errors()[0]['msg']}. Go to {urls.LATENT_PAGE}."
        ) from None
    encoder = searcher.get_encoder()
    known = attributes_module.load_attributes(searcher.home, encoder.fingerprint)
    active = [str(dim) for dim in latent_cache.get_ranges(searcher).activity_order[:MAX_PAGE_DIMENSIONS]]
    slider_dims = [*active, *(dim for dim in dims if dim not in active)]  # with all dimensions of the query string
    return LatentView(
        a=a,
        b=b,
        mix_ratio=share,
        how=how,
        latent=compute_latent_response(searcher, latent_cache, arithmetic),
        attributes=[
            LatentSlider(attribute.name, strengths.get(attribute.name, 0.0), f"AUC {attribute.auc['raw']:.2f}")
            for attribute in known
        ],
        dims=[LatentSlider(dim, dims.get(dim, 0.0)) for dim in slider_dims],
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
        number = float(text)
    except ValueError:
        number = float("nan")
    if not -(2.0**63) < number < 2.0**63:  # an id is a BIGINT of SQL
        raise BadSetting(f"{name} can't be {text[:40]!r} in the address of this page. Give a number.")
    return number
