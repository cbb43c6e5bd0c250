"""Read the metadata of a photo from its file and its sidecars: EXIF, XMP and IPTC as one record."""

from __future__ import annotations

import os
from dataclasses import dataclass

from simile.core.errors import UnreadableImage
from simile.core.records import PhotoMetadata
from simile.images.formats import DEFAULT_LIMITS
from simile.images.metadata.blocks import find_metadata_blocks
from simile.images.metadata.exif import read_exif
from simile.images.metadata.iptc import read_iptc
from simile.images.metadata.sidecars import get_sidecar_paths
from simile.images.metadata.xmp import read_xmp
from simile.images.sources.buckets import is_remote
from simile.images.sources.reader import read_bytes
from simile.images.tiff import Buffer

# What people write is in XMP, because the texts of IPTC are cut off and those of EXIF have no encoding. What a camera
# measures is most exact in EXIF.
_OWNER_VALUES = frozenset(("rating", "title", "description", "copyright", "keywords"))


@dataclass(frozen=True)
class MetadataReader:
    """How photo metadata are read.

    Attributes:
        with_gps: Whether the place of a photo is read.
        with_sidecars: Whether `photo.jpg.xmp` and `photo.xmp` in the file's folder override values of the file. For
            files that the user of this process chose: an upload's name says nothing about files of this machine.
    """

    with_gps: bool = True
    with_sidecars: bool = True

    def read(self, data: Buffer, path: str) -> PhotoMetadata | None:
        """Return the metadata of a file, or None if it has none. Damage costs only the block that it hits."""
        blocks = find_metadata_blocks(data)
        exif = {} if blocks.exif is None else read_exif(blocks.exif)
        xmp = {} if blocks.xmp is None else read_xmp(blocks.xmp)
        iptc = {} if blocks.iptc is None else read_iptc(blocks.iptc)
        values = iptc | xmp | exif  # the last one wins
        values |= {name: value for name, value in (iptc | xmp).items() if name in _OWNER_VALUES}
        for packet in _read_sidecars(path) if self.with_sidecars else ():
            values |= read_xmp(packet)
        if not self.with_gps:
            values = {name: value for name, value in values.items() if name not in ("latitude", "longitude")}
        return PhotoMetadata(**values) if values else None


def _read_sidecars(path: str) -> list[bytes]:
    """Return the XMP files of an image, the one that is named after the whole file last: it wins."""
    packets = []
    for sidecar in () if is_remote(path) else get_sidecar_paths(path):
        if os.path.isfile(sidecar):  # noqa: PTH113  # for every file
            try:
                packets.append(read_bytes(sidecar, DEFAULT_LIMITS))
            except UnreadableImage:
                continue
    return packets
