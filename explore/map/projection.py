"""Points in a plane for vectors of many dimensions: near each other where the vectors are, as far as a plane allows.

pca    the two directions in which the vectors vary most; exact, at once, and the same for pictures that come later
umap   neighbourhoods kept by a fuzzy graph (McInnes, Healy and Melville, arXiv 1802.03426); needs umap-learn
tsne   neighbourhoods kept as probabilities (van der Maaten and Hinton, JMLR 9, 2008); scikit-learn's
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

MIN_NEIGHBOURHOOD_IMAGES = 10  # pictures for umap and tsne: below, there are no neighbourhoods to keep
LAYOUT_SAMPLE_SIZES = {
    "umap": 100_000,
    "tsne": 20_000,
}  # at most laid out; others lie beside their neighbours among them
PLACEMENT_NEIGHBOURS = 5  # neighbours that say where another picture lies
LAYOUT_BLOCK_ROWS = 1024  # pictures whose distances to all others are in memory


def check_layout(name: str, count: int) -> None:
    """Raises BadSetting for a layout that there is not, or not here, TooFewPictures."""
    if name not in LAYOUTS:
        raise BadSetting(f"layout can't be {name!r}. Give one of {', '.join(LAYOUTS)}.")
    if name == "umap" and find_spec("umap") is None:
        raise BadSetting(
            "layout umap needs umap-learn, which is not installed. Run `pip install 'simile[map]'`, or use pca or tsne."
        )
    if name != "pca" and count < MIN_NEIGHBOURHOOD_IMAGES:
        raise TooFewPictures(
            f"layout {name} needs at least {MIN_NEIGHBOURHOOD_IMAGES} pictures, and there are {count}. Use pca."
        )


def compute_layout(vectors: FloatArray, name: LayoutName, seed: int) -> FloatArray:
    """Points (n, 2) for vectors (n, d), centred, their larger side 2 long. Raises BadSetting, TooFewPictures."""
    check_layout(name, len(vectors))
    if name == "pca":
        return _normalise_points(compute_principal_components(vectors))
    most = LAYOUT_SAMPLE_SIZES[name]
    if len(vectors) <= most:
        return _normalise_points(_compute_neighbourhood_layout(vectors, name, seed))
    drawn = np.sort(np.random.default_rng(seed).choice(len(vectors), most, replace=False))
    points = np.empty((len(vectors), 2), np.float32)
    points[drawn] = _compute_neighbourhood_layout(vectors[drawn], name, seed)
    others = np.setdiff1d(np.arange(len(vectors)), drawn)
    points[others] = interpolate_points(vectors[others], vectors[drawn], points[drawn])
    return _normalise_points(points)


def compute_principal_components(vectors: FloatArray) -> FloatArray:
    """The first two principal components (n, 2) of vectors (n, d); each turned so that its largest weight is positive.

    Pearson, 1901. A missing second direction, as of one dimension or one picture, is 0.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :2]  # (d, at most 2), the longest first
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    found = np.zeros((len(vectors), 2), np.float32)
    found[:, : axes.shape[1]] = centred @ axes
    return found


def interpolate_points(vectors: FloatArray, known_vectors: FloatArray, known_points: FloatArray) -> FloatArray:
    """Where vectors (m, d) lie in a plane in which `known` (n, d) lie at points (n, 2): amid their nearest of those."""
    found = np.empty((len(vectors), 2), np.float32)
    squares = np.square(known_vectors).sum(axis=1)
    k = min(PLACEMENT_NEIGHBOURS, len(known_vectors))
    for start in range(0, len(vectors), LAYOUT_BLOCK_ROWS):
        block = vectors[start : start + LAYOUT_BLOCK_ROWS]
        apart = squares - 2 * block @ known_vectors.T  # (b, n), less the block's own squares
        nearest = np.argpartition(apart, k - 1, axis=1)[:, :k]
        own = np.square(block).sum(axis=1)[:, None]
        distances = np.sqrt(np.maximum(np.take_along_axis(apart, nearest, axis=1) + own, 0))
        weights = 1 / (distances + 1e-6)
        weights /= weights.sum(axis=1, keepdims=True)
        found[start : start + LAYOUT_BLOCK_ROWS] = (weights[..., None] * known_points[nearest]).sum(axis=1)
    return found


def _compute_neighbourhood_layout(vectors: FloatArray, name: LayoutName, seed: int) -> FloatArray:
    """By scikit-learn or umap-learn: both take seconds to import, and minutes for tens of thousands of pictures."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # umap says that a seed costs threads, numba what it can't compile
        made = _make_umap(len(vectors), seed) if name == "umap" else _make_tsne(len(vectors), seed)
        return np.asarray(made.fit_transform(vectors), np.float32)


def _make_umap(count: int, seed: int) -> Any:
    from umap import UMAP  # noqa: PLC0415

    return UMAP(n_neighbors=min(15, count - 1), min_dist=0.1, random_state=seed, n_jobs=1)


def _make_tsne(count: int, seed: int) -> Any:
    from sklearn.manifold import TSNE  # noqa: PLC0415

    return TSNE(perplexity=min(30.0, (count - 1) / 3), init="pca", random_state=seed)


def _normalise_points(points: FloatArray) -> FloatArray:
    low, high = points.min(axis=0), points.max(axis=0)
    reach = float((high - low).max()) / 2
    found: FloatArray = ((points - (low + high) / 2) / (reach or 1.0)).astype(np.float32)
    return found
