"""Routes of attributes: learn, list, show, apply and remove them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from simile.core.errors import NoSuchImage
from simile.explore.attributes import directions
from simile.explore.attributes.examples import load_examples_from_metadata, make_indexed_examples
from simile.explore.attributes.render import render_attribute, render_attribute_strip
from simile.explore.latent.aggregate_posterior import load_aggregate_posterior
from simile.explore.latent.inputs import encode_inputs
from simile.search import attributes
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.dependencies import ComputePoolDep, SearcherDep
from simile.service.errors import ProblemException
from simile.service.openapi.install import document_errors, document_json, image_or_json_body, json_body
from simile.service.requests import latents as requests
from simile.service.requests.search import JSON_MEDIA_TYPE, read_json
from simile.service.schemas import latents as schemas

router = APIRouter(prefix=f"{urls.API}/attributes", tags=["latent space"])

AttributeNameParam = Annotated[
    str, Path(pattern="^[a-z0-9][a-z0-9_-]{0,63}$", description="The name of an attribute, such as `smile`.")
]
_ATTRIBUTE_ERRORS = document_errors(404, 409, 422, 503)
_POST_ERRORS = document_errors(400, 404, 408, 409, 413, 415, 422, 503)
_STRIP_MEDIA_TYPE = "image/png"
_APPLY_RESPONSES = document_json(
    schemas.ApplyAttributeResponse,
    "One image for each strength. With `Accept: image/png`: all of them side by side.",
    [_STRIP_MEDIA_TYPE],
)


@router.get("", responses=document_errors(409, 422, 503))
def list_attributes(searcher: SearcherDep) -> schemas.AttributeListResponse:
    """List the attributes of the active encoder."""
    known = attributes.load_attributes(searcher.home, searcher.get_encoder().fingerprint)
    return schemas.AttributeListResponse(attributes=[_make_attribute_response(attribute, ()) for attribute in known])


@router.post("", status_code=201, responses=_POST_ERRORS, openapi_extra=json_body(requests.LearnAttributeRequest))
async def learn_attribute(
    request: Request, response: Response, searcher: SearcherDep, pool: ComputePoolDep
) -> schemas.AttributeResponse:
    """Learn the direction between two sets of indexed images, and measure how well it separates held-out images."""
    body = await read_json(request, requests.LearnAttributeRequest)

    def learn() -> schemas.AttributeResponse:
        encoder = searcher.get_encoder().fingerprint
        if body.name in attributes.list_attribute_names(searcher.home, encoder):
            detail = f"There is an attribute {body.name} already. Delete it, or choose another name."
            raise ProblemException(409, "attribute-exists", detail)
        attribute = directions.learn_attribute(body.name, encoder, _load_examples(searcher, body), body.seed)
        others = attributes.load_attributes(searcher.home, encoder)
        attributes.save_attribute(searcher.home, attribute)
        return _make_attribute_response(attribute, others)

    learned = await pool.run(learn)
    response.headers["Location"] = urls.make_url(f"{urls.API}/attributes/{learned.name}")
    return learned


@router.get("/{name}", responses=_ATTRIBUTE_ERRORS)
def show_attribute(name: AttributeNameParam, searcher: SearcherDep) -> schemas.AttributeResponse:
    """Show how well an attribute separates images, and which other attributes move with it."""
    encoder = _check_attribute(searcher, name)
    attribute = attributes.load_attribute(searcher.home, encoder, name)
    others = [other for other in attributes.load_attributes(searcher.home, encoder) if other.name != name]
    return _make_attribute_response(attribute, others)


@router.delete("/{name}", status_code=204, responses=_ATTRIBUTE_ERRORS)
def forget_attribute(name: AttributeNameParam, searcher: SearcherDep) -> None:
    """Remove an attribute. The images that it was learned from are not changed."""
    attributes.remove_attribute(searcher.home, _check_attribute(searcher, name), name)


@router.post(
    "/{name}/apply",
    response_class=Response,
    responses=_APPLY_RESPONSES | _POST_ERRORS,
    openapi_extra=image_or_json_body(requests.ApplyAttributeRequest, requests.StrengthParams),
)
async def apply_attribute(
    name: AttributeNameParam, request: Request, searcher: SearcherDep, pool: ComputePoolDep
) -> Response:
    """Move an image (multipart field `file`), an indexed image or a latent vector along an attribute.

    The result has one decoded image for each of `strengths`.
    """
    reading = requests.read_latent_request(request, requests.ApplyAttributeRequest, requests.StrengthParams)
    async with reading as data:
        params = data.params

        def respond() -> Response:
            attribute = attributes.load_attribute(searcher.home, _check_attribute(searcher, name), name)
            requests.check_rendered_pixels(searcher, "strengths", len(params.strengths))
            if isinstance(params, requests.ApplyAttributeRequest):
                latent_input = params.to_latent_input()
            else:
                (latent_input,) = data.prepare_images(searcher)
            if _STRIP_MEDIA_TYPE in data.accept:
                strip = render_attribute_strip(searcher, attribute, latent_input, params.strengths)
                return Response(strip, media_type=_STRIP_MEDIA_TYPE)
            (point,) = encode_inputs(searcher, [latent_input])
            images = schemas.zip_fields(
                strength=params.strengths,
                mu=[attribute.shift(point.mu, strength) for strength in params.strengths],
                picture=render_attribute(searcher, attribute, point, params.strengths),
            )
            result = schemas.ApplyAttributeResponse.model_validate(
                vars(point) | {"attribute": attribute.name, "pictures": images}
            )
            return Response(result.model_dump_json().encode(), media_type=JSON_MEDIA_TYPE)

        return await pool.run(respond)


def _make_attribute_response(
    attribute: attributes.Attribute, others: Sequence[attributes.Attribute]
) -> schemas.AttributeResponse:
    """Return an attribute without its directions, and the `others` that move with it."""
    entangled = directions.find_entangled_attributes(attribute, others)
    return schemas.AttributeResponse.model_validate(vars(attribute) | {"drags": entangled})


def _check_attribute(searcher: Searcher, name: str) -> str:
    """Return the fingerprint of the active encoder. Raises 404 if it has no such attribute."""
    encoder = searcher.get_encoder().fingerprint
    known = attributes.list_attribute_names(searcher.home, encoder)
    if name not in known:
        names = ", ".join(known) or "none"
        detail = f"There is no attribute {name} (known: {names}). POST to /v1/attributes to learn it."
        raise ProblemException(404, "no-such-attribute", detail)
    return encoder


def _load_examples(searcher: Searcher, body: requests.LearnAttributeRequest) -> directions.AttributeExamples:
    """Load the examples of both sides. Raises NoSuchImage, BadSetting, NothingIndexed."""
    if body.where:
        return load_examples_from_metadata(searcher, body.where)
    posterior = load_aggregate_posterior(searcher)
    ids = np.array([*body.positive, *body.negative])
    rows = np.searchsorted(posterior.ids, ids).clip(max=len(posterior) - 1)
    missing = ids[posterior.ids[rows] != ids]
    if len(missing):
        raise NoSuchImage(int(missing[0]))
    is_positive = np.repeat([True, False], [len(body.positive), len(body.negative)])
    return make_indexed_examples(posterior.mu[rows], is_positive, ids)
