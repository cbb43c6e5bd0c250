"""A trained encoder: pictures in, Latent out; mu in, pictures out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.errors import BadSetting, CheckpointDamaged, EncoderMismatch, NotFinite
from core.records import FloatArray, Latent
from models import checkpoints
from models.devices import pick_device
from models.networks import VAE, Architecture
from models.preprocessing import Pixels, Preprocessing, to_unit

CHUNK = 256  # pictures in one forward pass: bounded memory, and no faster beyond


class TrainedEncoder:
    """Weights with the preprocessing they were trained with. Safe to use from several threads."""

    runtime = "torch-fp32"  # noted in every row; the fingerprint does not depend on it

    def __init__(self, network: VAE, preprocessing: Preprocessing, description: dict[str, Any], device: str) -> None:
        self.device = pick_device(device)
        self.network = network.to(self.device).eval()
        self.preprocessing = preprocessing
        self.description = description
        self.fingerprint: str = description["fingerprint"]
        self.metric: str = description["metric"]
        self.index_dims: int | None = description["index_dims"]
        self.latent_dim = network.architecture.latent_dim

    @classmethod
    def load(cls, folder: Path, device: str = "auto") -> TrainedEncoder:
        """Rebuilds the encoder from its folder. Raises NoSuchEncoder or CheckpointDamaged."""
        weights, description = checkpoints.load(folder)
        network = VAE(Architecture.from_dict(description["architecture"]))
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise CheckpointDamaged(f"{folder}: the weights do not fit the architecture ({error}).") from None
        return cls(network, Preprocessing.from_dict(description["preprocessing"]), description, device)

    def encode(self, batch: Pixels) -> Latent:
        """Latent of n pictures (n, S, S, C) uint8, in float32. Raises NotFinite."""
        mu, log_variance = self._forward(batch)
        return Latent(mu.cpu().numpy(), torch.exp(0.5 * log_variance).cpu().numpy())

    def embed(self, batch: Pixels) -> tuple[Latent, FloatArray]:
        """`encode`, and the mean squared error (n,) of decoding mu, over the picture's values in [0, 1]."""
        latent = self.encode(batch)
        top, left, height, width = self.preprocessing.content_box()
        errors = np.empty(len(batch), dtype=np.float32)
        for part in _chunks(len(batch)):
            difference = self.decode(latent.mu[part]) - to_unit(batch[part])
            errors[part] = np.square(difference[:, :, top : top + height, left : left + width]).mean(axis=(1, 2, 3))
        return latent, errors

    def decode(self, mu: FloatArray) -> FloatArray:
        """Mean pictures (n, C, S, S) in [0, 1] for mu (n, d). Raises EncoderMismatch for another d."""
        mu = np.asarray(mu, dtype=np.float32)
        if mu.ndim != 2 or mu.shape[1] != self.latent_dim:
            raise EncoderMismatch(
                f"Encoder {self.fingerprint} decodes vectors of {self.latent_dim}, not {mu.shape[-1]}."
            )
        parts = []
        with torch.inference_mode():
            for part in _chunks(len(mu)):
                parts.append(torch.sigmoid(self.network.decode(torch.from_numpy(mu[part]).to(self.device))).cpu())
        return torch.cat(parts).contiguous().numpy()

    def reconstruct(self, mu: FloatArray, width: int, height: int) -> Pixels:
        """What one mu (d,) stands for, (h, w, 3) uint8 in the aspect of a width x height picture."""
        return self.preprocessing.to_pixels(self.decode(mu[None])[0], width, height)

    def _forward(self, batch: Pixels) -> tuple[Tensor, Tensor]:
        expected = (self.preprocessing.image_size, self.preprocessing.image_size, self.preprocessing.channels)
        if batch.shape[1:] != expected:
            raise BadSetting(f"Encoder {self.fingerprint} takes pictures of {expected}, not {batch.shape[1:]}.")
        parts = []
        with torch.inference_mode():
            for part in _chunks(len(batch)):
                x = torch.from_numpy(to_unit(batch[part])).to(self.device)  # (n, C, S, S)
                parts.append(torch.stack(self.network.encode(x)))  # (2, n, d)
        mu, log_variance = torch.cat(parts, dim=1)
        if not torch.isfinite(mu).all() or not torch.isfinite(log_variance).all():
            raise NotFinite(f"Encoder {self.fingerprint} gave NaN or infinity. Its training went wrong: train again.")
        return mu, log_variance


def _chunks(count: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, count, CHUNK))
