"""Embedding methods to compare: raw pixels, PCA, a perceptual hash, encoders and their posteriors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn

from simile.core.errors import NoVariance
from simile.core.records import FloatArray
from simile.evaluation.neighbours import VectorArray
from simile.images.formats import Pixels
from simile.images.transforms import Preprocessing
from simile.models.inference.encoder import TrainedEncoder
from simile.models.pretrained import is_shipped
from simile.search.posterior import to_indexed_sigma
from simile.store.index.metric import make_index_vectors

HASH_INPUT = Preprocessing(image_size=32, channels=1)  # grey, stretched to 32 x 32
HASH_SIDE = 8  # lowest frequencies per axis: 64 bits
MAX_PCA_FIT_BYTES = 256 << 20  # maximum float32 pixels to fit PCA on


class EmbeddingMethod(ABC):
    """Makes vectors of images, which are compared by Euclidean distance; `fit` is called before `embed`."""

    name: str
    preprocessing: Preprocessing
    dimension: int  # of the indexed vector
    bytes_stored: int
    bytes_indexed: int
    encoder: TrainedEncoder | None = None  # None for a baseline
    needs_fit = False  # whether `fit` does anything

    def fit(self, images: Pixels) -> None:  # noqa: B027  # most methods need none
        """Fit the method to the searched images (n, S, S, C)."""

    @abstractmethod
    def embed(self, images: Pixels) -> VectorArray:
        """Embed images (n, S, S, C) uint8 to (n, d)."""

    def reconstruct(self, images: Pixels) -> FloatArray | None:  # noqa: ARG002
        """Reconstruct images (n, S, S, C) without padding, (n, C, h, w) in [0, 1]; None if that is impossible."""
        return None


def crop_padding(images: Pixels, preprocessing: Preprocessing) -> Pixels:
    """Crop the padding of images: (n, S, S, C) to (n, h, w, C)."""
    top, left, height, width = preprocessing.content_box()
    return images[:, top : top + height, left : left + width]


class RawPixels(EmbeddingMethod):
    """The pixels of an image as its vector."""

    name = "pixels"

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing
        _, _, height, width = preprocessing.content_box()
        self.dimension = self.bytes_stored = self.bytes_indexed = height * width * preprocessing.channels

    def embed(self, images: Pixels) -> VectorArray:
        """Embed images; see EmbeddingMethod."""
        return crop_padding(images, self.preprocessing).reshape(len(images), -1)


class PrincipalComponents(EmbeddingMethod):
    """PCA of the pixels: the best linear autoencoder of this dimension."""

    needs_fit = True

    def __init__(self, preprocessing: Preprocessing, dimension: int, seed: int) -> None:
        self.name = f"PCA-{dimension}"
        self.preprocessing = preprocessing
        self.dimension = dimension
        self.bytes_stored = self.bytes_indexed = 4 * dimension
        self._seed = seed
        self._pca: Any = None

    def fit(self, images: Pixels) -> None:
        """Fit PCA to all images, or to a random sample if they exceed MAX_PCA_FIT_BYTES."""
        from sklearn.decomposition import PCA  # noqa: PLC0415  # slow import

        values = crop_padding(images, self.preprocessing).reshape(len(images), -1)
        max_count = max(self.dimension, MAX_PCA_FIT_BYTES // (4 * values.shape[1]))
        if len(values) > max_count:
            values = values[np.sort(np.random.default_rng(self._seed).choice(len(values), max_count, replace=False))]
        count = min(self.dimension, *values.shape)
        self._pca = PCA(count, random_state=self._seed, iterated_power=4).fit(values.astype(np.float32) / 255)

    def embed(self, images: Pixels) -> FloatArray:
        """Embed images; see EmbeddingMethod."""
        values = crop_padding(images, self.preprocessing).reshape(len(images), -1)
        parts = [self._pca.transform(values[part].astype(np.float32) / 255) for part in make_chunks(len(values))]
        return np.concatenate(parts).astype(np.float32)

    def reconstruct(self, images: Pixels) -> FloatArray:
        """Reconstruct images; see EmbeddingMethod."""
        pixels = self._pca.inverse_transform(self.embed(images)).astype(np.float32)
        _, _, height, width = self.preprocessing.content_box()
        images_ = pixels.reshape(len(images), height, width, self.preprocessing.channels).transpose(0, 3, 1, 2)
        return np.ascontiguousarray(np.clip(images_, 0, 1))


class PerceptualHash(EmbeddingMethod):
    """pHash: 64 bits, whether each of the lowest frequencies of a 32 x 32 grey image is above their median.

    The squared distance of two bit vectors is their Hamming distance. As in the imagehash library: DCT-II on both axes,
    with the constant term.
    """

    name = "pHash"
    preprocessing = HASH_INPUT
    dimension = HASH_SIDE**2
    bytes_stored = bytes_indexed = HASH_SIDE**2 // 8

    def embed(self, images: Pixels) -> NDArray[np.uint8]:
        """Embed images; see EmbeddingMethod."""
        frequencies = dctn(images[..., 0].astype(np.float64), axes=(1, 2))  # (n, 32, 32), lowest first
        spectrum = frequencies[:, :HASH_SIDE, :HASH_SIDE].reshape(len(images), -1)  # (n, 64)
        bits: NDArray[np.uint8] = (spectrum > np.median(spectrum, axis=1, keepdims=True)).astype(np.uint8)
        return bits


class EncoderMethod(EmbeddingMethod):
    """The indexed vectors of a trained encoder."""

    encoder: TrainedEncoder

    def __init__(self, encoder: TrainedEncoder) -> None:
        label = "shipped" if is_shipped(encoder.fingerprint) else encoder.description.label
        self.name = f"{label} {encoder.fingerprint[:6]}"
        self.encoder = encoder
        self.preprocessing = encoder.preprocessing
        index_dims: Any = encoder.index_dims  # None, a count, or a list
        dims = encoder.latent_dim if index_dims is None else index_dims
        self.dimension = dims if isinstance(dims, int) else len(dims)
        self.bytes_stored = 4 * encoder.latent_dim * (2 if encoder.has_variance else 1)
        self.bytes_indexed = 4 * self.dimension

    def embed(self, images: Pixels) -> FloatArray:
        """Embed images; see EmbeddingMethod."""
        return make_index_vectors(self.encoder.encode(images).mu, self.encoder.index_dims, self.encoder.metric)

    def reconstruct(self, images: Pixels) -> FloatArray | None:
        """Reconstruct images; see EmbeddingMethod."""
        if not self.encoder.has_decoder:
            return None
        top, left, height, width = self.preprocessing.content_box()
        decoded = self.encoder.decode(self.encoder.encode(images).mu)
        return np.ascontiguousarray(decoded[:, :, top : top + height, left : left + width])


class PosteriorMethod(EmbeddingMethod):
    """The posteriors of a trained encoder as [mu, sigma]: their Euclidean distance is the 2-Wasserstein distance.

    Its `encoder` is None: the metrics of the encoder itself are in its EncoderMethod row. Raises NoVariance for an
    encoder without a variance.
    """

    def __init__(self, encoder: TrainedEncoder) -> None:
        if not encoder.has_variance:
            raise NoVariance(f"Encoder {encoder.fingerprint} has no variance: leave out --posterior, or this encoder.")
        mean_method = EncoderMethod(encoder)
        self.name = f"{mean_method.name} ±σ"
        self.preprocessing = encoder.preprocessing
        self.dimension, self.bytes_stored = 2 * mean_method.dimension, mean_method.bytes_stored
        self.bytes_indexed = 2 * mean_method.bytes_indexed
        self._encoder = encoder

    def embed(self, images: Pixels) -> FloatArray:
        """Embed images; see EmbeddingMethod."""
        latent = self._encoder.encode(images)
        assert latent.sigma is not None  # __init__ checks it
        mu = make_index_vectors(latent.mu, self._encoder.index_dims, self._encoder.metric)
        return np.concatenate([mu, to_indexed_sigma(latent.mu, latent.sigma, self._encoder)], axis=1)


def make_chunks(count: int, chunk_size: int = 256) -> list[slice]:
    """Return slices of `chunk_size` images, to bound the memory."""
    return [slice(start, min(start + chunk_size, count)) for start in range(0, count, chunk_size)]
