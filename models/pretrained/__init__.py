"""The encoder that comes with the package, and how it is loaded. Its model card is shipped/README.md."""

from __future__ import annotations

from pathlib import Path

from simile.core.errors import CheckpointDamaged, NoSuchEncoder
from simile.models.checkpoints.description import read_description
from simile.models.inference.encoder import TrainedEncoder

SHIPPED = "shipped"  # the name of the encoder in options
SHIPPED_FOLDER = Path(__file__).parent / "shipped"


def is_shipped(fingerprint: str) -> bool:
    """Return whether the shipped encoder has this fingerprint."""
    try:
        return read_description(SHIPPED_FOLDER).fingerprint == fingerprint
    except CheckpointDamaged:
        return False


def load_shipped_encoder(device: str, runtime: str = "auto") -> TrainedEncoder:
    """Load the shipped encoder. Raises CheckpointDamaged if a file of it is missing or was changed."""
    try:
        return TrainedEncoder.load(SHIPPED_FOLDER, device, runtime)
    except (CheckpointDamaged, NoSuchEncoder) as error:
        raise CheckpointDamaged(
            f"The encoder that comes with simile can't be used: {error} Install simile again, or train your own: "
            "`simile train PHOTOS --from none`."
        ) from None
