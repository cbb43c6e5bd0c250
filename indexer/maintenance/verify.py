"""Check the integrity of a home, including its encoders and the image files in folders and archives."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from simile.core.atomic_write import REPLACED
from simile.core.errors import CheckpointDamaged, NoSuchEncoder, UnreadableImage
from simile.core.settings import Settings
from simile.images.formats import Limits
from simile.images.sources.reader import read_bytes
from simile.models.checkpoints.checkpoint import load_checkpoint
from simile.store.backup.verify import (
    INDEX_HINT,
    IntegrityProblem,
    find_leftovers,
    find_problems,
    iterate_stored_files,
    limit_problems,
)
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import EncoderRecord
from simile.store.database import schema
from simile.store.home import Home
from simile.store.index.segments import hash_file

PRUNE_HINT = "Put it back, or run `simile index --prune` on its folder."


def verify_home(settings: Settings, *, files: bool = False) -> list[IntegrityProblem]:
    """Return all problems of a home. With `files` every image file is read and hashed, too."""
    home = Home(settings.home, settings.database_url)
    schema.check_schema(home)
    if any(home.encoders.glob(f"{REPLACED}*")):
        home.recover()
    problems = find_problems(home)
    if any(problem.kind == "database" for problem in problems):
        return problems
    with Catalogue(home) as catalogue:
        encoders = catalogue.encoders.get_all()
    problems += [problem for encoder in encoders for problem in _check_encoder(home, encoder)]
    if files:
        problems += limit_problems(_check_image_files(home, Limits.from_settings(settings)))
    return problems


def find_home_leftovers(settings: Settings) -> list[IntegrityProblem]:
    """Return files in the home that nothing refers to; deleting them only frees space."""
    return find_leftovers(Home(settings.home, settings.database_url))


def _check_encoder(home: Home, encoder: EncoderRecord) -> Iterator[IntegrityProblem]:
    """Yield changed weights, and a folder with another encoder than its name or its row says."""
    folder = home.encoders / encoder.fingerprint
    if not folder.is_dir():  # find_problems() has already reported it
        return
    try:
        description = load_checkpoint(folder)[1]
    except (CheckpointDamaged, NoSuchEncoder) as error:
        yield IntegrityProblem("encoder", str(error), "")
        return
    if description.fingerprint != encoder.fingerprint:
        yield IntegrityProblem(
            "encoder", f"{folder} holds encoder {description.fingerprint}.", "Put its own folder back from a backup."
        )
    stored = (description.metric, description.index_dims)
    in_row = (encoder.metric, encoder.index_dims)
    if stored != in_row:
        yield IntegrityProblem(
            "encoder",
            f"Encoder {encoder.fingerprint} compares {stored}, but its row says {in_row}.",
            "Restore the catalogue from a backup.",
        )


def _check_image_files(home: Home, limits: Limits) -> Iterator[IntegrityProblem]:
    """Yield files that are missing or changed since they were indexed."""
    for image_id, path, sha256 in iterate_stored_files(home):
        try:
            current = _hash_image_file(Path(path), limits)
        except (OSError, UnreadableImage) as error:
            reason = error.reason if isinstance(error, UnreadableImage) else error.strerror
            yield IntegrityProblem("file", f"{path} of image {image_id} can't be read: {reason}.", PRUNE_HINT)
        else:
            if current != sha256:
                yield IntegrityProblem(
                    "file", f"{path} has changed since it was indexed as image {image_id}.", INDEX_HINT
                )


def _hash_image_file(path: Path, limits: Limits) -> str:
    """Return the SHA-256 of a file or of a member of an archive."""
    return hash_file(path) if path.is_file() else hashlib.sha256(read_bytes(path, limits)).hexdigest()
