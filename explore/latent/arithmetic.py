"""Places in the latent space put together by hand: pictures mixed, attributes pushed, single dimensions moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from simile.core.errors import BadSetting
from simile.core.records import FloatArray
from simile.explore.latent.inputs import LatentInput, LatentPoint, encode_inputs
from simile.explore.latent.interpolation import InterpolationMethod, interpolate
from simile.explore.latent.traversal import LatentRange
from simile.search.searcher import Searcher


def mix_latents(
    searcher: Searcher,
    latent_inputs: Sequence[LatentInput],
    weights: Sequence[float] | None = None,
    interpolation: InterpolationMethod = "linear",
) -> LatentPoint:
    """The weighted mean of the parts (none: equal weights), in the first one's shape; σ only of a single part.

    spherical: of two parts, the direction turns as far as their weights say. Raises BadSetting, and as places_of.
    """
    places = encode_inputs(searcher, latent_inputs)
    shares = np.ones(len(places)) if weights is None else np.asarray(weights, np.float64)
    if len(shares) != len(places) or not np.isfinite(shares).all() or (shares < 0).any() or shares.sum() <= 0:
        raise BadSetting("The weights can't be used: give one of at least 0 for each part, and not 0 for all.")
    shares /= shares.sum()
    first = places[0]
    if len(places) == 1:
        return first
    mus = np.stack([place.mu for place in places]).astype(np.float64)
    if interpolation == "spherical":
        if len(places) != 2:
            raise BadSetting("spherical is a way between two pictures: mix more of them with linear.")
        mu = interpolate(mus[0], mus[1], np.array([[shares[1]]]), interpolation)[0]
    else:
        mu = shares @ mus
    return LatentPoint(
        " + ".join(place.name for place in places), mu.astype(np.float32), None, first.width, first.height
    )


def offset_dimensions(mu: FloatArray, dims: Mapping[int, float], latent_range: LatentRange) -> FloatArray:
    """mu (d,) with single dimensions moved, by so many deviations of the collection. Raises BadSetting."""
    found = mu.copy()
    for dim, steps in dims.items():
        if not 0 <= dim < len(mu):
            raise BadSetting(f"There is no dimension {dim}: they are called 0 to {len(mu) - 1}.")
        found[dim] += np.float32(steps) * latent_range.deviation[dim]
    return found
