"""The page at `/latent`: mix two pictures, push attributes, walk dimensions, make pictures, search from any of them."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from simile.core.errors import NothingIndexed, SimileError
from simile.service import urls
from simile.service.dependencies import TheLatents, ThePool, searcher_of

pass
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from simile.core.errors import BadSetting
from simile.search import attributes as attributes_module
from simile.search.searcher import Searcher
from simile.service.errors import problem_of
from simile.service.schemas.latents import LatentIn, LatentOut
from simile.service.schemas.search import ImageOut
from simile.service.serializers.latents import made_place
from simile.service.serializers.search import image_out
from simile.service.state.latent_cache import Latents
from simile.service.web.rendering import render_page
from simile.service.web.search import spread

router = APIRouter(include_in_schema=False)

_TEMPLATE = "latent.html"


@router.get(urls.LATENT_PAGE)
async def show_latent_page(request: Request, latents: TheLatents, pool: ThePool) -> Response:
    """The place that the address names. Without a script it is a form."""
    try:
        searcher = await searcher_of(request)
        asked = dict(request.query_params)
        view = await pool.run(lambda: look(searcher, latents, asked))
        return render_page(request, _TEMPLATE, view)
    except NothingIndexed:
        return render_page(request, _TEMPLATE, LatentPage())
    except (SimileError, HTTPException) as error:
        return render_page(request, _TEMPLATE, LatentPage(), problem_of(error))


SHOWN = 8  # dimensions, the most active ones
CHOICES = 24  # pictures to choose from
NEAREST = 8


@dataclass(frozen=True)
class Push:
    """A slider. about: how well an attribute tells pictures apart, or nothing."""

    name: str
    value: float = 0.0
    about: str = ""


@dataclass(frozen=True)
class LatentPage:
    """The place that the address names, and what can be done from there."""

    a: ImageOut | None = None
    b: ImageOut | None = None
    share: float = 0.0
    how: str = "linear"
    made: LatentOut | None = None
    attributes: Sequence[Push] = ()
    dims: Sequence[Push] = ()
    choices: Sequence[ImageOut] = ()
    total: int = 0
    encoder: str = ""
    has_decoder: bool = True
    has_variance: bool = True


def look(searcher: Searcher, latents: Latents, asked: Mapping[str, str]) -> LatentPage:
    """The page for an address: a, b (ids), share, how, attr.NAME, dim.N. Raises BadSetting, NoSuchImage."""
    total = searcher.count()
    if not total:
        return LatentPage()
    choices = spread(searcher, total, CHOICES)
    a = _image(searcher, _number(asked, "a", choices[0].image_id))
    b = _image(searcher, _number(asked, "b", choices[len(choices) // 2].image_id))
    share = min(max(_number(asked, "share", 0.5), 0.0), 1.0)
    how = "spherical" if asked.get("how") == "spherical" else "linear"
    pushed = _moved(asked, "attr.")
    dims = _moved(asked, "dim.")
    try:
        wanted = LatentIn.model_validate(
            {
                "parts": [{"image_id": a.image_id, "weight": 1 - share}, {"image_id": b.image_id, "weight": share}],
                "how": how,
                "attributes": pushed,
                "dims": dims,
                "nearest": NEAREST,
            }
        )
    except ValidationError as error:
        raise BadSetting(
            f"The address can't be understood: {error.errors()[0]['msg']}. Go to {urls.LATENT_PAGE}."
        ) from None
    encoder = searcher.encoder()
    known = attributes_module.load_all(searcher.home, encoder.fingerprint)
    most = [str(dim) for dim in latents.reach(searcher).order[:SHOWN]]
    shown = [*most, *(dim for dim in dims if dim not in most)]  # what the address moves has a slider, active or not
    return LatentPage(
        a=a,
        b=b,
        share=share,
        how=how,
        made=made_place(searcher, latents, wanted),
        attributes=[Push(one.name, pushed.get(one.name, 0.0), f"AUC {one.auc['raw']:.2f}") for one in known],
        dims=[Push(dim, dims.get(dim, 0.0)) for dim in shown],
        choices=choices,
        total=total,
        encoder=encoder.fingerprint,
        has_decoder=encoder.has_decoder,
        has_variance=encoder.has_variance,
    )


def _image(searcher: Searcher, image_id: float) -> ImageOut:
    return image_out(searcher.image(int(image_id)), searcher.metadata(int(image_id)))


def _moved(asked: Mapping[str, str], prefix: str) -> dict[str, float]:
    names = [name.removeprefix(prefix) for name in asked if name.startswith(prefix)]
    return {name: _number(asked, prefix + name, 0.0) for name in names}


def _number(asked: Mapping[str, str], name: str, otherwise: float) -> float:
    text = asked.get(name, "")
    if not text:
        return otherwise
    try:
        found = float(text)
    except ValueError:
        found = float("nan")
    if not -(2.0**63) < found < 2.0**63:
        raise BadSetting(f"{name} can't be {text[:40]!r} in the address of this page. Give a number.")
    return found
