"""The values of one field of all files as arrays: each file has codes, which are positions in a list of values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, Select, String, cast, func, select

from simile.core.errors import BadSetting
from simile.store.catalogue.filters import FIELDS
from simile.store.database.tables import ImageRow, LocationRow, MetadataRow, PhotoMetadataRow
from simile.store.index.flat import NO_IDS, Ids

Codes = NDArray[np.int32]
FileMask = NDArray[np.bool_]  # (files,)

# Parts of the time at which a photo was taken, by the number of characters in ISO 8601: 2024, 2024-05.
PERIOD_LENGTHS = {"year": 4, "month": 7}
# Fields with values that several images share.
SHARED_FIELDS = (
    *("format", "camera", "lens", "rating", "keyword", "iso", "aperture", "focal_length", "exposure_time"),
    *("width", "height", "title", "copyright"),
)


@dataclass(frozen=True)
class FileTable:
    """All files: ids of their rows, ascending, and of their images, both (n,) int64, and the number of images."""

    location_ids: Ids
    image_ids: Ids
    image_count: int

    @classmethod
    def read(cls, connection: Connection) -> FileTable:
        """Read the files."""
        rows = _fetch(connection, select(LocationRow.id, LocationRow.image_id).order_by(LocationRow.id))
        location_ids, image_ids = np.fromiter(chain.from_iterable(rows), np.int64).reshape(-1, 2).T.copy()
        return cls(location_ids, image_ids, len(np.unique(image_ids)))

    def find_files(self, image_ids: Ids) -> FileMask:
        """Return which files hold one of these images."""
        return np.isin(self.image_ids, image_ids)


@dataclass(frozen=True, kw_only=True)
class FileValues:
    """The values of one field.

    Attributes:
        texts: Each value once, (v,).
        files: Positions (m,) in the table of files; a file with several values is repeated.
        codes: Positions (m,) in `texts`.
        first_pairs: Which of the m pairs are the first with this image and this value: copies of a file count once.
    """

    texts: list[str]
    files: Codes
    codes: Codes
    first_pairs: Codes | slice

    @classmethod
    def read(cls, connection: Connection, table: FileTable, name: str) -> FileValues:
        """Read the values of a field. Raises BadSetting if no file can have it."""
        own = _fetch_files_by_value(connection, MetadataRow.text, MetadataRow.location_id, MetadataRow.name == name)
        if name not in SHARED_FIELDS and name not in PERIOD_LENGTHS:
            if not own:
                known = ", ".join([*PERIOD_LENGTHS, *SHARED_FIELDS])
                raise BadSetting(f"No indexed file has metadata of the name {name!r}. The other fields are {known}.")
            return cls.from_files(table, own)
        overridden = np.concatenate([NO_IDS, *own.values()])
        fields = _fetch_files_by_field(connection, name)
        for text, location_ids in fields.items():
            others = location_ids[~np.isin(location_ids, overridden)] if len(overridden) else location_ids
            own[text] = np.concatenate([own[text], others]) if text in own else others
        return cls.from_files(table, own)

    @classmethod
    def from_files(cls, table: FileTable, files_by_value: Mapping[str, Ids]) -> FileValues:
        """Encode the ids of the files with each value."""
        location_ids = np.concatenate([NO_IDS, *files_by_value.values()])
        codes = np.repeat(np.arange(len(files_by_value), dtype=np.int32), list(map(len, files_by_value.values())))
        files = np.searchsorted(table.location_ids, location_ids).astype(np.int32)
        pairs = table.image_ids[files] * max(1, len(files_by_value)) + codes
        _, first = np.unique(pairs, return_index=True)
        all_differ = len(first) == len(pairs)
        return cls(
            texts=list(files_by_value),
            files=files,
            codes=codes,
            first_pairs=slice(None) if all_differ else first.astype(np.int32),
        )

    def get_codes(self, table: FileTable, image_ids: Ids) -> dict[int, list[int]]:
        """Return the codes of these images, by id; images without a value are left out."""
        pair_ids, codes = table.image_ids[self.files[self.first_pairs]], self.codes[self.first_pairs]
        is_listed = np.isin(pair_ids, image_ids)
        codes_by_id: dict[int, list[int]] = {}
        for image_id, code in zip(pair_ids[is_listed].tolist(), codes[is_listed].tolist(), strict=True):
            codes_by_id.setdefault(image_id, []).append(code)
        return codes_by_id

    def count_images(self, mask: FileMask | None = None) -> NDArray[np.int64]:
        """Count the images with each value (v,), among those of the files in the mask (n,)."""
        files, codes = self.files[self.first_pairs], self.codes[self.first_pairs]
        return np.bincount(codes if mask is None else codes[mask[files]], minlength=len(self.texts))


def _fetch_files_by_field(connection: Connection, name: str) -> dict[str, Ids]:
    """Return the ids of the files with each value of a field that files have without metadata."""
    if name in PERIOD_LENGTHS:
        taken = func.substr(cast(PhotoMetadataRow.taken, String), 1, PERIOD_LENGTHS[name])
        return _fetch_files_by_value(
            connection, taken, PhotoMetadataRow.location_id, PhotoMetadataRow.taken.is_not(None)
        )
    field = FIELDS[name]
    if field.table is ImageRow:
        is_file = ImageRow.id == LocationRow.image_id
        return _fetch_files_by_value(connection, field.column, LocationRow.id, is_file)
    return _fetch_files_by_value(connection, field.column, field.table.location_id, field.column.is_not(None))


def _fetch_files_by_value(
    connection: Connection, value: Any, location_id: Any, condition: ColumnElement[bool]
) -> dict[str, Ids]:
    """Return the ids of the files with each value, as a list in one text each: a row for each file is slower."""
    ids = func.aggregate_strings(cast(location_id, String), ",")
    rows = _fetch(connection, select(value, ids).where(condition).group_by(value))
    return {str(text): np.fromstring(id_list, np.int64, sep=",") for text, id_list in rows}


def _fetch(connection: Connection, query: Select[*tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return all rows as tuples, by the driver's cursor: three times as fast as SQLAlchemy's rows."""
    with connection.execute(query) as result:
        cursor: Any = result.cursor
        return list(cursor.fetchall())
