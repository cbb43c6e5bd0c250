"""A model that is no torch module: an ONNX or OpenVINO graph, or a plug-in. models/external/ runs it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from simile.core.errors import BadSetting


class ExternalModel(nn.Module):
    """The bytes of an external model, as a weight: so they are stored, hashed and copied like any other weights.

    Attributes:
        content: uint8 (n,): the graph, or the identity of a plug-in.
    """

    content: Tensor

    def __init__(self, kind: str, entry: str, content_size: int) -> None:
        super().__init__()
        self.kind, self.entry = kind, entry
        self.register_buffer("content", torch.zeros(content_size, dtype=torch.uint8))

    def get_bytes(self) -> bytes:
        """Return the content as bytes."""
        return self.content.cpu().numpy().tobytes()

    def forward(self, _x: Tensor) -> Tensor:
        """Refuse: torch can't run it. Raises BadSetting."""
        raise BadSetting(
            f"An external encoder ({self.kind}) can't take part in a training. Train a decoder for it with "
            "`simile train PHOTOS --decoder-only ENCODER`, or start from another encoder."
        )
