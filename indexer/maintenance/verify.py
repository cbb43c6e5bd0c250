"""Check the integrity of a home, including its encoders and the image files in folders and archives."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path

from simile.core.atomic_write import REPLACED
from simile.core.errors import CheckpointDamaged, NoSuchEncoder, UnreadableImage
from simile.core.settings import Settings
from simile.images.formats import Limits
from simile.images.sources.reader import read_bytes
from simile.images.sources.sources import ImageSources, get_source, is_path_missing
from simile.models.checkpoints.checkpoint import load_checkpoint
from simile.store.backup.verify import (
    DELETION,
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
from simile.store.objects import hash_file

MAX_SOURCE_RUNS = 10_000  # the latest runs; their sources are folders that users named


def verify_home(settings: Settings, *, files: bool = False) -> list[IntegrityProblem]:
    """Return all problems of a home. With `files` every image file is read and hashed, too."""
    home = Home.from_settings(settings)
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
    return find_leftovers(Home.from_settings(settings))


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
    """Yield files that are missing, changed since they were indexed, or could not be read the last time."""
    find_prune_command = _PruneCommands(home).find
    for image_id, path, sha256, failure in iterate_stored_files(home):
        command = f"`simile index {shlex.quote(get_source(path))}`"
        restore = f"Restore it and run {command}, or remove it and {{}}."
        try:
            current = _hash_image_file(path, limits)
        except (OSError, UnreadableImage) as error:
            reason = error.reason if isinstance(error, UnreadableImage) else error.strerror
            next_step = "Put it back, or {}." if is_path_missing(path) else restore
            next_step = next_step.format(find_prune_command(path, image_id))
            yield IntegrityProblem("file", f"{path} of image {image_id} can't be read: {reason}.", next_step)
            continue
        if current == sha256 and failure is not None:
            description = f"{path} of image {image_id} could not be read when it was indexed last, and is intact now."
            yield IntegrityProblem("file", description, f"Run {command}.")
        elif current != sha256 and failure is not None:
            description = f"{path} no longer holds image {image_id}, and could not be indexed again: {failure}."
            yield IntegrityProblem("file", description, restore.format(find_prune_command(path, image_id)))
        elif current != sha256:
            description = f"{path} has changed since it was indexed as image {image_id}."
            yield IntegrityProblem("file", description, f"Run {command[:-1]} --reread`.")


class _PruneCommands:
    """Finds the commands that forget files which no longer exist."""

    def __init__(self, home: Home) -> None:
        with Catalogue(home) as catalogue:
            runs = catalogue.runs.get_latest(MAX_SOURCE_RUNS)
        self._sources = {source for run in runs if run.kind == "index" for source in run.settings.get("sources", ())}
        self._own_folders, self._is_upload = home.own_folders, home.is_upload
        self._list_images = cache(self._list_two_images)

    def find(self, path: str, image_id: int) -> str:
        """Return the command: on the nearest folder that was indexed, as a part of a source, and has other images.

        It does not work on a folder without images: a disk may not be mounted. An upload is deleted as an image.
        """
        if self._is_upload(path):
            return f"send {DELETION.format(image_id)}"
        parents = [str(parent) for parent in Path(path).parents]
        named = [number for number, parent in enumerate(parents) if parent in self._sources]
        for folder in parents[: named[-1] + 1] if named else ():
            if set(self._list_images(folder)) - {path}:
                return f"run `simile index {shlex.quote(folder)} --prune`"
        return "run `simile index FOLDER --prune` on a folder around it that has other images"

    def _list_two_images(self, folder: str) -> list[str]:
        if not os.path.isdir(folder):  # Path.is_dir() raises for a folder without permission  # noqa: PTH112
            return []
        parts = ImageSources([folder], self._own_folders).iterate_parts()
        return list(islice((path for part in parts for path, *_ in part.files), 2))


def _hash_image_file(path: str, limits: Limits) -> str:
    """Return the SHA-256 of a file, an object, or a member of an archive."""
    file = Path(path)
    return hash_file(file) if file.is_file() else hashlib.sha256(read_bytes(path, limits)).hexdigest()
