"""What makes a vector of a picture: one method for each row of the ladder."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from simile.core.errors import NoVariance
from simile.core.records import FloatArray
from simile.evaluation.neighbours import Vectors
from simile.images.transforms import Pixels, Preprocessing, to_unit
from simile.models.inference.encoder import TrainedEncoder
from simile.search.posterior import indexed_sigma
from simile.store.index.metric import to_indexed

HASH_INPUT = Preprocessing(32, 1)  # grey, stretched to 32 x 32
HASH_SIDE = 8  # lowest frequencies each way: 64 bits
FIT_BYTES = 256 << 20  # of float32 pixels that PCA is fitted on at most


class Method(Protocol):
    """Vectors are compared by Euclidean distance. `fit` is called with the collection's pictures before `vectors`."""

    name: str
    preprocessing: Preprocessing
    fits: bool  # whether `fit` does anything
    dimension: int  # of the indexed vector
    bytes_stored: int
    bytes_indexed: int

    @property
    def encoder(self) -> TrainedEncoder | None: ...

    def fit(self, pictures: Pixels) -> None: ...

    def vectors(self, pictures: Pixels) -> Vectors:
        """(n, S, S, C) uint8 to (n, d)."""
        ...

    def reconstruct(self, pictures: Pixels) -> FloatArray | None:
        """What is left of pictures (n, S, S, C), without padding: (n, C, h, w) in [0, 1]; None without a way back."""
        ...


def content(pictures: Pixels, preprocessing: Preprocessing) -> Pixels:
    """(n, S, S, C) without padding: (n, h, w, C)."""
    top, left, height, width = preprocessing.content_box()
    return pictures[:, top : top + height, left : left + width]


class RawPixels:
    """The pixels as they are."""

    name = "pixels"
    encoder = None
    fits = False

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing
        _, _, height, width = preprocessing.content_box()
        self.dimension = self.bytes_stored = self.bytes_indexed = height * width * preprocessing.channels

    def fit(self, pictures: Pixels) -> None:
        """Nothing to learn."""

    def vectors(self, pictures: Pixels) -> Vectors:
        return content(pictures, self.preprocessing).reshape(len(pictures), -1)

    def reconstruct(self, pictures: Pixels) -> None:  # noqa: ARG002  # there is no way back worth the name
        return None


class PrincipalComponents:
    """PCA of the pixels: the best linear autoencoder of so many numbers."""

    encoder = None
    fits = True

    def __init__(self, preprocessing: Preprocessing, dimension: int, seed: int) -> None:
        self.name = f"PCA-{dimension}"
        self.preprocessing = preprocessing
        self.dimension = dimension
        self.bytes_stored = self.bytes_indexed = 4 * dimension
        self._seed = seed
        self._pca: Any = None

    def fit(self, pictures: Pixels) -> None:
        """On all pictures, or on a seeded sample where they would not fit into memory as float32."""
        from sklearn.decomposition import PCA  # noqa: PLC0415  # a second, and only here

        values = content(pictures, self.preprocessing).reshape(len(pictures), -1)
        most = max(self.dimension, FIT_BYTES // (4 * values.shape[1]))
        if len(values) > most:
            values = values[np.sort(np.random.default_rng(self._seed).choice(len(values), most, replace=False))]
        count = min(self.dimension, *values.shape)
        self._pca = PCA(count, random_state=self._seed, iterated_power=4).fit(values.astype(np.float32) / 255)

    def vectors(self, pictures: Pixels) -> FloatArray:
        values = content(pictures, self.preprocessing).reshape(len(pictures), -1)
        parts = [self._pca.transform(values[part].astype(np.float32) / 255) for part in chunks(len(values))]
        return np.concatenate(parts).astype(np.float32)

    def reconstruct(self, pictures: Pixels) -> FloatArray:
        back = self._pca.inverse_transform(self.vectors(pictures)).astype(np.float32)
        _, _, height, width = self.preprocessing.content_box()
        shaped = back.reshape(len(pictures), height, width, self.preprocessing.channels).transpose(0, 3, 1, 2)
        return np.ascontiguousarray(np.clip(shaped, 0, 1))


class PerceptualHash:
    """pHash: the signs, against their median, of the 64 lowest frequencies of a 32 x 32 grey picture.

    The squared distance of two vectors of bits is their Hamming distance. As in the imagehash library: DCT-II both
    ways, the constant term among the 64.
    """

    name = "pHash"
    encoder = None
    preprocessing = HASH_INPUT
    fits = False
    dimension = HASH_SIDE**2
    bytes_stored = bytes_indexed = HASH_SIDE**2 // 8

    def fit(self, pictures: Pixels) -> None:
        """Nothing to learn."""

    def vectors(self, pictures: Pixels) -> NDArray[np.uint8]:
        lowest = _cosines(HASH_INPUT.image_size)[:HASH_SIDE]  # (8, 32)
        grey = pictures[..., 0].astype(np.float64)  # (n, 32, 32)
        spectrum = (lowest @ grey @ lowest.T).reshape(len(pictures), -1)  # (n, 64)
        return (spectrum > np.median(spectrum, axis=1, keepdims=True)).astype(np.uint8)

    def reconstruct(self, pictures: Pixels) -> None:  # noqa: ARG002  # there is no way back worth the name
        return None


def _cosines(size: int) -> NDArray[np.float64]:
    """The matrix of the discrete cosine transform (type II), (size, size), lowest frequency first."""
    places = np.arange(size)
    return np.cos(np.pi * places[:, None] * (2 * places + 1) / (2 * size))


class Encoded:
    """A trained encoder: its indexed vectors, by its own metric."""

    fits = False

    def __init__(self, encoder: TrainedEncoder) -> None:
        self.name = f"{encoder.description['recipe']['name']} {encoder.fingerprint[:6]}"
        self.encoder = encoder
        self.preprocessing = encoder.preprocessing
        index_dims: Any = encoder.index_dims  # None, a count, or a list
        whole = encoder.latent_dim if index_dims is None else index_dims
        self.dimension = whole if isinstance(whole, int) else len(whole)
        self.bytes_stored = 4 * encoder.latent_dim * (2 if encoder.has_variance else 1)
        self.bytes_indexed = 4 * self.dimension

    def fit(self, pictures: Pixels) -> None:
        """Trained already."""

    def vectors(self, pictures: Pixels) -> FloatArray:
        return to_indexed(self.encoder.encode(pictures).mu, self.encoder.index_dims, self.encoder.metric)

    def reconstruct(self, pictures: Pixels) -> FloatArray | None:
        if not self.encoder.has_decoder:
            return None
        top, left, height, width = self.preprocessing.content_box()
        decoded = self.encoder.decode(self.encoder.encode(pictures).mu)
        return np.ascontiguousarray(decoded[:, :, top : top + height, left : left + width])


class Posteriors:
    """A trained encoder's whole posteriors: [mu, sigma], whose Euclidean distance is the 2-Wasserstein distance.

    Raises NoVariance for an encoder without one.
    """

    encoder = None  # what is said of the encoder itself stands in its own row
    fits = False

    def __init__(self, encoder: TrainedEncoder) -> None:
        if not encoder.has_variance:
            raise NoVariance(f"Encoder {encoder.fingerprint} has no variance: leave --posterior out, or the encoder.")
        means = Encoded(encoder)
        self.name = f"{means.name} ±σ"
        self.preprocessing = encoder.preprocessing
        self.dimension, self.bytes_stored = 2 * means.dimension, means.bytes_stored
        self.bytes_indexed = 2 * means.bytes_indexed
        self._network = encoder

    def fit(self, pictures: Pixels) -> None:
        """Trained already."""

    def vectors(self, pictures: Pixels) -> FloatArray:
        latent = self._network.encode(pictures)
        assert latent.sigma is not None  # as asked when it was made
        mu = to_indexed(latent.mu, self._network.index_dims, self._network.metric)
        return np.concatenate([mu, indexed_sigma(latent.mu, latent.sigma, self._network)], axis=1)

    def reconstruct(self, pictures: Pixels) -> None:  # noqa: ARG002  # that of the encoder's own row
        return None


def originals(pictures: Pixels, preprocessing: Preprocessing) -> FloatArray:
    """What a reconstruction is held against: (n, C, h, w) in [0, 1]."""
    return to_unit(content(pictures, preprocessing))


def chunks(count: int, together: int = 256) -> list[slice]:
    """Slices of so many pictures: bounded memory."""
    return [slice(start, min(start + together, count)) for start in range(0, count, together)]
