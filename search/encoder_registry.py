"""Which encoder a person means, and where it lies."""

from __future__ import annotations

import shutil
from pathlib import Path

from simile.core.atomic_write import REPLACED
from simile.models.checkpoints.description import DESCRIPTION_FILE
from simile.models.inference.encoder import TrainedEncoder
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.encoders import find_fingerprint
from simile.store.home import Home, translate_write_errors


def load_encoder(home: Home, fingerprint: str, device: str, runtime: str = "auto") -> TrainedEncoder:
    """The encoder of this home with this fingerprint. Raises NoSuchEncoder or CheckpointDamaged."""
    folder = home.encoders / fingerprint
    if not folder.exists() and folder.with_name(REPLACED + fingerprint).exists():
        home.recover()
    return TrainedEncoder.load(folder, device, runtime)


def find_encoder(home: Home, reference: str, device: str, runtime: str = "auto") -> TrainedEncoder:
    """Load the encoder that `reference` means: a folder, a fingerprint of this home, or the start of one.

    Raises NoSuchEncoder, CheckpointDamaged.
    """
    if (Path(reference) / DESCRIPTION_FILE).is_file():
        return TrainedEncoder.load(Path(reference), device, runtime)
    return load_encoder(home, find_fingerprint(home, reference), device, runtime)


def import_encoder(home: Home, catalogue: Catalogue, encoder: TrainedEncoder, folder: Path) -> None:
    """Copies the encoder's folder into the home unless it is there, and registers it."""
    target = home.encoders / encoder.fingerprint
    if not target.exists():
        arriving = home.encoders / f".arriving-{encoder.fingerprint}"
        with translate_write_errors(target):
            shutil.rmtree(arriving, ignore_errors=True)
            shutil.copytree(folder, arriving)
            arriving.rename(target)
    register_encoder(catalogue, encoder)


def register_encoder(catalogue: Catalogue, encoder: TrainedEncoder) -> None:
    """Makes the encoder known to the catalogue."""
    recipe = encoder.description.recipe_name
    catalogue.encoders.register(
        encoder.fingerprint, recipe, recipe, encoder.latent_dim, encoder.index_dims, encoder.metric
    )
