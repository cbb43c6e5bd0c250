"""Attributes: directions that two sets of pictures differ by, learned, listed, removed."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from simile.core.errors import NoSuchImage
from simile.explore.attributes.directions import Examples, drags, learn
from simile.explore.attributes.examples import from_metadata
from simile.explore.attributes.render import strip
from simile.explore.latent.aggregate_posterior import aggregate_of
from simile.search import attributes
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.dependencies import ThePool, TheSearcher
from simile.service.errors import Refusal
from simile.service.openapi.install import Responses, errors, json_body, picture_or_json_body
from simile.service.requests.latents import read_wanted
from simile.service.requests.search import JSON, read_json
from simile.service.schemas.latents import (
    ApplyIn,
    ApplyOut,
    AttributeOut,
    AttributesOut,
    LearnIn,
    Strengths,
    attribute_out,
)
from simile.service.serializers.latents import applied

router = APIRouter(prefix=f"{urls.API}/attributes", tags=["latent space"])

Name = Annotated[str, Path(pattern="^[a-z0-9][a-z0-9_-]{0,63}$", description="Of an attribute, such as `smile`.")]
_GONE = errors(404, 409, 422, 503)
_APPLIED: Responses = {
    200: {
        "model": ApplyOut,
        "description": "A picture for each strength. Asked for as `image/png`: all of them side by side.",
        "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.get("", responses=errors(409, 422, 503))
def list_attributes(searcher: TheSearcher) -> AttributesOut:
    """The attributes of the encoder in use."""
    found = attributes.load_all(searcher.home, searcher.encoder().fingerprint)
    return AttributesOut(attributes=[attribute_out(one, []) for one in found])


@router.post(
    "", status_code=201, responses=errors(400, 404, 408, 409, 413, 415, 422, 503), openapi_extra=json_body(LearnIn)
)
async def learn_attribute(request: Request, response: Response, searcher: TheSearcher, pool: ThePool) -> AttributeOut:
    """Learn what two sets of indexed images differ by, and say how well it tells held-out ones apart."""
    wanted = await read_json(request, LearnIn)

    def work() -> AttributeOut:
        encoder = searcher.encoder().fingerprint
        if wanted.name in attributes.names(searcher.home, encoder):
            detail = f"There is an attribute {wanted.name} already. Delete it, or choose another name."
            raise Refusal(409, "attribute-exists", detail)
        made = learn(wanted.name, encoder, _examples(searcher, wanted), wanted.seed)
        others = attributes.load_all(searcher.home, encoder)
        attributes.save(searcher.home, made)
        return attribute_out(made, drags(made, others))

    made = await pool.run(work)
    response.headers["Location"] = f"{urls.API}/attributes/{made.name}"
    return made


@router.get("/{name}", responses=_GONE)
def show_attribute(name: Name, searcher: TheSearcher) -> AttributeOut:
    """How well it tells pictures apart, and which others it drags along."""
    encoder = _known(searcher, name)
    found = attributes.load(searcher.home, encoder, name)
    others = [one for one in attributes.load_all(searcher.home, encoder) if one.name != name]
    return attribute_out(found, drags(found, others))


@router.delete("/{name}", status_code=204, responses=_GONE)
def forget_attribute(name: Name, searcher: TheSearcher) -> None:
    """Remove it. The pictures that it was learned from stay where they are."""
    attributes.remove(searcher.home, _known(searcher, name), name)


@router.post(
    "/{name}/apply",
    response_class=Response,
    responses=_APPLIED | errors(400, 404, 408, 409, 413, 415, 422, 503),
    openapi_extra=picture_or_json_body(ApplyIn, Strengths),
)
async def apply_attribute(name: Name, request: Request, searcher: TheSearcher, pool: ThePool) -> Response:
    """A picture (multipart field `file`), an indexed image or a mu, with more or less of an attribute: one picture for
    each of `strengths`, as the model sees it.
    """
    as_strip = "image/png" in request.headers.get("accept", "")
    async with read_wanted(request, ApplyIn, Strengths) as wanted:
        said = wanted.said

        def paint() -> bytes:
            attribute = attributes.load(searcher.home, _known(searcher, name), name)
            (part,) = [said.part()] if isinstance(said, ApplyIn) else wanted.pictures(searcher)
            if as_strip:
                return strip(searcher, attribute, part, said.strengths)
            return applied(searcher, attribute, part, said.strengths).model_dump_json().encode()

        return Response(await pool.run(paint), media_type="image/png" if as_strip else JSON)


def _known(searcher: Searcher, name: str) -> str:
    """The encoder in use. Raises the 404 where it has no such attribute."""
    encoder = searcher.encoder().fingerprint
    known = attributes.names(searcher.home, encoder)
    if name not in known:
        detail = (
            f"There is no attribute {name} (known: {', '.join(known) or 'none'}). POST to /v1/attributes to learn it."
        )
        raise Refusal(404, "no-such-attribute", detail)
    return encoder


def _examples(searcher: Searcher, wanted: LearnIn) -> Examples:
    """mu of the images on both sides. Raises NoSuchImage, BadSetting, NothingIndexed."""
    if wanted.where:
        return from_metadata(searcher, wanted.where)
    everything = aggregate_of(searcher)
    ids = np.array([*wanted.positive, *wanted.negative])
    rows = np.searchsorted(everything.ids, ids).clip(max=len(everything) - 1)
    missing = ids[everything.ids[rows] != ids]
    if len(missing):
        raise NoSuchImage(int(missing[0]))
    has = np.repeat([True, False], [len(wanted.positive), len(wanted.negative)])
    return Examples(everything.mu[rows], has, [str(image_id) for image_id in ids.tolist()])
