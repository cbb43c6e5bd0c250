"""Join an encoder that stayed as it is and the decoder that was trained on its vectors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from simile.core.records import FloatArray
from simile.models.networks.architecture import Architecture
from simile.models.networks.vae import Network

MIN_DEVIATION = 1e-6  # of a value of the vectors, relative to the largest; smaller ones are left as they are


def measure_scale(architecture: Architecture, latents: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return mean and deviation of each value of vectors (n, d), by which a decoder's training scales them.

    They are 0 and 1 for a decoder that receives the vector as a feature map: `join_decoder` can't undo another scale.
    """
    if architecture.bottleneck != "dense":
        return np.zeros(latents.shape[1], np.float32), np.ones(latents.shape[1], np.float32)
    deviation = latents.std(0)
    return latents.mean(0), np.where(deviation > MIN_DEVIATION * deviation.max(), deviation, 1).astype(np.float32)


@torch.no_grad()
def join_decoder(
    base: Network, trained: Network, architecture: Architecture, mean: FloatArray, deviation: FloatArray
) -> Network:
    """Return a network of this architecture with the encoder of `base` and the decoder of `trained`.

    `trained` was trained on vectors that were scaled by mean and deviation (d,); the result receives them as they are.
    """
    for layer in trained.get_latent_layers():
        layer.weight.div_(torch.from_numpy(deviation).to(layer.weight))
        layer.bias.sub_(layer.weight @ torch.from_numpy(mean).to(layer.weight))
    network = Network(replace(architecture, decoder=True))
    network.load_state_dict(_select(base, of_decoder=False) | _select(trained, of_decoder=True))
    return network.eval()


def _select(network: Network, *, of_decoder: bool) -> dict[str, Tensor]:
    """Return the weights of the decoder, with the variance that it was trained with, or all others."""
    parts = ("decoder.", "variance")
    return {name: tensor for name, tensor in network.state_dict().items() if name.startswith(parts) == of_decoder}
