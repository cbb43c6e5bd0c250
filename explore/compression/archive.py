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

from simile.core.atomic_write import write_output
from simile.core.errors import ArchiveDamaged, EncoderMismatch
from simile.explore.compression.codec import Compressed
from simile.explore.compression.quantization import Quantiser, Symbols, Tables
from simile.images.encoding import encode_png
from simile.models.inference.encoder import TrainedEncoder

FORMAT = 2
MOST_PICTURES = 10_000_000
_TABLE_ARRAYS = ("powers", "rates", "low", "high")
_ABOUT, _TABLES, _LATENTS = "pictures.json", "tables.npz", "latents.bin"


def write_archive(made: Compressed, path: Path) -> dict[str, int]:
    """Writes it whole or not at all; gives the bytes of its parts: latents, tables, names, all."""
    about = {
        "simile_archive": FORMAT,
        "encoder": made.encoder,
        "names": list(made.names),
        "sizes": [list(size) for size in made.sizes],
        "symbols": _digest(made.symbols),
    }
    tables = packed_tables(made.quantiser, made.tables)
    parts = {_ABOUT: json.dumps(about).encode(), _TABLES: tables, _LATENTS: made.payload()}
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_STORED if name != _ABOUT else None)
    write_output(path, whole.getvalue())
    sizes = {"latents": len(parts[_LATENTS]), "tables": len(parts[_TABLES])}
    return sizes | {"names": len(whole.getvalue()) - sum(sizes.values()), "all": len(whole.getvalue())}


def packed_tables(quantiser: Quantiser, tables: Tables) -> bytes:
    """What all pictures of an archive share, as it lies in it."""
    arrays: dict[str, Any] = {"centre": quantiser.centre, "steps": quantiser.steps}
    arrays |= {name: getattr(tables, name) for name in _TABLE_ARRAYS}
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def read_archive(path: Path) -> Compressed:
    """What an archive holds. Raises ArchiveDamaged for a file that is damaged, or none of simile's."""
    try:
        with zipfile.ZipFile(path) as archive:
            about = json.loads(archive.read(_ABOUT))
            if about["simile_archive"] != FORMAT:
                raise ArchiveDamaged(
                    f"{path} is an archive of format {about['simile_archive']}, and this version of simile reads "
                    f"{FORMAT}. Open it with the version that wrote it."
                )
            with np.load(io.BytesIO(archive.read(_TABLES)), allow_pickle=False) as stored:
                quantiser = Quantiser(stored["centre"], stored["steps"])
                tables = Tables(*(stored[name] for name in _TABLE_ARRAYS))
            names, sizes = _pictures(about)
            symbols = tables.decode(archive.read(_LATENTS), len(names))
    except (OSError, ValueError, KeyError, TypeError, IndexError, zipfile.BadZipFile, EOFError) as error:
        raise ArchiveDamaged(f"{path} can't be read as an archive of simile: {error}.") from error
    except ArchiveDamaged as error:
        raise error if str(path) in str(error) else ArchiveDamaged(f"{path}: {error}") from None
    if _digest(symbols) != about["symbols"]:
        raise ArchiveDamaged(f"{path} does not hold what was written into it. Take another copy of it.")
    return Compressed(str(about["encoder"]), quantiser, tables, symbols, names, sizes)


def unpack(encoder: TrainedEncoder, stored: Compressed, folder: Path) -> list[Path]:
    """Writes every picture into the folder as a PNG, none over another file. Raises EncoderMismatch, BadSetting."""
    if encoder.fingerprint != stored.encoder:
        raise EncoderMismatch(
            f"The archive was made by encoder {stored.encoder}, and this is {encoder.fingerprint}. "
            f"Name its home with --home, or its folder with --encoder."
        )
    taken = {path.name for path in folder.iterdir()}
    written = []
    for name, size, symbols in zip(stored.names, stored.sizes, stored.symbols, strict=True):
        target = folder / _free(name, taken)
        mu = stored.quantiser.latents(symbols[None])[0]
        write_output(target, encode_png(encoder.reconstruct(mu, *size)))
        written.append(target)
    return written


def _pictures(about: dict[str, Any]) -> tuple[list[str], list[tuple[int, int]]]:
    names = [str(name) for name in about["names"]]
    sizes = [(int(width), int(height)) for width, height in about["sizes"]]
    if len(names) != len(sizes) or not 0 < len(names) <= MOST_PICTURES or min(map(min, sizes)) < 1:
        raise ValueError("its list of pictures makes no sense")
    return names, sizes


def _free(name: str, taken: set[str]) -> str:
    """A name that no file has: what an archive says is never a path."""
    stem = PurePosixPath(name.replace("\\", "/")).stem.strip(". \0") or "picture"
    stem = "".join(letter for letter in stem if letter.isprintable())[:100] or "picture"
    candidate, number = f"{stem}.png", 1
    while candidate in taken:
        number += 1
        candidate = f"{stem}-{number}.png"
    taken.add(candidate)
    return candidate


def _digest(symbols: Symbols) -> str:
    return hashlib.sha256(np.ascontiguousarray(symbols, "<i4").tobytes()).hexdigest()
