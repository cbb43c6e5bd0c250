"""List, activate, remove and export the encoders of a home."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from simile.core.errors import BadSetting, CheckpointDamaged
from simile.core.settings import Settings
from simile.indexer.maintenance.rebuild import get_index_options
from simile.models.checkpoints.description import read_description, resolve_name
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.encoders import find_fingerprint, list_encoder_folders
from simile.store.database import schema
from simile.store.home import Home, translate_write_errors
from simile.store.index.index import Index
from simile.store.index.segments import delete_unused_segment_files
from simile.store.objects import ENCODER_PREFIX

log = logging.getLogger(__name__)


def list_encoders(settings: Settings) -> list[dict[str, Any]]:
    """Return every encoder that has a row in the catalogue or a folder in the home, oldest first, for JSON."""
    home = Home.from_settings(settings)
    schema.check_schema(home)
    with Catalogue(home) as catalogue:
        active, counts = catalogue.encoders.find_active(), catalogue.encoders.count_embeddings()
        images = catalogue.images.count()
        known = {record.fingerprint: vars(record) for record in catalogue.encoders.get_all()}
    encoders = []
    for fingerprint in [*known, *sorted(list_encoder_folders(home) - known.keys())]:
        description = known.get(fingerprint) or _describe_unknown_encoder(home, fingerprint)
        files = [path for path in (home.encoders / fingerprint).rglob("*") if path.is_file()]
        encoders.append(
            {
                **description,
                "active": active is not None and active.fingerprint == fingerprint,
                "vectors": counts.get(fingerprint, 0),
                "images": images,
                "bytes": sum(path.stat().st_size for path in files),
            }
        )
    return encoders


def activate_encoder(settings: Settings, reference: str) -> dict[str, Any]:
    """Make an encoder of this home the active one, with an index of its vectors, in one transaction.

    Returns:
        "fingerprint", "vectors", and "lacking": the number of images without a vector by this encoder. Searches do not
        find these until they are indexed again.

    Raises:
        NoSuchEncoder: No encoder of this home matches `reference`.
        BadSetting: The encoder has no vectors, but the home has images.
    """
    home = Home.from_settings(settings)
    schema.check_schema(home)
    with home.lock("simile encoders activate"), Catalogue(home) as catalogue:
        known = {record.fingerprint for record in catalogue.encoders.get_all()}
        fingerprint = find_fingerprint(home, resolve_name(home.encoders, reference), known)
        if fingerprint not in known:
            from simile.search.encoder_registry import load_encoder, register_encoder  # noqa: PLC0415  # imports torch

            register_encoder(catalogue, load_encoder(home, fingerprint, "cpu", "torch"))
        vectors, images = catalogue.embeddings.count(fingerprint), catalogue.images.count()
        if images and not vectors:
            raise BadSetting(
                f"Encoder {fingerprint} has vectors of none of the {images:,} images. "
                f"Run `simile index PHOTOS --encoder {fingerprint}`: it embeds them, then activates the encoder."
            )
        Index(catalogue).switch_encoder(fingerprint, **get_index_options(settings))
    return {"fingerprint": fingerprint, "vectors": vectors, "lacking": images - vectors}


def remove_encoder(settings: Settings, reference: str) -> dict[str, Any]:
    """Remove an inactive encoder with its vectors, segments and folder. Raises NoSuchEncoder, BadSetting."""
    home = Home.from_settings(settings)
    schema.check_schema(home)
    with home.lock("simile encoders remove"), Catalogue(home) as catalogue:
        records = {record.fingerprint for record in catalogue.encoders.get_all()}
        fingerprint = find_fingerprint(home, resolve_name(home.encoders, reference), records)
        known = fingerprint in records
        _replace_segment_of(catalogue, fingerprint, settings)
        # Rows first: a folder without rows is only a leftover, but rows without a folder are damage.
        vectors = catalogue.encoders.delete(fingerprint) if known else 0
        with translate_write_errors(home.encoders):
            if (home.encoders / fingerprint).exists():
                shutil.rmtree(home.encoders / fingerprint)
        for stored in home.objects.names(f"{ENCODER_PREFIX}{fingerprint}/") if home.objects.is_shared else ():
            home.objects.discard(stored.name)
        if known:
            delete_unused_segment_files(home, catalogue.segments.get_file_names())
    return {"fingerprint": fingerprint, "vectors": vectors}


def export_encoder(settings: Settings, reference: str, folder: Path, *, half: bool) -> dict[str, Any]:
    """Copy an encoder, without its report, into a new folder that other homes can use.

    Args:
        reference: "shipped", a fingerprint or a folder.
        folder: Must not exist, or must be empty.
        half: Store the weights with 16 bits. Vectors change by about 0.1 %, so the fingerprint changes, too.

    Raises:
        NoSuchEncoder, CheckpointDamaged: The encoder can't be loaded.
        BadSetting: The folder is in use, or the weights do not fit into 16 bits.
    """
    from simile.models.checkpoints.checkpoint import round_weights, save_checkpoint  # noqa: PLC0415  # imports torch
    from simile.search.encoder_registry import find_encoder  # noqa: PLC0415

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadSetting(f"{folder} is not empty. Name another folder.")
    encoder = find_encoder(Home.from_settings(settings), reference, "cpu", "torch")
    weights = encoder.network.state_dict()
    if half:
        weights = round_weights(weights)
    with translate_write_errors(folder):
        fingerprint = save_checkpoint(folder, weights, encoder.description)
        if encoder.training_digests is not None:
            encoder.training_digests.save(folder)
        encoder.copy_text_tower(folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    return {"fingerprint": fingerprint, "folder": str(folder), "bytes": size}


def _replace_segment_of(catalogue: Catalogue, fingerprint: str, settings: Settings) -> None:
    """If the current segment still belongs to this encoder, build one of the active encoder."""
    state = catalogue.get_state()
    segment = None if state.segment_id is None else catalogue.segments.find(state.segment_id)
    if segment is not None and segment.encoder == fingerprint != state.active_encoder:
        Index(catalogue).rebuild(**get_index_options(settings))


def _describe_unknown_encoder(home: Home, fingerprint: str) -> dict[str, Any]:
    """Describe an encoder's folder that the catalogue does not know."""
    recipe = None
    try:
        recipe = read_description(home.encoders / fingerprint).label or None
    except CheckpointDamaged as error:
        log.warning("%s", error)
    return {"fingerprint": fingerprint, "recipe": recipe}
