"""Find, load and register the encoders of a home."""

from __future__ import annotations

import logging
import shutil
import threading
from pathlib import Path

from simile.core.atomic_write import REPLACED
from simile.core.errors import CheckpointDamaged, NoSuchEncoder
from simile.models.checkpoints.description import DESCRIPTION_FILE, resolve_name
from simile.models.inference.encoder import TrainedEncoder
from simile.models.pretrained import SHIPPED, SHIPPED_FOLDER, load_shipped_encoder
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.encoders import find_fingerprint
from simile.store.home import Home, translate_write_errors
from simile.store.objects import ENCODER_PREFIX

log = logging.getLogger(__name__)

MAX_LOADED_ENCODERS = 2  # the active encoder, and the previous one for searches that still use it


class EncoderCache:
    """Loads the encoders of a home and keeps the last ones in memory. Safe to share between threads."""

    def __init__(self, home: Home, device: str, runtime: str) -> None:
        self._home, self._device, self._runtime = home, device, runtime
        self._encoders: dict[str, TrainedEncoder] = {}
        self._lock = threading.Lock()

    def get(self, fingerprint: str) -> TrainedEncoder:
        """Return the encoder, loaded at most once at a time. Raises NoSuchEncoder, CheckpointDamaged."""
        encoder = self._encoders.get(fingerprint)
        if encoder is None:
            with self._lock:
                encoder = self._encoders.get(fingerprint) or load_encoder(
                    self._home, fingerprint, self._device, self._runtime
                )
                recent = list(self._encoders.items())[-(MAX_LOADED_ENCODERS - 1) :]
                self._encoders = dict([*recent, (fingerprint, encoder)])  # a new dict: other threads may read the old
        return encoder

    def get_latest(self) -> TrainedEncoder | None:
        """Return the encoder that was loaded last; None if none was."""
        return next(reversed(self._encoders.values()), None)


def load_encoder(home: Home, fingerprint: str, device: str, runtime: str = "auto") -> TrainedEncoder:
    """Load the encoder of this home with this fingerprint.

    Files that are missing or damaged in the home are fetched from the object store, if several hosts share one. Raises
    NoSuchEncoder, CheckpointDamaged, ObjectsUnavailable.
    """
    folder = home.encoders / fingerprint
    if not folder.exists() and folder.with_name(REPLACED + fingerprint).exists():
        home.recover()
    if not home.objects.is_shared:
        return TrainedEncoder.load(folder, device, runtime)
    try:
        return TrainedEncoder.load(folder, device, runtime)
    except (NoSuchEncoder, CheckpointDamaged) as error:
        names = [stored.name for stored in home.objects.names(f"{ENCODER_PREFIX}{fingerprint}/")]
        if isinstance(error, CheckpointDamaged) and names:
            log.warning("%s Fetching the encoder again.", error)
            for name in names:
                home.objects.get_local_path(name).unlink(missing_ok=True)
        for name in names:
            home.objects.fetch(name)
        return TrainedEncoder.load(folder, device, runtime)


def find_encoder(home: Home, reference: str, device: str, runtime: str = "auto") -> TrainedEncoder:
    """Load an encoder: "shipped", its folder, its name or fingerprint in this home, or the start of the fingerprint.

    Raises NoSuchEncoder, CheckpointDamaged.
    """
    if reference == SHIPPED:
        return load_shipped_encoder(device, runtime)
    if (Path(reference) / DESCRIPTION_FILE).is_file():
        return TrainedEncoder.load(Path(reference), device, runtime)
    return load_encoder(home, find_fingerprint(home, resolve_name(home.encoders, reference)), device, runtime)


def import_encoder(home: Home, catalogue: Catalogue, encoder: TrainedEncoder, reference: str) -> None:
    """Copy the folder of an encoder that `find_encoder` found into the home, unless it is there, and register it."""
    folder = SHIPPED_FOLDER if reference == SHIPPED else Path(reference)
    target = home.encoders / encoder.fingerprint
    if not target.exists():
        temporary = home.encoders / f".arriving-{encoder.fingerprint}"
        with translate_write_errors(target):
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.copytree(folder, temporary)
            temporary.rename(target)
    register_encoder(catalogue, encoder)


def register_encoder(catalogue: Catalogue, encoder: TrainedEncoder) -> None:
    """Add the encoder to the object store, then to the catalogue. Raises ObjectsUnavailable."""
    home = catalogue.home
    for path in sorted((home.encoders / encoder.fingerprint).glob("[!.]*")):
        home.objects.put(f"{ENCODER_PREFIX}{encoder.fingerprint}/{path.name}", path)
    label = encoder.description.label
    catalogue.encoders.register(
        encoder.fingerprint, label, label, encoder.latent_dim, encoder.index_dims, encoder.metric
    )
