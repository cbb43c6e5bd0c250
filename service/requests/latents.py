"""Requests about the latent space: JSON, or a form with uploaded images.

A field of a form is parsed as JSON if possible (`steps=16`, `attributes={"smile": 1}`), and is text otherwise
(`how=spherical`). A list is one JSON list, or a repeated field.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, Self, get_origin

import numpy as np
from pydantic import ConfigDict, Field, model_validator
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import from_json
from starlette.datastructures import FormData
from starlette.requests import Request

from simile.explore.latent.inputs import LatentInput
from simile.explore.latent.interpolation import InterpolationMethod
from simile.search.queries import QueryImage
from simile.search.searcher import Searcher
from simile.service.requests import search as search_requests
from simile.service.requests.search import BodyModel, Upload, make_field_error
from simile.service.schemas.search import ImageIdField, RequestBody, TextParam, VectorField, check_single_field

MAX_LATENT_INPUTS = 8
MAX_MORPH_FRAMES = 64  # from one part to the next
MAX_RENDERED_PIXELS = 1 << 24  # of all decoded images of a response together
MAX_RENDERED_FRAMES = 128  # of a whole morph: each is decoded, and in a strip drawn above its nearest image
MAX_LATENT_SAMPLES = 64
MAX_TRAVERSAL_FRAMES = 400  # in all dimensions together
MAX_STRENGTHS = 31
DEFAULT_NEAREST_COUNT = 10  # for an upload
_MEDIA_TYPE_ERROR = "Send images as {} (field `file`), or ids of indexed images as {}."

AttributeNameField = Annotated[
    str, Field(pattern="^[a-z0-9][a-z0-9_-]{0,63}$", description="The name of an attribute, such as `smile`.")
]
StrengthField = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
SeedField = Annotated[int, Field(ge=0, le=2**32 - 1, description="The same seed gives the same result.")]
WeightField = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class LatentInputRequest(RequestBody):
    """An indexed image, or a latent vector."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": [name]} for name in ("image_id", "vector")]})

    image_id: ImageIdField | SkipJsonSchema[None] = None
    vector: VectorField | SkipJsonSchema[None] = None

    @model_validator(mode="after")
    def _check_one_input(self) -> Self:
        check_single_field(self, "image_id", "vector")
        return self

    def to_latent_input(self) -> LatentInput:
        """Return the id or the latent vector."""
        return self.image_id if self.image_id is not None else np.asarray(self.vector, np.float32)


class WeightedInputRequest(LatentInputRequest):
    """An indexed image or a latent vector, with its weight."""

    weight: WeightField = 1.0


class LatentArithmeticParams(RequestBody):
    """Latent arithmetic: parts are mixed, then moved along attributes, then along single dimensions."""

    how: InterpolationMethod = Field("linear", description="`spherical`: for two parts, changes the length evenly.")
    attributes: dict[AttributeNameField, StrengthField] = Field(
        {}, max_length=50, description="Strengths; 1 moves the average image without it to the average with it."
    )
    dims: dict[Annotated[str, Field(pattern="^[0-9]{1,5}$")], StrengthField] = Field(
        {}, max_length=500, description="By dimension the offset, in standard deviations of the collection."
    )
    nearest: int = Field(0, ge=0, le=100, description="Number of nearest indexed images.")
    picture: bool = Field(True, description="Whether to decode the latent vector.")
    parts: Sequence[WeightedInputRequest] = ()


class LatentRequest(LatentArithmeticParams):
    """A latent vector computed from indexed images and latent vectors."""

    parts: list[WeightedInputRequest] = Field(min_length=1, max_length=MAX_LATENT_INPUTS, description="To be mixed.")


class LatentForm(LatentArithmeticParams):
    """A latent vector computed from uploaded images, then further parts."""

    parts: list[WeightedInputRequest] = Field([], max_length=MAX_LATENT_INPUTS - 1, description="Mixed with the files.")
    weights: list[WeightField] = Field([], max_length=MAX_LATENT_INPUTS, description="Of the files; default: 1 each.")
    nearest: int = Field(DEFAULT_NEAREST_COUNT, ge=0, le=100, description="Number of nearest indexed images.")


class MorphForm(RequestBody):
    """A morph through uploaded images, then further parts."""

    steps: int = Field(16, ge=2, le=MAX_MORPH_FRAMES, description="Frames from each part to the next, both included.")
    how: InterpolationMethod = "linear"
    parts: list[LatentInputRequest] = Field([], max_length=MAX_LATENT_INPUTS - 1, description="Parts after the files.")


class MorphRequest(MorphForm):
    """A morph through indexed images and latent vectors."""

    parts: list[LatentInputRequest] = Field(min_length=2, max_length=MAX_LATENT_INPUTS)


class SampleParams(RequestBody):
    """Options of new images."""

    count: int = Field(16, ge=1, le=MAX_LATENT_SAMPLES)
    temperature: float = Field(
        1.0, ge=0, le=100, allow_inf_nan=False, description="Scales the spread; below 1: more typical images."
    )
    seed: SeedField = 0


class SampleRequest(SampleParams):
    """New images from the prior, from the mixture, or around an indexed image."""

    source: Literal["prior", "mixture", "image"] = Field(
        "prior", description="`mixture`: Gaussians fitted to the collection. `image`: around `image_id`."
    )
    image_id: ImageIdField | SkipJsonSchema[None] = None

    @model_validator(mode="after")
    def _check_image_id(self) -> Self:
        given = "image_id" in self.model_fields_set
        if (self.source == "image") != given or (given and self.image_id is None):
            raise ValueError("give image_id with the source image, and only then")
        return self


class TraversalParams(RequestBody):
    """Options of a traversal."""

    dims: int | list[Annotated[int, Field(ge=0, le=65535)]] = Field(
        8, description="The number of dimensions, most active first; or a list of dimensions."
    )
    span: float = Field(
        3.0, gt=0, le=100, description="Largest offset to either side, in standard deviations of the collection."
    )
    steps: int = Field(9, ge=2, le=100)
    nearest: bool = True

    @model_validator(mode="after")
    def _check_frame_count(self) -> Self:
        count = self.dims if isinstance(self.dims, int) else len(self.dims)
        if not 1 <= count <= 1000 or count * self.steps > MAX_TRAVERSAL_FRAMES:
            raise ValueError(f"at least one dimension, and dimensions times steps at most {MAX_TRAVERSAL_FRAMES}")
        return self

    def format_dims(self) -> str:
        """Return `dims` as text for `parse_dims`."""
        return str(self.dims) if isinstance(self.dims, int) else ",".join(map(str, self.dims)) + ","


class TraversalRequest(TraversalParams):
    """A traversal from an indexed image or a latent vector."""

    start: LatentInputRequest | None = Field(None, description="Default: the mean of the collection.")


class LearnAttributeRequest(RequestBody):
    """The examples of a new attribute: images with and without it, or conditions on image metadata."""

    name: AttributeNameField
    positive: list[ImageIdField] = Field([], max_length=100_000)
    negative: list[ImageIdField] = Field([], max_length=100_000)
    where: list[TextParam] = Field(
        [], max_length=32, description="Images that satisfy these conditions, against all others."
    )
    seed: SeedField = 0

    @model_validator(mode="after")
    def _check_one_source(self) -> Self:
        if bool(self.where) == bool(self.positive or self.negative) or bool(self.positive) != bool(self.negative):
            raise ValueError("give both positive and negative, or where alone")
        return self


class StrengthParams(RequestBody):
    """Strengths of an attribute."""

    strengths: list[StrengthField] = Field(
        [1.0],
        min_length=1,
        max_length=MAX_STRENGTHS,
        description="One image for each; 1 moves the average image without it to the average with it; below 0: less.",
    )


class ApplyAttributeRequest(StrengthParams, LatentInputRequest):
    """An indexed image or a latent vector, and the strengths of an attribute."""


class UncertaintyParams(RequestBody):
    """Options of an uncertainty measurement."""

    samples: int = Field(32, ge=2, le=256)
    seed: SeedField = 0


class UncertaintyRequest(UncertaintyParams):
    """An indexed image, to measure its uncertainty."""

    image_id: ImageIdField


@dataclass(frozen=True)
class LatentRequestData(Generic[BodyModel]):
    """A parsed request. uploads: the images of a form, none with JSON; accept: the header."""

    params: BodyModel
    uploads: Sequence[Upload]
    accept: str

    def prepare_images(self, searcher: Searcher) -> list[QueryImage]:
        """Decode the uploads. Raises UnreadableImage, NothingIndexed."""
        return [searcher.prepare_query_image(upload.read(), upload.name) for upload in self.uploads]


def check_rendered_pixels(searcher: Searcher, field: str, image_count: int, min_side: int = 0) -> None:
    """Refuse a request for more pixels than a response may have.

    Args:
        field: What the client can lower.
        image_count: Images that are decoded.
        min_side: The side that smaller images are enlarged to.

    Raises:
        RequestValidationError: 422.
    """
    side = max(searcher.get_encoder().preprocessing.image_size, min_side)
    if image_count * side * side > MAX_RENDERED_PIXELS:
        reason = (
            f"these are {image_count} images of up to {side} x {side} pixels, and a response has at most "
            f"{MAX_RENDERED_PIXELS:,} pixels: give a lower number, {max(1, MAX_RENDERED_PIXELS // side**2)} at most"
        )
        raise make_field_error(field, reason)


@asynccontextmanager
async def read_latent_request(
    request: Request, json_model: type[BodyModel], form_model: type[BodyModel], max_files: int = 1
) -> AsyncIterator[LatentRequestData[BodyModel]]:
    """Read JSON, or a form with one to `max_files` images in the field `file`.

    Raises:
        HTTPException, RequestValidationError: 400, 413, 415 or 422.
    """
    accept = request.headers.get("accept", "")
    if search_requests.get_media_type(request) == search_requests.MULTIPART_MEDIA_TYPE:
        async with search_requests.open_form(request, max_files) as form:
            params = _parse_form(form, form_model)
            yield LatentRequestData(params, search_requests.get_uploads(form, required=True), accept)
    else:
        yield LatentRequestData(await search_requests.read_json(request, json_model, _MEDIA_TYPE_ERROR), (), accept)


def _parse_form(form: FormData, model: type[BodyModel]) -> BodyModel:
    """Parse the fields of a form, without its files. Raises RequestValidationError, also for an unknown field."""
    fields: dict[str, Any] = {}
    for name in form:
        if name != "file":
            values = [_parse_form_text(name, value) for value in form.getlist(name)]
            is_list = name in model.model_fields and get_origin(model.model_fields[name].annotation) is list
            is_single = len(values) == 1 and (isinstance(values[0], list) or not is_list)
            fields[name] = values[0] if is_single else values
    return search_requests.validate_fields(model, fields, strict=True)


def _parse_form_text(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        raise make_field_error(name, "this field was sent as a file: send it as text")
    try:
        search_requests.check_json_size(value.encode())
        return from_json(value, allow_inf_nan=False)
    except ValueError:
        return value
