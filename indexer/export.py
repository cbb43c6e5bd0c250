"""Vectors and what is known of their pictures, in a file for other tools: Parquet, npz or CSV, by its suffix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.durable import write_durably
from core.errors import BadSetting, NothingIndexed
from core.settings import Settings
from indexer.export_formats import write_csv, write_npz, write_parquet
from store import schema
from store.catalogue import Catalogue
from store.encoders import find_fingerprint
from store.home import Home
from store.listing import Listing, listing

WRITERS: dict[str, Callable[[Listing, Path], None]] = {
    ".parquet": write_parquet,
    ".npz": write_npz,
    ".csv": write_csv,
}


def export(settings: Settings, output: Path, encoder: str | None = None) -> dict[str, Any]:
    """Writes every picture that the encoder (the one in use, if none is named) has seen; gives counts, fit for JSON.

    In bounded memory, as of one moment; `output` is there whole or not at all. Raises BadSetting, NothingIndexed,
    NoSuchEncoder.
    """
    write = _writer(output)
    home = Home(settings.home, settings.database_url)
    schema.check(home)
    with Catalogue(home) as catalogue:
        fingerprint = _fingerprint(home, catalogue, encoder)
        with listing(catalogue, fingerprint) as listed:
            try:
                write_durably(output, lambda path: write(listed, path))
            except OSError as error:
                raise BadSetting(
                    f"{output} can't be written: {error.strerror or error}. Make space, or name another --output."
                ) from error
            lacking = catalogue.count_images() - listed.count
            return {
                "output": str(output),
                "encoder": fingerprint,
                "pictures": listed.count,
                "lacking": max(lacking, 0),
                "metadata": list(listed.names),
            }


def _writer(output: Path) -> Callable[[Listing, Path], None]:
    if output.is_dir():
        raise BadSetting(f"{output} can't be written: it is a folder. Name another --output.")
    write = WRITERS.get(output.suffix.lower())
    if write is None:
        raise BadSetting(f"{output} can't be written: name a file that ends in {', '.join(WRITERS)}.")
    return write


def _fingerprint(home: Home, catalogue: Catalogue, reference: str | None) -> str:
    if reference is not None:
        return find_fingerprint(home, reference, (record.fingerprint for record in catalogue.encoders()))
    active = catalogue.active_encoder()
    if active is None:
        raise NothingIndexed(f"{home.root} has no encoder yet. Run `simile index PHOTOS` first.")
    return active.fingerprint
