"""The archive of compressed images: a ZIP file with a header, the tables, and the coded latents.

The ZIP format checks its own parts; a hash of the symbols detects a decoder that gives different ones.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from simile.core.atomic_write import write_output_file
from simile.core.errors import ArchiveDamaged, EncoderMismatch
from simile.explore.compression.codec import CompressedImages
from simile.explore.compression.quantization import FrequencyTables, LatentQuantiser, Symbols
from simile.images.encoding import encode_png
from simile.models.inference.encoder import TrainedEncoder

ARCHIVE_FORMAT = 2
MAX_ARCHIVE_ENTRIES = 10_000_000
_TABLE_ARRAYS = ("powers", "rates", "low", "high")
_HEADER_ENTRY, _TABLES_ENTRY, _LATENTS_ENTRY = "pictures.json", "tables.npz", "latents.bin"


def write_archive(images: CompressedImages, path: Path) -> dict[str, int]:
    """Write an archive atomically; return the bytes of its latents, tables, names (with the ZIP structure), and all."""
    header = {
        "simile_archive": ARCHIVE_FORMAT,
        "encoder": images.encoder,
        "names": list(images.names),
        "sizes": [list(size) for size in images.sizes],
        "symbols": _compute_symbols_digest(images.symbols),
    }
    tables, latents = pack_tables(images.quantiser, images.tables), images.encode_latents()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # stored: tables and latents are compressed already
        # A ZipInfo has no date: the same images give the same archive.
        archive.writestr(zipfile.ZipInfo(_HEADER_ENTRY), json.dumps(header))
        archive.writestr(zipfile.ZipInfo(_TABLES_ENTRY), tables)
        archive.writestr(zipfile.ZipInfo(_LATENTS_ENTRY), latents)
    data = buffer.getvalue()
    write_output_file(path, data)
    names_size = len(data) - len(latents) - len(tables)
    return {"latents": len(latents), "tables": len(tables), "names": names_size, "all": len(data)}


def pack_tables(quantiser: LatentQuantiser, tables: FrequencyTables) -> bytes:
    """Return the tables part of an archive, which all its images share."""
    arrays: dict[str, Any] = {name: getattr(tables, name) for name in _TABLE_ARRAYS}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, centre=quantiser.centre, steps=quantiser.steps, **arrays)
    return buffer.getvalue()


def read_archive(path: Path) -> CompressedImages:
    """Read an archive. Raises ArchiveDamaged for a damaged file, or one of another kind."""
    try:
        with zipfile.ZipFile(path) as archive:
            header = json.loads(archive.read(_HEADER_ENTRY))
            if header["simile_archive"] != ARCHIVE_FORMAT:
                raise ArchiveDamaged(
                    f"{path} is an archive of format {header['simile_archive']}, and this version of simile reads "
                    f"{ARCHIVE_FORMAT}. Open it with the version that wrote it."
                )
            with np.load(io.BytesIO(archive.read(_TABLES_ENTRY)), allow_pickle=False) as stored:
                quantiser = LatentQuantiser(stored["centre"], stored["steps"])
                tables = FrequencyTables(*(stored[name] for name in _TABLE_ARRAYS))
            names, sizes = _parse_header(header)
            symbols = tables.decode(archive.read(_LATENTS_ENTRY), len(names))
    except (OSError, ValueError, KeyError, TypeError, IndexError, zipfile.BadZipFile, EOFError) as error:
        raise ArchiveDamaged(f"{path} can't be read as an archive of simile: {error}.") from error
    except ArchiveDamaged as error:
        raise error if str(path) in str(error) else ArchiveDamaged(f"{path}: {error}") from None
    if _compute_symbols_digest(symbols) != header["symbols"]:
        raise ArchiveDamaged(f"{path} is damaged: its latents have changed. Use another copy of it.")
    return CompressedImages(
        encoder=str(header["encoder"]), quantiser=quantiser, tables=tables, symbols=symbols, names=names, sizes=sizes
    )


def extract_images(encoder: TrainedEncoder, stored: CompressedImages, folder: Path) -> list[Path]:
    """Write all images into a folder as PNG, without overwriting a file. Raises EncoderMismatch, BadSetting."""
    if encoder.fingerprint != stored.encoder:
        raise EncoderMismatch(
            f"The archive was made by encoder {stored.encoder}, and this is {encoder.fingerprint}. "
            f"Name its home with --home, or its folder with --encoder."
        )
    used_names = {path.name for path in folder.iterdir()}
    written = []
    for name, size, symbols in zip(stored.names, stored.sizes, stored.symbols, strict=True):
        path = folder / _make_free_name(name, used_names)
        mu = stored.quantiser.dequantise(symbols[None])[0]
        write_output_file(path, encode_png(encoder.reconstruct(mu, *size)))
        written.append(path)
    return written


def _parse_header(header: dict[str, Any]) -> tuple[list[str], list[tuple[int, int]]]:
    """Return names and sizes of the images. Raises ValueError if they don't agree."""
    names = [str(name) for name in header["names"]]
    sizes = [(int(width), int(height)) for width, height in header["sizes"]]
    if len(names) != len(sizes) or not 0 < len(names) <= MAX_ARCHIVE_ENTRIES or min(map(min, sizes)) < 1:
        raise ValueError("its list of images is not valid")
    return names, sizes


def _make_free_name(name: str, used_names: set[str]) -> str:
    """Make a file name that is not used, and add it to the used names. A name in an archive is never used as a path."""
    stem = PurePosixPath(name.replace("\\", "/")).stem.strip(". \0") or "picture"
    stem = "".join(letter for letter in stem if letter.isprintable())[:100] or "picture"
    candidate, number = f"{stem}.png", 1
    while candidate in used_names:
        number += 1
        candidate = f"{stem}-{number}.png"
    used_names.add(candidate)
    return candidate


def _compute_symbols_digest(symbols: Symbols) -> str:
    return hashlib.sha256(np.ascontiguousarray(symbols, "<i4").tobytes()).hexdigest()
