"""What a file is comes before what it decodes to: raw files have a package, files behind a preview are refused."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from simile.core.errors import UnreadableImage
from simile.images.decoding import decode_image
from simile.images.tiff import PREVIEW_REASON, RAW_REASON, find_unread_image

Tags = dict[int, int | Sequence[int] | bytes]
SMALL, LARGE = (16, 12), (64, 48)
CFA, LINEAR_RAW = 32803, 34892


def describe(size: tuple[int, int], at: int, photometric: int = 1, **tags: int) -> Tags:
    """The tags of an image of one 8-bit channel, whose pixels are at an offset."""
    width, height = size
    basic = {256: width, 257: height, 258: 8, 259: 1, 262: photometric, 273: at, 277: 1, 278: height}
    return {**basic, 279: width * height, **{int(name[1:]): value for name, value in tags.items()}}


def pack(chain: list[Tags], subs: list[Tags], order: str = "<", big: bool = False) -> bytes:
    """Return a TIFF with a chain of directories, of which the first points to the sub-directories."""
    pixels = np.random.default_rng(0).integers(0, 256, LARGE[0] * LARGE[1], np.uint8).tobytes()
    number, size = ("Q", 8) if big else ("I", 4)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}H", 43 if big else 42)
    head += struct.pack(f"{order}HH", 8, 0) if big else b""
    start = len(head) + size
    tables: list[bytes] = []
    position = start + len(pixels)

    def write(tags: Tags, following: int, at: int) -> bytes:
        entries, extra = b"", b""
        end = at + (8 if big else 2) + len(tags) * (4 + 2 * size) + size
        for tag, value in sorted(tags.items()):
            kind, values = (1, value) if isinstance(value, bytes) else (4, [value] if isinstance(value, int) else value)
            packed = bytes(values) if kind == 1 else struct.pack(f"{order}{len(values)}I", *values)
            entries += struct.pack(f"{order}HH{number}", tag, kind, len(values))
            if len(packed) > size:
                entries += struct.pack(f"{order}{number}", end + len(extra))
                extra += packed
            else:
                entries += packed.ljust(size, b"\0")
        count = struct.pack(f"{order}{'Q' if big else 'H'}", len(tags))
        return count + entries + struct.pack(f"{order}{number}", following) + extra

    offsets = []
    for tags in subs:
        offsets.append(position)
        tables.append(write(tags, 0, position))
        position += len(tables[-1])
    first, *rest = chain
    directories = [first | ({330: offsets} if offsets else {}), *rest]
    first_at = position
    for index, tags in enumerate(directories):
        length = len(write(tags, 1, position))
        following = position + length if index + 1 < len(directories) else 0
        tables.append(write(tags, following, position))
        position += length
    return head + struct.pack(f"{order}{number}", first_at) + pixels + b"".join(tables)


def preview(**tags: int) -> Tags:
    return describe(SMALL, 8, t254=1, **tags)


RAW_FILES = {
    "a preview before a sensor's values": pack([preview()], [describe(LARGE, 8, CFA)]),
    "big-endian": pack([preview()], [describe(LARGE, 8, CFA)], ">"),
    "a big TIFF": pack([preview()], [describe(LARGE, 8, CFA)], big=True),
    "several sub-directories": pack([preview()], [describe((32, 24), 8, t254=1), describe(LARGE, 8, CFA)]),
    "a DNG with linear values": pack([preview()], [describe(LARGE, 8, LINEAR_RAW)]),
    "the sensor's values first": pack([describe(LARGE, 8, CFA)], []),
    "the sensor's values in the second page": pack([describe(SMALL, 8), describe(LARGE, 8, CFA)], []),
    "a DNG without a sub-directory": pack([describe(LARGE, 8) | {50706: bytes([1, 4, 0, 0])}], []),
    "a camera's preview, the rest in private tags": pack([preview() | {271: b"SONY\0"}], []),
    "a pattern of filters": pack([describe(SMALL, 8)], [describe(LARGE, 8) | {33422: bytes([0, 1, 1, 2])}]),
    "CR2": b"II*\0\x10\0\0\0CR\x02\0" + bytes(100),
    "ORF": b"IIRO\x08\0\0\0" + bytes(100),
    "RW2": b"IIU\0\x18\0\0\0" + bytes(100),
    "RAF": b"FUJIFILMCCD-RAW 0201" + bytes(100),
    "CR3": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(100),
}


@pytest.mark.parametrize("kind", RAW_FILES)
def test_a_raw_file_is_set_aside_and_not_taken_for_its_preview(kind: str) -> None:
    assert find_unread_image(RAW_FILES[kind]) == RAW_REASON
    with pytest.raises(UnreadableImage, match="a camera's raw file"):
        decode_image(RAW_FILES[kind], name="DSC_1.NEF")


PREVIEWS = {
    "of a sub-directory": pack([preview()], [describe(LARGE, 8)]),
    "of a sub-directory, unmarked": pack([describe(SMALL, 8)], [describe(LARGE, 8)]),
    "of a later page": pack([preview(), describe(LARGE, 8)], []),
}


@pytest.mark.parametrize("kind", PREVIEWS)
def test_a_file_behind_a_preview_is_set_aside(kind: str) -> None:
    with pytest.raises(UnreadableImage) as refused:
        decode_image(PREVIEWS[kind], name="scan.tif")
    assert refused.value.reason == PREVIEW_REASON


@pytest.mark.parametrize(
    "data",
    [
        pack([describe(LARGE, 8)], []),
        pack([describe(LARGE, 8) | {271: b"EPSON\0"}], []),  # a scanner's
        pack([describe(LARGE, 8), preview()], []),  # the preview comes second
        pack([describe(LARGE, 8)], [preview(), describe((32, 24), 8, t254=1)]),  # a pyramid
        pack([describe(SMALL, 8), describe(LARGE, 8)], []),  # pages of two sizes
        pack([preview()], []),  # a reduced image of which nothing else is there
    ],
)
def test_an_ordinary_tiff_is_decoded(data: bytes) -> None:
    assert decode_image(data, name="scan.tif").format == "tiff"


def test_damage_is_left_to_the_decoder() -> None:
    whole = RAW_FILES["several sub-directories"]
    loop = whole[:4] + struct.pack("<I", 4) + whole[8:]
    for data in (loop, *(whole[:length] for length in range(4, len(whole), 97))):
        find_unread_image(data)
    image = io.BytesIO()
    Image.new("RGB", (9, 9)).save(image, "TIFF")
    assert find_unread_image(image.getvalue()) is None
