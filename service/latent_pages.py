"""What the page of the latent space shows, with or without a script: a place between two pictures, pushed and moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from core.errors import BadSetting
from explore import attribute_files
from search.searcher import Searcher
from service import urls
from service.answers import image_out
from service.latent_answers import made_place
from service.latent_requests import LatentIn
from service.latent_schemas import LatentOut
from service.latents import Latents
from service.schemas import ImageOut
from service.search_pages import spread

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
    known = attribute_files.load_all(searcher.home, encoder.fingerprint)
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
