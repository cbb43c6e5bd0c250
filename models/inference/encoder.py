"""A trained encoder: images to latents, and mu back to images."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock

import numpy as np

from simile.core.errors import BadSetting, CheckpointDamaged, EncoderMismatch, NotFinite
from simile.core.records import FloatArray, Latent
from simile.images.formats import Pixels
from simile.images.transforms import Preprocessing, scale_to_unit
from simile.models.checkpoints import checkpoint
from simile.models.checkpoints.description import EncoderDescription
from simile.models.checkpoints.training_set import TrainingDigests
from simile.models.external.runtimes import ExternalRuntime
from simile.models.external.text_tower import TEXT_FILES, TextTower
from simile.models.inference.parity import make_smooth_images
from simile.models.inference.runtimes import (
    RUNTIME_SAMPLE_SIZE,
    DecoderModule,
    EncoderModule,
    LazyRuntime,
    select_device,
)
from simile.models.networks.architecture import Architecture
from simile.models.networks.external import ExternalModel
from simile.models.networks.vae import Network, rename_legacy_weights

ENCODER_CHUNK_SIZE = 256  # images in one forward pass: limits memory, and more are not faster
CHUNK_PIXELS = 1 << 20  # of the images in one forward pass, which takes memory for each of them
MIN_CHUNK_SIZE = 8


class TrainedEncoder:
    """A network with the preprocessing that it was trained with; see EncoderDescription. Thread-safe.

    Attributes:
        training_digests: Hashes of the training images; None if they are not known.
    """

    def __init__(
        self,
        network: Network,
        preprocessing: Preprocessing,
        description: EncoderDescription,
        device: str,
        runtime: str = "auto",
        training_digests: TrainingDigests | None = None,
        folder: Path | None = None,
    ) -> None:
        """Take what `load` has read; the folder may have a text tower."""
        self.device = select_device(device)
        self.network = network.to(self.device).eval()
        self.preprocessing = preprocessing
        self.description = description
        self.training_digests = training_digests
        self.fingerprint = description.fingerprint
        self.metric = description.metric
        self.index_dims = description.index_dims
        self.latent_dim = network.architecture.latent_dim
        self.has_decoder = network.architecture.decoder
        self.has_variance = network.architecture.variational
        self.has_text_tower = description.text is not None
        self.folder = folder
        self._text_tower: TextTower | None = None
        self._text_lock = Lock()
        self._chunk_size = max(MIN_CHUNK_SIZE, min(ENCODER_CHUNK_SIZE, CHUNK_PIXELS // preprocessing.image_size**2))
        trunk = network.encoder.trunk
        self._encoder_runtime: LazyRuntime | ExternalRuntime
        if isinstance(trunk, ExternalModel):
            self._encoder_runtime = ExternalRuntime(trunk, self._make_sample, runtime)
        else:
            self._encoder_runtime = LazyRuntime(EncoderModule(self.network), self._make_sample, runtime, self.device)
        self._decoder_runtime = LazyRuntime(
            DecoderModule(self.network),
            lambda: self._encoder_runtime.eager.run(self._make_sample())[0],
            runtime,
            self.device,
        )

    @property
    def runtime(self) -> str:
        """Name of the runtime that encodes, as stored with every vector; the fingerprint does not depend on it."""
        return self._encoder_runtime.name

    def start_runtimes(self) -> None:
        """Start the faster runtimes now instead of after the first images: for a process that answers queries."""
        self._encoder_runtime.start()
        if self.has_decoder:
            self._decoder_runtime.start()

    @classmethod
    def load(cls, folder: Path, device: str = "auto", runtime: str = "auto") -> TrainedEncoder:
        """Load an encoder from its folder. Raises NoSuchEncoder or CheckpointDamaged."""
        weights, description = checkpoint.load_checkpoint(folder)
        network = Network(Architecture.from_dict(description.architecture))
        try:
            network.load_state_dict(rename_legacy_weights(weights))
        except RuntimeError as error:
            raise CheckpointDamaged(f"{folder}: the weights do not fit the architecture ({error}).") from None
        preprocessing = Preprocessing.from_dict(description.preprocessing)
        return cls(network, preprocessing, description, device, runtime, TrainingDigests.load(folder), folder)

    def encode(self, batch: Pixels) -> Latent:
        """Return the latents (n, d) of preprocessed images (n, S, S, C) uint8.

        Raises BadSetting for images of another shape, NotFinite if the network gives NaN or infinity.
        """
        expected = (self.preprocessing.image_size, self.preprocessing.image_size, self.preprocessing.channels)
        if batch.shape[1:] != expected:
            raise BadSetting(f"Encoder {self.fingerprint} takes images of {expected}, not {batch.shape[1:]}.")
        chunks = [
            self._encoder_runtime.run(self.preprocessing.normalise(scale_to_unit(batch[rows])))
            for rows in self._iterate_chunks(len(batch))
        ]
        outputs = [np.concatenate(parts) for parts in zip(*chunks, strict=True)]  # mu and log sigma²
        if not all(np.isfinite(output).all() for output in outputs):
            hint = "export it again." if self.description.name else "its training failed. Train again."
            raise NotFinite(f"Encoder {self.fingerprint} gave NaN or infinity: {hint}")
        return Latent(outputs[0], np.exp(0.5 * outputs[1]) if len(outputs) > 1 else None)

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """Return the vectors (n, d) of texts by the text tower.

        Raises BadSetting if there is none or the package tokenizers is not installed, CheckpointDamaged, NotFinite.
        """
        if self.description.text is None or self.folder is None:
            raise BadSetting(
                f"Encoder {self.fingerprint} has no text tower. Add one with `simile encoders add IMAGE.onnx --text "
                "TEXT.onnx --tokenizer tokenizer.json`."
            )
        with self._text_lock:
            if self._text_tower is None:
                self._text_tower = TextTower.load(self.folder, self.description.text)
        return self._text_tower.encode(texts)

    def copy_text_tower(self, folder: Path) -> None:
        """Copy the files of the text tower, if there is one, into the folder of an encoder with the same vectors."""
        if self.has_text_tower and self.folder is not None:
            for name in TEXT_FILES:
                shutil.copyfile(self.folder / name, folder / name)

    def encode_with_errors(self, batch: Pixels) -> tuple[Latent, FloatArray | None]:
        """Return the results of `encode` and `compute_errors`."""
        latent = self.encode(batch)
        return latent, self.compute_errors(batch, latent.mu)

    def compute_errors(self, batch: Pixels, mu: FloatArray) -> FloatArray | None:
        """Return the mean squared reconstruction error of each image, over its values in [0, 1] without padding.

        Args:
            batch: Preprocessed images (n, S, S, C) uint8.
            mu: Their latents (n, d).

        Returns:
            Errors (n,); None if the encoder has no decoder.
        """
        if not self.has_decoder:
            return None
        errors = np.empty(len(batch), dtype=np.float32)
        for rows in self._iterate_chunks(len(batch)):
            difference = self.decode(mu[rows]) - scale_to_unit(batch[rows])
            errors[rows] = np.square(difference[:, :, *self.preprocessing.content_slices]).mean(axis=(1, 2, 3))
        return errors

    def decode(self, mu: FloatArray) -> FloatArray:
        """Return mean images (n, C, S, S) in [0, 1] for mu (n, d). Raises NoDecoder, EncoderMismatch."""
        mu = np.asarray(mu, dtype=np.float32)
        if mu.ndim != 2 or mu.shape[1] != self.latent_dim:
            raise EncoderMismatch(
                f"Encoder {self.fingerprint} decodes vectors of {self.latent_dim} values, not {mu.shape[-1]}."
            )
        return np.concatenate([self._decoder_runtime.run(mu[rows])[0] for rows in self._iterate_chunks(len(mu))])

    def reconstruct(self, mu: FloatArray, width: int, height: int) -> Pixels:
        """Return the reconstruction of mu (d,), (h, w, 3) uint8 with the aspect of a width x height image."""
        return self.preprocessing.to_pixels(self.decode(mu[None])[0], width, height)

    def reconstruct_many(self, mu: FloatArray, width: int, height: int) -> Pixels:
        """Return the reconstructions (n, h, w, 3) of mu (n, d); see `reconstruct`."""
        return np.stack([self.preprocessing.to_pixels(image, width, height) for image in self.decode(mu)])

    def _make_sample(self) -> FloatArray:
        images = make_smooth_images(RUNTIME_SAMPLE_SIZE, self.preprocessing.channels, self.preprocessing.image_size)
        return self.preprocessing.normalise(images)

    def _iterate_chunks(self, count: int) -> Iterator[slice]:
        return (slice(start, start + self._chunk_size) for start in range(0, count, self._chunk_size))
