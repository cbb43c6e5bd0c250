"""Read the metadata of a photo from its file and its sidecars: EXIF, XMP and IPTC as one record."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from simile.core.errors import UnreadableImage
from simile.core.records import NO_PHOTO_METADATA, PhotoMetadata
from simile.images.formats import DEFAULT_LIMITS
from simile.images.metadata.blocks import find_metadata_blocks
from simile.images.metadata.exif import read_exif
from simile.images.metadata.iptc import read_iptc
from simile.images.metadata.xmp import read_xmp
from simile.images.sources.buckets import is_remote
from simile.images.sources.reader import read_bytes
from simile.images.tiff import Buffer

# Values that belong together come from one source. What a camera measures is most exact in EXIF; what people write is
# in XMP, because the texts of IPTC are cut off and those of EXIF have no encoding.
_CAMERA_VALUES = (
    ("taken", "taken_offset"),
    ("latitude", "longitude"),
    *((name,) for name in ("camera", "lens", "exposure_time", "aperture", "iso", "focal_length")),
)
_OWNER_VALUES = tuple((name,) for name in ("rating", "title", "description", "copyright", "keywords"))


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
        exif = NO_PHOTO_METADATA if blocks.exif is None else read_exif(blocks.exif)
        xmp = NO_PHOTO_METADATA if blocks.xmp is None else read_xmp(blocks.xmp)
        iptc = NO_PHOTO_METADATA if blocks.iptc is None else read_iptc(blocks.iptc)
        sidecars = [read_xmp(packet) for packet in _read_sidecars(path)] if self.with_sidecars else []
        photo = _combine((*sidecars, exif, xmp, iptc), (*sidecars, xmp, iptc, exif))
        if not self.with_gps:
            photo = replace(photo, latitude=None, longitude=None)
        return None if photo == NO_PHOTO_METADATA else photo


def _combine(by_camera: Iterable[PhotoMetadata], by_owner: Iterable[PhotoMetadata]) -> PhotoMetadata:
    """Return one record of several; each value is from the first that has it, in the order for its kind."""
    camera_sources = [source for source in by_camera if source != NO_PHOTO_METADATA]
    if len(camera_sources) < 2:
        return camera_sources[0] if camera_sources else NO_PHOTO_METADATA
    owner_sources = [source for source in by_owner if source != NO_PHOTO_METADATA]
    return PhotoMetadata(**_choose(_CAMERA_VALUES, camera_sources), **_choose(_OWNER_VALUES, owner_sources))


def _choose(groups: Iterable[tuple[str, ...]], sources: Sequence[PhotoMetadata]) -> dict[str, Any]:
    """Return each group of values from the first source that has its first value."""
    chosen: dict[str, Any] = {}
    for group in groups:
        for source in sources:
            if getattr(source, group[0]) not in (None, ()):
                chosen.update((name, getattr(source, name)) for name in group)
                break
    return chosen


def _read_sidecars(path: str) -> list[bytes]:
    """Return the XMP files of an image, the one that is named after the whole file first."""
    packets = []
    for sidecar in () if is_remote(path) else (f"{path}.xmp", f"{os.path.splitext(path)[0]}.xmp"):  # noqa: PTH122
        if os.path.isfile(sidecar):  # noqa: PTH113  # for every file
            try:
                packets.append(read_bytes(sidecar, DEFAULT_LIMITS))
            except UnreadableImage:
                continue
    return packets
