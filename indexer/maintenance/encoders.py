"""The encoders of a home: which there are, which one is in use, and removing those that are no longer needed."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from simile.core.errors import BadSetting, CheckpointDamaged
from simile.core.settings import Settings
from simile.indexer.maintenance.rebuild import get_index_options
from simile.models.checkpoints.description import read_description
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.encoders import find_fingerprint, list_encoder_folders
from simile.store.database import schema
from simile.store.home import Home, translate_write_errors
from simile.store.index.index import Index
from simile.store.index.segments import delete_unused_segment_files

log = logging.getLogger(__name__)


def list_encoders(settings: Settings) -> list[dict[str, Any]]:
    """Every encoder that the catalogue knows or that has a folder in the home, the oldest first, fit for JSON."""
    home = Home(settings.home, settings.database_url)
    schema.check_schema(home)
    with Catalogue(home) as catalogue:
        active, counts, images = (
            catalogue.encoders.find_active(),
            catalogue.encoders.count_embeddings(),
            catalogue.images.count(),
        )
        known = {record.fingerprint: vars(record) for record in catalogue.encoders.get_all()}
    listed = []
    for fingerprint in [*known, *sorted(list_encoder_folders(home) - known.keys())]:
        described = known.get(fingerprint) or _describe_unknown_encoder(home, fingerprint)
        listed.append(
            {
                **described,
                "active": active is not None and active.fingerprint == fingerprint,
                "vectors": counts.get(fingerprint, 0),
                "images": images,
                "bytes": sum(file.stat().st_size for file in _list_folder_files(home.encoders / fingerprint)),
            }
        )
    return listed


def activate_encoder(settings: Settings, reference: str) -> dict[str, Any]:
    """Puts an encoder of this home in use, with an index of its vectors, in one transaction.

    Pictures that it has not seen are found by no search until they are indexed again: their number is `lacking`.
    Raises NoSuchEncoder, and BadSetting for one that has seen none of them.
    """
    home = Home(settings.home, settings.database_url)
    schema.check_schema(home)
    with home.lock("simile encoders activate"), Catalogue(home) as catalogue:
        known = {record.fingerprint for record in catalogue.encoders.get_all()}
        fingerprint = find_fingerprint(home, reference, known)
        if fingerprint not in known:
            _register_encoder_folder(home, catalogue, fingerprint)
        seen, images = catalogue.embeddings.count(fingerprint), catalogue.images.count()
        if images and not seen:
            raise BadSetting(
                f"Encoder {fingerprint} has seen none of the {images:,} pictures. "
                f"Run `simile index PHOTOS --encoder {fingerprint}`: it embeds them, then puts it in use."
            )
        Index(catalogue).switch_encoder(fingerprint, **get_index_options(settings))
    return {"fingerprint": fingerprint, "vectors": seen, "lacking": images - seen}


def remove_encoder(settings: Settings, reference: str) -> dict[str, Any]:
    """Removes an encoder that is not in use, with its vectors, segments and folder. NoSuchEncoder, BadSetting."""
    home = Home(settings.home, settings.database_url)
    schema.check_schema(home)
    with home.lock("simile encoders remove"), Catalogue(home) as catalogue:
        records = {record.fingerprint for record in catalogue.encoders.get_all()}
        fingerprint = find_fingerprint(home, reference, records)
        known = fingerprint in records
        _replace_segment_of(catalogue, fingerprint, settings)
        # Rows first: a folder without rows is a leftover, rows without a folder would be damage.
        vectors = catalogue.encoders.delete(fingerprint) if known else 0
        with translate_write_errors(home.encoders):
            if (home.encoders / fingerprint).exists():
                shutil.rmtree(home.encoders / fingerprint)
        if known:
            delete_unused_segment_files(home, catalogue.segments.get_file_names())
    return {"fingerprint": fingerprint, "vectors": vectors}


def _replace_segment_of(catalogue: Catalogue, fingerprint: str, settings: Settings) -> None:
    """Where the current segment is still of this encoder, makes one of the encoder in use."""
    state = catalogue.get_state()
    segment = None if state.segment_id is None else catalogue.segments.find(state.segment_id)
    if segment is not None and segment.encoder == fingerprint != state.active_encoder:
        Index(catalogue).rebuild(**get_index_options(settings))


def _list_folder_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _describe_unknown_encoder(home: Home, fingerprint: str) -> dict[str, Any]:
    """What can be said of a folder that the catalogue does not know."""
    recipe = None
    try:
        recipe = read_description(home.encoders / fingerprint).recipe_name or None
    except CheckpointDamaged as error:
        log.warning("%s", error)
    return {"fingerprint": fingerprint, "recipe": recipe}


def _register_encoder_folder(home: Home, catalogue: Catalogue, fingerprint: str) -> None:
    from simile.search.encoder_registry import load_encoder, register_encoder  # noqa: PLC0415  # torch, for what was never registered

    register_encoder(catalogue, load_encoder(home, fingerprint, "cpu", "torch"))
