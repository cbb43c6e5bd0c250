"""The file that compressed pictures lie in: a ZIP of what they are called, the tables, and the coded latents.

A ZIP checks its own parts; a hash of the symbols tells a decoder that would give others.
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
    """Writes it whole or not at all; gives the bytes of its parts: latents, tables, names, all."""
    about = {
        "simile_archive": ARCHIVE_FORMAT,
        "encoder": images.encoder,
        "names": list(images.names),
        "sizes": [list(size) for size in images.sizes],
        "symbols": _compute_symbols_digest(images.symbols),
    }
    tables = pack_tables(images.quantiser, images.tables)
    parts = {_HEADER_ENTRY: json.dumps(about).encode(), _TABLES_ENTRY: tables, _LATENTS_ENTRY: images.encode_latents()}
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_STORED if name != _HEADER_ENTRY else None)
    write_output_file(path, whole.getvalue())
    sizes = {"latents": len(parts[_LATENTS_ENTRY]), "tables": len(parts[_TABLES_ENTRY])}
    return sizes | {"names": len(whole.getvalue()) - sum(sizes.values()), "all": len(whole.getvalue())}


def pack_tables(quantiser: LatentQuantiser, tables: FrequencyTables) -> bytes:
    """What all pictures of an archive share, as it lies in it."""
    arrays: dict[str, Any] = {"centre": quantiser.centre, "steps": quantiser.steps}
    arrays |= {name: getattr(tables, name) for name in _TABLE_ARRAYS}
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def read_archive(path: Path) -> CompressedImages:
    """What an archive holds. Raises ArchiveDamaged for a file that is damaged, or none of simile's."""
    try:
        with zipfile.ZipFile(path) as archive:
            about = json.loads(archive.read(_HEADER_ENTRY))
            if about["simile_archive"] != ARCHIVE_FORMAT:
                raise ArchiveDamaged(
                    f"{path} is an archive of format {about['simile_archive']}, and this version of simile reads "
                    f"{ARCHIVE_FORMAT}. Open it with the version that wrote it."
                )
            with np.load(io.BytesIO(archive.read(_TABLES_ENTRY)), allow_pickle=False) as stored:
                quantiser = LatentQuantiser(stored["centre"], stored["steps"])
                tables = FrequencyTables(*(stored[name] for name in _TABLE_ARRAYS))
            names, sizes = _parse_header(about)
            symbols = tables.decode(archive.read(_LATENTS_ENTRY), len(names))
    except (OSError, ValueError, KeyError, TypeError, IndexError, zipfile.BadZipFile, EOFError) as error:
        raise ArchiveDamaged(f"{path} can't be read as an archive of simile: {error}.") from error
    except ArchiveDamaged as error:
        raise error if str(path) in str(error) else ArchiveDamaged(f"{path}: {error}") from None
    if _compute_symbols_digest(symbols) != about["symbols"]:
        raise ArchiveDamaged(f"{path} does not hold what was written into it. Take another copy of it.")
    return CompressedImages(str(about["encoder"]), quantiser, tables, symbols, names, sizes)


def extract_images(encoder: TrainedEncoder, stored: CompressedImages, folder: Path) -> list[Path]:
    """Writes every picture into the folder as a PNG, none over another file. Raises EncoderMismatch, BadSetting."""
    if encoder.fingerprint != stored.encoder:
        raise EncoderMismatch(
            f"The archive was made by encoder {stored.encoder}, and this is {encoder.fingerprint}. "
            f"Name its home with --home, or its folder with --encoder."
        )
    taken = {path.name for path in folder.iterdir()}
    written = []
    for name, size, symbols in zip(stored.names, stored.sizes, stored.symbols, strict=True):
        target = folder / _make_free_name(name, taken)
        mu = stored.quantiser.dequantise(symbols[None])[0]
        write_output_file(target, encode_png(encoder.reconstruct(mu, *size)))
        written.append(target)
    return written


def _parse_header(header: dict[str, Any]) -> tuple[list[str], list[tuple[int, int]]]:
    names = [str(name) for name in header["names"]]
    sizes = [(int(width), int(height)) for width, height in header["sizes"]]
    if len(names) != len(sizes) or not 0 < len(names) <= MAX_ARCHIVE_ENTRIES or min(map(min, sizes)) < 1:
        raise ValueError("its list of pictures makes no sense")
    return names, sizes


def _make_free_name(name: str, used_names: set[str]) -> str:
    """A name that no file has: what an archive says is never a path."""
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
