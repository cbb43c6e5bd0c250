"""Layouts: projections of vectors to points in a plane that keep similar images near each other.

pca    the two directions of most variance; exact, fast, and stable when images are added
umap   keeps neighbourhoods by a fuzzy graph (McInnes, Healy and Melville, arXiv 1802.03426); needs umap-learn
tsne   keeps neighbourhoods as probabilities (van der Maaten and Hinton, JMLR 9, 2008); of scikit-learn
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import Any, Literal, get_args

import numpy as np

from simile.core.errors import BadSetting, TooFewPictures
from simile.core.records import FloatArray

LayoutName = Literal["pca", "umap", "tsne"]
LAYOUTS: tuple[LayoutName, ...] = get_args(LayoutName)

MIN_NEIGHBOURHOOD_IMAGES = 10  # umap and tsne need neighbourhoods
LAYOUT_SAMPLE_SIZES = {"umap": 100_000, "tsne": 20_000}  # more take too long: the others are interpolated
INTERPOLATION_NEIGHBOURS = 5


def check_layout(name: str, count: int) -> None:
    """Check a layout, and whether its library is installed, for `count` images. Raises BadSetting, TooFewPictures."""
    if name not in LAYOUTS:
        raise BadSetting(f"layout can't be {name!r}. Give one of {', '.join(LAYOUTS)}.")
    if name == "umap" and find_spec("umap") is None:
        raise BadSetting(
            "layout umap needs umap-learn, which is not installed. Run `pip install 'simile[map]'`, or use pca or tsne."
        )
    if name != "pca" and count < MIN_NEIGHBOURHOOD_IMAGES:
        raise TooFewPictures(
            f"layout {name} needs at least {MIN_NEIGHBOURHOOD_IMAGES} images, and there are {count}. Use pca."
        )


def compute_layout(vectors: FloatArray, name: LayoutName, seed: int) -> FloatArray:
    """Project vectors (n, d) to points (n, 2), centred, with the larger side from -1 to 1.

    Raises BadSetting, TooFewPictures.
    """
    check_layout(name, len(vectors))
    if name == "pca":
        points = compute_principal_components(vectors)
    elif len(vectors) <= LAYOUT_SAMPLE_SIZES[name]:
        points = _compute_neighbourhood_layout(vectors, name, seed)
    else:
        # Lay out a sample, and interpolate the other points.
        count = len(vectors)
        sample = np.sort(np.random.default_rng(seed).choice(count, LAYOUT_SAMPLE_SIZES[name], replace=False))
        others = np.setdiff1d(np.arange(count), sample)
        points = np.empty((count, 2), np.float32)
        points[sample] = _compute_neighbourhood_layout(vectors[sample], name, seed)
        points[others] = interpolate_points(vectors[others], vectors[sample], points[sample])
    # Normalise to [-1, 1]; equal points stay at 0.
    low, high = points.min(axis=0), points.max(axis=0)
    half_side = float((high - low).max()) / 2 or 1.0
    normalised: FloatArray = ((points - (low + high) / 2) / half_side).astype(np.float32)
    return normalised


def compute_principal_components(vectors: FloatArray) -> FloatArray:
    """Return the first two principal components (n, 2) of vectors (n, d) (Pearson, 1901).

    The sign of each is such that its largest weight is positive. A missing component, as of one dimension, is 0.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :2]  # (d, 1 or 2), the largest variance first
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    components = np.zeros((len(vectors), 2), np.float32)
    components[:, : axes.shape[1]] = centred @ axes
    return components


def interpolate_points(vectors: FloatArray, known_vectors: FloatArray, known_points: FloatArray) -> FloatArray:
    """Place vectors (m, d) in a plane among known vectors (n, d) with points (n, 2).

    A point is the mean of the nearest known points, weighted by inverse distance.
    """
    from sklearn.neighbors import KNeighborsRegressor  # noqa: PLC0415  # slow to import, and only needed here

    regressor = KNeighborsRegressor(
        min(INTERPOLATION_NEIGHBOURS, len(known_vectors)),
        weights=lambda distances: 1 / (distances + 1e-6),  # a copy of a known vector gets nearly its point
        algorithm="brute",  # trees are slower for many dimensions
    )
    points: FloatArray = regressor.fit(known_vectors, known_points).predict(vectors).astype(np.float32)
    return points


def _compute_neighbourhood_layout(vectors: FloatArray, name: LayoutName, seed: int) -> FloatArray:
    """Run umap or tsne. Both take seconds to import, and minutes for tens of thousands of images."""
    count = len(vectors)
    reducer: Any
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # umap warns that a seed costs threads, numba of code that it can't compile
        if name == "umap":
            from umap import UMAP  # noqa: PLC0415

            reducer = UMAP(n_neighbors=min(15, count - 1), min_dist=0.1, random_state=seed, n_jobs=1)
        else:
            from sklearn.manifold import TSNE  # noqa: PLC0415

            reducer = TSNE(perplexity=min(30.0, (count - 1) / 3), init="pca", random_state=seed)
        return np.asarray(reducer.fit_transform(vectors), np.float32)
