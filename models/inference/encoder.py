"""A trained encoder: pictures in, Latent out; mu in, pictures out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from simile.core.errors import BadSetting, CheckpointDamaged, EncoderMismatch, NotFinite
from simile.core.records import FloatArray, Latent
from simile.images.formats import Pixels
from simile.images.transforms import Preprocessing, scale_to_unit
from simile.models.checkpoints import checkpoint
from simile.models.checkpoints.description import EncoderDescription
from simile.models.checkpoints.training_set import TrainingDigests
from simile.models.inference.devices import select_device
from simile.models.inference.parity import make_smooth_images
from simile.models.inference.runtimes import RUNTIME_SAMPLE_SIZE, DecoderModule, EncoderModule, LazyRuntime
from simile.models.networks.architecture import Architecture
from simile.models.networks.vae import Network, rename_legacy_weights

ENCODER_CHUNK_SIZE = 256  # pictures in one forward pass: bounded memory, and no faster beyond


class TrainedEncoder:
    """Weights with the preprocessing they were trained with. Safe to use from several threads."""

    def __init__(
        self,
        network: Network,
        preprocessing: Preprocessing,
        description: EncoderDescription,
        device: str,
        runtime: str = "auto",
        training_digests: TrainingDigests | None = None,
    ) -> None:
        self.device = select_device(device)
        self.network = network.to(self.device).eval()
        self.preprocessing = preprocessing
        self.description = description
        self.training_digests = training_digests  # None: nobody knows
        self.fingerprint = description.fingerprint
        self.metric = description.metric
        self.index_dims = description.index_dims
        self.latent_dim = network.architecture.latent_dim
        self.has_decoder = network.architecture.decoder
        self.has_variance = network.architecture.variational
        self._encoder_runtime = LazyRuntime(EncoderModule(self.network), self._make_sample, runtime, self.device)
        self._decoder_runtime = LazyRuntime(
            DecoderModule(self.network),
            lambda: self._encoder_runtime.eager.run(self._make_sample())[0],
            runtime,
            self.device,
        )

    @property
    def runtime(self) -> str:
        """What encoded last, as noted in every row; the fingerprint does not depend on it."""
        return self._encoder_runtime.name

    def start_runtimes(self) -> None:
        """Starts the faster runtimes now, and not after the first pictures: for a process that answers questions."""
        self._encoder_runtime.start()
        if self.has_decoder:
            self._decoder_runtime.start()

    @classmethod
    def load(cls, folder: Path, device: str = "auto", runtime: str = "auto") -> TrainedEncoder:
        """Rebuilds the encoder from its folder. Raises NoSuchEncoder or CheckpointDamaged."""
        weights, description = checkpoint.load_checkpoint(folder)
        network = Network(Architecture.from_dict(description.architecture))
        try:
            network.load_state_dict(rename_legacy_weights(weights))
        except RuntimeError as error:
            raise CheckpointDamaged(f"{folder}: the weights do not fit the architecture ({error}).") from None
        preprocessing = Preprocessing.from_dict(description.preprocessing)
        return cls(network, preprocessing, description, device, runtime, TrainingDigests.load(folder))

    def encode(self, batch: Pixels) -> Latent:
        """Latent of n pictures (n, S, S, C) uint8, in float32; sigma is None without a variance. Raises NotFinite."""
        mu, log_variance = self._encode_batch(batch)
        return Latent(mu, None if log_variance is None else np.exp(0.5 * log_variance))

    def encode_with_errors(self, batch: Pixels) -> tuple[Latent, FloatArray | None]:
        """`encode`, and the mean squared error (n,) of decoding mu, over the picture's values in [0, 1].

        Without a decoder the error is None.
        """
        latent = self.encode(batch)
        return latent, self.compute_errors(batch, latent.mu)

    def compute_errors(self, batch: Pixels, mu: FloatArray) -> FloatArray | None:
        """The errors (n,) of `embed`, of pictures (n, S, S, C) uint8 with a known mu (n, d); None without a decoder."""
        if not self.has_decoder:
            return None
        top, left, height, width = self.preprocessing.content_box()
        errors = np.empty(len(batch), dtype=np.float32)
        for part in _iterate_chunks(len(batch)):
            difference = self.decode(mu[part]) - scale_to_unit(batch[part])
            errors[part] = np.square(difference[:, :, top : top + height, left : left + width]).mean(axis=(1, 2, 3))
        return errors

    def decode(self, mu: FloatArray) -> FloatArray:
        """Mean pictures (n, C, S, S) in [0, 1] for mu (n, d). Raises NoDecoder, EncoderMismatch."""
        mu = np.asarray(mu, dtype=np.float32)
        if mu.ndim != 2 or mu.shape[1] != self.latent_dim:
            raise EncoderMismatch(
                f"Encoder {self.fingerprint} decodes vectors of {self.latent_dim}, not {mu.shape[-1]}."
            )
        return np.concatenate([self._decoder_runtime.run(mu[part])[0] for part in _iterate_chunks(len(mu))])

    def reconstruct(self, mu: FloatArray, width: int, height: int) -> Pixels:
        """What one mu (d,) stands for, (h, w, 3) uint8 in the aspect of a width x height picture."""
        return self.preprocessing.to_pixels(self.decode(mu[None])[0], width, height)

    def _make_sample(self) -> FloatArray:
        return make_smooth_images(RUNTIME_SAMPLE_SIZE, self.preprocessing.channels, self.preprocessing.image_size)

    def _encode_batch(self, batch: Pixels) -> tuple[FloatArray, FloatArray | None]:
        expected = (self.preprocessing.image_size, self.preprocessing.image_size, self.preprocessing.channels)
        if batch.shape[1:] != expected:
            raise BadSetting(f"Encoder {self.fingerprint} takes pictures of {expected}, not {batch.shape[1:]}.")
        parts = [
            self._encoder_runtime.run(scale_to_unit(batch[part])) for part in _iterate_chunks(len(batch))
        ]  # of (mu, log sigma²)
        outputs = [np.concatenate(chunks) for chunks in zip(*parts, strict=True)]
        if not all(np.isfinite(output).all() for output in outputs):
            raise NotFinite(f"Encoder {self.fingerprint} gave NaN or infinity. Its training went wrong: train again.")
        return outputs[0], outputs[1] if len(outputs) > 1 else None


def _iterate_chunks(count: int) -> Iterator[slice]:
    return (slice(start, start + ENCODER_CHUNK_SIZE) for start in range(0, count, ENCODER_CHUNK_SIZE))
