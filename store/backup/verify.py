"""Check the integrity of a home: rows, vectors, segment and files."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Connection, Select, func, select

from simile.core.atomic_write import REPLACED
from simile.core.errors import IndexDamaged
from simile.images.sources.buckets import UPLOAD_SCHEME, get_upload_object
from simile.images.sources.sources import get_source
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.embeddings import unpack_vector, unpack_vectors
from simile.store.catalogue.encoders import find_encoder_record
from simile.store.catalogue.files import make_under_condition
from simile.store.catalogue.records import EncoderRecord, SegmentRecord
from simile.store.catalogue.segments import find_segment_record, read_files_in_use
from simile.store.database.engine import check_integrity
from simile.store.database.postgresql import check_server_settings
from simile.store.database.tables import DeletionRow, EmbeddingRow, EncoderRow, ImageRow, LocationRow, RunRow, StateRow
from simile.store.database.transactions import STREAM_OPTIONS, read_state
from simile.store.home import Home
from simile.store.index.flat import VectorIndex
from simile.store.index.metric import make_index_vectors
from simile.store.index.segments import open_segment
from simile.store.objects import ENCODER_PREFIX, UPLOAD_PREFIX

REBUILD_HINT = "Run `simile rebuild`."
MORE_HINT = "Repair these first and run the command again, which then lists others."
DELETION = "`DELETE /v1/images/{}` to the service"  # the only way to delete a single image
RESTORE_CATALOGUE_HINT = "Restore the catalogue from a backup."
MAX_PROBLEMS_PER_CHECK = 20  # an unmounted disk is one problem, not a million


@dataclass(frozen=True)
class IntegrityProblem:
    """A problem in a home."""

    kind: str  # a word to sort by
    description: str  # with the path or id
    next_step: str

    def to_dict(self) -> dict[str, str]:
        """Return the problem with the names of the JSON output."""
        return {"kind": self.kind, "what": self.description, "next_step": self.next_step}


def find_problems(home: Home) -> list[IntegrityProblem]:
    """Return all problems of a home whose schema is current.

    Every vector is read once, from one transaction; others may write meanwhile. An interrupted run is no problem,
    because the next one continues it. indexer/maintenance/verify.py checks whether weights or image files were altered.
    """
    with Catalogue(home) as catalogue, catalogue.begin_read() as connection:
        database_problems = [
            IntegrityProblem("database", sentence, RESTORE_CATALOGUE_HINT) for sentence in check_integrity(connection)
        ]
        if database_problems:  # further checks would not be reliable
            return database_problems
        checks = (_check_server, _check_vectors, _check_images, _check_uploads, _check_segment, _check_encoders)
        return [problem for check in checks for problem in limit_problems(check(home, connection))]


def _check_server(_home: Home, connection: Connection) -> Iterator[IntegrityProblem]:
    if connection.dialect.name == "postgresql":
        for sentence in check_server_settings(connection):
            yield IntegrityProblem("database server", sentence, "Change it on the server.")


def limit_problems(problems: Iterator[IntegrityProblem]) -> Iterator[IntegrityProblem]:
    """Yield the first problems, then one that says how many more there are."""
    yield from islice(problems, MAX_PROBLEMS_PER_CHECK)
    rest = list(problems)
    if rest:
        steps = {problem.next_step for problem in rest}
        next_step = steps.pop() if len(steps) == 1 else MORE_HINT
        yield IntegrityProblem(rest[-1].kind, f"{len(rest):,} more like these.", next_step)


def iterate_stored_files(home: Home) -> Iterator[tuple[int, str, str, str | None]]:
    """Yield (image id, path, SHA-256, failure) of every file in the catalogue, by image.

    The failure is why the file could not be read when it was read last, or None.
    """
    columns = select(ImageRow.id, LocationRow.path, ImageRow.sha256, LocationRow.failure).join(LocationRow)
    with Catalogue(home) as catalogue, catalogue.begin_read() as connection:
        yield from connection.execute(columns.order_by(ImageRow.id), execution_options=STREAM_OPTIONS)


def find_leftovers(home: Home) -> list[IntegrityProblem]:
    """Return files in the home that no row refers to, such as those of a writer that was killed.

    No search sees them and nobody was told that they are stored. An upload in progress looks the same for a moment.
    """
    with Catalogue(home) as catalogue, catalogue.begin_read() as connection:
        return list(_find_orphans(home, connection))


def _check_vectors(_: Home, connection: Connection) -> Iterator[IntegrityProblem]:
    """Find vectors of a wrong length, and numbers that are not finite."""
    dimensions = dict(connection.execute(select(EncoderRow.fingerprint, EncoderRow.dimensions)).all())
    columns = select(EmbeddingRow.image_id, EmbeddingRow.encoder, EmbeddingRow.mu, EmbeddingRow.log_variance)
    for image_id, encoder, *vectors in connection.execute(columns, execution_options=STREAM_OPTIONS):
        for name, stored in zip(("mu", "log_variance"), vectors, strict=True):
            fault, size = None, 4 * dimensions[encoder]
            if stored is not None and len(stored) != size:
                fault = f"has {len(stored)} bytes instead of {size}"
            elif stored is not None and not np.isfinite(unpack_vector(stored)).all():
                fault = "holds NaN or infinity"
            if fault:
                yield IntegrityProblem(
                    "vector", f"{name} of image {image_id} by encoder {encoder} {fault}.", RESTORE_CATALOGUE_HINT
                )


def _check_images(_: Home, connection: Connection) -> Iterator[IntegrityProblem]:
    """Find images without a file or without a vector by the active encoder, and deleted images that still exist."""
    without_file = select(ImageRow.id).outerjoin(LocationRow).where(LocationRow.id.is_(None)).order_by(ImageRow.id)
    for image_id in connection.scalars(without_file):
        yield IntegrityProblem("image", f"Image {image_id} has no file.", f"Send {DELETION.format(image_id)}.")
    has_vector = (EmbeddingRow.image_id == ImageRow.id) & EmbeddingRow.encoder.in_(_find_relevant_encoders(connection))
    without_vector = (
        select(ImageRow.id, func.min(LocationRow.path))
        .join(LocationRow)
        .outerjoin(EmbeddingRow, has_vector)
        .where(EmbeddingRow.image_id.is_(None))
        .group_by(ImageRow.id)
    )
    for image_id, path in connection.execute(without_vector.order_by(ImageRow.id)):
        next_step = f"Run `simile index {shlex.quote(get_source(path))}`."
        yield IntegrityProblem("image", f"Image {image_id} has no vector by the active encoder.", next_step)
    deleted = select(ImageRow.id).join(DeletionRow, DeletionRow.image_id == ImageRow.id)
    for image_id in connection.scalars(deleted.order_by(ImageRow.id)):
        yield IntegrityProblem("image", f"Image {image_id} was deleted and still exists.", RESTORE_CATALOGUE_HINT)


def _find_relevant_encoders(connection: Connection) -> set[str | None]:
    """Return the active encoder, and the one that an unfinished run will activate: some images lack its vector."""
    last = connection.execute(select(RunRow.status, RunRow.settings).order_by(RunRow.id.desc()).limit(1)).one_or_none()
    next_encoder = last.settings.get("encoder") if last is not None and last.status != "finished" else None
    return {read_state(connection).active_encoder, next_encoder} - {None}


def _check_uploads(home: Home, connection: Connection) -> Iterator[IntegrityProblem]:
    """Find uploads whose file or object is missing."""
    yield from _check_shared_uploads(home, connection)
    for image_id, path in _iterate_uploads(home, connection):
        is_current = select(LocationRow.id).where(LocationRow.path == str(path))
        if not path.is_file() and _query_current(home, is_current) is not None:
            yield IntegrityProblem(
                "upload", f"{path} of image {image_id} is missing.", f"Restore it, or send {DELETION.format(image_id)}."
            )


def _check_shared_uploads(home: Home, connection: Connection) -> Iterator[IntegrityProblem]:
    if not home.objects.is_shared:
        return
    columns = select(LocationRow.image_id, LocationRow.path).where(make_under_condition(UPLOAD_SCHEME))
    stored = {found.name for found in home.objects.names(UPLOAD_PREFIX)}
    for image_id, location in connection.execute(columns.order_by(LocationRow.path), execution_options=STREAM_OPTIONS):
        is_current = select(LocationRow.id).where(LocationRow.path == location)
        name = get_upload_object(location)
        # An image that was uploaded after the objects were listed is there.
        if name not in stored and not home.objects.exists(name) and _query_current(home, is_current) is not None:
            hint = f"Put {name} back from a backup, or send {DELETION.format(image_id)}."
            yield IntegrityProblem("upload", f"{location} of image {image_id} is not in the object store.", hint)


def _query_current(home: Home, query: Select[Any]) -> Any:
    """Query the catalogue in a new transaction: a file may be missing because others deleted it since ours began."""
    with Catalogue(home) as catalogue, catalogue.begin_read() as connection:
        return connection.scalar(query)


def _iterate_uploads(home: Home, connection: Connection) -> Iterator[tuple[int, Path]]:
    columns = select(LocationRow.image_id, LocationRow.path).where(
        LocationRow.path.startswith(f"{home.uploads}/", autoescape=True)
    )
    for image_id, path in connection.execute(columns.order_by(LocationRow.image_id), execution_options=STREAM_OPTIONS):
        yield image_id, Path(path)


def _check_segment(home: Home, connection: Connection) -> Iterator[IntegrityProblem]:
    """Find a segment that is missing or altered, or differs from the rows that it covers."""
    segment_id = read_state(connection).segment_id
    segment = find_segment_record(connection, segment_id)
    encoder = None if segment is None else find_encoder_record(connection, segment.encoder)
    if segment is None or encoder is None:
        return
    try:
        index = open_segment(home, segment)
        if index.dimensions != encoder.indexed_dimensions:
            raise IndexDamaged(f"{segment.file} holds vectors of {index.dimensions} numbers. {REBUILD_HINT}")
    except IndexDamaged as error:
        if _query_current(home, select(StateRow.segment_id)) == segment_id:
            description, _, next_step = str(error).partition(". ")
            yield IntegrityProblem("segment", f"{description}.", next_step)
    else:
        yield from _compare_with_rows(connection, segment, encoder, index)


def _compare_with_rows(
    connection: Connection, segment: SegmentRecord, encoder: EncoderRecord, index: VectorIndex
) -> Iterator[IntegrityProblem]:
    """Find rows that the segment lacks or holds with other vectors, and ids of the segment without a row."""
    columns = select(EmbeddingRow.image_id, EmbeddingRow.mu, EmbeddingRow.change)
    query = columns.where(EmbeddingRow.encoder == encoder.fingerprint)
    deleted = list(connection.scalars(select(DeletionRow.image_id)))
    without_row = np.isin(index.ids, deleted, invert=True)
    for rows in connection.execute(query, execution_options=STREAM_OPTIONS).partitions():
        present = index.find_present([row.image_id for row in rows])
        without_row[np.searchsorted(index.ids, present)] = False
        covered = [row for row in rows if row.change <= segment.change and len(row.mu) == 4 * encoder.dimensions]
        ids, blobs = [row.image_id for row in covered], [row.mu for row in covered]
        for image_id in _find_different_ids(ids, blobs, encoder, index):
            yield IntegrityProblem(
                "segment", f"{segment.file} lacks the vector of image {image_id}, or has another.", REBUILD_HINT
            )
    for image_id in index.ids[without_row].tolist():
        yield IntegrityProblem("segment", f"{segment.file} holds image {image_id}, which has no row.", REBUILD_HINT)


def _find_different_ids(ids: list[int], blobs: list[bytes], encoder: EncoderRecord, index: VectorIndex) -> list[int]:
    """Return the ids whose vector in the index differs from the stored one."""
    if not ids:
        return []
    is_equal = np.isin(ids, index.find_present(ids))
    expected = make_index_vectors(unpack_vectors(blobs), encoder.index_dims, encoder.metric)[is_equal]
    # Scaling to length 1 may round differently on another machine.
    close = np.isclose(index.get_vectors(np.array(ids)[is_equal]), expected, rtol=1e-5, atol=1e-7, equal_nan=True)
    is_equal[is_equal] = close.all(axis=1)
    return [image_id for image_id, equal in zip(ids, is_equal, strict=True) if not equal]


def _find_orphans(home: Home, connection: Connection) -> Iterator[IntegrityProblem]:
    for path in _find_unknown_paths(home.segments, read_files_in_use(connection)):
        yield IntegrityProblem("orphan", f"{path} belongs to no segment.", "Run `simile compact`, which deletes it.")
    for path in _find_unknown_paths(home.uploads, {path.name for _, path in _iterate_uploads(home, connection)}):
        yield _make_unknown_upload_problem(path, connection)
    encoders = set(connection.scalars(select(EncoderRow.fingerprint)))
    for path in _find_unknown_paths(home.encoders, {*encoders, ".training"}):  # training resumes from .training
        if path.name.startswith(REPLACED) and not path.with_name(path.name.removeprefix(REPLACED)).exists():
            continue  # the next command that writes restores its name
        remove = "Remove the folder." if path.name.startswith(".") else f"Run `simile encoders remove {path.name}`."
        yield IntegrityProblem("orphan", f"{path} is an encoder that the catalogue does not know.", remove)
    for path in sorted([*home.root.glob(".restoring"), *home.root.glob("*.tmp")]):
        yield IntegrityProblem("orphan", f"{path} was left by an interrupted command.", "Remove it.")


def _make_unknown_upload_problem(path: Path, connection: Connection) -> IntegrityProblem:
    """Describe an upload without a row: one that was never acknowledged, or one in a home that was moved."""
    # indexer/pipeline/uploads.py names uploads by their hash.
    image_id = connection.scalar(select(ImageRow.id).where(ImageRow.sha256 == path.stem))
    if image_id is None:
        hint = "Its upload was never acknowledged: remove it, or upload it again."
        return IntegrityProblem("orphan", f"{path} belongs to no image.", hint)
    description = f"{path} holds image {image_id}, which the catalogue has under other paths only: was the home moved?"
    return IntegrityProblem("orphan", description, f"Run `simile index {shlex.quote(str(path))}`.")


def _find_unknown_paths(folder: Path, known: set[str]) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name not in known) if folder.is_dir() else []


def _check_encoders(home: Home, connection: Connection) -> Iterator[IntegrityProblem]:
    """Find encoders whose folder is missing."""
    for fingerprint in connection.scalars(select(EncoderRow.fingerprint).order_by(EncoderRow.fingerprint)):
        folder = home.encoders / fingerprint
        if not folder.is_dir() and not (
            home.objects.is_shared and any(home.objects.names(f"{ENCODER_PREFIX}{fingerprint}/"))
        ):
            yield IntegrityProblem("encoder", f"{folder} is missing.", "Put the encoder's folder back from a backup.")
