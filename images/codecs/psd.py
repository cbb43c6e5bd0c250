"""Photoshop documents: their resources, and whether they hold the image as a whole besides its layers."""

from __future__ import annotations

import struct
from collections.abc import Iterator

NO_COMPOSITE_REASON = (
    "a Photoshop document without the image of all its layers. Save it with `Maximize compatibility`, or as TIFF or PNG"
)
_VERSION_RESOURCE = 0x0421


def iterate_resources(resources: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and data of the resources of Photoshop: `8BIM`, number, name, length, data.

    Raises struct.error or IndexError if they are cut off.
    """
    position = 0
    while resources[position : position + 4] == b"8BIM":
        (number,) = struct.unpack_from(">H", resources, position + 4)
        name_bytes = resources[position + 6] + 1
        position += 6 + name_bytes + name_bytes % 2
        (length,) = struct.unpack_from(">I", resources, position)
        yield number, resources[position + 4 : position + 4 + length]
        position += 4 + length + length % 2


def is_psd(data: bytes) -> bool:
    """Return whether a file begins like a Photoshop document."""
    return data[:6] == b"8BPS\0\1"


def read_resources(data: bytes) -> bytes:
    """Return the block of resources of a document. Raises struct.error if it is cut off."""
    (palette_bytes,) = struct.unpack_from(">I", data, 26)
    (length,) = struct.unpack_from(">I", data, 30 + palette_bytes)
    return data[34 + palette_bytes : 34 + palette_bytes + length]


def lacks_composite(data: bytes) -> bool:
    """Return whether a document says that it has only its layers."""
    try:
        versions = (body for number, body in iterate_resources(read_resources(data)) if number == _VERSION_RESOURCE)
        return next((body[4] == 0 for body in versions), False)
    except (struct.error, IndexError):
        return False  # the decoder finds the damage
