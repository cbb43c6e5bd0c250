"""Read IPTC (IIM 4.2): records of a block, which JPEG files have in a resource of Photoshop."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress

from simile.images.codecs.psd import iterate_resources
from simile.images.metadata import values

MAX_DATASETS = 2_000

_IPTC_RESOURCE = 0x0404
_EXTENDED_LENGTH = 0x8000  # of data sets with more than 32 KiB, which no text here has
_TITLE, _KEYWORD, _DATE, _TIME, _COPYRIGHT, _CAPTION = 5, 25, 55, 60, 116, 120


def find_iptc(resources: bytes) -> bytes | None:
    """Return the IPTC block in the resources of Photoshop."""
    with suppress(struct.error, IndexError):
        return next((body for number, body in iterate_resources(resources) if number == _IPTC_RESOURCE), None)
    return None


def read_iptc(block: bytes) -> values.FoundValues:
    """Return what an IPTC block tells, up to its first damage."""
    texts: dict[int, list[bytes]] = {}
    for dataset, data in _iterate_datasets(block):
        texts.setdefault(dataset, []).append(data)
    first = {dataset: items[0] for dataset, items in texts.items()}
    return values.collect(
        values.parse_time(_format_time(first.get(_DATE, b""), first.get(_TIME, b""))),
        title=values.clean_text(first.get(_TITLE)),
        description=values.clean_text(first.get(_CAPTION)),
        copyright=values.clean_text(first.get(_COPYRIGHT)),
        keywords=values.clean_keywords(texts.get(_KEYWORD, ())),
    )


def _iterate_datasets(block: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and data of each data set of the application record."""
    position = 0
    for _ in range(MAX_DATASETS):
        if position + 5 > len(block):
            return
        marker, record, dataset, length = struct.unpack_from(">BBBH", block, position)
        if marker != 0x1C or length & _EXTENDED_LENGTH:
            return
        position += 5
        if record == 2:
            yield dataset, block[position : position + length]
        position += length


def _format_time(date: bytes, time: bytes) -> str:
    """Return `20240506` and `070809+0200` as a time of ISO 8601."""
    day, clock = date.decode("ascii", "replace").strip("\0 "), time.decode("ascii", "replace").strip("\0 ")
    text = f"{day[:4]}-{day[4:6]}-{day[6:]}"
    return f"{text}T{clock[:2]}:{clock[2:4]}:{clock[4:6]}{clock[6:]}" if clock else text
