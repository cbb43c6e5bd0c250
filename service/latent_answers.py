"""From places in the latent space to what goes over the wire."""

from __future__ import annotations

import base64
from typing import Any

from core.records import FloatArray, Hit
from explore.generation import around, from_prior
from explore.mixing import mix, moved, pushed
from explore.morphing import Morph
from explore.outliers import Judged, Outlier
from explore.parts import Part, Place, check_decoder, decoded, places_of, plain_size
from explore.traversal import Traversal
from explore.uncertainty import Uncertainty
from models.images import encode_png
from models.preprocessing import Pixels
from search.questions import Asked, Question
from search.searcher import Searcher
from service import urls
from service.answers import hit_out, shown
from service.latent_schemas import (
    DimensionOut,
    FrameOut,
    LatentIn,
    LatentOut,
    MorphOut,
    OutlierOut,
    OutliersOut,
    SampleOut,
    SamplesIn,
    SamplesOut,
    StepOut,
    TraversalOut,
    UncertaintyOut,
)
from service.latents import Latents
from service.schemas import HitOut


def made_place(searcher: Searcher, latents: Latents, wanted: LatentIn) -> LatentOut:
    """The place that is wanted, decoded where that can be. Raises as explore/mixing.py does."""
    place = mix(searcher, [one.part() for one in wanted.parts], [one.weight for one in wanted.parts], wanted.how)
    mu = pushed(searcher, place.mu, wanted.attributes)
    if wanted.dims:
        mu = moved(mu, {int(dim): steps for dim, steps in wanted.dims.items()}, latents.reach(searcher))
    kept = place.sigma if mu is place.mu else None
    return place_out(
        searcher, Place(place.name, mu, kept, place.width, place.height), wanted.nearest, show=wanted.picture
    )


def place_of(searcher: Searcher, part: Part, nearest: int) -> LatentOut:
    """The place of one picture."""
    return place_out(searcher, places_of(searcher, [part])[0], nearest, show=True)


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


def samples_out(searcher: Searcher, latents: Latents, wanted: SamplesIn) -> SamplesOut:
    """Pictures that were never taken. Raises NoDecoder, NoVariance, TooFewPictures, NoSuchImage."""
    check_decoder(searcher, "nothing can be generated")
    width, height = plain_size(searcher)
    mu: FloatArray
    if wanted.source == "prior":
        mu = from_prior(searcher, wanted.count, wanted.temperature, wanted.seed)
    elif wanted.source == "mixture":
        mu = latents.mixture(searcher).draw(wanted.count, wanted.temperature, wanted.seed)
    else:
        assert wanted.image_id is not None
        (place,) = places_of(searcher, [wanted.image_id])
        mu = around(searcher, place.mu, place.sigma, wanted.count, wanted.temperature, wanted.seed)
        width, height = place.width, place.height
    pictures = decoded(searcher, mu, width, height)
    found = [SampleOut(mu=one.tolist(), picture=data_url(seen)) for one, seen in zip(mu, pictures, strict=True)]
    return SamplesOut(samples=found)


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


def outliers_out(searcher: Searcher, found: tuple[list[Outlier], Judged], limit: int, offset: int) -> OutliersOut:
    """A page of the outliers."""
    listed, judged = found
    shows = searcher.encoder().has_decoder
    page = [
        OutlierOut(
            **{**vars(one), "path": shown(one.path)},
            thumbnail_url=urls.thumbnail(one.image_id),
            reconstruction_url=urls.reconstruction(one.image_id) if shows else None,
        )
        for one in listed[offset : offset + limit]
    ]
    counts: dict[str, Any] = {"images": len(judged.ids), "neighbour": judged.neighbour, "total": len(listed)}
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
