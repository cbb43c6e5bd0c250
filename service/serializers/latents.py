"""From places in the latent space to what goes over the wire."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from simile.core.records import FloatArray, Hit
from simile.explore.attributes.render import paint
from simile.explore.latent.arithmetic import mix, moved
from simile.explore.latent.inputs import Part, Place, check_decoder, decoded, places_of, plain_size
from simile.explore.latent.interpolation import Morph
from simile.explore.latent.sampling import around, from_prior
from simile.explore.latent.traversal import Traversal
from simile.explore.latent.uncertainty import Uncertainty
from simile.explore.outliers.cache import Listing
from simile.images.encoding import encode_png
from simile.images.transforms import Pixels
from simile.search.attributes import Attribute, pushed
from simile.search.queries import Asked, AskedPicture, Question
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.schemas.latents import (
    AppliedOut,
    ApplyOut,
    DimensionOut,
    Draws,
    FrameOut,
    LatentOut,
    MorphOut,
    Moves,
    OutlierOut,
    OutliersOut,
    SampleOut,
    SamplesIn,
    SamplesOut,
    StepOut,
    TraversalOut,
    UncertaintyOut,
)
from simile.service.schemas.search import HitOut
from simile.service.serializers.search import hit_out, shown
from simile.service.state.latent_cache import Latents


def made_place(
    searcher: Searcher, latents: Latents, wanted: Moves, pictures: Sequence[tuple[AskedPicture, float]] = ()
) -> LatentOut:
    """The place that is wanted, decoded where that can be; pictures, each with its weight, come before its parts.

    Raises as explore/mixing.py does.
    """
    parts = [*pictures, *((one.part(), one.weight) for one in wanted.parts)]
    place = mix(searcher, [part for part, _ in parts], [weight for _, weight in parts], wanted.how)
    mu = pushed(searcher, place.mu, wanted.attributes)
    if wanted.dims:
        mu = moved(mu, {int(dim): steps for dim, steps in wanted.dims.items()}, latents.reach(searcher))
    kept = place.sigma if mu is place.mu else None
    return place_out(
        searcher, Place(place.name, mu, kept, place.width, place.height), wanted.nearest, show=wanted.picture
    )


def place_out(searcher: Searcher, place: Place, nearest: int, *, show: bool) -> LatentOut:
    """A place, decoded where that is asked for and can be."""
    has_decoder = searcher.encoder().has_decoder
    picture = decoded(searcher, place.mu[None], place.width, place.height)[0] if show and has_decoder else None
    hits = searcher.ask(Question((place.mu,), asked=Asked(limit=nearest))).hits if nearest else []
    return LatentOut(
        name=shown(place.name),
        mu=place.mu.tolist(),
        sigma=None if place.sigma is None else place.sigma.tolist(),
        width=place.width,
        height=place.height,
        decoder=has_decoder,
        picture=None if picture is None else data_url(picture),
        nearest=[hit_out(hit, with_reconstruction=False) for hit in hits],
    )


def morph_out(made: Morph) -> MorphOut:
    """A morph, its frames as pictures."""
    frames = [
        FrameOut(mu=mu.tolist(), picture=data_url(frame), nearest=_hit(hit))
        for mu, frame, hit in zip(made.latents, made.frames, made.nearest, strict=True)
    ]
    names = [shown(name) for name in made.names]
    return MorphOut(how=made.how, names=names, stops=made.stops, changes=made.changes.tolist(), frames=frames)


def samples_out(searcher: Searcher, latents: Latents, wanted: Draws, picture: AskedPicture | None = None) -> SamplesOut:
    """Pictures that were never taken, around a picture where there is one, or from where `wanted` says.

    Raises NoDecoder, NoVariance, TooFewPictures, NoSuchImage.
    """
    check_decoder(searcher, "nothing can be generated")
    size = plain_size(searcher)
    mu: FloatArray
    drawn = wanted.count, wanted.temperature, wanted.seed
    middle: Part | None = picture or (wanted.image_id if isinstance(wanted, SamplesIn) else None)
    if middle is not None:
        (place,) = places_of(searcher, [middle])
        mu, size = around(searcher, place.mu, place.sigma, *drawn), (place.width, place.height)
    elif isinstance(wanted, SamplesIn) and wanted.source == "mixture":
        mu = latents.mixture(searcher).draw(*drawn)
    else:
        mu = from_prior(searcher, *drawn)
    pictures = decoded(searcher, mu, *size)
    found = [SampleOut(mu=one.tolist(), picture=data_url(seen)) for one, seen in zip(mu, pictures, strict=True)]
    return SamplesOut(seed=wanted.seed, samples=found)


def applied(searcher: Searcher, attribute: Attribute, part: Part, strengths: Sequence[float]) -> ApplyOut:
    """A picture pushed along an attribute. Raises NoDecoder, and as places_of."""
    (place,) = places_of(searcher, [part])
    seen = paint(searcher, attribute, place.mu, strengths, place)
    made = [
        AppliedOut(strength=strength, mu=attribute.pushed(place.mu, strength).tolist(), picture=data_url(pixels))
        for strength, pixels in zip(strengths, seen, strict=True)
    ]
    return ApplyOut(
        attribute=attribute.name, name=shown(place.name), width=place.width, height=place.height, pictures=made
    )


def traversal_out(made: Traversal, deviation: FloatArray) -> TraversalOut:
    """A traversal; deviation: (d,), of the collection."""
    rows = []
    for row, dim in enumerate(made.dims):
        hits = made.nearest[row] or [None] * len(made.steps)
        frames = [
            StepOut(mu=mu.tolist(), picture=data_url(frame), nearest=_hit(hit))
            for mu, frame, hit in zip(made.latents[row], made.frames[row], hits, strict=True)
        ]
        rows.append(DimensionOut(dim=dim, deviation=float(deviation[dim]), frames=frames))
    return TraversalOut(name=shown(made.name), steps=made.steps.tolist(), dimensions=rows)


def outliers_out(searcher: Searcher, found: Listing, limit: int, offset: int) -> OutliersOut:
    """A page of the outliers."""
    shows = searcher.encoder().has_decoder
    page = [
        OutlierOut(
            **{**vars(one), "path": shown(one.path)},
            thumbnail_url=urls.thumbnail(one.image_id),
            reconstruction_url=urls.reconstruction(one.image_id) if shows else None,
        )
        for one in found.outliers[offset : offset + limit]
    ]
    counts: dict[str, Any] = {"images": len(found.ids), "neighbour": found.neighbour, "total": len(found.outliers)}
    return OutliersOut(outliers=page, limit=limit, offset=offset, **counts)


def uncertainty_out(found: Uncertainty) -> UncertaintyOut:
    """How sure the encoder is, with its two pictures."""
    pictures = {name: data_url(getattr(found, name)) for name in ("seen", "deviation")}
    arrays = {name: getattr(found, name).tolist() for name in ("sigma", "spread_of_all")}
    rest = UncertaintyOut.model_fields.keys() - pictures.keys() - arrays.keys()
    known = {name: getattr(found, name) for name in rest} | {"name": shown(found.name)}
    return UncertaintyOut(**known, **arrays, **pictures)


def data_url(pixels: Pixels) -> str:
    """A picture (h, w, 3) inside a document."""
    return f"data:image/png;base64,{base64.b64encode(encode_png(pixels)).decode()}"


def _hit(hit: Hit | None) -> HitOut | None:
    return None if hit is None else hit_out(hit, with_reconstruction=False)
