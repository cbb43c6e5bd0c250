"""Attributes: directions that two sets of pictures differ by, learned, listed, removed."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from simile.core.errors import NoSuchImage
from simile.explore.attributes import directions
from simile.explore.attributes.directions import AttributeExamples, find_entangled_attributes
from simile.explore.attributes.examples import load_examples_from_metadata
from simile.explore.attributes.render import render_attribute_strip
from simile.explore.latent.aggregate_posterior import load_aggregate_posterior
from simile.search import attributes
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.dependencies import EncodingPoolDep, SearcherDep
from simile.service.errors import ProblemException
from simile.service.openapi.install import ResponseDocs, document_errors, image_or_json_body, json_body
from simile.service.requests.latents import read_latent_request
from simile.service.requests.search import JSON_MEDIA_TYPE, read_json
from simile.service.schemas.latents import (
    ApplyAttributeRequest,
    ApplyAttributeResponse,
    AttributeListResponse,
    AttributeResponse,
    LearnAttributeRequest,
    StrengthParams,
    make_attribute_response,
)
from simile.service.serializers.latents import make_apply_response

router = APIRouter(prefix=f"{urls.API}/attributes", tags=["latent space"])

AttributeNameParam = Annotated[
    str, Path(pattern="^[a-z0-9][a-z0-9_-]{0,63}$", description="Of an attribute, such as `smile`.")
]
_ATTRIBUTE_ERRORS = document_errors(404, 409, 422, 503)
_APPLY_RESPONSES: ResponseDocs = {
    200: {
        "model": ApplyAttributeResponse,
        "description": "A picture for each strength. Asked for as `image/png`: all of them side by side.",
        "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.get("", responses=document_errors(409, 422, 503))
def list_attributes(searcher: SearcherDep) -> AttributeListResponse:
    """The attributes of the encoder in use."""
    found = attributes.load_attributes(searcher.home, searcher.get_encoder().fingerprint)
    return AttributeListResponse(attributes=[make_attribute_response(one, []) for one in found])


@router.post(
    "",
    status_code=201,
    responses=document_errors(400, 404, 408, 409, 413, 415, 422, 503),
    openapi_extra=json_body(LearnAttributeRequest),
)
async def learn_attribute(
    request: Request, response: Response, searcher: SearcherDep, pool: EncodingPoolDep
) -> AttributeResponse:
    """Learn what two sets of indexed images differ by, and say how well it tells held-out ones apart."""
    wanted = await read_json(request, LearnAttributeRequest)

    def work() -> AttributeResponse:
        encoder = searcher.get_encoder().fingerprint
        if wanted.name in attributes.list_attribute_names(searcher.home, encoder):
            detail = f"There is an attribute {wanted.name} already. Delete it, or choose another name."
            raise ProblemException(409, "attribute-exists", detail)
        made = directions.learn_attribute(wanted.name, encoder, _load_examples(searcher, wanted), wanted.seed)
        others = attributes.load_attributes(searcher.home, encoder)
        attributes.save_attribute(searcher.home, made)
        return make_attribute_response(made, find_entangled_attributes(made, others))

    made = await pool.run(work)
    response.headers["Location"] = f"{urls.API}/attributes/{made.name}"
    return made


@router.get("/{name}", responses=_ATTRIBUTE_ERRORS)
def show_attribute(name: AttributeNameParam, searcher: SearcherDep) -> AttributeResponse:
    """How well it tells pictures apart, and which others it drags along."""
    encoder = _check_attribute(searcher, name)
    found = attributes.load_attribute(searcher.home, encoder, name)
    others = [one for one in attributes.load_attributes(searcher.home, encoder) if one.name != name]
    return make_attribute_response(found, find_entangled_attributes(found, others))


@router.delete("/{name}", status_code=204, responses=_ATTRIBUTE_ERRORS)
def forget_attribute(name: AttributeNameParam, searcher: SearcherDep) -> None:
    """Remove it. The pictures that it was learned from stay where they are."""
    attributes.remove_attribute(searcher.home, _check_attribute(searcher, name), name)


@router.post(
    "/{name}/apply",
    response_class=Response,
    responses=_APPLY_RESPONSES | document_errors(400, 404, 408, 409, 413, 415, 422, 503),
    openapi_extra=image_or_json_body(ApplyAttributeRequest, StrengthParams),
)
async def apply_attribute(
    name: AttributeNameParam, request: Request, searcher: SearcherDep, pool: EncodingPoolDep
) -> Response:
    """A picture (multipart field `file`), an indexed image or a mu, with more or less of an attribute: one picture for
    each of `strengths`, as the model sees it.
    """
    as_strip = "image/png" in request.headers.get("accept", "")
    async with read_latent_request(request, ApplyAttributeRequest, StrengthParams) as wanted:
        said = wanted.params

        def paint() -> bytes:
            attribute = attributes.load_attribute(searcher.home, _check_attribute(searcher, name), name)
            (part,) = (
                [said.to_latent_input()] if isinstance(said, ApplyAttributeRequest) else wanted.prepare_images(searcher)
            )
            if as_strip:
                return render_attribute_strip(searcher, attribute, part, said.strengths)
            return make_apply_response(searcher, attribute, part, said.strengths).model_dump_json().encode()

        return Response(await pool.run(paint), media_type="image/png" if as_strip else JSON_MEDIA_TYPE)


def _check_attribute(searcher: Searcher, name: str) -> str:
    """The encoder in use. Raises the 404 where it has no such attribute."""
    encoder = searcher.get_encoder().fingerprint
    known = attributes.list_attribute_names(searcher.home, encoder)
    if name not in known:
        detail = (
            f"There is no attribute {name} (known: {', '.join(known) or 'none'}). POST to /v1/attributes to learn it."
        )
        raise ProblemException(404, "no-such-attribute", detail)
    return encoder


def _load_examples(searcher: Searcher, body: LearnAttributeRequest) -> AttributeExamples:
    """mu of the images on both sides. Raises NoSuchImage, BadSetting, NothingIndexed."""
    if body.where:
        return load_examples_from_metadata(searcher, body.where)
    everything = load_aggregate_posterior(searcher)
    ids = np.array([*body.positive, *body.negative])
    rows = np.searchsorted(everything.ids, ids).clip(max=len(everything) - 1)
    missing = ids[everything.ids[rows] != ids]
    if len(missing):
        raise NoSuchImage(int(missing[0]))
    has = np.repeat([True, False], [len(body.positive), len(body.negative)])
    return AttributeExamples(everything.mu[rows], has, [str(image_id) for image_id in ids.tolist()])
