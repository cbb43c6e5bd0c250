"""What makes a vector of a picture: one method for each row of the ladder."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from simile.core.errors import NoVariance
from simile.core.records import FloatArray
from simile.evaluation.neighbours import VectorArray
from simile.images.formats import Pixels
from simile.images.transforms import Preprocessing, scale_to_unit
from simile.models.inference.encoder import TrainedEncoder
from simile.search.posterior import to_indexed_sigma
from simile.store.index.metric import make_index_vectors

HASH_INPUT = Preprocessing(image_size=32, channels=1)  # grey, stretched to 32 x 32
HASH_SIDE = 8  # lowest frequencies each way: 64 bits
MAX_PCA_FIT_BYTES = 256 << 20  # of float32 pixels that PCA is fitted on at most


class EmbeddingMethod(Protocol):
    """Vectors are compared by Euclidean distance. `fit` is called with the collection's pictures before `vectors`."""

    name: str
    preprocessing: Preprocessing
    needs_fit: bool  # whether `fit` does anything
    dimension: int  # of the indexed vector
    bytes_stored: int
    bytes_indexed: int

    @property
    def encoder(self) -> TrainedEncoder | None: ...

    def fit(self, images: Pixels) -> None: ...

    def embed(self, images: Pixels) -> VectorArray:
        """(n, S, S, C) uint8 to (n, d)."""
        ...

    def reconstruct(self, images: Pixels) -> FloatArray | None:
        """What is left of pictures (n, S, S, C), without padding: (n, C, h, w) in [0, 1]; None without a way back."""
        ...


def crop_padding(images: Pixels, preprocessing: Preprocessing) -> Pixels:
    """(n, S, S, C) without padding: (n, h, w, C)."""
    top, left, height, width = preprocessing.content_box()
    return images[:, top : top + height, left : left + width]


class RawPixels:
    """The pixels as they are."""

    name = "pixels"
    encoder = None
    needs_fit = False

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing
        _, _, height, width = preprocessing.content_box()
        self.dimension = self.bytes_stored = self.bytes_indexed = height * width * preprocessing.channels

    def fit(self, images: Pixels) -> None:
        """Nothing to learn."""

    def embed(self, images: Pixels) -> VectorArray:
        return crop_padding(images, self.preprocessing).reshape(len(images), -1)

    def reconstruct(self, images: Pixels) -> None:  # noqa: ARG002  # there is no way back worth the name
        return None


class PrincipalComponents:
    """PCA of the pixels: the best linear autoencoder of so many numbers."""

    encoder = None
    needs_fit = True

    def __init__(self, preprocessing: Preprocessing, dimension: int, seed: int) -> None:
        self.name = f"PCA-{dimension}"
        self.preprocessing = preprocessing
        self.dimension = dimension
        self.bytes_stored = self.bytes_indexed = 4 * dimension
        self._seed = seed
        self._pca: Any = None

    def fit(self, images: Pixels) -> None:
        """On all pictures, or on a seeded sample where they would not fit into memory as float32."""
        from sklearn.decomposition import PCA  # noqa: PLC0415  # a second, and only here

        values = crop_padding(images, self.preprocessing).reshape(len(images), -1)
        most = max(self.dimension, MAX_PCA_FIT_BYTES // (4 * values.shape[1]))
        if len(values) > most:
            values = values[np.sort(np.random.default_rng(self._seed).choice(len(values), most, replace=False))]
        count = min(self.dimension, *values.shape)
        self._pca = PCA(count, random_state=self._seed, iterated_power=4).fit(values.astype(np.float32) / 255)

    def embed(self, images: Pixels) -> FloatArray:
        values = crop_padding(images, self.preprocessing).reshape(len(images), -1)
        parts = [self._pca.transform(values[part].astype(np.float32) / 255) for part in make_chunks(len(values))]
        return np.concatenate(parts).astype(np.float32)

    def reconstruct(self, images: Pixels) -> FloatArray:
        back = self._pca.inverse_transform(self.embed(images)).astype(np.float32)
        _, _, height, width = self.preprocessing.content_box()
        shaped = back.reshape(len(images), height, width, self.preprocessing.channels).transpose(0, 3, 1, 2)
        return np.ascontiguousarray(np.clip(shaped, 0, 1))


class PerceptualHash:
    """pHash: the signs, against their median, of the 64 lowest frequencies of a 32 x 32 grey picture.

    The squared distance of two vectors of bits is their Hamming distance. As in the imagehash library: DCT-II both
    ways, the constant term among the 64.
    """

    name = "pHash"
    encoder = None
    preprocessing = HASH_INPUT
    needs_fit = False
    dimension = HASH_SIDE**2
    bytes_stored = bytes_indexed = HASH_SIDE**2 // 8

    def fit(self, images: Pixels) -> None:
        """Nothing to learn."""

    def embed(self, images: Pixels) -> NDArray[np.uint8]:
        lowest = _make_dct_matrix(HASH_INPUT.image_size)[:HASH_SIDE]  # (8, 32)
        grey = images[..., 0].astype(np.float64)  # (n, 32, 32)
        spectrum = (lowest @ grey @ lowest.T).reshape(len(images), -1)  # (n, 64)
        return (spectrum > np.median(spectrum, axis=1, keepdims=True)).astype(np.uint8)

    def reconstruct(self, images: Pixels) -> None:  # noqa: ARG002  # there is no way back worth the name
        return None


def _make_dct_matrix(size: int) -> NDArray[np.float64]:
    """The matrix of the discrete cosine transform (type II), (size, size), lowest frequency first."""
    places = np.arange(size)
    return np.cos(np.pi * places[:, None] * (2 * places + 1) / (2 * size))


class EncoderMethod:
    """A trained encoder: its indexed vectors, by its own metric."""

    needs_fit = False

    def __init__(self, encoder: TrainedEncoder) -> None:
        self.name = f"{encoder.description.recipe_name} {encoder.fingerprint[:6]}"
        self.encoder = encoder
        self.preprocessing = encoder.preprocessing
        index_dims: Any = encoder.index_dims  # None, a count, or a list
        whole = encoder.latent_dim if index_dims is None else index_dims
        self.dimension = whole if isinstance(whole, int) else len(whole)
        self.bytes_stored = 4 * encoder.latent_dim * (2 if encoder.has_variance else 1)
        self.bytes_indexed = 4 * self.dimension

    def fit(self, images: Pixels) -> None:
        """Trained already."""

    def embed(self, images: Pixels) -> FloatArray:
        return make_index_vectors(self.encoder.encode(images).mu, self.encoder.index_dims, self.encoder.metric)

    def reconstruct(self, images: Pixels) -> FloatArray | None:
        if not self.encoder.has_decoder:
            return None
        top, left, height, width = self.preprocessing.content_box()
        decoded = self.encoder.decode(self.encoder.encode(images).mu)
        return np.ascontiguousarray(decoded[:, :, top : top + height, left : left + width])


class PosteriorMethod:
    """A trained encoder's whole posteriors: [mu, sigma], whose Euclidean distance is the 2-Wasserstein distance.

    Raises NoVariance for an encoder without one.
    """

    encoder = None  # what is said of the encoder itself stands in its own row
    needs_fit = False

    def __init__(self, encoder: TrainedEncoder) -> None:
        if not encoder.has_variance:
            raise NoVariance(f"Encoder {encoder.fingerprint} has no variance: leave --posterior out, or the encoder.")
        means = EncoderMethod(encoder)
        self.name = f"{means.name} ±σ"
        self.preprocessing = encoder.preprocessing
        self.dimension, self.bytes_stored = 2 * means.dimension, means.bytes_stored
        self.bytes_indexed = 2 * means.bytes_indexed
        self._encoder = encoder

    def fit(self, images: Pixels) -> None:
        """Trained already."""

    def embed(self, images: Pixels) -> FloatArray:
        latent = self._encoder.encode(images)
        assert latent.sigma is not None  # as asked when it was made
        mu = make_index_vectors(latent.mu, self._encoder.index_dims, self._encoder.metric)
        return np.concatenate([mu, to_indexed_sigma(latent.mu, latent.sigma, self._encoder)], axis=1)

    def reconstruct(self, images: Pixels) -> None:  # noqa: ARG002  # that of the encoder's own row
        return None


def make_reconstruction_targets(images: Pixels, preprocessing: Preprocessing) -> FloatArray:
    """What a reconstruction is held against: (n, C, h, w) in [0, 1]."""
    return scale_to_unit(crop_padding(images, preprocessing))


def make_chunks(count: int, chunk_size: int = 256) -> list[slice]:
    """Slices of so many pictures: bounded memory."""
    return [slice(start, min(start + chunk_size, count)) for start in range(0, count, chunk_size)]
