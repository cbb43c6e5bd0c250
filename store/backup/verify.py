"""Whether what a home holds is whole: rows, vectors, segment and files."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Connection, Select, select

from simile.core.atomic_write import REPLACED
from simile.core.errors import IndexDamaged
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.embeddings import unpack_vector, unpack_vectors
from simile.store.catalogue.encoders import find_encoder_record
from simile.store.catalogue.files import STREAM_OPTIONS
from simile.store.catalogue.records import EncoderRecord, SegmentRecord
from simile.store.database.engine import check_integrity
from simile.store.database.tables import DeletionRow, EmbeddingRow, EncoderRow, ImageRow, LocationRow, RunRow, StateRow
from simile.store.database.transactions import read_state
from simile.store.home import Home
from simile.store.index.flat import VectorIndex
from simile.store.index.metric import make_index_vectors
from simile.store.index.segments import find_segment_record, open_segment, read_files_in_use

REBUILD_HINT = "Run `simile rebuild`."
INDEX_HINT = "Run `simile index` on its folder again."
RESTORE_CATALOGUE_HINT = "Restore the catalogue from a backup."
MAX_PROBLEMS_PER_CHECK = 20  # problems of one sort: a disk that is not mounted is one problem, not a million


@dataclass(frozen=True)
class IntegrityProblem:
    """One thing that is wrong. `kind`: a word to sort by; `what`: with path or id; `next_step`: what to do."""

    kind: str
    description: str
    next_step: str


def find_problems(home: Home) -> list[IntegrityProblem]:
    """Everything that is wrong with a home whose schema is current; empty when nothing is.

    Reads every vector once, as of one moment; others may go on writing. An interrupted run is no problem: the next one
    continues. Whether an encoder's weights or pictures on the disk have been altered is checked where those are read
    (indexer/verify.py).
    """
    with Catalogue(home) as catalogue, catalogue.begin_read() as connection:
        broken = [
            IntegrityProblem("database", sentence, RESTORE_CATALOGUE_HINT) for sentence in check_integrity(connection)
        ]
        if broken:  # what else is read from it would mean little
            return broken
        checks = (_check_vectors, _check_images, _check_uploads, _check_segment, _check_encoders)
        return [problem for check in checks for problem in limit_problems(check(home, connection))]


def limit_problems(problems: Iterator[IntegrityProblem]) -> Iterator[IntegrityProblem]:
    """The first of them, and how many more there are."""
    yield from islice(problems, MAX_PROBLEMS_PER_CHECK)
    more = list(problems)
    if more:
        yield IntegrityProblem(more[-1].kind, f"{len(more):,} more like these.", more[-1].next_step)


def iterate_stored_files(home: Home) -> Iterator[tuple[int, str, str]]:
    """(image id, path, SHA-256) of every file that the catalogue knows, by image."""
    columns = select(ImageRow.id, LocationRow.path, ImageRow.sha256).join(LocationRow)
    with Catalogue(home) as catalogue, catalogue.begin_read() as connection:
        yield from connection.execute(columns.order_by(ImageRow.id), execution_options=STREAM_OPTIONS)


def find_leftovers(home: Home) -> list[IntegrityProblem]:
    """Files in the home that nothing points to, such as a writer leaves that was killed between file and row.

    No search sees them and nobody was told that they are stored; an upload under way looks the same for a moment.
    """
    with Catalogue(home) as catalogue, catalogue.begin_read() as connection:
        return list(_find_orphans(home, connection))


def _check_vectors(_: Home, connection: Connection) -> Iterator[IntegrityProblem]:
    """Vectors of a wrong length, and numbers that are not finite."""
    dimensions = dict(connection.execute(select(EncoderRow.fingerprint, EncoderRow.dimensions)).all())
    columns = select(EmbeddingRow.image_id, EmbeddingRow.encoder, EmbeddingRow.mu, EmbeddingRow.log_variance)
    for image_id, encoder, *vectors in connection.execute(columns, execution_options=STREAM_OPTIONS):
        for name, stored in zip(("mu", "log_variance"), vectors, strict=True):
            wrong = stored is not None and _describe_vector_fault(stored, dimensions[encoder])
            if wrong:
                yield IntegrityProblem(
                    "vector", f"{name} of image {image_id} by encoder {encoder} {wrong}.", RESTORE_CATALOGUE_HINT
                )


def _describe_vector_fault(data: bytes, dimensions: int) -> str | None:
    if len(data) != 4 * dimensions:
        return f"has {len(data)} bytes instead of {4 * dimensions}"
    return None if np.isfinite(unpack_vector(data)).all() else "holds NaN or infinity"


def _check_images(_: Home, connection: Connection) -> Iterator[IntegrityProblem]:
    """Images that no file holds, that the active encoder never saw, or that are deleted and there all the same."""
    lost = select(ImageRow.id).outerjoin(LocationRow).where(LocationRow.id.is_(None)).order_by(ImageRow.id)
    for image_id in connection.scalars(lost):
        yield IntegrityProblem("image", f"Image {image_id} has no file.", f"Delete image {image_id}.")
    seen = (EmbeddingRow.image_id == ImageRow.id) & EmbeddingRow.encoder.in_(_find_relevant_encoders(connection))
    unseen = select(ImageRow.id).outerjoin(EmbeddingRow, seen).where(EmbeddingRow.image_id.is_(None))
    for image_id in connection.scalars(unseen.order_by(ImageRow.id)):
        yield IntegrityProblem("image", f"Image {image_id} has no vector by the active encoder.", INDEX_HINT)
    both = select(ImageRow.id).join(DeletionRow, DeletionRow.image_id == ImageRow.id)
    for image_id in connection.scalars(both.order_by(ImageRow.id)):
        yield IntegrityProblem(
            "image", f"Image {image_id} was deleted and is there all the same.", RESTORE_CATALOGUE_HINT
        )


def _find_relevant_encoders(connection: Connection) -> set[str | None]:
    """The encoder in use, and the one that an unfinished run means to put in use: its set is still being made."""
    last = connection.execute(select(RunRow.status, RunRow.settings).order_by(RunRow.id.desc()).limit(1)).one_or_none()
    coming = last.settings.get("encoder") if last is not None and last.status != "finished" else None
    return {read_state(connection).active_encoder, coming} - {None}


def _check_uploads(home: Home, connection: Connection) -> Iterator[IntegrityProblem]:
    """Uploads whose file is gone: they lie nowhere else."""
    for image_id, path in _iterate_uploads(home, connection):
        if (
            not path.is_file()
            and _query_current(home, select(LocationRow.id).where(LocationRow.path == str(path))) is not None
        ):
            yield IntegrityProblem(
                "upload", f"{path} of image {image_id} is missing.", f"Restore it, or delete image {image_id}."
            )


def _query_current(home: Home, query: Select[Any]) -> Any:
    """What the catalogue says at this moment: a file may be gone because others have gone on since ours."""
    with Catalogue(home) as catalogue, catalogue.begin_read() as connection:
        return connection.scalar(query)


def _iterate_uploads(home: Home, connection: Connection) -> Iterator[tuple[int, Path]]:
    columns = select(LocationRow.image_id, LocationRow.path).where(
        LocationRow.path.startswith(f"{home.uploads}/", autoescape=True)
    )
    for image_id, path in connection.execute(columns.order_by(LocationRow.image_id), execution_options=STREAM_OPTIONS):
        yield image_id, Path(path)


def _check_segment(home: Home, connection: Connection) -> Iterator[IntegrityProblem]:
    """A segment that is missing or altered, or that says something else than the rows it covers."""
    segment_id = read_state(connection).segment_id
    segment = None if segment_id is None else find_segment_record(connection, segment_id)
    encoder = None if segment is None else find_encoder_record(connection, segment.encoder)
    if segment is None or encoder is None:
        return
    try:
        index = open_segment(home, segment)
        if index.dimensions != encoder.indexed_dimensions:
            raise IndexDamaged(f"{segment.file} holds vectors of {index.dimensions} numbers. {REBUILD_HINT}")
    except IndexDamaged as error:
        if _query_current(home, select(StateRow.segment_id)) == segment_id:
            what, _, next_step = str(error).partition(". ")
            yield IntegrityProblem("segment", f"{what}.", next_step)
    else:
        yield from _compare_with_rows(connection, segment, encoder, index)


def _compare_with_rows(
    connection: Connection, segment: SegmentRecord, encoder: EncoderRecord, index: VectorIndex
) -> Iterator[IntegrityProblem]:
    """Covered rows that the segment lacks or holds otherwise, and ids that no row explains."""
    columns = select(EmbeddingRow.image_id, EmbeddingRow.mu, EmbeddingRow.change)
    query = columns.where(EmbeddingRow.encoder == encoder.fingerprint)
    deleted = list(connection.scalars(select(DeletionRow.image_id)))
    unexplained = np.isin(index.ids, deleted, invert=True)
    for rows in connection.execute(query, execution_options=STREAM_OPTIONS).partitions():
        there = index.find_present([row.image_id for row in rows])
        unexplained[np.searchsorted(index.ids, there)] = False
        whole = [row for row in rows if row.change <= segment.change and len(row.mu) == 4 * encoder.dimensions]
        for image_id in _find_different_ids([row.image_id for row in whole], [row.mu for row in whole], encoder, index):
            yield IntegrityProblem(
                "segment", f"{segment.file} lacks the vector of image {image_id}, or has another.", REBUILD_HINT
            )
    for image_id in index.ids[unexplained].tolist():
        yield IntegrityProblem("segment", f"{segment.file} holds image {image_id}, which has no row.", REBUILD_HINT)


def _find_different_ids(ids: list[int], blobs: list[bytes], encoder: EncoderRecord, index: VectorIndex) -> list[int]:
    """Those of the ids whose vector in the index is not the one stored."""
    if not ids:
        return []
    there = np.isin(ids, index.find_present(ids))
    expected = make_index_vectors(unpack_vectors(blobs), encoder.index_dims, encoder.metric)[there]
    # Scaling to length 1 may round differently on another machine.
    close = np.isclose(index.get_vectors(np.array(ids)[there]), expected, rtol=1e-5, atol=1e-7, equal_nan=True)
    there[there] = close.all(axis=1)
    return [image_id for image_id, same in zip(ids, there, strict=True) if not same]


def _find_orphans(home: Home, connection: Connection) -> Iterator[IntegrityProblem]:
    for path in _find_unknown_paths(home.segments, read_files_in_use(connection)):
        yield IntegrityProblem("orphan", f"{path} belongs to no segment.", "Run `simile compact`, which removes it.")
    for path in _find_unknown_paths(home.uploads, {path.name for _, path in _iterate_uploads(home, connection)}):
        yield _make_unknown_upload_problem(path, connection)
    encoders = set(connection.scalars(select(EncoderRow.fingerprint)))
    for path in _find_unknown_paths(
        home.encoders, {*encoders, ".training"}
    ):  # training goes on from what lies in that one
        if path.name.startswith(REPLACED) and not path.with_name(path.name.removeprefix(REPLACED)).exists():
            continue  # no leftover: the next command that writes gives it its name back
        remove = "Remove the folder." if path.name.startswith(".") else f"Run `simile encoders remove {path.name}`."
        yield IntegrityProblem("orphan", f"{path} is an encoder that the catalogue does not know.", remove)
    for path in sorted([*home.root.glob(".restoring"), *home.root.glob("*.tmp")]):
        yield IntegrityProblem("orphan", f"{path} was left by a command that was cut short.", "Remove it.")


def _make_unknown_upload_problem(path: Path, connection: Connection) -> IntegrityProblem:
    """Of a picture that nobody was told is stored; or of a home that was moved, where it may be the only copy."""
    image_id = connection.scalar(
        select(ImageRow.id).where(ImageRow.sha256 == path.stem)
    )  # as indexer/uploads.py names it
    if image_id is None:
        return IntegrityProblem(
            "orphan", f"{path} belongs to no image.", "Its upload was never answered: remove it, or upload it again."
        )
    what = f"{path} holds image {image_id}, but the catalogue knows that at other places only: the home was moved?"
    return IntegrityProblem("orphan", what, f"Run `simile index {shlex.quote(str(path))}`.")


def _find_unknown_paths(folder: Path, known: set[str]) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name not in known) if folder.is_dir() else []


def _check_encoders(home: Home, connection: Connection) -> Iterator[IntegrityProblem]:
    """Encoders whose folder is gone."""
    for fingerprint in connection.scalars(select(EncoderRow.fingerprint).order_by(EncoderRow.fingerprint)):
        folder = home.encoders / fingerprint
        if not folder.is_dir():
            yield IntegrityProblem("encoder", f"{folder} is missing.", "Put the encoder's folder back from a backup.")
